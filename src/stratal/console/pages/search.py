"""The palette's search: what the native API finds in the project by the words typed, with the page of each."""

from collections.abc import Callable, Mapping

from starlette.responses import JSONResponse, Response

from stratal.console.native import Json, segment
from stratal.console.view import View

_MOST = 20


def _below(plural: str) -> Callable[[Json], str]:
    return lambda one: f"/{plural}/{segment(str(one.get('id', '')))}"


PAGES: Mapping[str, Callable[[Json], str]] = {
    "job": _below("jobs"),
    "run": _below("runs"),
    "sweep": _below("sweeps"),
    "pipeline run": _below("pipelines"),
    "pipeline": lambda _: "/pipelines",
    "table": _below("tables"),
    "model": _below("models"),
    "endpoint": _below("endpoints"),
    "function": _below("functions"),
    "app": _below("apps"),
    "bucket": _below("buckets"),
    "repository": _below("repositories"),
}
"""Kinds of things that have a page."""
_NUMBERED = {"job": "Job", "sweep": "Sweep", "pipeline run": "Run"}


async def search(view: View) -> Response:
    """``?q=words``: up to 20 results as JSON."""
    words = view.query.get("q", "").strip()[:200]
    if not words:
        return JSONResponse({"results": []})
    answer = await view.get("/search", q=words)
    results = [
        {"name": _name(one), "kind": one["kind"], "href": view.base + PAGES[one["kind"]](one)}
        for one in answer["found"]
        if one["kind"] in PAGES
    ]
    if words.startswith("pr_") and " " not in words:
        results.insert(0, {"name": words, "kind": "prediction", "href": f"/predictions/{segment(words)}"})
    return JSONResponse({"results": results[:_MOST]})


def _name(one: Json) -> str:
    name, id_ = str(one.get("name") or ""), str(one.get("id") or "")
    word = _NUMBERED.get(str(one["kind"]))
    if word is not None:
        return f"{word} {id_} {name}".strip()
    return name if one["kind"] != "run" else f"{name} {id_}".strip()
