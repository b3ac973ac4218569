"""``stratal deploy``, ``endpoints`` and ``endpoint``."""

import re
import shlex
import time
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_error, print_json, print_table, project_option
from stratal.sdk import Client

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_POLL_SECONDS = 0.3

DEPLOY_EPILOG = """
\b
Examples:
  stratal deploy models:/tumour/3 --name tumour
  stratal deploy models:/tumour@champion --name tumour --idle 1h

\b
A deployment is a new revision of the endpoint. Its replica is started in the environment of the job that
made the model (else in one built from the model's requirements), and only when it is ready does it take
over from the revision before. When that fails, the old one goes on answering.

\b
A replica that had no requests for --idle is stopped; the next request wakes it and is answered.
"""


class _Duration(click.ParamType):  # type: ignore[type-arg]
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)\s*([smhd]?)", str(value).strip())
        if match is None:
            self.fail(f"{value!r} is not a time like 90s, 10m or 2h (0: never).", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


@click.command(epilog=DEPLOY_EPILOG)
@click.argument("model", metavar="models:/NAME/VERSION|models:/NAME@ALIAS")
@click.option(
    "--name", required=True, help="The endpoint: made when there is none, else given a new revision."
)
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when the revision answers, or failed."
)
@click.option(
    "--idle",
    type=_Duration(),
    metavar="TIME",
    help="Stop a replica without requests after so long; 0: never. Default: as it was, 10m for a new endpoint.",
)
@project_option
@json_option
def deploy(model: str, name: str, wait: bool, idle: float | None, project: str | None, as_json: bool) -> None:
    """Deploy a model version to an endpoint that answers requests."""
    client = Client(project=project)
    made = client.post(client.path("/endpoints"), {"name": name, "model": model, "idle_seconds": idle})
    number = made["latest"]["number"]
    if wait:
        made = _wait(client, name, number, quiet=as_json)
    latest = made["latest"]
    if as_json:
        print_json(made)
    elif not wait:
        click.echo(f"Endpoint {name} will serve {_model(latest)} as revision {number}.")
        click.echo(f"Watch it with: stratal endpoint show {name}")
    elif latest["state"] == "active":
        click.echo(f"Endpoint {name} serves {_model(latest)} (revision {number}) at {made['url']}")
        click.echo(f"How to call it: stratal endpoint show {name}")
    if wait and latest["number"] == number and latest["state"] != "active":
        still = f"Revision {made['revision']} goes on answering." if made["active"] else ""
        print_error(f"Revision {number} {latest['state']}: {latest['failure'] or made['failure']}", still)
        raise SystemExit(1)


def _wait(client: Client, name: str, number: int, *, quiet: bool) -> dict[str, Any]:
    """Poll until the revision (or a newer one) answers or failed."""
    said = ""
    while True:
        seen = client.get(_path(client, name))
        latest = seen["latest"]
        if latest["number"] != number or latest["state"] not in {"preparing", "starting"}:
            return seen
        if latest["state"] != said and not quiet:
            said = latest["state"]
            what = "preparing environment and files" if said == "preparing" else "starting the replica"
            click.echo(f"Revision {number}: {what} …", err=True)
        time.sleep(_POLL_SECONDS)


def _model(revision: dict[str, Any]) -> str:
    return f"models:/{revision['model']}/{revision['version']}"


def _path(client: Client, name: str, rest: str = "") -> str:
    return client.path(f"/endpoints/{quote(name, safe='')}{rest}")


@click.command(epilog="Example: stratal endpoints --json")
@project_option
@json_option
def endpoints(project: str | None, as_json: bool) -> None:
    """List the project's endpoints."""
    client = Client(project=project)
    found = client.get(client.path("/endpoints"))
    if as_json:
        print_json(found)
        return
    print_table(
        ["Name", "State", "Model", "Revision", "Address"],
        [
            (e["name"], e["state"], f"{e['model']}/{e['version']}", e["revision"], e["url"])
            for e in found["endpoints"]
        ],
        empty="No endpoints yet. Deploy a model with: stratal deploy models:/NAME/VERSION --name NAME",
        right=(3,),
    )


@click.group(epilog="Examples: stratal endpoint show tumour · stratal endpoint logs tumour")
def endpoint() -> None:
    """Look at one endpoint, read its log, stop, start or remove it."""


