"""``stratal function``: deploy, ls, show, logs, invoke, invocations, retry, rollback, rm."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from stratal.cli.deployed import (
    askers,
    deploy_options,
    deployed,
    print_deployed,
    print_one,
    print_revisions,
    rolled_back,
    tell_rollout,
    wait_option,
)
from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.cli.shown import Duration, ago, lasted, note
from stratal.sdk import Client
from stratal.sdk import functions as sdk
from stratal.sdk.client import error_of

_WORDS = {"preparing": "preparing environment and code", "starting": "loading the function"}
DEPLOY_EPILOG = """
\b
Examples:
  stratal function deploy app.py:handler
  stratal function deploy app.py:handler --name score --with scikit-learn --timeout 30s
  stratal function deploy app.py:handler --requirements requirements.txt --min 1 --public
  stratal function deploy app.py:nightly --schedule '0 2 * * *' --zone Europe/Berlin
  stratal function deploy app.py:ingest --on s3:incoming/scans/

\b
  def handler(event):            # event: the parsed JSON of the request's body
      return {"hello": event["name"]}

\b
The code is the working tree as it lies there, as `stratal run` sends it. A deployment is a new revision: it
takes over when it has loaded, and when it cannot, the one before goes on answering.
"""


@click.group(epilog="Examples: stratal function deploy app.py:handler · stratal function invoke handler '{}'")
def function() -> None:
    """Deploy Python functions that answer requests, call them, look at them."""


@function.command("deploy", epilog=DEPLOY_EPILOG)
@click.argument("target", metavar="FILE.py:FUNCTION")
@click.option("--name", help="Its name (default: the function's).")
@deploy_options("function", "calls", at_once="Calls", most=256, usual=8, package="pandas>=2")
@click.option("--timeout", type=Duration(), default="60s", help="End a call after so long (default 60s).")
@click.option(
    "--retries",
    type=click.IntRange(0, 20),
    default=3,
    help="Try a call that nobody waits for again so often (default 3).",
)
@click.option(
    "--schedule",
    metavar="CRON",
    default="",
    help="Call it by the clock, e.g. '30 7 * * 1-5': 7:30 on workdays.",
)
@click.option(
    "--zone", default="UTC", show_default=True, help="The schedule's time zone, e.g. Europe/Berlin."
)
@click.option(
    "--on", "triggers", multiple=True, metavar="s3:BUCKET/PREFIX", help="Call it with each new object below."
)
@project_option
@json_option
def deploy(
    target: str,
    name: str | None,
    least: int,
    most: int | None,
    max_concurrency: int,
    idle: float,
    timeout: float,
    retries: int,
    memory: int,
    schedule: str,
    zone: str,
    triggers: tuple[str, ...],
    public: bool,
    wait: bool,
    as_json: bool,
    **sent: Any,
) -> None:
    """Deploy a function of a file in this folder."""
    made = deployed(
        "function",
        sdk.deploy,
        _WORDS,
        target,
        name or _name_of(target),
        wait=wait,
        as_json=as_json,
        min=least,
        max=most,
        max_concurrency=max_concurrency,
        idle_seconds=idle,
        timeout_seconds=timeout,
        retries=retries,
        memory_bytes=memory,
        schedule=schedule,
        zone=zone,
        on=list(triggers),
        public=public,
        **sent,
    )
    tell_rollout("function", made, f"Call it: stratal function invoke {made['name']} '{{}}'", wait, as_json)


def _name_of(target: str) -> str:
    file, _, attribute = target.rpartition(":")
    word = (
        attribute
        if attribute != "handler"
        else Path(file).stem
        if file.endswith(".py")
        else file.split(".")[-1]
    )
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", word.replace(".", "-")) or "function"


@function.command("ls", epilog="Example: stratal function ls --json")
@project_option
@json_option
def ls(project: str | None, as_json: bool) -> None:
    """List the project's functions."""
    client = Client(project=project)
    found = client.get(client.path("/functions"))
    if as_json:
        print_json(found)
        return
    print_deployed("function", found["functions"], "app.py:handler")


