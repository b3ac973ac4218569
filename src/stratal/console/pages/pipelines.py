"""Pipelines: what is deployed and what ran; one run with its graph, its time, its partitions and its reasons."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from shlex import quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.shown import between, moment
from stratal.console.view import View

LOOKED_THROUGH = 500
MOST_DRAWN = 60
"""A graph of more steps says less than their table does."""

COLUMNS = (
    Column("id", "Run", lambda run: run["id"], numeric=True),
    Column("name", "Pipeline", lambda run: run.get("pipeline") or run.get("file") or ""),
    Column("state", "State", lambda run: run["state"]),
    Column("steps", "Steps", lambda run: sum((run.get("states") or {}).values()), numeric=True),
    Column("trigger", "Trigger", lambda run: run.get("trigger") or ""),
    Column("time", "Time", lambda run: _seconds(run), numeric=True),
    Column("by", "By", lambda run: run.get("created_by")),
    Column("queued", "Asked", lambda run: run.get("created_at")),
)
STEP_COLUMNS = (
    Column("order", "Step", lambda step: step["order"], numeric=True),
    Column("name", "Name", lambda step: step["name"]),
    Column("state", "State", lambda step: step["state"]),
    Column("reason", "Why", lambda step: step.get("reason") or ""),
    Column("time", "Time", lambda step: _seconds(step), numeric=True),
    Column("cost", "Cost", lambda step: float(step["cost"]) if step.get("cost") else None, numeric=True),
)

_BOX, _GAP_X, _ROW = 148, 44, 34
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


@dataclass(frozen=True, slots=True)
class Box:
    """A step in the graph, in the drawing's own units."""

    step: Json
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Graph:
    boxes: Sequence[Box]
    lines: Sequence[str]
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Bar:
    """When a step was at work, in thousandths of the run's time."""

    step: Json
    start: float
    length: float


def _seconds(thing: Json) -> float | None:
    ended = moment(thing.get("ended_at"))
    return between(thing.get("started_at"), thing.get("ended_at"), ended) if ended else None


async def pipelines(view: View) -> Response:
    """What is deployed, and the project's newest runs."""
    answer = await view.get("/pipelines/runs", limit=LOOKED_THROUGH)
    deployed = await view.attempt("/pipelines")
    return view.page(
        "pipelines.html",
        "Pipelines",
        at="pipelines",
        live="pipeline.",
        ways=Ways(
            cli=f"stratal pipeline ls {view.flag}\nstratal pipeline run {view.flag} nightly.py",
            python=view.sdk("/pipelines/runs"),
        ),
        listing=arrange(answer["runs"], COLUMNS, view.query, more=answer.get("next") is not None),
        deployed=[] if isinstance(deployed, Refused) else deployed["pipelines"],
    )


async def pipeline_run(view: View) -> Response:
    """One run. Its worker's log is read by the browser on its own: neither waits for the other."""
    number = view.part("run")
    told = await view.get(f"/pipelines/runs/{segment(number)}")
    steps = [{**step, "order": order} for order, step in enumerate(told["steps"], 1)]
    return view.page(
        "pipeline_run.html",
        f"Pipeline run {told['id']}",
        at="pipelines",
        live="pipeline.",
        ways=Ways(
            cli=f"stratal pipeline show {quote(number)} {view.flag}\nstratal pipeline logs {quote(number)} {view.flag}",
            python=view.sdk(f"/pipelines/runs/{segment(number)}"),
        ),
        run=told,
        listing=arrange(steps, STEP_COLUMNS, view.query, default="order"),
        graph=graph(steps) if 0 < len(steps) <= MOST_DRAWN else None,
        bars=bars(steps, datetime.now(UTC))[:MOST_DRAWN],
        failed_checks=[(step, check) for step in steps for check in step["checks"] if not check["passed"]],
        edges=_edges(steps),
        reports=[step["name"] for step in steps if step.get("report")],
        ended=told.get("ended_at") is not None,
    )


