"""``stratal app``: deploy, ls, show, open, logs, requests, rollback, rm."""

import re
from typing import Any
from urllib.parse import quote, urlsplit

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
from stratal.cli.shown import ago, lasted, note
from stratal.sdk import Client
from stratal.sdk import apps as sdk

_WORDS = {"preparing": "preparing environment and code", "starting": "starting the app"}
DEPLOY_EPILOG = """
\b
Examples:
  stratal app deploy app.py:app --with fastapi
  stratal app deploy shop/main.py:app --name shop --requirements requirements.txt --min 1
  stratal app deploy app.py:app --with starlette --public --max-concurrency 200

\b
Anything that speaks ASGI does (FastAPI, Starlette, Quart, Litestar, Django's asgi.py): HTTP, WebSockets, lifespan.
No server need be among the requirements: the platform is one.

\b
The code is the working tree as it lies there, as `stratal run` sends it. A deployment is a new revision: it
takes over when it has started, and when it cannot, the one before goes on answering.
"""


@click.group(epilog="Examples: stratal app deploy app.py:app --with fastapi · stratal app open app")
def app() -> None:
    """Deploy ASGI apps at host names of their own, look at them, take them back."""


@app.command("deploy", epilog=DEPLOY_EPILOG)
@click.argument("target", metavar="FILE.py:APP")
@click.option("--name", help="Its name (default: the application's, or the file's where that is `app`).")
@deploy_options(
    "app", "asks", at_once="Requests and WebSockets", most=1000, usual=100, package="fastapi>=0.110"
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
    memory: int,
    public: bool,
    wait: bool,
    as_json: bool,
    **sent: Any,
) -> None:
    """Deploy an ASGI application of a file in this folder."""
    made = deployed(
        "app",
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
        memory_bytes=memory,
        public=public,
        **sent,
    )
    tell_rollout("app", made, f"Open it: stratal app open {made['name']}", wait, as_json)


def _name_of(target: str) -> str:
    """What the application is called; a folder's or file's name tells more than ``app``."""
    file, _, attribute = target.rpartition(":")
    words = [attribute, *reversed([part for part in re.split(r"[/.]", file.removesuffix(".py")) if part])]
    word = next((w for w in words if w not in {"app", "application", "main", "asgi"}), words[-1])
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", word) or "app"


@app.command("ls", epilog="Example: stratal app ls --json")
@project_option
@json_option
def ls(project: str | None, as_json: bool) -> None:
    """List the project's apps."""
    client = Client(project=project)
    found = client.get(client.path("/apps"))
    if as_json:
        print_json(found)
        return
    print_deployed("app", found["apps"], "app.py:app")


@app.command("show")
@click.argument("name")
@project_option
@json_option
def show(name: str, project: str | None, as_json: bool) -> None:
    """Show what app NAME runs, how it does, its revisions, and how to ask it."""
    client = Client(project=project)
    seen = sdk.get(client, name)
    history = client.get(sdk.path(client, name, "/revisions"))["revisions"]
    if as_json:
        print_json({**seen, "revisions": history})
        return
    revision = seen["active"] or seen["latest"]
    print_one(
        seen,
        [
            ("App", f"{seen['name']} in project {seen['project']}: {seen['state']}"),
            ("Address", seen["url"]),
        ],
        [
            ("Open to", askers(seen, revision, "the project's people and keys")),
            ("Requests", f"{revision['max_concurrency']} at once in a replica, {seen['in_flight']} now"),
            ("Acts as", revision["workload"]),
        ],
    )
    print_revisions(history)
    if seen["ended"]:
        click.echo()
        print_table(
            ["Replica that ended", "When", "Exit code", "Reason"],
            [
                (r["id"], ago(r["ended_at"]), "" if r["exit_code"] is None else r["exit_code"], r["reason"])
                for r in seen["ended"][:5]
            ],
            empty="",
            right=(2,),
        )
    click.echo(f"\nAsk it:\n  {_curl(client, seen)}")


def _curl(client: Client, seen: dict[str, Any]) -> str:
    key = "" if seen["public"] else '-H "Authorization: Bearer $STRATAL_API_KEY" '
    return f"curl -s {key}-H 'Host: {urlsplit(seen['url']).netloc}' {str(client.http.base_url).rstrip('/')}/"


@app.command("open")
@click.argument("name")
@project_option
@json_option
def open_(name: str, project: str | None, as_json: bool) -> None:
    """Print a link that opens app NAME in your browser, once, within a minute."""
    client = Client(project=project)
    made = client.post(sdk.path(client, name, "/visits"), {})
    if as_json:
        print_json(made)
        return
    click.echo(made["url"])
    note("The link is yours, works once, and for a minute.")


@app.command("logs")
@click.argument("name")
@click.option("--replica", help="Of this replica, one that ended perhaps: `stratal app show` lists them.")
@project_option
@json_option
def logs(name: str, replica: str | None, project: str | None, as_json: bool) -> None:
    """Print what the newest replica of app NAME wrote."""
    client = Client(project=project)
    asked = "" if replica is None else f"?replica={quote(replica, safe='')}"
    with client.stream("GET", sdk.path(client, name, f"/logs{asked}")) as answer:
        text, replica = answer.read().decode(errors="replace"), answer.headers.get("x-stratal-replica")
    if as_json:
        print_json({"name": name, "replica": replica, "log": text})
        return
    if replica is None:
        note("It was never started: it starts with its first request.")
    elif not text:
        note(f"Replica {replica} wrote nothing yet.")
    else:
        click.echo(text.rstrip("\n"))


@app.command("requests", epilog="Example: stratal app requests shop --limit 100")
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=30, show_default=True, help="How many.")
@project_option
@json_option
def requests(name: str, limit: int, project: str | None, as_json: bool) -> None:
    """List what app NAME was asked, newest first, by whom, and what it answered."""
    client = Client(project=project)
    found = client.get(sdk.path(client, name, "/requests"), limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ["Made", "Request", "Status", "Took", "Caller", "Error"],
        [
            (
                ago(r["created_at"]),
                ("WebSocket" if r["kind"] == "websocket" else r["method"]) + f" {r['path'][:80]}",
                r["status"] or "",
                "" if r["seconds"] is None else lasted(r["seconds"]),
                r["caller"] or "anybody",
                (r["error"] or {}).get("message", "")[:80],
            )
            for r in found["requests"]
        ],
        empty=f"Nobody asked it yet. Open it: stratal app open {name}",
        right=(2, 3),
    )


@app.command("rollback", epilog="Examples: stratal app rollback shop · stratal app rollback shop 3")
@click.argument("name")
@click.argument("revision", type=click.IntRange(1), required=False)
@wait_option
@project_option
@json_option
def rollback(name: str, revision: int | None, wait: bool, project: str | None, as_json: bool) -> None:
    """Deploy again what REVISION of app NAME was: its code, packages, variables and limits.

    Without REVISION, the one that answered before. It becomes a new revision.
    """
    made = rolled_back("app", sdk.rollback, _WORDS, name, revision, wait, project, as_json)
    tell_rollout("app", made, f"Open it: stratal app open {name}", wait, as_json)


@app.command("rm")
@click.argument("name")
@project_option
@json_option
def remove(name: str, project: str | None, as_json: bool) -> None:
    """Remove app NAME. Its host name is not given to another."""
    client = Client(project=project)
    client.delete(sdk.path(client, name))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed app {name}.")