@endpoint.command("show")
@click.argument("name")
@project_option
@json_option
def show(name: str, project: str | None, as_json: bool) -> None:
    """Show what endpoint NAME serves, how it does, and how to call it."""
    client = Client(project=project)
    seen = client.get(_path(client, name))
    if as_json:
        print_json(seen)
        return
    active, latest = seen["active"], seen["latest"]
    replica = seen["replica"]
    lines = [
        ("Endpoint", f"{seen['name']} in project {seen['project']}: {seen['state']}"),
        ("Serves", f"{_model(active)} (revision {active['number']})" if active else "nothing yet"),
        ("Environment", (active or latest)["environment"] or "-"),
        ("Libraries", ", ".join(f"{k} {v}" for k, v in (active or latest)["libraries"].items()) or "-"),
        ("Idle after", f"{seen['idle_seconds']:g} s" if seen["idle_seconds"] else "never"),
        ("Requests", f"{seen['requests']} answered, {seen['in_flight']} waiting"),
        (
            "Replica",
            f"{replica['id']} since {replica['started_at']}, {_fence(replica)}" if replica else "none",
        ),
    ]
    if latest["state"] == "failed":
        lines.append(("Failed", f"revision {latest['number']} ({_model(latest)}): {latest['failure']}"))
    elif seen["failure"]:
        lines.append(("Trouble", seen["failure"]))
    for label, text in lines:
        click.echo(f"{label + ':':<13}{text}")
    if seen["interface"]:
        _show_calls(seen)


def _fence(replica: dict[str, Any]) -> str:
    isolation = replica["isolation"] or {}
    if isolation.get("sandbox", "none") == "none":
        return "not isolated"
    network = "no network" if isolation["network"] == "platform" else "open network"
    return f"isolated by {isolation['sandbox']}, {network}"


def _show_calls(seen: dict[str, Any]) -> None:
    interface = seen["interface"]
    for side in ("inputs", "outputs"):
        for tensor in interface[side][:12]:
            shape = ", ".join(map(str, tensor["shape"]))
            click.echo(f"{side[:-1].capitalize() + ':':<13}{tensor['name']} {tensor['datatype']} [{shape}]")
    if interface["columns"]:
        click.echo(f"{'Columns:':<13}{', '.join(interface['columns'])}")
    import json

    columns = interface["columns"]
    width = len(columns) if columns else max(1, interface["inputs"][0]["shape"][-1])
    row = [0.0] * width
    body = {"dataframe_split": {"columns": columns, "data": [row]}} if columns else {"instances": [row]}
    click.echo("\nCall it:")
    click.echo(
        f'  curl -s {seen["invocations_url"]} -H "Authorization: Bearer $STRATAL_API_KEY" \\\n'
        f"    -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}"
    )
    if len(interface["inputs"]) != 1:
        return
    tensor = interface["inputs"][0]
    address = seen["url"].split("://", 1)[1].split("/", 1)[0]
    secure = ", ssl=True" if seen["url"].startswith("https") else ""
    click.echo(
        "\n  import os, numpy, tritonclient.http as triton\n"
        f"  client = triton.InferenceServerClient({address!r}{secure})\n"
        f"  x = triton.InferInput({tensor['name']!r}, [1, {width}], 'FP64')\n"
        f"  x.set_data_from_numpy(numpy.zeros((1, {width})))\n"
        "  key = {'Authorization': 'Bearer ' + os.environ['STRATAL_API_KEY']}\n"
        f"  print(client.infer({seen['name']!r}, [x], headers=key).as_numpy("
        f"{(interface['outputs'] or [{'name': 'predict'}])[0]['name']!r}))"
    )


@endpoint.command("logs")
@click.argument("name")
@project_option
@json_option
def logs(name: str, project: str | None, as_json: bool) -> None:
    """Print what endpoint NAME's newest replica wrote."""
    client = Client(project=project)
    with client.stream("GET", _path(client, name, "/logs")) as answer:
        text = answer.read().decode(errors="replace")
        replica = answer.headers.get("x-stratal-replica")
    if as_json:
        print_json({"name": name, "replica": replica, "log": text})
    else:
        click.echo(text, nl=False)


@endpoint.command("stop")
@click.argument("name")
@project_option
@json_option
def stop(name: str, project: str | None, as_json: bool) -> None:
    """Refuse requests to endpoint NAME and end its replica."""
    _change(name, project, as_json, "stop", f"Stopped. Start it again with: stratal endpoint start {name}")


@endpoint.command("start")
@click.argument("name")
@project_option
@json_option
def start(name: str, project: str | None, as_json: bool) -> None:
    """Let the stopped endpoint NAME answer again; the first request wakes it."""
    _change(name, project, as_json, "start", "It answers again.")


def _change(name: str, project: str | None, as_json: bool, verb: str, done: str) -> None:
    client = Client(project=project)
    seen = client.post(_path(client, name, f"/{verb}"))
    if as_json:
        print_json(seen)
    else:
        click.echo(done)


@endpoint.command("rm")
@click.argument("name")
@project_option
@json_option
def remove(name: str, project: str | None, as_json: bool) -> None:
    """Remove endpoint NAME. Predictions that it made are still explained."""
    client = Client(project=project)
    client.delete(_path(client, name))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed endpoint {name}.")
