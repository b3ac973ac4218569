"""``stratal repo``: the project's git repositories."""

from typing import Any
from urllib.parse import quote

import click

from stratal.cli.output import human_bytes, json_option, print_json, print_table, project_option
from stratal.cli.shown import Size, ago, note
from stratal.sdk import Client


@click.group(
    epilog='Example: stratal repo create study && eval "$(stratal env)" && '
    "git clone $STRATAL_URL/git/default/study.git"
)
def repo() -> None:
    """Git repositories: create, list, show, protect, remove. git itself clones from and pushes to them."""


@repo.command("create")
@click.argument("name")
@project_option
@click.option("--description", default="", help="One line that says what it is for.")
@json_option
def create(name: str, project: str | None, description: str, as_json: bool) -> None:
    """Create the empty repository NAME. Its HEAD follows the first branch pushed."""
    client = Client(project=project)
    made = client.post(client.path("/repositories"), {"name": name, "description": description})
    if as_json:
        print_json(made)
        return
    click.echo(made["clone_url"])
    note('For git to find your key: eval "$(stratal env)"')
    note(f"Then: git clone {made['clone_url']}   or   git remote add origin {made['clone_url']}")


@repo.command("ls")
@project_option
@json_option
def list_(project: str | None, as_json: bool) -> None:
    """List the project's repositories."""
    client = Client(project=project)
    answer = client.get(client.path("/repositories"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Repository", "Size", "Pushed", "By", "Description"],
        [
            (
                one["name"],
                human_bytes(one["bytes"]),
                ago(one["pushed_at"]) if one["pushed_at"] else "never",
                one["pushed_by"] or "",
                one["description"],
            )
            for one in answer["repositories"]
        ],
        empty="No repositories. Make one with: stratal repo create NAME",
        right=(1,),
    )
    if answer["repositories"]:
        note(f"{human_bytes(answer['used_bytes'])} of {human_bytes(answer['quota_bytes'])} used.")


@repo.command("show")
@click.argument("name")
@project_option
@json_option
def show(name: str, project: str | None, as_json: bool) -> None:
    """Show the repository NAME: where to clone it from, its branches and tags."""
    client = Client(project=project)
    _show(client.get(client.path(f"/repositories/{quote(name, safe='')}")), as_json)


@repo.command("protect")
@click.argument("name")
@click.argument("branches", nargs=-1)
@project_option
@click.option(
    "--off", is_flag=True, help="Lift the protection of these branches (of all, when none is named)."
)
@json_option
def protect(name: str, branches: tuple[str, ...], project: str | None, off: bool, as_json: bool) -> None:
    """Protect BRANCHES (main, release/*) of NAME: their history only grows. Owners only."""
    client = Client(project=project)
    path = client.path(f"/repositories/{quote(name, safe='')}")
    now = client.get(path)["protected"]
    if off:
        kept = [pattern for pattern in now if branches and pattern not in branches]
    elif branches:
        kept = [*now, *branches]
    else:
        raise click.UsageError("Name the branches to protect, or lift all with --off.")
    _show(client.request("PATCH", path, json={"protected": kept}), as_json)


@repo.command("rm")
@click.argument("name")
@project_option
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def remove(name: str, project: str | None, yes: bool, as_json: bool) -> None:
    """Remove the repository NAME with its whole history. Owners only; this cannot be undone."""
    if not yes:
        click.confirm(f"Remove repository {name!r} with its whole history?", abort=True)
    client = Client(project=project)
    client.delete(client.path(f"/repositories/{quote(name, safe='')}"))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed repository {name}.")


@repo.command("quota")
@click.argument("project")
@click.argument("size", required=False)
@json_option
def quota(project: str, size: str | None, as_json: bool) -> None:
    """Show how much PROJECT's repositories may hold; with SIZE (50GiB, or 'default') set it. Setting: admins only."""
    client = Client(project=project)
    if size is None:
        answer = client.get(client.path("/repositories"))
        found = {"project": project, "quota_bytes": answer["quota_bytes"], "used_bytes": answer["used_bytes"]}
    else:
        limit = None if size == "default" else Size().convert(size, None, None)
        found = client.request("PUT", client.path("/repository-quota"), json={"bytes": limit})
    if as_json:
        print_json(found)
    else:
        click.echo(f"{human_bytes(found['used_bytes'])} of {human_bytes(found['quota_bytes'])} used.")


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['name']}   {found['description']}".rstrip())
    click.echo(f"  clone      {found['clone_url']}")
    click.echo(f"  size       {human_bytes(found['bytes'])}")
    if found["pushed_at"]:
        click.echo(f"  pushed     {ago(found['pushed_at'])} by {found['pushed_by']}")
    click.echo(f"  protected  {', '.join(found['protected']) or 'no branch'}")
    rows = [
        (b["name"] + (" (HEAD)" if b["name"] == found["head"] else ""), "branch", b["commit"][:12])
        for b in found["branches"]
    ]
    rows += [(t["name"], "tag", t["commit"][:12]) for t in found["tags"]]
    print_table(["Name", "Kind", "Commit"], rows, empty="  Nothing was pushed yet.")
