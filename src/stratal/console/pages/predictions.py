"""Why a prediction came out as it did: the chain behind it, every hash recomputed on the spot."""

import asyncio
from collections.abc import Callable
from shlex import quote
from typing import Any

from starlette.responses import Response

from stratal.console.native import Json, segment
from stratal.console.render import Ways
from stratal.console.view import View


def _ways(prediction: str) -> Ways:
    return Ways(
        cli=f"stratal why {quote(prediction)}",
        python=f"from stratal.sdk import Client\n\nClient().get({f'/predictions/{segment(prediction)}/why'!r})",
    )


async def ask(view: View) -> Response:
    """A field for a prediction's id."""
    wanted = view.request.query_params.get("id", "").strip()
    if wanted:
        return view.redirect(f"/predictions/{segment(wanted)}")
    return view.page("why_ask.html", "Explain a prediction", at="why", ways=_ways("PREDICTION_ID"))


async def why(view: View) -> Response:
    """The chain of one prediction: a page, or the side panel's piece of it."""
    prediction = view.part("prediction")
    told, row = await asyncio.gather(
        view.native.get(f"/predictions/{segment(prediction)}/why"),
        view.native.attempt(f"/predictions/{segment(prediction)}"),
    )
    project = str(told.get("project") or view.project)
    context: dict[str, Any] = {
        "told": told,
        "prediction": prediction,
        "row": row,
        "chain": _links(told, project),
    }
    if "panel" in view.request.query_params:
        return view.fragment("why_chain.html", **context)
    seen = view.of(project) if project in view.projects else view
    return seen.page("why.html", "Prediction", at="why", ways=_ways(prediction), **context)


def _links(told: Json, project: str) -> list[Json]:
    """The chain's links with the addresses of their pages."""
    address = _addresses(project)
    return [
        {**link, "href": address(link), "facts": [(f["name"], f["value"]) for f in link.get("facts", ())]}
        for link in told["chain"]
    ]


def _addresses(project: str) -> Callable[[Json], str]:
    """Where each link of a chain has its page, as far as it has one."""
    base = f"/projects/{segment(project)}"

    def address(link: Json) -> str:
        kind, id_, name = str(link.get("kind")), str(link.get("id")), str(link.get("name"))
        if id_ == "none" or name == "deleted" or not link.get("readable", True):
            return ""
        if kind == "prediction":
            return f"/predictions/{segment(id_)}"
        if kind in {"job", "run"}:
            return f"{base}/{kind}s/{segment(id_)}"
        if kind == "pipeline step" and "/" in id_:
            run, _, step = id_.partition("/")
            return f"{base}/pipelines/{segment(run)}/steps/{segment(step)}"
        if kind == "model version" and "/" in name:
            model, _, version = name.rpartition("/")
            return f"{base}/models/{segment(model)}/versions/{segment(version)}"
        if kind == "endpoint":
            return f"{base}/endpoints/{segment(name.rpartition(' revision ')[0] or name)}"
        if kind == "table snapshot" and " @ " in name:
            table, _, snapshot = name.rpartition(" @ ")
            return f"{base}/tables/{segment(table)}/snapshots/{segment(snapshot)}"
        if kind == "object" and name.startswith("s3://"):
            bucket, _, key = name[5:].partition("/")
            return f"{base}/buckets/{segment(bucket)}?object={segment(key)}"
        return ""

    return address
