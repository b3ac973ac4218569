"""``stratal bench``: what this machine does, measured through the same doors that everybody uses."""

import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_json, print_table, project_option
from stratal.sdk import ApiError, Client, jobs

_POLL_SECONDS = 0.02
_ASLEEP_SECONDS = 60.0
_IDLE_SECONDS = 0.3
_DOZE_SECONDS = 30.0
_WARM_SECONDS = 120.0
_WORD = b"stratal-bench: here"
_ONLY_COLD = {"PYTHONHASHSEED": "random"}
"""A variable that an interpreter reads as it starts, at its default: no fork can answer for it."""


@click.group(epilog="Examples: stratal bench start · stratal bench wake models:/tumour/3")
def bench() -> None:
    """Measure this machine's platform."""


@bench.command(
    "wake",
    epilog="Examples: stratal bench wake models:/tumour/3 · stratal bench wake models:/m/1 --times 20 --json",
)
@click.argument("model", metavar="models:/NAME/VERSION|models:/NAME@ALIAS")
@click.option(
    "--times", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How often it is woken."
)
@project_option
@json_option
def wake(model: str, times: int, project: str | None, as_json: bool) -> None:
    """Measure from zero to the first answer: an endpoint of MODEL falls asleep and is asked, over and over.

    The endpoint is this command's own and is removed at the end. Each time, its replica's process has ended
    before the request is sent, and where the machine can have one, another one dozes: it has its libraries, and
    reads the model when it is woken. Exits with 1 when a request was not answered.
    """
    client = Client(project=project)
    spent: list[float] = []
    failures: list[str] = []
    dozed = 0
    doze_seconds = _WARM_SECONDS
    with _endpoint(client, model) as seen:
        asked = _one_row(seen["interface"])
        path = client.path(f"/endpoints/{quote(seen['name'], safe='')}")
        for _ in range(times):
            dozes = _await_sleep(client, path, doze_seconds)
            dozed += dozes
            doze_seconds = _DOZE_SECONDS if dozes else 0.0  # a machine that has none is not waited for again
            started = time.perf_counter()
            try:
                client.post(f"{path}/invocations", asked)
                spent.append((time.perf_counter() - started) * 1000)
            except ApiError as error:
                failures.append(str(error))
    told: dict[str, Any] = {"name": model, "times": times, "dozed": dozed, "failures": failures}
    if spent:
        spent.sort()
        told |= {
            "p50_ms": round(statistics.median(spent), 2),
            "p90_ms": round(spent[min(len(spent) - 1, len(spent) * 9 // 10)], 2),
            "max_ms": round(spent[-1], 2),
        }
    if as_json:
        print_json(told)
    else:
        click.echo(
            f"{model}: woken {times} times, {dozed} of them from a dozing replica, {len(failures)} without an answer."
        )
        if spent:
            click.echo(
                f"Zero to first answer: p50 {told['p50_ms']:g} ms, p90 {told['p90_ms']:g} ms, max {told['max_ms']:g} ms"
            )
        for failure in failures[:5]:
            click.echo(f"  {failure}", err=True)
    if failures:
        raise SystemExit(1)


@contextmanager
def _endpoint(client: Client, model: str) -> Iterator[dict[str, Any]]:
    """An endpoint of the model, ready, under a name of its own; removed at the end."""
    name = f"bench-wake-{secrets.token_hex(4)}"
    path = client.path(f"/endpoints/{name}")
    asked = {"name": name, "model": model, "min": 0, "max": 1, "idle_seconds": _IDLE_SECONDS}
    seen = client.post(client.path("/endpoints"), asked)
    try:
        while seen["latest"]["state"] in {"preparing", "starting"}:
            time.sleep(0.3)
            seen = client.get(path)
        if seen["latest"]["state"] != "active":
            raise click.ClickException(f"The model cannot be served: {seen['latest']['failure']}")
        yield seen
    finally:
        with suppress(ApiError):
            client.delete(path)


def _await_sleep(client: Client, path: str, doze_seconds: float) -> bool:
    """Wait until no replica answers and none's process is left; then for one that dozes. Whether one does."""
    deadline = time.monotonic() + _ASLEEP_SECONDS
    while (seen := client.get(path))["state"] != "idle" or any(
        replica["ended_at"] is None for replica in client.get(f"{path}/replicas")["replicas"]
    ):
        if time.monotonic() > deadline:
            raise click.ClickException(f"The endpoint did not fall asleep within {_ASLEEP_SECONDS:.0f} s.")
        time.sleep(_POLL_SECONDS)
    deadline = time.monotonic() + doze_seconds
    while not (dozes := any(served["dozes"] for served in seen["traffic"])) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        seen = client.get(path)
    return dozes


def _one_row(interface: dict[str, Any]) -> dict[str, Any]:
    """A request of one row: zeros, and empty text where text is wanted."""
    kinds = {tensor["name"]: tensor["datatype"] for tensor in interface["inputs"]}
    columns = interface["columns"]
    if columns:
        row = [_zero(kinds.get(column, "FP64")) for column in columns]
        return {"dataframe_split": {"columns": columns, "data": [row]}}
    if len(interface["inputs"]) > 1:
        return {"inputs": {t["name"]: _zeros(t["shape"], t["datatype"]) for t in interface["inputs"]}}
    (tensor,) = interface["inputs"]
    return {"inputs": _zeros(tensor["shape"], tensor["datatype"])}


def _zeros(shape: list[int], datatype: str) -> Any:
    """A nested list of the shape, 1 where any length goes."""
    value: Any = _zero(datatype)
    for length in reversed(shape):
        value = [value] * max(length, 1)
    return value


def _zero(datatype: str) -> Any:
    return {"BYTES": "", "BOOL": False}.get(datatype, 0 if "INT" in datatype else 0.0)


@bench.command(
    "start",
    epilog="Examples: stratal bench start · stratal bench start --with numpy --import numpy --runs 30",
)
@click.option("--with", "package", default="scikit-learn", show_default=True, help="The package to install.")
@click.option(
    "--import",
    "module",
    default="sklearn.linear_model",
    show_default=True,
    help="What the jobs import of it.",
)
@click.option(
    "--runs", type=click.IntRange(3, 1000), default=15, show_default=True, help="Jobs of each kind."
)
@project_option
@json_option
def start(package: str, module: str, runs: int, project: str | None, as_json: bool) -> None:
    """Time jobs from their HTTP request to their first output, cold and warm.

    Cold is a new interpreter that reads byte code; warm is a fork of a zygote, which has its modules loaded.
    Both are fenced alike. Jobs run one after the other, cold and warm by turns.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise click.UsageError(f"{module!r} is no module.")
    client = Client(project=project)
    kinds = [_Start("Python alone", "", ""), _Start(f"with {module}", f"{package}\n", f"import {module}\n")]
    for kind in kinds:
        _get_warm(client, kind, quiet=as_json)
        for _ in range(runs):
            kind.cold.append(_first_output(client, kind, warm=False))
            kind.warm.append(_first_output(client, kind, warm=True))
    _report_starts(kinds, runs, as_json=as_json)


@dataclass
class _Start:
    """An environment and what its jobs import; the milliseconds measured."""

    name: str
    requirements: str
    code: str
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)


def _get_warm(client: Client, kind: _Start, *, quiet: bool) -> None:
    """Build the environment, and wait for its zygote."""
    if not quiet:
        click.echo(f"{kind.name}: getting ready …", err=True)
    deadline = time.monotonic() + _WARM_SECONDS
    _run_one(client, kind, warm=False)  # builds the environment
    while _run_one(client, kind, warm=True)[1] != "forked":
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"No zygote for jobs {kind.name} within {_WARM_SECONDS:.0f} s: they need bubblewrap "
                "(stratal doctor), and memory (STRATAL_ZYGOTE_MEMORY)."
            )
        time.sleep(0.2)


def _first_output(client: Client, kind: _Start, *, warm: bool) -> float:
    for _ in range(10):
        spent, started = _run_one(client, kind, warm=warm)
        if started == ("forked" if warm else "cold"):
            return spent
        time.sleep(1)  # it was let go meanwhile, and is made anew
    raise click.ClickException(f"Jobs {kind.name} do not start {'warm' if warm else 'cold'} any more.")


def _run_one(client: Client, kind: _Start, *, warm: bool) -> tuple[float, str]:
    """One job: the milliseconds from its request to the first it wrote, and how it was started."""
    code = f"{kind.code}print({_WORD.decode()!r}, flush=True)"
    began = time.perf_counter()
    job = jobs.run(
        client,
        ["python", "-c", code],
        requirements=kind.requirements,
        env={} if warm else _ONLY_COLD,
        name="bench-start",
    )
    said, spent = b"", 0.0
    path = client.path(f"/jobs/{job['id']}/logs")
    with client.stream("GET", path, params={"follow": True}) as answer:
        for chunk in answer.iter_bytes():
            said += chunk
            if not spent and _WORD in said:
                spent = (time.perf_counter() - began) * 1000
    job = jobs.get(client, job["id"], wait=30)
    if not spent or job["state"] != "succeeded":
        raise click.ClickException(
            f"Job {job['id']} did not go well: {job['reason'] or said[-400:].decode()}"
        )
    return spent, job["isolation"]["start"]


def _report_starts(kinds: list[_Start], runs: int, *, as_json: bool) -> None:
    rows = []
    for kind in kinds:
        ratio = statistics.median(kind.cold) / statistics.median(kind.warm)
        for name, spent in (("cold", sorted(kind.cold)), ("warm", sorted(kind.warm))):
            rows.append(
                {
                    "name": f"{kind.name}, {name}",
                    "p50_ms": round(statistics.median(spent), 1),
                    "p90_ms": round(spent[min(len(spent) - 1, len(spent) * 9 // 10)], 1),
                    "times_faster": round(ratio, 1) if name == "warm" else None,
                }
            )
    if as_json:
        print_json({"starts": rows, "runs": runs})
        return
    print_table(
        ["From HTTP request to first output", "p50 ms", "p90 ms", "× cold"],
        [(row["name"], row["p50_ms"], row["p90_ms"], row["times_faster"]) for row in rows],
        empty="",
        right=(1, 2, 3),
    )
