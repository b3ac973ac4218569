"""``stratal endpoints`` and ``endpoint``: looking at what was deployed, and steering it."""

import sys
import textwrap
from typing import Any
from urllib.parse import quote

import click

from stratal.cli import drawing
from stratal.cli.calls import how_to_call
from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.cli.shown import Shares
from stratal.sdk import Client


def model_of(revision: dict[str, Any]) -> str:
    return f"models:/{revision['model']}/{revision['version']}"


def address_of(client: Client, name: str, rest: str = "") -> str:
    return client.path(f"/endpoints/{quote(name, safe='')}{rest}")


@click.command(epilog="Example: stratal endpoints --json")
@project_option
@json_option
def endpoints(project: str | None, as_json: bool) -> None:
    """List the project's endpoints."""
    _list(project, as_json)


def _list(project: str | None, as_json: bool) -> None:
    client = Client(project=project)
    found = client.get(client.path("/endpoints"))
    if as_json:
        print_json(found)
        return
    print_table(
        ["Name", "State", "Model", "Revision", "Replicas", "Address"],
        [
            (e["name"], e["state"], f"{e['model']}/{e['version']}", e["revision"], e["awake"], e["url"])
            for e in found["endpoints"]
        ],
        empty="No endpoints yet. Deploy a model with: stratal deploy models:/NAME/VERSION --name NAME",
        right=(3, 4),
    )


@click.group(
    epilog="Examples: stratal endpoint ls · stratal endpoint show tumour · stratal endpoint traffic tumour v2=50"
)
def endpoint() -> None:
    """Look at endpoints, read their logs, share out their requests, roll back, stop, start or remove them."""


@endpoint.command("ls", epilog="Example: stratal endpoint ls --json")
@project_option
@json_option
def ls(project: str | None, as_json: bool) -> None:
    """List the project's endpoints (as `stratal endpoints`)."""
    _list(project, as_json)


@endpoint.command("show")
@click.argument("name")
@project_option
@json_option
def show(name: str, project: str | None, as_json: bool) -> None:
    """Show what endpoint NAME serves, how it does, and how to call it."""
    client = Client(project=project)
    seen = client.get(address_of(client, name))
    if as_json:
        print_json(seen)
        return
    active, latest = seen["active"], seen["latest"]
    lines = [
        ("Endpoint", f"{seen['name']} in project {seen['project']}: {seen['state']}"),
        ("Serves", _serves_line(active) if active else "nothing yet"),
        *(("Traffic", _traffic_line(served)) for served in seen["traffic"] if len(seen["traffic"]) > 1),
        ("Environment", (active or latest)["environment"] or "-"),
        ("Libraries", ", ".join(f"{k} {v}" for k, v in (active or latest)["libraries"].items()) or "-"),
        ("Replicas", _replicas_line(seen)),
        ("Idle after", f"{seen['idle_seconds']:g} s" if seen["idle_seconds"] else "never"),
        ("Requests", _requests_line(seen)),
        *(("Replica", f"{r['id']} since {r['started_at']}, {_fence(r)}") for r in seen["replicas"]),
    ]
    if seen["form_since"] is not None:
        again = f"stratal deploy {model_of(active)} --name {seen['name']}"
        lines.append(("Form", f"an {seen['form_since'].upper()} form was made since; to serve it: {again}"))
    if latest["state"] == "failed":
        lines.append(("Failed", f"revision {latest['number']} ({model_of(latest)}): {latest['failure']}"))
    elif seen["failure"]:
        lines.append(("Trouble", seen["failure"]))
    for label, text in lines:
        click.echo(f"{label + ':':<13}{text}")
    if seen["interface"]:
        _show_calls(seen)


def _serves_line(active: dict[str, Any]) -> str:
    form = "" if active["form"] is None else ", its ONNX form"
    return f"{model_of(active)}{form} (revision {active['number']})"


def _traffic_line(served: dict[str, Any]) -> str:
    recent = served["recent"]
    quick = "" if recent["p50_ms"] is None else f", half within {recent['p50_ms']:g} ms"
    return (
        f"{served['percent']} % to {model_of(served)} (revision {served['revision']}): "
        f"{recent['answered']} answered in the last 5 minutes{quick}"
    )


