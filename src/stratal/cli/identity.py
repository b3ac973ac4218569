"""``stratal whoami``, ``projects`` and ``keys``."""

import re
import time
from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import Client

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


@click.command()
@json_option
def whoami(as_json: bool) -> None:
    """Show whose key this is and where it acts."""
    who = Client().get("/whoami")
    if as_json:
        print_json(who)
    else:
        click.echo(
            f"{who['kind']} {who['name']}, {who['role']} in project {who['project']} (key {who['key_id']})"
        )


@click.group(epilog="Example: stratal projects create radiology")
def projects() -> None:
    """Create and list projects: each owns its data, work, models and keys."""


@projects.command("create")
@click.argument("name")
@json_option
def create_project(name: str, as_json: bool) -> None:
    """Create the project NAME (instance admins only)."""
    made = Client().post("/projects", {"name": name})
    if as_json:
        print_json(made)
    else:
        click.echo(f"Created project {made['name']}. Its variables: stratal env --project {made['name']}")


@projects.command("list")
@json_option
def list_projects(as_json: bool) -> None:
    """List the projects this key can see."""
    answer = Client().get("/projects")
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Project", "Created"],
        [(p["name"], p["created_at"]) for p in answer["projects"]],
        empty="No projects.",
    )


@projects.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def remove_project(name: str, yes: bool, as_json: bool) -> None:
    """Remove the project NAME and everything in it, bytes included. This cannot be undone."""
    if not yes:
        click.confirm(
            f"Remove project {name!r} with all its data, models and endpoints for good?", abort=True
        )
    Client().delete(f"/projects/{quote(name, safe='')}")
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed project {name}.")


@click.group(epilog="Example: stratal keys create ci --role editor --expires 30d")
def keys() -> None:
    """Create, list and revoke keys. One key opens every door of its project."""


@keys.command("create")
@click.argument("name")
@project_option
@click.option(
    "--role", type=click.Choice(["viewer", "editor", "owner", "admin"]), default="editor", show_default=True
)
@click.option(
    "--expires", metavar="TIME", help="How long it lives: 90m, 12h, 30d, 4w. Default: until revoked."
)
@json_option
def create_key(name: str, project: str | None, role: str, expires: str | None, as_json: bool) -> None:
    """Create a key called NAME and print it, once."""
    client = Client(project=project)
    body = {"name": name, "role": role, "expires_at": None if expires is None else _expiry(expires)}
    made = client.post(client.path("/keys"), body)
    if as_json:
        print_json(made)
        return
    click.echo(made["token"])
    click.echo(f"Key of project {made['project']} with role {made['role']}. It is shown this once.", err=True)
    click.echo(
        f"Use it with: export STRATAL_API_KEY=… ; end it with: stratal keys revoke {made['id']}", err=True
    )


def _expiry(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a time like 90m, 12h, 30d or 4w.", param_hint="--expires")
    return int(time.time() * 1000) + int(match[1]) * {"s": 1, **_UNITS}[match[2]] * 1000


@keys.command("list")
@project_option
@json_option
def list_keys(project: str | None, as_json: bool) -> None:
    """List the project's keys (never their secrets)."""
    client = Client(project=project)
    answer = client.get(client.path("/keys"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Name", "Id", "Role", "Created", "Used", "State"],
        [
            (k["name"], k["id"], k["role"], k["created_at"], k["used_at"] or "", _state(k))
            for k in answer["keys"]
        ],
        empty="No keys.",
    )


def _state(key: dict[str, str | None]) -> str:
    if key["revoked_at"]:
        return "revoked"
    return f"until {key['expires_at']}" if key["expires_at"] else "active"


@keys.command("revoke")
@click.argument("key_id")
@json_option
def revoke_key(key_id: str, as_json: bool) -> None:
    """Revoke the key KEY_ID: it stops opening any door at once."""
    Client().delete(f"/keys/{key_id.split('.')[0]}")
    if as_json:
        print_json({"id": key_id.split(".")[0], "revoked": True})
    else:
        click.echo("Revoked.")
