"""Having an endpoint write or draw piece by piece, and keeping its pictures."""

import base64
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from stratal.sdk import ApiError, Client


def pieces(client: Client, name: str, way: str, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the endpoint streams at its address `way`, piece by piece. Raises `ApiError`."""
    address = client.path(f"/endpoints/{quote(name, safe='')}/{way}")
    with client.stream("POST", address, json=dict(asked)) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            piece = json.loads(line.removeprefix("data: "))
            if "error" in piece:
                error = piece["error"]
                raise ApiError(500, error["code"], error["message"], error["hint"] or "")
            yield piece


def draw(client: Client, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the endpoint says at the end: ``images``, ``seed``, ``prediction_id``. People see how far it is."""
    watched = sys.stderr.isatty()
    end: dict[str, Any] = {}
    for piece in pieces(client, name, "pictures", asked):
        if "finish" in piece:
            end = piece
        elif watched:
            click.echo(f"\rpicture {piece['picture'] + 1}, step {piece['step']} ", nl=False, err=True)
    if watched:
        click.echo(err=True)
    return end


def keep(files: Sequence[str], stem: str, ending: str) -> None:
    """Write what came in base64 into files here; none that is there is written over."""
    for number, data in enumerate(files, start=1):
        for attempt in range(1, 1000):
            path = Path(f"{stem}-{number}{ending}" if attempt == 1 else f"{stem}-{number}-{attempt}{ending}")
            try:
                with path.open("xb") as file:
                    file.write(base64.b64decode(data))
            except FileExistsError:
                continue
            click.echo(f"{path}: {path.stat().st_size:,} bytes")
            break
