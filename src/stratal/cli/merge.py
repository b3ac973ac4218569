"""``stratal merge``: merge requests of the project's repositories."""

from typing import Any
from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.cli.shown import ago, note
from stratal.sdk import Client


@click.group(
    epilog='Example: stratal merge create study topic "Scale the features" && stratal merge accept study 1'
)
def merge() -> None:
    """Merge requests: ask that a branch go into another, look at it, merge it."""


def _path(client: Client, repository: str, rest: str = "") -> str:
    return client.path(f"/repositories/{quote(repository, safe='')}/merges{rest}")


@merge.command("create")
@click.argument("repository")
@click.argument("branch")
@click.argument("title")
@click.option("--into", "target", default="", help="The branch it is to go into (default: where HEAD is).")
@click.option("--text", default="", help="What it is about.")
@project_option
@json_option
def create(
    repository: str, branch: str, title: str, target: str, text: str, project: str | None, as_json: bool
) -> None:
    """Ask that BRANCH of REPOSITORY go into another."""
    client = Client(project=project)
    body = {"source": branch, "target": target, "title": title, "text": text}
    made = client.post(_path(client, repository), body)
    if as_json:
        print_json(made)
        return
    click.echo(made["number"])
    note(f"{made['name']}: {made['source']} into {made['target']}.")
    note(f"Merge it: stratal merge accept {repository} {made['number']}")


@merge.command("ls")
@click.argument("repository")
@click.option(
    "--state", type=click.Choice(["open", "merged", "closed", "all"]), default="open", show_default=True
)
@project_option
@json_option
def ls(repository: str, state: str, project: str | None, as_json: bool) -> None:
    """List REPOSITORY's merge requests, newest first."""
    client = Client(project=project)
    answer = client.get(_path(client, repository), state="" if state == "all" else state)
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Number", "Title", "State", "From", "Into", "By", "Since"],
        [
            (
                one["number"], one["title"], one["state"], one["source"], one["target"],
                one["created_by"], ago(one["created_at"]),
            )
            for one in answer["merges"]
        ],
        empty=f"None. Ask for one with: stratal merge create {repository} BRANCH TITLE",
    )  # fmt: skip


@merge.command("show")
@click.argument("repository")
@click.argument("number", type=int)
@project_option
@json_option
def show(repository: str, number: int, project: str | None, as_json: bool) -> None:
    """Show merge request NUMBER: how its branches stand, and its checks."""
    client = Client(project=project)
    told = client.get(_path(client, repository, f"/{number}"))
    if as_json:
        print_json(told)
        return
    click.echo(f"{told['name']}  {told['title']}  [{told['state']}]")
    note(f"{told['source']} into {told['target']}, by {told['created_by']}, {ago(told['created_at'])}")
    if told["text"]:
        click.echo(f"\n{told['text']}\n")
    click.echo(_stands(told))
    print_table(
        ["Check", "State", "Job", ""],
        [(one["name"], one["state"], one["job"], one["words"]) for one in told["checks"]],
        empty="Nothing checked it: there is no .stratal/ci.toml in its newest commit.",
    )


def _stands(told: dict[str, Any]) -> str:
    if told["ahead"] is None:
        return "One of its branches is gone."
    if told["conflicts"]:
        return f"Conflicts in: {', '.join(told['conflicts'])}"
    if told["state"] != "open":
        return f"Ended {ago(told['ended_at'])} by {told['ended_by']}."
    how = "can move on to it" if told["fast_forward"] else "gets a merge commit"
    return f"{told['ahead']} commits; {told['target']} {how}."


@merge.command("diff")
@click.argument("repository")
@click.argument("number", type=int)
@project_option
@json_option
def diff(repository: str, number: int, project: str | None, as_json: bool) -> None:
    """Print what merge request NUMBER changes."""
    client = Client(project=project)
    told = client.get(_path(client, repository, f"/{number}/diff"))
    if as_json:
        print_json(told)
        return
    click.echo(told["diff"], nl=False)
    if told["diff_cut"]:
        note("The diff is longer; fetch the branch to see the rest.")


@merge.command("accept")
@click.argument("repository")
@click.argument("number", type=int)
@click.option("--commit", "method", flag_value="commit", help="Make a merge commit in any case.")
@click.option(
    "--fast-forward", "method", flag_value="fast_forward", help="Only if the branch can just move on."
)
@click.option("--despite-checks", is_flag=True, help="Merge though its checks have not passed.")
@project_option
@json_option
def accept(
    repository: str, number: int, method: str | None, despite_checks: bool, project: str | None, as_json: bool
) -> None:
    """Merge merge request NUMBER."""
    client = Client(project=project)
    body = {"method": method or "auto", "despite_checks": despite_checks}
    told = client.post(_path(client, repository, f"/{number}/accept"), body)
    if as_json:
        print_json(told)
        return
    click.echo(told["merge_commit"])
    note(f"{told['target']} is there now.")


@merge.command("close")
@click.argument("repository")
@click.argument("number", type=int)
@project_option
@json_option
def close(repository: str, number: int, project: str | None, as_json: bool) -> None:
    """Close merge request NUMBER unmerged."""
    client = Client(project=project)
    told = client.post(_path(client, repository, f"/{number}/close"), {})
    if as_json:
        print_json(told)
        return
    click.echo("Closed.")
