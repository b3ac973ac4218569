"""``stratal deploy``: a model version becomes a new revision of an endpoint."""

import time
from typing import Any

import click

from stratal.cli.endpoints import address_of, model_of
from stratal.cli.output import json_option, print_error, print_json, project_option
from stratal.cli.shown import Duration, Gpus, Shares, Size
from stratal.sdk import Client

_POLL_SECONDS = 0.3

EPILOG = """
\b
Examples:
  stratal deploy models:/tumour/3 --name tumour
  stratal deploy models:/tumour@champion --name tumour --min 1 --max 4 --concurrency 32
  stratal deploy models:/tumour/4 --name tumour --traffic v4=10

\b
A deployment is a new revision of the endpoint. Its replica is started in the environment of the job that
made the model (else in one built from the model's requirements), and only when it is ready does it take
over from the revision before. When that fails, the old one goes on answering.

\b
Where the version has an ONNX form, which answers the same, that is served (--as-is: not). One that is made later
is not swapped in: deploying again serves it.

\b
With --traffic it takes over that percentage of the requests only; the rest goes on as before. Which
revision answers is decided by a hash of the header X-Stratal-Traffic-Key (else X-Request-Id, else the
request's own id): the same key is always answered by the same one. `stratal endpoint traffic` changes
the shares, `stratal endpoint rollback` takes the new one out again.

\b
At zero (--min 0) a replica that had no requests for --idle is stopped; the next request wakes it, waits
and is answered. Where all replicas have --concurrency requests, more are started, up to --max.

\b
Exit codes: 0 it answers (with --no-wait: it was accepted) · 1 it failed, or makes no sense.
"""


@click.command(epilog=EPILOG)
@click.argument("model", metavar="models:/NAME/VERSION|models:/NAME@ALIAS")
@click.option(
    "--name", required=True, help="The endpoint: made when there is none, else given a new revision."
)
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Return when the revision answers, or failed."
)
@click.option("--min", "least", type=int, help="Keep at least so many replicas (0: none when nobody asks).")
@click.option("--max", "most", type=int, help="Start at most so many replicas.")
@click.option("--concurrency", type=int, help="Give one replica at most so many requests at once.")
@click.option(
    "--idle",
    type=Duration(),
    metavar="TIME",
    help="Stop the last replica when it had no request for so long; 0: never. At first: 10m.",
)
@click.option("--cpus", type=float, help="The processors that one replica may use. At first: no limit.")
@click.option(
    "--memory", type=Size(), metavar="SIZE", help="The memory that one replica may use. At first: no limit."
)
@click.option(
    "--gpus",
    type=Gpus(),
    metavar="[TYPE:]N",
    help="Give each replica whole GPUs of its own, e.g. 1 or h100:2. At first: none.",
)
@click.option(
    "--traffic", type=Shares(), metavar="v2=10", help="Give the new revision this percentage of the requests."
)
@click.option("--as-is", is_flag=True, help="Serve the version's own files, also when it has an ONNX form.")
@project_option
@json_option
def deploy(
    model: str,
    name: str,
    wait: bool,
    least: int | None,
    most: int | None,
    concurrency: int | None,
    idle: float | None,
    cpus: float | None,
    memory: int | None,
    gpus: tuple[int, str | None] | None,
    traffic: dict[str, int] | None,
    as_is: bool,
    project: str | None,
    as_json: bool,
) -> None:
    """Deploy a model version to an endpoint that answers requests."""
    client = Client(project=project)
    asked = {
        "name": name,
        "model": model,
        "min": least,
        "max": most,
        "concurrency": concurrency,
        "idle_seconds": idle,
        "cpus": cpus,
        "memory_bytes": memory,
        "gpus": gpus[0] if gpus else None,
        "gpu_type": gpus[1] if gpus else None,
        "traffic": traffic,
        "as_is": as_is or None,
    }
    made = client.post(client.path("/endpoints"), {k: v for k, v in asked.items() if v is not None})
    follow(client, made, wait=wait, as_json=as_json)


def follow(client: Client, made: dict[str, Any], *, wait: bool, as_json: bool) -> None:
    """Say what becomes of the endpoint's newest revision; exits with 1 when it failed."""
    name, number = made["name"], made["latest"]["number"]
    if wait:
        made = _wait(client, name, number, quiet=as_json)
    latest = made["latest"]
    if as_json:
        print_json(made)
    elif not wait:
        click.echo(f"Endpoint {name} will serve {model_of(latest)} as revision {number}.")
        click.echo(f"Watch it with: stratal endpoint show {name}")
    elif latest["state"] == "active":
        share = "" if latest["share"] is None else f" with {latest['share']} % of the requests"
        form = "" if latest["form"] is None else " in its ONNX form"
        click.echo(
            f"Endpoint {name} serves {model_of(latest)}{form} (revision {number}){share} at {made['url']}"
        )
        click.echo(f"How to call it: stratal endpoint show {name}")
    if wait and latest["number"] == number and latest["state"] != "active":
        still = f"Revision {made['revision']} goes on answering." if made["active"] else ""
        print_error(f"Revision {number} {latest['state']}: {latest['failure'] or made['failure']}", still)
        raise SystemExit(1)


def _wait(client: Client, name: str, number: int, *, quiet: bool) -> dict[str, Any]:
    """Poll until the revision (or a newer one) answers or failed."""
    said = ""
    while True:
        seen = client.get(address_of(client, name))
        latest = seen["latest"]
        if latest["number"] != number or latest["state"] not in {"preparing", "starting"}:
            return seen
        if latest["state"] != said and not quiet:
            said = latest["state"]
            what = "preparing environment and files" if said == "preparing" else "starting the replica"
            click.echo(f"Revision {number}: {what} …", err=True)
        time.sleep(_POLL_SECONDS)
