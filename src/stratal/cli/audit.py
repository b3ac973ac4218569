"""``stratal audit``."""

import sys
import time
from typing import Any

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.cli.shown import Duration, note
from stratal.sdk import Client


@click.command(
    epilog="Examples: stratal audit --denied --since 7d · stratal audit --who ada --what key. · "
    "stratal audit --all --export > audit.jsonl · stratal audit --verify"
)
@project_option
@click.option("--who", help="Of whom: ada, person:ada, service:ci, job:12.")
@click.option("--what", help="A kind or its beginning (key., repository.pushed), or the id of a thing.")
@click.option("--since", type=Duration(), metavar="TIME", help="Of the last 90m, 12h, 30d.")
@click.option("--door", help="Through which door: native, s3, mlflow, iceberg, git, console …")
@click.option("--denied", is_flag=True, help="Only what was refused.")
@click.option("--all", "everywhere", is_flag=True, help="Of the whole instance (admins only).")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--export", is_flag=True, help="Print every entry, oldest first, as one JSON object a line.")
@click.option("--verify", is_flag=True, help="Compute the chain of hashes again (admins only).")
@json_option
def audit(
    project: str | None,
    who: str | None,
    what: str | None,
    since: float | None,
    door: str | None,
    denied: bool,
    everywhere: bool,
    limit: int,
    export: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Show who changed what and who was refused what; check that nobody has tampered with the record.

    Exit code of --verify: 0 when the chain holds, 1 when it does not.
    """
    client = Client(project=project)
    if verify:
        _verify(client, as_json)
        return
    asked: dict[str, Any] = {
        "by": who,
        "what": what,
        "since": None if since is None else int((time.time() - since) * 1000),
        "door": door,
        "denied": True if denied else None,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    path = "/audit" if everywhere else client.path("/audit")
    if export:
        with client.stream("GET", f"{path}/export", params=asked) as answer:
            for chunk in answer.iter_bytes():
                sys.stdout.buffer.write(chunk)
        return
    found = client.get(path, limit=limit, **asked)
    if as_json:
        print_json(found)
        return
    print_table(
        ["Time", "Who", "What", "Of", "Door", "From"],
        [
            (e["at"][:19].replace("T", " "), e["actor"], _what(e), e["subject"][:60], e["door"], e["address"])
            for e in found["entries"]
        ],
        empty="Nothing on record matches.",
    )
    if found["next"] is not None:
        note(f"There is more: --limit {min(limit * 4, 1000)}, or all of it with --export.")


def _what(entry: dict[str, Any]) -> str:
    data = entry["data"]
    if entry["kind"] == "request.denied":
        times = f" ×{data['count']}" if data.get("count", 1) > 1 else ""
        action = f" {data['action']}" if data.get("action") else ""
        return f"denied{action} ({data.get('status')}){times}"
    return f"{entry['kind']} {data['name']}" if data.get("name") else str(entry["kind"])


def _verify(client: Client, as_json: bool) -> None:
    found = client.get("/audit/verify")
    if as_json:
        print_json(found)
    elif found["holds"]:
        click.echo(f"The chain of {found['entries']} entries holds. Head: {found['head']['hash']}")
        if found["unchained"]:
            note(f"The first {found['unchained']} were written by a version that did not chain them.")
    else:
        click.echo(f"The chain is broken at entry {found['wrong_at']}. {found['wrong']}")
    if not found["holds"]:
        raise SystemExit(1)
