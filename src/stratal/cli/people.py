"""``stratal members`` and ``sessions``."""

from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.cli.shown import ago, note
from stratal.sdk import Client

_ROLE = click.Choice(["viewer", "editor", "owner"])


@click.group(epilog="Example: stratal members invite --role editor --note 'for Grace'")
def members() -> None:
    """Who belongs to the project: invite, list, change, remove."""


@members.command("list")
@project_option
@json_option
def list_members(project: str | None, as_json: bool) -> None:
    """List the project's members and, for owners, the open invitations."""
    client = Client(project=project)
    found = client.get(client.path("/members"))
    if as_json:
        print_json(found)
        return
    print_table(
        ["Person", "Role", "Since", "By"],
        [
            (m["person"] + (" (admin)" if m["admin"] else ""), m["role"], ago(m["added_at"]), m["added_by"])
            for m in found["members"]
        ],
        empty="No members. Invite somebody with: stratal members invite",
    )


@members.command("invite")
@project_option
@click.option("--role", type=_ROLE, default="editor", show_default=True)
@click.option("--note", default="", help="For whom it is; shown beside it until it is taken up.")
@json_option
def invite(project: str | None, role: str, note: str, as_json: bool) -> None:
    """Print a link that makes whoever opens it first a member. It works once, within a week. Owners only."""
    client = Client(project=project)
    made = client.post(client.path("/invitations"), {"role": role, "note": note})
    made["url"] = client.url + made.pop("path")
    if as_json:
        print_json(made)
    else:
        click.echo(made["url"])
        click.echo(f"Makes its first opener {made['role']} of {made['project']}, within a week.", err=True)


@members.command("invitations")
@project_option
@click.option("--withdraw", metavar="ID", help="Withdraw this one.")
@json_option
def invitations(project: str | None, withdraw: str | None, as_json: bool) -> None:
    """List invitations that nobody has taken up yet, or withdraw one. Owners only."""
    client = Client(project=project)
    if withdraw is not None:
        client.delete(client.path(f"/invitations/{quote(withdraw, safe='')}"))
    found = client.get(client.path("/invitations"))
    if as_json:
        print_json(found)
        return
    print_table(
        ["Id", "Role", "Note", "Made", "By", "Until"],
        [
            (i["id"], i["role"], i["note"], ago(i["created_at"]), i["created_by"], i["expires_at"][:10])
            for i in found["invitations"]
        ],
        empty="No open invitations.",
    )


@members.command("add")
@click.argument("person")
@project_option
@click.option("--role", type=_ROLE, default="editor", show_default=True)
@json_option
def add(person: str, project: str | None, role: str, as_json: bool) -> None:
    """Make PERSON, who has an account, a member. Owners only."""
    client = Client(project=project)
    made = client.post(client.path("/members"), {"person": person, "role": role})
    if as_json:
        print_json(made)
    else:
        click.echo(f"{person} is now {role} of {made['project']}.")


@members.command("role")
@click.argument("person")
@click.argument("role", type=_ROLE)
@project_option
@json_option
def change(person: str, role: str, project: str | None, as_json: bool) -> None:
    """Make PERSON a ROLE; keys of theirs that may more get weaker at once. Owners only."""
    client = Client(project=project)
    path = client.path(f"/members/{quote(person, safe='')}")
    changed = client.request("PUT", path, json={"role": role})
    if as_json:
        print_json(changed)
        return
    click.echo(f"{person} is now {role} of {changed['project']}.")
    if changed["weakened_keys"]:
        note(f"{changed['weakened_keys']} of their keys got weaker with that.")


@members.command("rm")
@click.argument("person")
@project_option
@json_option
def remove(person: str, project: str | None, as_json: bool) -> None:
    """Take PERSON out: their keys here, and those they made, stop at every door at once. Owners only."""
    client = Client(project=project)
    removed = client.delete(client.path(f"/members/{quote(person, safe='')}"))
    if as_json:
        print_json(removed)
    else:
        click.echo(f"{person} is no member any more; keys ended: {removed['ended_keys']}.")


@click.group(epilog="Example: stratal sessions revoke ses_01…")
def sessions() -> None:
    """Browsers in which you are signed in: list and revoke them."""


@sessions.command("list")
@click.option("--everybody", is_flag=True, help="Anybody's (instance admins only).")
@json_option
def list_sessions(everybody: bool, as_json: bool) -> None:
    """List where you are signed in."""
    found = Client().get("/sessions", everybody=everybody or None)
    if as_json:
        print_json(found)
        return
    print_table(
        ["Id", "Person", "Since", "Seen", "From", "Browser"],
        [
            (s["id"], s["person"], ago(s["created_at"]), ago(s["seen_at"]), s["address"], s["agent"][:50])
            for s in found["sessions"]
        ],
        empty="Signed in nowhere.",
    )


@sessions.command("revoke")
@click.argument("session")
@json_option
def revoke(session: str, as_json: bool) -> None:
    """Sign the browser of SESSION out."""
    Client().delete(f"/sessions/{quote(session, safe='')}")
    if as_json:
        print_json({"id": session, "revoked": True})
    else:
        click.echo("Revoked.")
