"""``stratal app``: deploy, ls, show, open, logs, requests, rollback, rm."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click

from stratal.cli.functions import code_of, code_shown, named, tell_rollout
from stratal.cli.output import human_bytes, json_option, print_error, print_json, print_table, project_option
from stratal.cli.run import requirements_of, tell_code, variable_of
from stratal.cli.shown import Duration, Gpus, Size, ago, lasted, note
from stratal.sdk import Client
from stratal.sdk import apps as sdk
from stratal.sdk.functions import answering
from stratal.sdk.worktree import TreeError

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
@click.option(
    "--min", "least", type=click.IntRange(0, 256), default=0, help="Replicas when nobody asks (default 0)."
)
@click.option(
    "--max",
    "most",
    type=click.IntRange(1, 256),
    help="At most so many replicas (default: --min, at least 1).",
)
@click.option(
    "--max-concurrency",
    type=click.IntRange(1, 1000),
    default=100,
    help="Requests and WebSockets at once in a replica (default 100).",
)
@click.option(
    "--idle",
    type=Duration(),
    default="5m",
    help="Stop a replica without requests after so long (default 5m; 0: never).",
)
@click.option(
    "--memory", type=Size(), default="512MiB", help="Memory that a replica may use (default 512MiB)."
)
@click.option("--gpus", type=Gpus(), metavar="[TYPE:]N", help="Whole GPUs for each replica: 1 or h100:2.")
@click.option(
    "-r",
    "--requirements",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of requirements to install.",
)
@click.option(
    "--with", "packages", multiple=True, metavar="PKG", help="A package to install, e.g. 'fastapi>=0.110'."
)
@click.option(
    "--env",
    "variables",
    multiple=True,
    metavar="K=V",
    help="A variable for the app; K alone passes yours on.",
)
@click.option("--public", is_flag=True, help="Anybody who reaches the platform may ask it, without a key.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it answers, or failed.")
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
    gpus: tuple[int, str | None] | None,
    requirements: tuple[Path, ...],
    packages: tuple[str, ...],
    variables: tuple[str, ...],
    public: bool,
    wait: bool,
    project: str | None,
    as_json: bool,
) -> None:
    """Deploy an ASGI application of a file in this folder."""
    env = dict(variable_of(text) for text in variables)
    wanted = "".join(requirements_of(path) for path in requirements) + "".join(f"{p}\n" for p in packages)
    called = named("app", name or _name_of(target))
    try:
        tree, target = code_of(target)
        client = Client(project=project)
        tell_code(tree)
        made = sdk.deploy(
            client,
            target,
            tree=tree,
            name=called,
            requirements=wanted,
            env=env,
            wait=wait,
            said=None if as_json else _say,
            min=least,
            max=most,
            max_concurrency=max_concurrency,
            idle_seconds=idle,
            memory_bytes=memory,
            gpus=gpus[0] if gpus else 0,
            gpu_type=gpus[1] if gpus else None,
            public=public,
        )
    except TreeError as error:
        print_error(error.message, error.hint)
        raise SystemExit(1) from None
    except OSError as error:
        print_error(f"{error.filename or 'A file'} cannot be read: {error.strerror}.")
        raise SystemExit(1) from None
    tell_rollout("app", made, f"Open it: stratal app open {made['name']}", wait, as_json)


def _say(state: str) -> None:
    note(f"{_WORDS.get(state, state)} …")


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
    print_table(
        ["Name", "State", "App", "Revision", "Replicas", "Address"],
        [
            (
                a["name"] + (" (public)" if a["public"] else ""),
                a["state"],
                a["target"],
                a["revision"],
                a["replicas"],
                a["url"],
            )
            for a in found["apps"]
        ],
        empty="No apps yet. Deploy one with: stratal app deploy app.py:app",
        right=(3, 4),
    )


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
    idle = lasted(revision["idle_seconds"]) if revision["idle_seconds"] else ""
    sleeps = f"stopped after {idle} without requests" if idle else "never stopped for being idle"
    lines = [
        ("App", f"{seen['name']} in project {seen['project']}: {seen['state']}"),
        ("Address", seen["url"]),
        ("Runs", f"{revision['target']} (revision {revision['number']}, code {code_shown(revision)})"),
        ("Environment", revision["environment"] or "-"),
        ("Open to", "anybody" if revision["public"] else "the project's people and keys"),
        ("Requests", f"{revision['max_concurrency']} at once in a replica, {seen['in_flight']} now"),
        ("Replicas", f"{seen['replicas']} now, {revision['min']} to {revision['max']}, {sleeps}"),
        ("Memory", human_bytes(revision["memory_bytes"])),
        ("GPUs", f"{revision['gpus']} {revision['gpu_type'] or ''}".strip() if revision["gpus"] else "none"),
        ("Acts as", revision["workload"]),
    ]
    if seen["latest"]["state"] == "failed":
        lines.append(("Failed", f"revision {seen['latest']['number']}: {seen['latest']['failure']}"))
    elif seen["failure"]:
        lines.append(("Trouble", seen["failure"]))
    for label, text in lines:
        click.echo(f"{label + ':':<13}{text}")
    click.echo()
    print_table(
        ["Revision", "State", "App", "Deployed", "By"],
        [(r["number"], r["state"], r["target"], ago(r["created_at"]), r["created_by"]) for r in history[:10]],
        empty="",
        right=(0,),
    )
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
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it answers, or failed.")
@project_option
@json_option
def rollback(name: str, revision: int | None, wait: bool, project: str | None, as_json: bool) -> None:
    """Deploy again what REVISION of app NAME was: its code, packages, variables and limits.

    Without REVISION, the one that answered before. It becomes a new revision.
    """
    client = Client(project=project)
    made = sdk.rollback(client, name, revision)
    if wait:
        made = answering(client, "apps", made, None if as_json else _say)
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
