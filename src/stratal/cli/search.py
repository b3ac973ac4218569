"""``stratal search``."""

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.cli.shown import ago
from stratal.sdk import Client


@click.command(epilog="Examples: stratal search churn · stratal search orders --kind table")
@click.argument("words", nargs=-1, required=True)
@project_option
@click.option("--kind", "kinds", multiple=True, help="Only such: job, run, table, model, endpoint …")
@json_option
def search(words: tuple[str, ...], project: str | None, kinds: tuple[str, ...], as_json: bool) -> None:
    """Find things of the project whose name or id has all of the WORDS."""
    client = Client(project=project)
    answer = client.get(client.path("/search"), q=" ".join(words), kind=list(kinds))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Kind", "Id", "Name", "Since"],
        [(one["kind"], one["id"], one["name"], ago(one["at"])) for one in answer["found"]],
        empty="Nothing has all of these words in its name.",
    )
