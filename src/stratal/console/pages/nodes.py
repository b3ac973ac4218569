"""Nodes: the machines that work runs on, what of them is held, their GPUs, what runs, and what waits for room."""

import asyncio

from starlette.responses import Response

from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

_SHOWN = 20
_EXPLAINED = 5
"""Of so many waiting jobs it is asked what they wait for."""


async def nodes(view: View) -> Response:
    """Every machine, with its GPUs and the jobs that hold them; then the project's own work, and what waits."""
    answer = await view.get("/nodes")
    running, starting, queued, *services = await asyncio.gather(
        view.attempt("/jobs", state="running", limit=_SHOWN),
        view.attempt("/jobs", state="starting", limit=_SHOWN),
        view.attempt("/jobs", state="queued", limit=_SHOWN),
        *(view.attempt(f"/{noun}") for noun in _NOUNS),
    )
    waiting = _listed(queued, "jobs")
    whys = await asyncio.gather(
        *(view.attempt(f"/jobs/{segment(str(job['id']))}/why") for job in waiting[:_EXPLAINED])
    )
    return view.page(
        "nodes.html",
        "Nodes",
        at="nodes",
        live="job.",
        ways=Ways(
            cli=f"stratal gpus {view.flag}\nstratal quota show {view.flag}\nstratal pool ls",
            python=view.sdk("/nodes"),
        ),
        nodes=answer["nodes"],
        running=[*_listed(running, "jobs"), *_listed(starting, "jobs")],
        waiting=[
            (job, _reason(why)) for job, why in zip(waiting, [*whys, *[None] * len(waiting)], strict=False)
        ],
        awake=[
            (noun, one)
            for noun, told in zip(_NOUNS, services, strict=True)
            for one in _listed(told, noun)
            if one.get("replicas")
        ],
        shown=_SHOWN,
    )


_NOUNS = ("endpoints", "functions", "apps")


def _listed(told: Json | Refused, noun: str) -> list[Json]:
    return [] if isinstance(told, Refused) else list(told[noun])


def _reason(why: Json | Refused | None) -> str:
    """What a waiting job waits for, first of all."""
    if why is None or isinstance(why, Refused) or not why["waits_for"]:
        return ""
    return str(why["waits_for"][0]["words"])
