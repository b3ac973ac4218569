"""Ready solutions: the gallery, and one with its gates, its report and a form to try it."""

import asyncio
import json
from collections.abc import Sequence
from shlex import quote
from typing import Any

from starlette.responses import Response

from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

_SHAPES = {
    "promoted": "succeeded",
    "refused": "failed",
    "refused, as declared": "failed",
    "mechanics only": "queued",
}
"""A verdict's shape is that of the state that means the same to people."""


async def solutions(view: View) -> Response:
    told = await view.native.get("/solutions")
    listed = [one for one in told["solutions"] if isinstance(one, dict)]
    results = await asyncio.gather(*(_result(view, one) for one in listed))
    fields: dict[str, list[Json]] = {}
    for one, found in zip(listed, results, strict=True):
        fields.setdefault(str(one["field"]), []).append({**one, **found})
    return view.page(
        "solutions.html",
        "Solutions",
        at="solutions",
        ways=Ways(
            cli="stratal solutions list\nstratal solutions run disease-diagnosis",
            python="from stratal.sdk import Client\n\nClient().get('/solutions')",
        ),
        fields=fields,
    )


async def solution(view: View) -> Response:
    name = view.part("solution")
    one = await view.native.get(f"/solutions/{segment(name)}")
    found = await _result(view, one)
    place, result = found["kept_in"], found["result"]
    row = (one.get("request") or [{}])[0]
    return view.page(
        "solution.html",
        str(one["title"]),
        at="solutions",
        ways=Ways(
            cli="\n".join(f"stratal solutions {verb} {quote(name)}" for verb in ("run", "report", "remove")),
            python="from stratal.sdk import Client\n\n"
            f"Client().get({f'/projects/{place}/solution' if result else f'/solutions/{segment(name)}'!r})",
        ),
        solution=one,
        numbers=_numbers(one, result),
        inputs=[
            {"name": key, "value": value, "kind": _kind(value), "file": (one.get("files") or {}).get(key)}
            for key, value in row.items()
        ],
        outputs=json.dumps(result["served"]["answers"], indent=1) if result else "",
        **found,
    )


async def _result(view: View, one: Json) -> dict[str, Any]:
    """The newest run that the viewer may see, of any size; the whole one before the tiny one."""
    for place in (str(one["project"]), f"{one['project']}-tiny"):
        if place in view.projects:
            result = await view.native.attempt(f"/projects/{segment(place)}/solution")
            if not isinstance(result, Refused):
                return {
                    "kept_in": place,
                    "result": result,
                    "shape": _SHAPES.get(str(result.get("verdict")), "unknown"),
                    "headline": _headline(one, result),
                }
    return {"kept_in": None, "result": None, "shape": "", "headline": None}


def _headline(one: Json, result: Json) -> Json | None:
    return next((n for n in _numbers(one, result) if n["name"] == one["headline"]), None)


def _numbers(one: Json, result: Json | None) -> Sequence[Json]:
    found = (result or {}).get("numbers") or {}
    return [{**metric, **found[metric["name"]]} for metric in one["metrics"] if metric["name"] in found]


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int):
        return "whole"
    return "number" if isinstance(value, float) else "text"