@function.command("show")
@click.argument("name")
@project_option
@json_option
def show(name: str, project: str | None, as_json: bool) -> None:
    """Show what function NAME runs, how it does, its revisions, and how to call it."""
    client = Client(project=project)
    seen = sdk.get(client, name)
    history = client.get(sdk.path(client, name, "/revisions"))["revisions"]
    if as_json:
        print_json({**seen, "revisions": history})
        return
    revision = seen["active"] or seen["latest"]
    counted = ", ".join(f"{count} {state}" for state, count in seen["invocations"].items() if count)
    each = lasted(revision["timeout_seconds"])
    print_one(
        seen,
        [("Function", f"{seen['name']} in project {seen['project']}: {seen['state']}")],
        [
            ("Callable by", askers(seen, revision, "keys of the project")),
            ("Calls", f"{revision['max_concurrency']} at once in a replica, {each} each"),
            ("Called by", _sources(revision)),
            ("Invocations", counted or "none yet"),
        ],
    )
    print_revisions(history)
    click.echo(
        f"\nCall it:\n  stratal function invoke {name} '{{}}'\n"
        f'  curl -s {seen["url"]} -H "Authorization: Bearer $STRATAL_API_KEY" '
        "-H 'Content-Type: application/json' -d '{}'"
    )


def _sources(revision: dict[str, Any]) -> str:
    told = [f"the schedule {revision['schedule']} ({revision['zone']})"] if revision["schedule"] else []
    told += [f"new objects in {trigger}" for trigger in revision["on"]]
    return ", ".join(["whoever asks", *told])


@function.command(
    "invoke", epilog="Examples: stratal function invoke score '{\"x\": 1}' · … --later · … @input.json"
)
@click.argument("name")
@click.argument("body", default="", metavar="[JSON|@FILE|-]")
@click.option(
    "--later", is_flag=True, help="Do not wait: have it called, tried again if need be, and print its id."
)
@click.option(
    "--type", "content_type", default="application/json", show_default=True, help="The body's content type."
)
@project_option
@json_option
def invoke(name: str, body: str, later: bool, content_type: str, project: str | None, as_json: bool) -> None:
    """Call function NAME and print its answer as it comes."""
    client = Client(project=project)
    data = _body(body)
    if later:
        made = sdk.invoke_later(client, name, data, content_type)
        if as_json:
            print_json(made)
        else:
            click.echo(made["id"])
            note(f"What comes of it: stratal function invocations {name}")
        return
    with sdk.stream(client, name, data, content_type) as answer:
        if answer.is_error:
            answer.read()
            raise error_of(answer)
        kind = answer.headers.get("content-type", "")
        if as_json:
            text = answer.read()
            told = {
                "id": answer.headers["x-stratal-invocation-id"],
                "status": answer.status_code,
                "type": kind,
            }
            print_json(
                told
                | (
                    {"result": answer.json()}
                    if kind == "application/json"
                    else {"text": text.decode(errors="replace")}
                )
            )
            return
        last = b""
        for chunk in answer.iter_bytes():
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            last = chunk[-1:] or last
    if last != b"\n" and os.isatty(sys.stdout.fileno()):
        click.echo()


