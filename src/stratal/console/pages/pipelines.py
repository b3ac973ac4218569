"""Pipelines: what is deployed and what ran; one run with its graph, its time, its partitions and its reasons."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from shlex import quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.shown import between, moment
from stratal.console.view import View

LOOKED_THROUGH = 500
MOST_DRAWN = 60
"""A graph of more boxes says less than the steps' table does."""
MOST_TALL = 12
MOST_EDGES = 100

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

_LOOK_FIRST = ("failed", "cancelled", "running", "queued", "waiting", "skipped", "succeeded", "cached")

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
    spans, edges = bars(steps, datetime.now(UTC)), _edges(steps)
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
        graph=_drawn(steps),
        bars=spans[:MOST_DRAWN],
        more_bars=max(0, len(spans) - MOST_DRAWN),
        failed_checks=[(step, check) for step in steps for check in step["checks"] if not check["passed"]],
        models=[(step, one) for step in steps for one in step.get("models") or ()],
        edges=edges[:MOST_EDGES],
        more_edges=max(0, len(edges) - MOST_EDGES),
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
        weekday = _weekday(one["name"])
        months.setdefault(one["name"][:7] if weekday else "", []).append({**one, "weekday": weekday})
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


def _weekday(name: str) -> int | None:
    """1 (Monday) to 7; None for what is no day."""
    try:
        return date.fromisoformat(name).isoweekday() if _DAY.fullmatch(name) else None
    except ValueError:
        return None


def _edges(steps: Sequence[Json]) -> list[Json]:
    """What went from step to step: each table that a step wrote, its checks, and who of this run read just that."""
    told: list[Json] = []
    readers: dict[str, list[str]] = {}
    for step in steps:
        for version in dict.fromkeys(read["version"] for read in step.get("reads") or ()):
            readers.setdefault(version, []).append(step["name"])
    for step in steps:
        for write in step.get("writes") or ():
            checks = [check for check in step["checks"] if check["table"] == write["table"]]
            of_it = _some(readers.get(f"{write['table_id']}@{write['snapshot']}", []))
            told.append({"step": step["name"], **write, "readers": of_it, "checks": checks})
    return told


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _drawn(steps: Sequence[Json]) -> Graph | None:
    """The graph, of many steps with one box for all calls of a step; None where that is too much still, or there is none."""
    if 0 < len(steps) <= MOST_DRAWN:
        whole = graph(steps)
        if whole.height <= MOST_TALL * _ROW:
            return whole
    boxes = together(steps)
    return graph(boxes) if 0 < len(boxes) <= MOST_DRAWN else None


def together(steps: Sequence[Json]) -> list[Json]:
    """One for all calls of each step, in the order of their first: as far on as the one that needs to be looked at most."""
    calls: dict[str, list[Json]] = {}
    for step in steps:
        calls.setdefault(step["step"], []).append(step)
    of = {step["name"]: step["step"] for step in steps}
    boxes: dict[str, Json] = {}
    for name, own in calls.items():
        before = dict.fromkeys(of[other] for step in own for other in step["after"] if other in of)
        states = Counter(step["state"] for step in own)
        boxes[name] = {
            "name": name if len(own) == 1 else f"{name} × {len(own)}",
            "step": name,
            "calls": len(own),
            "after": [boxes[one]["name"] for one in before if one in boxes],
            "state": next((state for state in _LOOK_FIRST if state in states), own[0]["state"]),
            "reason": ", ".join(f"{count} {state}" for state, count in states.most_common()),
        }
    return list(boxes.values())


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
