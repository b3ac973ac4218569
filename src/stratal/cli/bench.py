"""``stratal bench``: what this machine does, measured through the same doors that everybody uses."""

import secrets
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.output import json_option, print_json, project_option
from stratal.sdk import ApiError, Client

_POLL_SECONDS = 0.02
_ASLEEP_SECONDS = 60.0


@click.group(epilog="Example: stratal bench wake models:/tumour/3")
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
    """Measure from zero to the first answer: an endpoint of MODEL is put to sleep and asked, over and over.

    The endpoint is this command's own and is removed at the end. Each time, its replica's process has ended
    before the request is sent. Exits with 1 when a request was not answered.
    """
    client = Client(project=project)
    spent: list[float] = []
    failures: list[str] = []
    with _endpoint(client, model) as seen:
        asked = _one_row(seen["interface"])
        path = client.path(f"/endpoints/{quote(seen['name'], safe='')}")
        for _ in range(times):
            _put_to_sleep(client, path)
            started = time.perf_counter()
            try:
                client.post(f"{path}/invocations", asked)
                spent.append((time.perf_counter() - started) * 1000)
            except ApiError as error:
                failures.append(str(error))
    told: dict[str, Any] = {"name": model, "times": times, "failures": failures}
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
        click.echo(f"{model}: woken {times} times, {len(failures)} without an answer.")
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
    seen = client.post(client.path("/endpoints"), {"name": name, "model": model, "min": 0, "max": 1})
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


def _put_to_sleep(client: Client, path: str) -> None:
    """End its replica and wait until the process is gone; it answers again with the next request."""
    client.post(f"{path}/stop")
    deadline = time.monotonic() + _ASLEEP_SECONDS
    while any(replica["ended_at"] is None for replica in client.get(f"{path}/replicas")["replicas"]):
        if time.monotonic() > deadline:
            raise click.ClickException(f"The replica did not end within {_ASLEEP_SECONDS:.0f} s.")
        time.sleep(_POLL_SECONDS)
    client.post(f"{path}/start")


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
