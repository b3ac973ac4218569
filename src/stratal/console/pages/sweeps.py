"""Sweeps: the searches of a project, and one with plots of what its trials came to."""

from shlex import quote
from typing import Any

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, segment
from stratal.console.render import Ways
from stratal.console.scatter import plots_of
from stratal.console.shown import between, moment
from stratal.console.view import View

COLUMNS = (
    Column("id", "Sweep", lambda sweep: sweep["id"], numeric=True),
    Column("name", "Name", lambda sweep: sweep.get("name") or ""),
    Column("state", "State", lambda sweep: sweep["state"]),
    Column("trials", "Trials", lambda sweep: ended(sweep), numeric=True),
    Column("metric", "Metric", lambda sweep: sweep["metric"]),
    Column("best", "Best", lambda sweep: (sweep.get("best") or {}).get("value"), numeric=True),
    Column("by", "By", lambda sweep: sweep.get("created_by")),
    Column("begun", "Begun", lambda sweep: sweep.get("created_at")),
)


async def sweeps(view: View) -> Response:
    """The project's newest sweeps."""
    answer = await view.get("/sweeps", limit=1000)
    return view.page(
        "sweeps.html",
        "Sweeps",
        at="sweeps",
        live="sweep.",
        ways=Ways(
            cli=f"stratal sweep ls {view.flag}\n"
            f"stratal sweep start train.py {view.flag} --param lr=log:1e-4..1e-1 --metric val_auc --trials 30",
            python=view.sdk("/sweeps"),
        ),
        listing=arrange(answer["sweeps"], COLUMNS, view.query),
        ended=ended,
    )


async def sweep(view: View) -> Response:
    """One sweep."""
    number = view.part("sweep")
    told = await view.get(f"/sweeps/{segment(number)}")
    names = [str(parameter["name"]) for parameter in told.get("space", ())]
    columns = (
        Column("number", "Trial", lambda trial: trial["number"], numeric=True),
        Column("state", "State", lambda trial: trial["state"]),
        Column("value", str(told["metric"]), lambda trial: trial.get("value"), numeric=True),
        *(_parameter(name) for name in names),
        Column("job", "Job", lambda trial: trial["job"], numeric=True),
        Column("time", "Time", _seconds, numeric=True),
    )
    return view.page(
        "sweep.html",
        f"Sweep {told['id']}",
        at="sweeps",
        live="sweep.",
        ways=Ways(
            cli=f"stratal sweep show {quote(number)} {view.flag}\nstratal sweep stop {quote(number)} {view.flag}",
            python=view.sdk(f"/sweeps/{segment(number)}"),
        ),
        sweep=told,
        names=names,
        ended=ended,
        plots=plots_of(told),
        listing=arrange(told.get("tried", ()), columns, view.query, default="number"),
    )


def ended(sweep: Json) -> int:
    """How many of its trials have ended."""
    states: dict[str, Any] = sweep.get("states") or {}
    return sum(int(count) for state, count in states.items() if state != "running")


def _parameter(name: str) -> Column:
    return Column(name, name, lambda trial: trial["params"].get(name), numeric=True)


def _seconds(trial: Json) -> float | None:
    at = moment(trial.get("ended_at"))
    return between(trial.get("begun_at"), trial.get("ended_at"), at) if at else None
