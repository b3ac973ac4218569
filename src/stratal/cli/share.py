"""``stratal share``: let another project read one thing of this one."""

from typing import Any
from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import Client

_EPILOG = """
\b
Examples:
  stratal share add table clinic.patients --to research     there: research reads it as <project>.clinic.patients
  stratal share add bucket scans --to research              there: the bucket 'scans', by S3
  stratal share add model risk --to research                there: models:/<project>.risk/1
  stratal share add endpoint scores --to research           there: the endpoint '<project>.scores'
  stratal share ls
  stratal share rm shr_…

\b
What is shared can be read, never written, and nothing beside it can be listed. What asking it costs is the
asking project's. A share that is removed ends with the next request.
"""

_KIND = click.Choice(["bucket", "table", "model", "endpoint"])


@click.group(epilog=_EPILOG)
def share() -> None:
    """Let other projects read single things of this one."""


@share.command("add", epilog="Example: stratal share add table clinic.patients --to research")
@click.argument("kind", type=_KIND)
@click.argument("name")
@click.option("--to", required=True, metavar="PROJECT", help="The project that may read it.")
@project_option
@json_option
def add_share(kind: str, name: str, to: str, project: str | None, as_json: bool) -> None:
    """Let another project read NAME, a bucket, table (namespace.table), model or endpoint (owners only)."""
    client = Client(project=project)
    made = client.request("POST", client.path("/shares"), json={"kind": kind, "name": name, "to": to})
    if as_json:
        print_json(made)
    else:
        click.echo(
            f"The project {to}, if there is one, may read the {kind} {made['name']}, there called {made['as']}. "
            f"Take it back with: stratal share rm {made['id']}"
        )


@share.command("ls", epilog="Example: stratal share ls --json")
@project_option
@json_option
def list_shares(project: str | None, as_json: bool) -> None:
    """List what the project gives to others to read, and what it was given."""
    client = Client(project=project)
    answer: dict[str, Any] = client.get(client.path("/shares"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Share", "", "Kind", "Name", "Project", "Since", "By"],
        [
            (
                one["id"],
                one["direction"],
                one["kind"],
                one["name"] if one["direction"] == "given" else one["as"],
                f"to {one['to']}" if one["direction"] == "given" else f"from {one['from']}",
                one["created_at"],
                one["created_by"],
            )
            for one in answer["shares"]
        ],
        empty="Nothing is shared. Share with: stratal share add KIND NAME --to PROJECT",
    )


@share.command("rm", epilog="Example: stratal share rm shr_0123456789")
@click.argument("share_id", metavar="SHARE")
@project_option
@json_option
def remove_share(share_id: str, project: str | None, as_json: bool) -> None:
    """End a share, as an owner of the project that gives or of the one that was given."""
    client = Client(project=project)
    client.request("DELETE", client.path(f"/shares/{quote(share_id, safe='')}"))
    if as_json:
        print_json({"id": share_id, "removed": True})
    else:
        click.echo(f"The share {share_id} has ended.")
