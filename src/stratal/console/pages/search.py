"""The palette's search: everything in the project whose name or id has the words typed."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from starlette.responses import JSONResponse, Response

from stratal.console.native import Json, Refused, segment
from stratal.console.view import View

_MOST = 20


@dataclass(frozen=True, slots=True)
class _Noun:
    """A kind of thing: where its list is, what one is called, and where its page is below the project's."""

    kind: str
    path: str
    plural: str
    name: Callable[[Json], str]
    page: Callable[[Json], str]


def _named(kind: str, plural: str) -> _Noun:
    return _Noun(
        kind,
        f"/{plural}",
        plural,
        lambda item: str(item.get("name", "")),
        lambda item: f"/{plural}/{segment(str(item.get('name', '')))}",
    )


NOUNS: Sequence[_Noun] = (
    _Noun(
        "job",
        "/jobs",
        "jobs",
        lambda job: f"Job {job.get('id')} {job.get('name') or ''}".strip(),
        lambda job: f"/jobs/{job.get('id')}",
    ),
    _Noun(
        "run",
        "/runs",
        "runs",
        lambda run: f"{run.get('name') or ''} {run.get('id')}".strip(),
        lambda run: f"/runs/{segment(str(run.get('id')))}",
    ),
    _Noun(
        "sweep",
        "/sweeps",
        "sweeps",
        lambda sweep: f"Sweep {sweep.get('id')} {sweep.get('name') or ''}".strip(),
        lambda sweep: f"/sweeps/{sweep.get('id')}",
    ),
    _Noun(
        "pipeline run",
        "/pipelines/runs",
        "runs",
        lambda run: f"Run {run.get('id')} of {run.get('pipeline') or run.get('file') or ''}",
        lambda run: f"/pipelines/{run.get('id')}",
    ),
    _named("table", "tables"),
    _named("model", "models"),
    _named("endpoint", "endpoints"),
    _named("function", "functions"),
    _named("bucket", "buckets"),
    _Noun(
        "repository",
        "/repositories",
        "repositories",
        lambda one: str(one.get("name", "")),
        lambda one: f"/repositories/{segment(str(one.get('name', '')))}",
    ),
)


async def search(view: View) -> Response:
    """``?q=words``: up to 20 results as JSON, in the order of the nouns. What cannot be listed is left out."""
    words = view.query.get("q", "").lower().split()[:8]
    if not words:
        return JSONResponse({"results": []})
    answers = await asyncio.gather(*(view.attempt(noun.path) for noun in NOUNS))
    results = []
    for noun, answer in zip(NOUNS, answers, strict=True):
        if isinstance(answer, Refused):
            continue
        for item in answer.get(noun.plural, ()):
            name = noun.name(item)
            if all(word in name.lower() for word in words):
                results.append({"name": name, "kind": noun.kind, "href": view.base + noun.page(item)})
    if len(words) == 1 and words[0].startswith("pr_"):
        results.insert(
            0, {"name": words[0], "kind": "prediction", "href": f"/predictions/{segment(words[0])}"}
        )
    return JSONResponse({"results": results[:_MOST]})
