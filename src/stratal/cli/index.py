"""``stratal index``: documents found by meaning and words, and answered from with citations."""

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.catalog import asking
from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import Client

_PICTURES = (".png", ".jpg", ".jpeg")
_POLL_SECONDS = 0.5


@click.group("index")
def index() -> None:
    """Documents of a bucket, searched by meaning and by words, and answered from with citations."""


def _path(client: Client, name: str = "", verb: str = "") -> str:
    named = f"/{quote(name, safe='')}" if name else ""
    return client.path(f"/indexes{named}{f'/{verb}' if verb else ''}")


@index.command("create", epilog="Example: stratal index create handbook 's3://docs/handbook/**'")
@click.argument("name")
@click.argument("source", metavar="s3://BUCKET/PATTERN")
@click.option(
    "--embedder", help="An endpoint that makes embeddings. Default: the catalogue's, deployed if need be."
)
@click.option(
    "--ocr", help="An endpoint that reads pictures. Default: the catalogue's, where there are pictures."
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it is built, or failed.")
@project_option
@json_option
def create(
    name: str,
    source: str,
    embedder: str | None,
    ocr: str | None,
    wait: bool,
    project: str | None,
    as_json: bool,
) -> None:
    """Make an index of PDF, HTML, Markdown, text and pictures, or build one anew.

    In SOURCE, ** stands for anything and * for anything but a slash. The passages are a table of the lake.
    """
    client = Client(project=project)
    embedder = embedder or _deployed(client, "embed", as_json)
    if ocr is None and _has_pictures(client, source):
        ocr = _deployed(client, "ocr", as_json)
    body = {"source": source, "embedder": embedder, "ocr": ocr}
    made = client.request("PUT", _path(client, name), json=body)
    if wait:
        if not as_json:
            click.echo(f"Job {made['job']} builds it: stratal job logs {made['job']} --follow", err=True)
        made = _wait(client, name)
    if as_json:
        print_json(made)
    elif not wait:
        click.echo(f"Job {made['job']} builds index {name}.")
    else:
        _summary(made)
    if wait and made["state"] == "failed":
        raise SystemExit(1)


def _deployed(client: Client, task: str, quiet: bool) -> str:
    entry = client.get(f"/catalog/{task}")
    asking.ensure(client, entry, quiet=quiet)
    return str(entry["name"])


def _has_pictures(client: Client, source: str) -> bool:
    bucket, _, pattern = source.removeprefix("s3://").partition("/")
    prefix, after = pattern.partition("*")[0].partition("?")[0], ""
    while True:
        address = client.path(f"/buckets/{quote(bucket, safe='')}/objects")
        page = client.get(address, prefix=prefix, after=after)
        if any(one["name"].lower().endswith(_PICTURES) for one in page["objects"]):
            return True
        after = page["next_after"] or ""
        if not after:
            return False


def _wait(client: Client, name: str) -> dict[str, Any]:
    while True:
        seen = client.get(_path(client, name))
        if seen["state"] != "building":
            return seen
        time.sleep(_POLL_SECONDS)


def _summary(seen: dict[str, Any]) -> None:
    click.echo(f"{seen['name']}: {seen['state']}{': ' + seen['failure'] if seen['failure'] else ''}")
    if seen["built_at"]:
        click.echo(f"{seen['passages']} passages of {seen['documents']} documents in table {seen['table']}")
    for one in seen["skipped"][:10]:
        click.echo(click.style(f"left out {one['document']}: {one['reason']}", fg="yellow"))
    if len(seen["skipped"]) > 10:
        click.echo(f"… and {len(seen['skipped']) - 10} more (--json shows all)")
    made = seen["calibration"]
    if made is None:
        click.echo("Not calibrated: every question is answered. See: stratal index calibrate --help")
        return
    whose = "made of the documents' own sentences" if made["source"] == "documents" else "of yours"
    rates = ", ".join(
        f"{made[key]:.0%} of those {what}"
        for key, what in (("answered", "they answer were answered"), ("refused", "they do not were refused"))
        if made[key] is not None
    )
    click.echo(
        f"Answers from confidence {made['threshold']:.2f} on, by {made['questions']} questions {whose}; "
        f"on the held-out half {rates}."
    )


@index.command("ls")
@project_option
@json_option
def ls(project: str | None, as_json: bool) -> None:
    """List the project's indexes."""
    client = Client(project=project)
    found = client.get(_path(client))
    if as_json:
        print_json(found)
        return
    print_table(
        ["Index", "State", "Documents", "Passages", "Source"],
        [
            (one["name"], one["state"], one["documents"] or 0, one["passages"] or 0, one["source"])
            for one in found["indexes"]
        ],
        empty="No index yet. Make one: stratal index create NAME 's3://BUCKET/docs/**'",
        right=(2, 3),
    )


@index.command("show")
@click.argument("name")
@project_option
@json_option
def show(name: str, project: str | None, as_json: bool) -> None:
    """Show an index: what it holds, what was left out and why, and when it answers."""
    client = Client(project=project)
    seen = client.get(_path(client, name))
    print_json(seen) if as_json else _summary(seen)


@index.command("search", epilog='Example: stratal index search handbook "days of leave"')
@click.argument("name")
@click.argument("query")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(1, 50))
@project_option
@json_option
def search(name: str, query: str, limit: int, project: str | None, as_json: bool) -> None:
    """Find the passages that fit best, by meaning and by words."""
    client = Client(project=project)
    found = client.post(_path(client, name, "search"), {"query": query, "limit": limit})
    if as_json:
        print_json(found)
        return
    if not found["passages"]:
        click.echo("Nothing was found.")
    for number, one in enumerate(found["passages"], start=1):
        click.echo(
            click.style(f"{number}. {_place(one)}", bold=True)
            + f"  meaning {one['near']:.2f}, words {one['words']:.1f}"
        )
        click.echo("   " + one["text"][:300].replace("\n", " "))


