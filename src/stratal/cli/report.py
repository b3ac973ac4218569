"""``stratal report``: Markdown with charts, tables and lineage; and public links to it."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.identity import _expiry
from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import Client

_EPILOG = """
\b
Examples:
  stratal report create weekly report.md
  stratal report show weekly
  stratal report show weekly --html > weekly.html
  stratal report publish weekly --expires 14d           a public link: figures as they are now
  stratal report publish weekly --expires 14d --live    figures asked anew
  stratal report unpublish weekly rln_…

\b
In the text, fenced blocks are replaced by what they show:
  ```metrics run=RUN,RUN metric=auc
  ```sql table        (or: line x=day y=sales, bar x=city y=count)
  ```lineage prediction=ID      (or: table=namespace.name)
"""


@click.group(epilog=_EPILOG)
def report() -> None:
    """Reports: Markdown with live charts, tables and lineage."""


@report.command("create", epilog="Example: stratal report create weekly report.md")
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--replace", is_flag=True, help="Give a report that is there this text.")
@project_option
@json_option
def create_report(name: str, file: Path, replace: bool, project: str | None, as_json: bool) -> None:
    """Make the report NAME of the Markdown in FILE ('-': standard input)."""
    client = Client(project=project)
    with click.open_file(str(file), encoding="utf-8") as opened:
        text = opened.read()
    known = replace and any(one["name"] == name for one in client.get(client.path("/reports"))["reports"])
    if known:
        made = client.request("PUT", _path(client, name), json={"text": text})
    else:
        made = client.post(client.path("/reports"), {"name": name, "text": text})
    if as_json:
        print_json(made)
    else:
        click.echo(f"Report {made['name']}, version {made['version']}: {made['title']}")


@report.command("ls", epilog="Example: stratal report ls --json")
@project_option
@json_option
def list_reports(project: str | None, as_json: bool) -> None:
    """List the project's reports."""
    client = Client(project=project)
    answer: dict[str, Any] = client.get(client.path("/reports"))
    if as_json:
        print_json(answer)
        return
    print_table(
        ["Report", "Title", "Version", "Changed", "By"],
        [
            (one["name"], one["title"], str(one["version"]), one["updated_at"], one["updated_by"])
            for one in answer["reports"]
        ],
        empty="There is no report. Make one with: stratal report create NAME FILE.md",
        right=(2,),
    )


@report.command("show", epilog="Example: stratal report show weekly --html > weekly.html")
@click.argument("name")
@click.option("--html", is_flag=True, help="As HTML, with what its blocks show now.")
@project_option
@json_option
def show_report(name: str, html: bool, project: str | None, as_json: bool) -> None:
    """Print a report."""
    client = Client(project=project)
    found = client.get(_path(client, name), html="true" if html else None)
    if as_json:
        print_json({**found, **client.get(f"{_path(client, name)}/links")})
    else:
        click.echo(found["html" if html else "text"], nl=False)


@report.command("publish", epilog="Example: stratal report publish weekly --expires 14d")
@click.argument("name")
@click.option(
    "--expires", default="30d", show_default=True, metavar="TIME", help="When the link ends: 12h, 30d, 4w."
)
@click.option("--live", is_flag=True, help="Ask its figures anew. Default: as they are now.")
@project_option
@json_option
def publish_report(name: str, expires: str, live: bool, project: str | None, as_json: bool) -> None:
    """Make a link that shows the report to whoever has it (owners only)."""
    client = Client(project=project)
    made = client.post(f"{_path(client, name)}/links", {"live": live, "expires_at": _expiry(expires)})
    if as_json:
        print_json(made)
    else:
        click.echo(made["url"])
        click.echo(
            f"It shows the text as it is now, its figures {'live' if live else 'as they are now'}, until "
            f"{made['expires_at']}. End it with: stratal report unpublish {name} {made['id']}",
            err=True,
        )


@report.command("unpublish", epilog="Example: stratal report unpublish weekly rln_0123456789")
@click.argument("name")
@click.argument("link")
@project_option
@json_option
def unpublish_report(name: str, link: str, project: str | None, as_json: bool) -> None:
    """End a public link to a report (owners only)."""
    client = Client(project=project)
    client.request("DELETE", f"{_path(client, name)}/links/{quote(link, safe='')}")
    if as_json:
        print_json({"name": name, "link": link, "removed": True})
    else:
        click.echo(f"The link {link} has ended.")


@report.command("rm", epilog="Example: stratal report rm weekly")
@click.argument("name")
@project_option
@json_option
def remove_report(name: str, project: str | None, as_json: bool) -> None:
    """Remove a report, and the public links to it."""
    client = Client(project=project)
    client.request("DELETE", _path(client, name))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"The report {name} is gone.")


def _path(client: Client, name: str) -> str:
    return client.path(f"/reports/{quote(name, safe='')}")
