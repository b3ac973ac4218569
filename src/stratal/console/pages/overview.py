"""The front page: what the project holds, newest first."""

import asyncio

from starlette.responses import Response

from stratal.console.native import Refused
from stratal.console.render import Ways
from stratal.console.view import View

_ROWS = 6


async def home(view: View) -> Response:
    """``/``: to the viewer's project."""
    return view.redirect(view.base)


async def overview(view: View) -> Response:
    jobs, runs, tables, endpoints, budget = await asyncio.gather(
        view.attempt("/jobs", limit=_ROWS),
        view.attempt("/runs", limit=_ROWS),
        view.attempt("/tables"),
        view.attempt("/endpoints"),
        view.attempt("/budget"),
    )
    bare = not any(
        isinstance(part, Refused) or part.get(noun)
        for noun, part in (("jobs", jobs), ("runs", runs), ("tables", tables), ("endpoints", endpoints))
    )
    return view.page(
        "overview.html",
        "Overview",
        at="",
        live="job. run. table. endpoint. model budget.",
        ways=Ways(
            cli=f"stratal status\nstratal jobs {view.flag}",
            python=view.sdk("/jobs"),
        ),
        jobs=jobs,
        runs=runs,
        tables=tables,
        endpoints=endpoints,
        budget=None if isinstance(budget, Refused) else budget,
        rows=_ROWS,
        bare=bare,
    )