def _body(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as error:
            raise click.BadParameter(
                f"{text[1:]} cannot be read: {error.strerror}", param_hint="JSON"
            ) from None
    return text.encode()


@function.command("invocations", epilog="Examples: stratal function invocations score --state dead")
@click.argument("name")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice(["queued", "running", "succeeded", "failed", "dead"]),
    help="Only those in this state.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True, help="How many.")
@project_option
@json_option
def invocations(name: str, states: tuple[str, ...], limit: int, project: str | None, as_json: bool) -> None:
    """List what function NAME was asked, newest first."""
    client = Client(project=project)
    found = client.get(sdk.path(client, name, "/invocations"), state=list(states) or None, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["Id", "State", "Made", "Took", "Tries", "By", "Caller", "Error"],
        [
            (
                i["id"],
                i["state"],
                ago(i["created_at"]),
                "" if i["seconds"] is None else lasted(i["seconds"]),
                i["attempt"],
                i["trigger"],
                i["caller"] or "anybody",
                (i["error"] or {}).get("message", "")[:80],
            )
            for i in found["invocations"]
        ],
        empty="No invocations."
        if states
        else f"Nobody called it yet. Call it: stratal function invoke {name} '{{}}'",
        right=(3, 4),
    )


@function.command(
    "logs", epilog="Examples: stratal function logs score · stratal function logs score inv_01k…"
)
@click.argument("name")
@click.argument("invocation", default="")
@click.option(
    "--limit", type=click.IntRange(1, 100), default=10, show_default=True, help="So many newest calls."
)
@project_option
@json_option
def logs(name: str, invocation: str, limit: int, project: str | None, as_json: bool) -> None:
    """Print what function NAME's newest calls wrote, or one INVOCATION, and what its replica wrote beside them."""
    client = Client(project=project)
    if invocation:
        found = [client.get(sdk.path(client, name, f"/invocations/{invocation}"))]
        replica, beside = None, ""
    else:
        found = client.get(sdk.path(client, name, "/invocations"), limit=limit)["invocations"][::-1]
        with client.stream("GET", sdk.path(client, name, "/logs")) as answer:
            beside, replica = answer.read().decode(errors="replace"), answer.headers.get("x-stratal-replica")
    told = [(i, _log(client, name, i["id"]) if i["log_bytes"] else "") for i in found]
    if as_json:
        written = [{"id": i["id"], "state": i["state"], "log": text} for i, text in told]
        print_json({"name": name, "replica": replica, "log": beside, "invocations": written})
        return
    if beside:
        note(f"Replica {replica}:")
        click.echo(beside.rstrip("\n"))
    for i, text in told:
        if not invocation:
            note(f"{i['id']}, {ago(i['created_at'])}, {i['state']}:")
        if text:
            click.echo(text.rstrip("\n"))


def _log(client: Client, name: str, invocation_id: str) -> str:
    with client.stream("GET", sdk.path(client, name, f"/invocations/{invocation_id}/log")) as answer:
        return answer.read().decode(errors="replace")


@function.command("retry")
@click.argument("name")
@click.argument("invocation")
@project_option
@json_option
def retry(name: str, invocation: str, project: str | None, as_json: bool) -> None:
    """Have a dead INVOCATION of function NAME run again, as if it were new."""
    client = Client(project=project)
    made = client.post(sdk.path(client, name, f"/invocations/{invocation}/retry"))
    if as_json:
        print_json(made)
    else:
        click.echo(f"It runs again. What comes of it: stratal function invocations {name}")


@function.command(
    "rollback", epilog="Examples: stratal function rollback score · stratal function rollback score 3"
)
@click.argument("name")
@click.argument("revision", type=click.IntRange(1), required=False)
@wait_option
@project_option
@json_option
def rollback(name: str, revision: int | None, wait: bool, project: str | None, as_json: bool) -> None:
    """Deploy again what REVISION of function NAME was: its code, packages, variables, limits and what calls it.

    Without REVISION, the one that answered before. It becomes a new revision.
    """
    made = rolled_back("function", sdk.rollback, _WORDS, name, revision, wait, project, as_json)
    tell_rollout("function", made, f"Call it: stratal function invoke {name} '{{}}'", wait, as_json)


@function.command("rm")
@click.argument("name")
@project_option
@json_option
def remove(name: str, project: str | None, as_json: bool) -> None:
    """Remove function NAME; calls that wait for it end as dead."""
    client = Client(project=project)
    client.delete(sdk.path(client, name))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed function {name}.")
