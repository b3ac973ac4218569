"""``stratal impact``: what came of data, for people and for programs."""

from typing import Any

import click

from stratal.cli.output import json_option, print_json, project_option
from stratal.sdk import Client

_SHOWN = 10


@click.command(
    epilog="Examples: stratal impact raw.trips · stratal impact raw.trips@8231… · stratal impact s3://in/trips.csv"
)
@click.argument("of", metavar="TABLE[@SNAPSHOT]")
@project_option
@json_option
def impact(of: str, project: str | None, as_json: bool) -> None:
    """Show all that came of a table, one snapshot of it, or an object: steps, tables, models, endpoints, predictions."""
    client = Client(project=project)
    told: dict[str, Any] = client.get(client.path("/impact"), of=of)
    if as_json:
        print_json(told)
        return
    groups = [
        (
            "steps",
            [
                f"{one['name']} of {one['pipeline']}, run {one['run']}: {one['state']}"
                for one in told["steps"]
            ],
        ),
        ("jobs", [f"{one['id']} ({one['name']})" for one in told["jobs"]]),
        ("tables", [_table(one) for one in told["tables"]]),
        ("objects", told["objects"]),
        ("runs", [f"{one['name']} ({one['id']})" for one in told["runs"]]),
        ("models", told["models"]),
        ("endpoints", [_endpoint(one) for one in told["endpoints"]]),
    ]
    if not any(lines for _, lines in groups):
        click.echo(f"Nothing recorded here came of {of}.")
        return
    for name, lines in groups:
        if lines:
            click.echo(click.style(f"{len(lines)} {name if len(lines) > 1 else name[:-1]}", bold=True))
            for line in lines[:_SHOWN]:
                click.echo(f"  {line}")
            if len(lines) > _SHOWN:
                click.echo(f"  … and {len(lines) - _SHOWN} more (--json has all)")
    click.echo(f"{told['predictions']} predictions were answered with what came of it.")


def _table(one: dict[str, Any]) -> str:
    count = len(one["snapshots"])
    shown = f"{count} snapshot{'s' * (count > 1)}"
    return f"{one['name']}: {shown}" + (", the current one among them" if one["current"] else "")


def _endpoint(one: dict[str, Any]) -> str:
    state = "answers now" if one["active"] else "answers no more"
    return f"{one['name']} revision {one['revision']} with {one['model']}: {state}, {one['predictions']} predictions"
