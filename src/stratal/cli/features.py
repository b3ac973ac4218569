"""``stratal features``: what is served of features, by key."""

from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.cli.shown import ago
from stratal.sdk import Client


@click.group(epilog="Examples: stratal features ls · stratal features get visits user=7")
def features() -> None:
    """Features that steps have published, looked up by key."""


@features.command("ls")
@project_option
@json_option
def list_views(project: str | None, as_json: bool) -> None:
    """List the views: their keys, their tables, and since when they are as they are."""
    client = Client(project=project)
    found = client.get(client.path("/features"))["views"]
    if as_json:
        print_json({"views": found})
        return
    print_table(
        ["View", "By", "Keys", "Table", "Snapshot", "Published"],
        [
            (v["name"], ", ".join(v["on"]), v["keys"], v["table"], v["snapshot"], ago(v["published_at"]))
            for v in found
        ],
        empty="No features are published. Publish some in a step: stratal.features.view(…).publish()",
        right=(2,),
    )


@features.command("get")
@click.argument("view")
@click.argument("keys", nargs=-1, required=True, metavar="COLUMN=VALUE...")
@project_option
@json_option
def get(view: str, keys: tuple[str, ...], project: str | None, as_json: bool) -> None:
    """Look up the features of one key. Exit code 1 when nothing is known of it."""
    key = {}
    for text in keys:
        name, given, value = text.partition("=")
        if not given or not name:
            raise click.BadParameter(f"{text!r} is not COLUMN=VALUE.", param_hint="COLUMN=VALUE")
        key[name] = value
    client = Client(project=project)
    found = client.get(client.path(f"/features/{quote(view, safe='')}/row"), **key)
    if as_json:
        print_json(found)
    elif found["features"] is None:
        click.echo(f"Nothing is known of {', '.join(keys)}.")
    else:
        click.echo(f"As of {found['known_at']}, snapshot {found['snapshot']}:")
        for name, value in found["features"].items():
            click.echo(f"  {name}: {value}")
    if found["features"] is None:
        raise SystemExit(1)


@features.command("rm")
@click.argument("view")
@project_option
@json_option
def remove(view: str, project: str | None, as_json: bool) -> None:
    """Serve a view no more. Its table stays."""
    client = Client(project=project)
    client.delete(client.path(f"/features/{quote(view, safe='')}"))
    if as_json:
        print_json({"name": view, "published": False})
    else:
        click.echo(f"Features {view} are served no more.")