async def step_log(view: View) -> Response:
    """What one step wrote."""
    number, name = view.part("run"), view.part("step")
    told = await view.get(f"/pipelines/runs/{segment(number)}/steps/{segment(name)}/log")
    return view.page(
        "pipeline_step.html",
        f"Step {told['name']}",
        at="pipelines",
        ways=Ways(
            cli=f"stratal pipeline logs {quote(number)} {quote(name)} {view.flag}",
            python=view.sdk(f"/pipelines/runs/{segment(number)}/steps/{segment(name)}/log"),
        ),
        told=told,
        number=number,
    )


async def calendar(view: View) -> Response:
    """Every partition that a pipeline's runs made: days by month, others by name."""
    name = view.part("pipeline")
    told = await view.get(f"/pipelines/calendar/{segment(name)}")
    months: dict[str, list[Json]] = {}
    for one in told["partitions"]:
        months.setdefault(one["name"][:7] if _DAY.fullmatch(one["name"]) else "", []).append(one)
    return view.page(
        "pipeline_calendar.html",
        f"Partitions of {name}",
        at="pipelines",
        live="pipeline.",
        ways=Ways(
            cli=f"stratal pipeline calendar {quote(name)} {view.flag}",
            python=view.sdk(f"/pipelines/calendar/{segment(name)}"),
        ),
        pipeline=name,
        months=months,
        bad=sum(one["state"] in {"failed", "cancelled", "skipped"} for one in told["partitions"]),
        count=len(told["partitions"]),
    )


def _edges(steps: Sequence[Json]) -> list[Json]:
    """What went from step to step: each table that a step wrote, its checks, and who of this run read it."""
    told: list[Json] = []
    for step in steps:
        for write in step.get("writes") or ():
            readers = [
                other["name"]
                for other in steps
                if any(read.get("name") == write["table"] for read in other.get("reads") or ())
            ]
            checks = [check for check in step["checks"] if check["table"] == write["table"]]
            told.append({"step": step["name"], **write, "readers": readers, "checks": checks})
    return told


def graph(steps: Sequence[Json]) -> Graph:
    """The steps in columns, each right of all that it comes after."""
    depth: dict[str, int] = {}
    for step in steps:  # they are in the order in which they were called, so what comes before is known
        depth[step["name"]] = 1 + max((depth.get(name, -1) for name in step["after"]), default=-1)
    filled: dict[int, int] = {}
    places: dict[str, Box] = {}
    for step in steps:
        column = depth[step["name"]]
        row = filled.get(column, 0)
        filled[column] = row + 1
        places[step["name"]] = Box(step, column * (_BOX + _GAP_X), row * _ROW)
    lines = [
        _line(places[before], box)
        for box in places.values()
        for before in dict.fromkeys(box.step["after"])
        if before in places
    ]
    width = (max(filled, default=0) + 1) * (_BOX + _GAP_X) - _GAP_X
    return Graph(list(places.values()), lines, width, max(filled.values(), default=0) * _ROW)


def _line(before: Box, after: Box) -> str:
    """An SVG path from the right edge of one box to the left edge of the other."""
    x1, y1, x2, y2 = before.x + _BOX, before.y + 13, after.x, after.y + 13
    middle = (x1 + x2) // 2
    return f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"


def bars(steps: Sequence[Json], now: datetime) -> list[Bar]:
    """When each step that began was at work, first to begin first."""
    spans: list[tuple[datetime, datetime, Mapping[str, object]]] = []
    for step in steps:
        begun = moment(step.get("started_at"))
        if begun is not None and step["state"] != "cached":
            spans.append((begun, moment(step.get("ended_at")) or now, step))
    if not spans:
        return []
    first = min(begun for begun, _, _ in spans)
    whole = max((max(end for _, end, _ in spans) - first).total_seconds(), 0.001)
    return [
        Bar(
            dict(step),
            round(1000 * (begun - first).total_seconds() / whole, 1),
            round(max(1000 * (end - begun).total_seconds() / whole, 2), 1),
        )
        for begun, end, step in sorted(spans, key=lambda span: span[0])
    ]
