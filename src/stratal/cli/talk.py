"""``stratal comment``, ``activity``, ``inbox`` and ``webhook``: talking about work, and who is told of it."""

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.cli.shown import ago, note
from stratal.sdk import Client


@click.group(epilog='Example: stratal comment add run 3f2a "better than the last, @ada?"')
def comment() -> None:
    """Comments on runs, models, tables, endpoints, jobs, functions, notebooks, reports, merge requests …"""


@comment.command("ls")
@click.argument("kind")
@click.argument("id")
@project_option
@json_option
def ls(kind: str, id: str, project: str | None, as_json: bool) -> None:
    """Show what was said about the KIND of thing ID: run 3f2a, model churn, table sales.orders, job 12."""
    client = Client(project=project)
    answer = client.get(client.path("/comments"), on=kind, of=id)
    if as_json:
        print_json(answer)
        return
    if not answer["comments"]:
        click.echo(f"Nobody said anything yet. Begin with: stratal comment add {kind} {id} TEXT")
    for one in answer["comments"]:
        edited = ", edited" if one["edited_at"] else ""
        note(f"{one['author']}, {ago(one['created_at'])}{edited} ({one['id']})")
        click.echo(f"{one['text']}\n")


@comment.command("add")
@click.argument("kind")
@click.argument("id")
@click.argument("text")
@project_option
@json_option
def add(kind: str, id: str, text: str, project: str | None, as_json: bool) -> None:
    """Say TEXT about the KIND of thing ID; members named after an @ are told."""
    client = Client(project=project)
    made = client.post(client.path("/comments"), {"on": kind, "of": id, "text": text})
    if as_json:
        print_json(made)
        return
    click.echo(made["id"])


@comment.command("edit")
@click.argument("comment_id", metavar="COMMENT")
@click.argument("text")
@project_option
@json_option
def edit(comment_id: str, text: str, project: str | None, as_json: bool) -> None:
    """Say your own COMMENT anew."""
    client = Client(project=project)
    made = client.request("PATCH", client.path(f"/comments/{comment_id}"), json={"text": text})
    if as_json:
        print_json(made)
        return
    click.echo(made["id"])


@comment.command("rm")
@click.argument("comment_id", metavar="COMMENT")
@project_option
@json_option
def rm(comment_id: str, project: str | None, as_json: bool) -> None:
    """Delete your own COMMENT, or as an owner anybody's."""
    client = Client(project=project)
    client.delete(client.path(f"/comments/{comment_id}"))
    if as_json:
        print_json({"id": comment_id, "removed": True})
        return
    click.echo("Deleted.")


@click.command(epilog="Examples: stratal activity · stratal activity --kind job. --who person:ada")
@project_option
@click.option("--kind", default="", help="A kind or its beginning: job.failed, model.")
@click.option("--who", default="", help="Of whom: person:ada, service:ci, job:12.")
@click.option("--limit", type=click.IntRange(1, 500), default=30, show_default=True, help="At most so many.")
@json_option
def activity(project: str | None, kind: str, who: str, limit: int, as_json: bool) -> None:
    """Show what happened in the project, newest first."""
    client = Client(project=project)
    answer = client.get(client.path("/activity"), kind=kind, actor=who, limit=limit)
    if as_json:
        print_json(answer)
        return
    print_table(
        ["When", "Who", "What", "Of"],
        [
            (ago(one["at"]), one["actor"], one["kind"], one["data"].get("name") or one["subject"])
            for one in answer["events"]
        ],
        empty="Nothing happened yet.",
    )