def _place(one: dict[str, Any]) -> str:
    page = f", page {one['page']}" if one["page"] else ""
    return f"{one['document']}{page}"


@index.command("ask", epilog='Example: stratal index ask handbook "How many days of leave do I have?"')
@click.argument("name")
@click.argument("question")
@click.option(
    "--model", help="An endpoint that writes. Without one the answer is sentences of the documents."
)
@project_option
@json_option
def ask(name: str, question: str, model: str | None, project: str | None, as_json: bool) -> None:
    """Answer a question from the documents, with citations; or say that they do not answer it."""
    client = Client(project=project)
    told = client.post(_path(client, name, "ask"), {"question": question, "model": model})
    if as_json:
        print_json(told)
        return
    click.echo(told["answer"])
    for one in told["citations"]:
        doubtful = "" if one["supported"] else ": does not bear it out"
        click.echo(click.style(f"[{one['number']}] {_place(one)}{doubtful}", dim=True))
    click.echo(click.style(told["note"], dim=True), err=True)


@index.command("calibrate", epilog="Example: stratal index calibrate handbook questions.jsonl")
@click.argument("name")
@click.argument("questions", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--at-most-wrong",
    metavar="SHARE",
    type=click.FloatRange(0, 1),
    help="Answer no more of those that none answers, like 0.1. Default: what tells both kinds apart best.",
)
@project_option
@json_option
def calibrate(
    name: str, questions: Path, at_most_wrong: float | None, project: str | None, as_json: bool
) -> None:
    """Choose when it answers, by your own questions.

    QUESTIONS has a line of JSON each: {"question": …, "document": …}, without a document where none answers it.
    """
    client = Client(project=project)
    try:
        asked = [json.loads(line) for line in questions.read_text("utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise click.UsageError(f"{questions} is not lines of JSON: {error}") from None
    address = _path(client, name, "calibration")
    made = client.request(
        "POST", address, json={"questions": asked, "at_most_wrong": at_most_wrong}, timeout=600
    )
    print_json(made) if as_json else _summary(client.get(_path(client, name)))


@index.command("rm")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@project_option
@json_option
def rm(name: str, yes: bool, project: str | None, as_json: bool) -> None:
    """Remove an index and its table of passages; the documents stay."""
    client = Client(project=project)
    if not yes:
        click.confirm(f"Remove index {name!r}?", abort=True)
    client.delete(_path(client, name))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed index {name}.")
