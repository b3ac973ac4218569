"""``stratal bench``: how fast this platform is on this machine, measured here and now."""

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.kernel.errors import Unavailable
from stratal.sdk import Client
from stratal.sdk import jobs as sdk

_WORD = b"stratal-bench: here"
_ONLY_COLD = {"PYTHONHASHSEED": "random"}
"""A variable that an interpreter reads as it starts, at its default: no fork can answer for it."""
_WARM_SECONDS = 120.0


@click.group()
def bench() -> None:
    """Measure this platform on this machine."""


@bench.command(
    epilog="Examples: stratal bench start · stratal bench start --with numpy --import numpy --runs 30"
)
@project_option
@click.option("--with", "package", default="scikit-learn", show_default=True, help="The package to install.")
@click.option(
    "--import", "module", default="sklearn.linear_model", show_default=True, help="What the jobs import of it."
)
@click.option("--runs", default=15, show_default=True, type=click.IntRange(3, 1000), help="Jobs of each kind.")
@json_option
def start(project: str | None, package: str, module: str, runs: int, as_json: bool) -> None:
    """Time jobs from their HTTP request to their first output, cold and warm.

    Cold is a new interpreter that reads byte code; warm is a fork of one that has its modules loaded.
    Both are fenced alike. Jobs run one after the other, cold and warm by turns.
    """
    client = Client(project=project)
    if not all(part.isidentifier() for part in module.split(".")):
        raise click.UsageError(f"{module!r} is no module.")
    kinds = [_Kind("Python alone", "", ""), _Kind(f"with {module}", f"{package}\n", f"import {module}\n")]
    for kind in kinds:
        _get_ready(client, kind, quiet=as_json)
        for _ in range(runs):
            kind.cold.append(_seconds(client, kind, warm=False))
            kind.warm.append(_seconds(client, kind, warm=True))
    _report(kinds, runs, as_json=as_json)


@dataclass
class _Kind:
    """An environment and what its jobs import; the seconds measured."""

    name: str
    requirements: str
    code: str
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)


def _get_ready(client: Client, kind: _Kind, *, quiet: bool) -> None:
    """Build the environment, and wait for its zygote. Raises `Unavailable` when there is none to be had."""
    if not quiet:
        click.echo(f"{kind.name}: getting ready …", err=True)
    deadline = time.monotonic() + _WARM_SECONDS
    _run(client, kind, warm=False)  # builds the environment
    while _run(client, kind, warm=True)[1]["isolation"].get("start") != "forked":
        if time.monotonic() > deadline:
            raise Unavailable(
                f"No interpreter was kept warm for jobs {kind.name} within {_WARM_SECONDS:.0f} s.",
                hint="See stratal status, and STRATAL_ZYGOTE_MEMORY.",
            )
        time.sleep(0.2)


def _seconds(client: Client, kind: _Kind, *, warm: bool) -> float:
    wanted = "forked" if warm else "cold"
    for _ in range(5):
        seconds, job = _run(client, kind, warm=warm)
        if job["isolation"].get("start") == wanted:
            return seconds
        time.sleep(1)  # it was let go meanwhile, and is made anew
    raise Unavailable(f"Jobs {kind.name} do not start {'warm' if warm else 'cold'} any more.")


def _run(client: Client, kind: _Kind, *, warm: bool) -> tuple[float, dict[str, Any]]:
    """One job: the seconds from its request to the first line it wrote, and the job as it ended."""
    code = f"{kind.code}print({_WORD.decode()!r}, flush=True)"
    began = time.perf_counter()
    job = sdk.run(
        client,
        ["python", "-c", code],
        requirements=kind.requirements,
        env={} if warm else _ONLY_COLD,
        name="bench-start",
    )
    said, first = b"", 0.0
    path = client.path(f"/jobs/{job['id']}/logs")
    with client.stream("GET", path, params={"follow": True}) as answer:
        for chunk in answer.iter_bytes():
            said += chunk
            if not first and _WORD in said:
                first = time.perf_counter() - began
    job = sdk.get(client, job["id"], wait=30)
    if not first or job["state"] != "succeeded":
        raise Unavailable(f"Job {job['id']} did not go well: {job['reason'] or said.decode(errors='replace')[-400:]}")
    return first, job


def _report(kinds: list[_Kind], runs: int, *, as_json: bool) -> None:
    rows = []
    for kind in kinds:
        ratio = statistics.median(kind.cold) / statistics.median(kind.warm)
        for name, seconds in (("cold", kind.cold), ("warm", kind.warm)):
            quickest = sorted(seconds)
            rows.append(
                {
                    "name": f"{kind.name}, {name}",
                    "p50_ms": round(statistics.median(seconds) * 1000, 1),
                    "p95_ms": round(quickest[min(len(quickest) - 1, int(0.95 * len(quickest)))] * 1000, 1),
                    "times_faster": round(ratio, 1) if name == "warm" else None,
                }
            )
    if as_json:
        print_json({"starts": rows, "runs": runs})
        return
    print_table(
        ["From HTTP request to first output", "p50 ms", "p95 ms", "× cold"],
        [(row["name"], row["p50_ms"], row["p95_ms"], row["times_faster"]) for row in rows],
        empty="",
        right=(1, 2, 3),
    )