@click.command(epilog="Examples: stratal inbox · stratal inbox --read · stratal inbox --mail ada@example.org")
@click.option("--all", "everything", is_flag=True, help="Also what was read.")
@click.option("--read", "mark", is_flag=True, help="Mark everything as read.")
@click.option("--mail", metavar="ADDRESS", help="Be told by mail as well, at ADDRESS.")
@click.option("--no-mail", is_flag=True, help="Be told by mail no more.")
@json_option
def inbox(everything: bool, mark: bool, mail: str | None, no_mail: bool, as_json: bool) -> None:
    """Show what you were told: mentions, failed jobs, budgets. For people who are signed in."""
    client = Client()
    if mail is not None or no_mail:
        client.request("PUT", "/account/mail", json={"address": mail or "", "wanted": not no_mail})
    if mark:
        client.post("/notifications/read", {})
    answer = client.get("/notifications", unread=not everything)
    if as_json:
        print_json({**answer, "mail": client.get("/account/mail")})
        return
    print_table(
        ["When", "Project", "What"],
        [(ago(one["created_at"]), one["project"], one["words"]) for one in answer["notifications"]],
        empty="Nothing new." if not everything else "You were told nothing yet.",
    )


LEFT = ", who left: it is told nothing"


@click.group(epilog="Example: stratal webhook create https://chat.example.org/hook --kind job.failed")
def webhook() -> None:
    """Have an address told of what happens in the project. Owners only."""


@webhook.command("create")
@click.argument("url")
@project_option
@click.option("--kind", "kinds", multiple=True, help="job.failed, a beginning like job., or * (repeatable).")
@json_option
def create(url: str, project: str | None, kinds: tuple[str, ...], as_json: bool) -> None:
    """Have URL told. What is sent is signed with the secret that is shown once."""
    client = Client(project=project)
    made = client.post(client.path("/webhooks"), {"url": url, "kinds": list(kinds)})
    if as_json:
        print_json(made)
        return
    click.echo(made["secret"])
    note(f"{made['id']}: told of {', '.join(made['kinds'])}. Keep the secret; it is not shown again.")


@webhook.command("ls")
@project_option
@json_option
def list_webhooks(project: str | None, as_json: bool) -> None:
    """List the project's webhooks."""
    client = Client(project=project)
    answer = client.get(client.path("/webhooks"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Id", "Address", "Told of", "Made by"],
        [
            (
                one["id"],
                one["url"],
                ", ".join(one["kinds"]),
                one["created_by"] + (LEFT if one["rests"] else ""),
            )
            for one in answer["webhooks"]
        ],
        empty="No webhooks. Make one with: stratal webhook create URL",
    )


@webhook.command("deliveries")
@click.argument("webhook_id", metavar="WEBHOOK")
@project_option
@json_option
def deliveries(webhook_id: str, project: str | None, as_json: bool) -> None:
    """Show what was or is to be sent to WEBHOOK, newest first."""
    client = Client(project=project)
    answer = client.get(client.path(f"/webhooks/{webhook_id}/deliveries"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["When", "What", "State", "Attempts", "Status", "Error"],
        [
            (ago(one["created_at"]), one["kind"], one["state"], one["attempts"], one["status"], one["error"])
            for one in answer["deliveries"]
        ],
        empty="Nothing was sent yet. Try it with: stratal webhook test WEBHOOK",
        right=(3, 4),
    )


@webhook.command("test")
@click.argument("webhook_id", metavar="WEBHOOK")
@project_option
@json_option
def test(webhook_id: str, project: str | None, as_json: bool) -> None:
    """Send WEBHOOK something now."""
    client = Client(project=project)
    made = client.post(client.path(f"/webhooks/{webhook_id}/test"), {})
    if as_json:
        print_json(made)
        return
    note(f"On its way as {made['delivery']}: stratal webhook deliveries {webhook_id}")


@webhook.command("rm")
@click.argument("webhook_id", metavar="WEBHOOK")
@project_option
@json_option
def remove(webhook_id: str, project: str | None, as_json: bool) -> None:
    """Remove WEBHOOK, with what was to be sent to it."""
    client = Client(project=project)
    client.delete(client.path(f"/webhooks/{webhook_id}"))
    if as_json:
        print_json({"id": webhook_id, "removed": True})
        return
    click.echo("Removed.")
