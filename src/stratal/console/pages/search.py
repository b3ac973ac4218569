"""The palette's search: what the native API finds in the project by the words typed, with the page of each."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from starlette.responses import JSONResponse, Response

from stratal.console.native import Json, Refused, segment
from stratal.console.view import View

_MOST = 20


def _below(plural: str) -> Callable[[Json], str]:
    return lambda one: f"/{plural}/{segment(str(one.get('id', '')))}"


def _merge(id_: str) -> str:
    repository, _, number = id_.rpartition("!")
    return f"/repositories/{segment(repository)}/merges/{segment(number)}"


PAGES: Mapping[str, Callable[[Json], str]] = {
    "job": _below("jobs"),
    "run": _below("runs"),
    "sweep": _below("sweeps"),
    "pipeline run": _below("pipelines"),
    "pipeline": _below("pipelines/calendar"),
    "table": _below("tables"),
    "model": _below("models"),
    "endpoint": _below("endpoints"),
    "function": _below("functions"),
    "app": _below("apps"),
    "bucket": _below("buckets"),
    "repository": _below("repositories"),
    "merge request": lambda one: _merge(str(one.get("id", ""))),
    "workspace": _below("workspaces"),
    "report": _below("reports"),
    "index": _below("indexes"),
    "solution": _below("solutions"),
}
"""Kinds of things that have a page."""
_NUMBERED = {"job": "Job", "sweep": "Sweep", "pipeline run": "Run"}


async def search(view: View) -> Response:
    """``?q=words``: up to 20 results as JSON."""
    words = view.query.get("q", "").strip()[:200]
    if not words:
        return JSONResponse({"results": []})
    answer, ready = await asyncio.gather(view.get("/search", q=words), view.native.attempt("/solutions"))
    solutions = [] if isinstance(ready, Refused) else ready["solutions"]
    results = [
        {"name": _name(one), "kind": one["kind"], "href": view.base + PAGES[one["kind"]](one)}
        for one in (*answer["found"], *_named(solutions, words))
        if one["kind"] in PAGES
    ]
    if words.startswith("pr_") and " " not in words:
        results.insert(0, {"name": words, "kind": "prediction", "href": f"/predictions/{segment(words)}"})
    return JSONResponse({"results": results[:_MOST]})


def _named(solutions: Sequence[Json], words: str) -> list[Json]:
    """The ready solutions that all words are in the name or title of."""
    asked = words.lower().split()
    return [
        {"kind": "solution", "id": one["name"], "name": one.get("title") or one["name"]}
        for one in solutions
        if all(word in f"{one['name']} {one.get('title', '')}".lower() for word in asked)
    ]


def _name(one: Json) -> str:
    name, id_ = str(one.get("name") or ""), str(one.get("id") or "")
    word = _NUMBERED.get(str(one["kind"]))
    if word is not None:
        return f"{word} {id_} {name}".strip()
    if one["kind"] == "merge request":
        return f"{id_} {name}"
    return name if one["kind"] != "run" else f"{name} {id_}".strip()