def _replicas_line(seen: dict[str, Any]) -> str:
    limits = []
    if seen["cpus"] is not None:
        limits.append(f"{seen['cpus']:g} processors")
    if seen["gpus"]:
        limits.append(f"{seen['gpus']} {seen['gpu_type'] or 'GPU'}")
    if seen["memory_bytes"] is not None:
        limits.append(f"{seen['memory_bytes'] / 2**20:g} MiB of memory")
    each = f", each with up to {' and '.join(limits)}" if limits else ""
    return (
        f"{seen['awake']} now, {seen['min']} to {seen['max']}, {seen['concurrency']} requests at once{each}"
    )


def _requests_line(seen: dict[str, Any]) -> str:
    quick = [s["recent"] for s in seen["traffic"] if s["recent"]["p50_ms"] is not None]
    shown = f"; of late p50 {quick[0]['p50_ms']:g} ms, p99 {quick[0]['p99_ms']:g} ms" if quick else ""
    return f"{seen['requests']} answered, {seen['refused']} refused, {seen['in_flight']} now{shown}"


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
    click.echo("\nCall it:")
    click.echo("\n\n".join(textwrap.indent(way, "  ") for way in how_to_call(seen)))


@endpoint.command("logs")
@click.argument("name")
@click.option("--replica", help="The replica's id (default: the newest; see `endpoint replicas`).")
@project_option
@json_option
def logs(name: str, replica: str | None, project: str | None, as_json: bool) -> None:
    """Print what a replica of endpoint NAME wrote."""
    client = Client(project=project)
    asked = "" if replica is None else f"?replica={quote(replica, safe='')}"
    with client.stream("GET", address_of(client, name, f"/logs{asked}")) as answer:
        text = answer.read().decode(errors="replace")
        found = answer.headers.get("x-stratal-replica")
    if as_json:
        print_json({"name": name, "replica": found, "log": text})
    else:
        click.echo(text, nl=False)


@endpoint.command("replicas", epilog="Example: stratal endpoint replicas tumour --json")
@click.argument("name")
@project_option
@json_option
def replicas(name: str, project: str | None, as_json: bool) -> None:
    """List endpoint NAME's replicas: those that run, and the last that ended with why."""
    client = Client(project=project)
    found = client.get(address_of(client, name, "/replicas"))
    if as_json:
        print_json({"replicas": [{"name": replica["id"], **replica} for replica in found["replicas"]]})
        return
    print_table(
        ["Replica", "Started", "Ended", "Exit code", "Why"],
        [
            (r["id"], r["started_at"], r["ended_at"] or "runs", r["exit_code"], r["reason"])
            for r in found["replicas"]
        ],
        empty="No replica was started yet.",
        right=(3,),
    )


@endpoint.command(
    "traffic",
    epilog="Examples: stratal endpoint traffic tumour · stratal endpoint traffic tumour v2=50 · "
    "stratal endpoint traffic tumour v2=100",
)
@click.argument("name")
@click.argument("shares", type=Shares(), nargs=-1, metavar="[v2=PERCENT]...")
@project_option
@json_option
def traffic(name: str, shares: tuple[dict[str, int], ...], project: str | None, as_json: bool) -> None:
    """Show, or change, how endpoint NAME's requests are shared out between its revisions.

    v2 is version 2 of the model, r3 the endpoint's 3rd revision. What is not named keeps its share, and
    the revision that was deployed for all requests gets the rest; with 100 a revision is the only one left.
    """
    client = Client(project=project)
    if shares:
        asked = {revision: percent for said in shares for revision, percent in said.items()}
        seen = client.post(address_of(client, name, "/traffic"), {"traffic": asked})
    else:
        seen = client.get(address_of(client, name))
    if as_json:
        print_json({"name": name, "traffic": seen["traffic"]})
        return
    print_table(
        ["Model", "Revision", "Share", "Answered", "Failed", "p50 ms", "p99 ms"],
        [
            (
                model_of(s),
                s["revision"],
                f"{s['percent']} %",
                s["recent"]["answered"],
                s["recent"]["failed"],
                s["recent"]["p50_ms"],
                s["recent"]["p99_ms"],
            )
            for s in seen["traffic"]
        ],
        empty="Nothing answers now.",
        right=(1, 2, 3, 4, 5, 6),
    )


