"""What the project spent this month, by whom and on what, beside what it may spend."""

import asyncio

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

_HOUR = 3600
BY = {
    "job": "Jobs",
    "user": "People",
    "endpoint": "Endpoints",
    "function": "Functions",
    "app": "Apps",
    "resource": "Resources",
    "day": "Days",
    "project": "Projects",
}
_PLACES = {"job": "jobs", "endpoint": "endpoints", "function": "functions", "app": "apps"}


def _per_hour(name: str, units: int = 1) -> Column:
    """A column of hours of what the API counts in seconds (of `units`)."""
    label = {"cpu_seconds": "CPU h", "gpu_seconds": "GPU h", "memory_kib_seconds": "GiB h"}[name]
    return Column(
        name.partition("_")[0],
        label,
        lambda line: line[name] / _HOUR / units if line.get(name) else None,
        numeric=True,
    )


COLUMNS = (
    Column("name", "What for", lambda line: f"{line['name']} {line.get('label', '')}".strip()),
    Column("cost", "Cost", lambda line: float(line["cost"]), numeric=True, text=lambda line: line["cost"]),
    _per_hour("cpu_seconds"),
    _per_hour("gpu_seconds"),
    _per_hour("memory_kib_seconds", 2**20),
    Column("fetched", "Fetched", lambda line: line.get("bytes_sent"), numeric=True),
)


async def cost(view: View) -> Response:
    """This month's costs; ``?by=`` says what is told apart. By project: of every project that the viewer may see."""
    asked = view.query.get("by", "")
    by = asked if asked in BY else "job"
    everywhere = by == "project"
    report, budget = await asyncio.gather(
        view.native.get("/cost", by=by) if everywhere else view.get("/cost", by=by),
        view.native.get("/budgets") if everywhere else view.attempt("/budget"),
    )
    flag = "" if everywhere else f" {view.flag}"
    return view.page(
        "cost.html",
        "Cost",
        at="cost",
        live="budget. job.succeeded job.failed job.stopped",
        ways=Ways(
            cli=f"stratal cost --by {by}{flag}\nstratal budget {'ls' if everywhere else f'show {view.flag}'}",
            python=f"from stratal.sdk import Client\n\nClient().get('/cost', by={by!r})"
            if everywhere
            else view.sdk("/cost"),
        ),
        by=by,
        kinds=BY,
        report=report,
        budgets=_budgets(budget),
        refused=budget if isinstance(budget, Refused) and budget.code != "no_budget" else None,
        listing=arrange(report["costs"], COLUMNS, view.query, default="day" if by == "day" else "-cost"),
        href=lambda line: _href(view, by, line),
    )


def _budgets(told: Json | Refused) -> list[Json]:
    if isinstance(told, Refused):
        return []
    found: list[Json] = told.get("budgets", [told])
    return found


def _href(view: View, by: str, line: Json) -> str:
    """The page of what a line is for; empty where there is none."""
    if by == "project":
        return f"/projects/{segment(line['name'])}/cost"
    kind, colon, name = str(line["name"]).partition(":")
    if by in _PLACES and colon and kind == by:
        return f"{view.base}/{_PLACES[by]}/{segment(name)}"
    return ""
