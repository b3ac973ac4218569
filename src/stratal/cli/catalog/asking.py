"""Asking a model of the catalogue through its endpoint, and showing what it says."""

import json
import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from stratal.cli.deploy import follow
from stratal.cli.drawing import draw
from stratal.sdk import ApiError, Client

PULL_SECONDS = 3600.0  # a package of weights over a slow line
_ROWS = 64
_FILES = 4  # pictures and sounds take longer
_POLL_SECONDS = 0.3
_SHOWN = 200
_WHOLE = frozenset({"width", "height", "steps", "seed"})
"""What of a picture is told in whole numbers."""


def pull(client: Client, name: str) -> dict[str, Any]:
    address = client.path(f"/catalog/{quote(name, safe='')}/pull")
    return client.request("POST", address, timeout=PULL_SECONDS)


def ensure(client: Client, entry: dict[str, Any], *, quiet: bool) -> None:
    """Have the entry answer at the endpoint of its name: deployed when it is not, waited for when it is coming up."""
    address = client.path(f"/endpoints/{quote(entry['name'], safe='')}")
    try:
        seen = client.get(address)
        if seen["latest"]["state"] in {"preparing", "starting"}:
            _wait(client, address)
            return
        if seen["active"]:
            return
    except ApiError as error:
        if error.status != 404:
            raise
    if not quiet:
        click.echo(f"Deploying {entry['name']} …", err=True)
    made = pull(client, entry["name"])
    asked = {"name": entry["name"], "model": made["uri"]}
    created = client.post(client.path("/endpoints"), asked)
    if quiet:
        _wait(client, address)
    else:
        follow(client, created, wait=True, as_json=False)


def _wait(client: Client, address: str) -> None:
    while True:
        seen = client.get(address)
        if seen["latest"]["state"] not in {"preparing", "starting"}:
            if not seen["active"]:
                raise ApiError(409, "not_ready", seen["latest"]["failure"] or "The model did not come up.")
            return
        time.sleep(_POLL_SECONDS)


def ask(
    client: Client, entry: dict[str, Any], rows: list[str], beside: Mapping[str, str | float] | None = None
) -> dict[str, Any]:
    """The predictions for the rows, in their order, and the last one's id; `beside` is said with each."""
    if entry["task"] == "draw":
        return _drawn(client, entry, rows, beside or {})
    name = entry["inputs"][0]["name"]
    address = client.path(f"/endpoints/{quote(entry['name'], safe='')}/invocations")
    predictions: list[Any] = []
    prediction_id = ""
    step = _ROWS if name == "text" else _FILES
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        more = {key: [value] * len(some) for key, value in (beside or {}).items()}
        answer = client.post(address, {"inputs": {name: some, **more}})
        predictions += answer["predictions"]
        prediction_id = answer["prediction_id"]
    return {"predictions": predictions, "prediction_id": prediction_id}


def _drawn(
    client: Client, entry: dict[str, Any], rows: list[str], beside: Mapping[str, str | float]
) -> dict[str, Any]:
    """Pictures, with as much time for each step as an answer has."""
    whole = {key: int(value) if key in _WHOLE else value for key, value in beside.items()}
    ends = [draw(client, entry["name"], {"prompt": row, **whole}) for row in rows]
    predictions = [image for end in ends for image in end["images"]]
    return {"predictions": predictions, "prediction_id": ends[-1]["prediction_id"]}


def shown(task: str, question: str, told: Any) -> str:
    """One answer, for people."""
    question = textwrap.shorten(question, _SHOWN, placeholder=" …") if " " in question else question[:_SHOWN]
    if task == "sentiment":
        return f"{told['label']} ({told['score']:+.2f}): {question}"
    if task == "sort":
        return f"{told['label']} ({told['score']:.0%}): {question}"
    if task == "language":
        return f"{told['language']} ({told['score']:.0%}): {question}"
    if task == "ocr":
        return str(told["text"]) or "(no text found)"
    if task == "transcribe":
        return str(told) or "(nothing heard)"
    if task == "faces":
        boxes = json.loads(told["faces"])
        places = "".join(f"\n  {b['width']} × {b['height']} pixels at {b['x']}, {b['y']}" for b in boxes)
        return f"{told['count']} face{'s' * (told['count'] != 1)}{places}"
    if task == "voice":
        spoken = "".join(f"\n  {s['start']:.2f} s to {s['end']:.2f} s" for s in json.loads(told["segments"]))
        return f"{told['share']:.0%} speech{spoken}"
    if task == "embed":
        return f"[{', '.join(f'{value:.3f}' for value in told[:4])}, … {len(told)} numbers]: {question}"
    return str(told)


def said_beside(entry: dict[str, Any], given: Sequence[str]) -> dict[str, str | float]:
    """NAME=VALUE as the entry's options take it. Raises `click.UsageError`."""
    kinds = {port["name"]: port["datatype"] for port in entry.get("options") or ()}
    found: dict[str, str | float] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in kinds:
            known = ", ".join(kinds) or "nothing"
            raise click.UsageError(f"--with {one!r}: this model takes {known} beside, as NAME=VALUE.")
        try:
            found[name] = value if kinds[name] == "BYTES" else float(value)
        except ValueError:
            raise click.UsageError(f"{name} is a number.") from None
    return found


def show_closeness(vectors: list[list[float]]) -> None:
    """How close the texts lie to the first."""
    for number, vector in enumerate(vectors[1:], start=2):
        near = sum(a * b for a, b in zip(vectors[0], vector, strict=True))
        click.echo(f"1 and {number}: {near:.3f} alike")