@endpoint.command(
    "rollback", epilog="Examples: stratal endpoint rollback tumour · stratal endpoint rollback tumour --to r2"
)
@click.argument("name")
@click.option("--to", metavar="r2|v1", help="Which revision (default: the last that answered before).")
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when it answers again, or failed."
)
@project_option
@json_option
def rollback(name: str, to: str | None, wait: bool, project: str | None, as_json: bool) -> None:
    """Let an earlier revision of endpoint NAME answer everything again.

    While requests are shared out, the new revision loses its share; else the revision before is deployed
    again, with the same files and environment.
    """
    from stratal.cli.deploy import follow

    client = Client(project=project)
    made = client.post(address_of(client, name, "/rollback"), {"to": to})
    if made["latest"]["state"] in {"preparing", "starting"}:
        follow(client, made, wait=wait, as_json=as_json)
    elif as_json:  # a share was taken back: nothing had to be started
        print_json(made)
    else:
        click.echo(
            f"Endpoint {name} serves {model_of(made['active'])} (revision {made['revision']}) alone again."
        )


@endpoint.command(
    "chat",
    epilog='Examples: stratal endpoint chat writer "What is a lake?" · stratal endpoint chat writer < letter.txt',
)
@click.argument("name")
@click.argument("text", required=False)
@click.option("--system", help="What the model is told before.")
@click.option("--max-tokens", type=click.IntRange(1), help="How long the answer may be. Default: 256.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=1.0, show_default=True)
@project_option
@json_option
def chat(
    name: str,
    text: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float,
    project: str | None,
    as_json: bool,
) -> None:
    """Ask a language model; its answer is shown as it is written. Ctrl-C stops the model."""
    client = Client(project=project)
    question = text if text is not None else sys.stdin.read()
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})
    asked = {"messages": messages, "max_tokens": max_tokens, "temperature": temperature}
    told: list[str] = []
    end: dict[str, Any] = {}
    for piece in drawing.pieces(client, name, "chat", asked):
        if "finish" in piece:
            end = piece
            continue
        told.append(piece["text"])
        if not as_json:
            click.echo(piece["text"], nl=False)
    if as_json:
        print_json({"text": "".join(told), **end})
        return
    click.echo()
    click.echo(click.style(f"prediction {end.get('prediction_id', '')}", dim=True), err=True)


@endpoint.command(
    "draw",
    epilog='Examples: stratal endpoint draw painter "a red house by the sea" · '
    'stratal endpoint draw painter "a fox" --size 512x512 --steps 20 --seed 7',
)
@click.argument("name")
@click.argument("text")
@click.option("--count", type=click.IntRange(1, 10), default=1, show_default=True, help="How many pictures.")
@click.option("--size", metavar="WIDTHxHEIGHT", help="In pixels. Default: the model's own.")
@click.option("--steps", type=click.IntRange(1, 200), help="Default: the model's own.")
@click.option("--guidance", type=click.FloatRange(0, 100), help="How closely to follow the text.")
@click.option("--negative", help="What the picture is not to show.")
@click.option("--seed", type=click.IntRange(0), help="The same seed draws the same picture.")
@project_option
@json_option
def draw(
    name: str, text: str, size: str | None, project: str | None, as_json: bool, **said: float | str | None
) -> None:
    """Have a model draw a text: PNG files in this folder. Ctrl-C stops the model."""
    asked = {"prompt": text, **{key: value for key, value in said.items() if value is not None}}
    if size is not None:
        width, _, height = size.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            raise click.UsageError("--size is like 512x512.")
        asked |= {"width": int(width), "height": int(height)}
    end = drawing.draw(Client(project=project), name, asked)
    if as_json:
        print_json(end)
        return
    drawing.keep(end["images"], "drawn", ".png")
    click.echo(click.style(f"seed {end['seed']}, prediction {end['prediction_id']}", dim=True), err=True)


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
    seen = client.post(address_of(client, name, f"/{verb}"))
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
    client.delete(address_of(client, name))
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        click.echo(f"Removed endpoint {name}.")
