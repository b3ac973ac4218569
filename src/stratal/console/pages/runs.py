"""Runs: the list with its figures side by side, charts of the selected ones, and one run whole."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from shlex import quote
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.pages.repositories import code_of
from stratal.console.render import Ways
from stratal.console.shown import between, moment
from stratal.console.view import View

LOOKED_THROUGH = 1000
COLOURS = 5
_FIGURES = 4
_CHARTS = 2
_MODELS_LOOKED_AT = 50


async def runs(view: View) -> Response:
    """The project's newest runs; ``?select=`` names up to five whose metrics are drawn."""
    answer, experiments = await asyncio.gather(
        view.get("/runs", limit=LOOKED_THROUGH, experiment=view.query.get("experiment") or None),
        view.attempt("/experiments"),
    )
    found: list[Json] = answer["runs"]
    listing = arrange(found, _columns(found), view.query, more=answer.get("next_page_token") is not None)
    selected = _selected(view, listing.rows)
    return view.page(
        "runs.html",
        "Runs",
        at="runs",
        live="run. experiment.",
        ways=Ways(
            cli=f"stratal runs {view.flag}",
            python="import mlflow  # with the variables of `stratal env`\n\n"
            "mlflow.search_runs(search_all_experiments=True)",
        ),
        listing=listing,
        experiments=[] if isinstance(experiments, Refused) else experiments.get("experiments", []),
        selected={str(run["id"]): number for number, run in enumerate(selected, 1)},
        charts=_charts(view, selected, _shared(selected)[:_CHARTS]),
        without=lambda run_id: ",".join(str(r["id"]) for r in selected if r["id"] != run_id),
        with_=lambda run_id: ",".join([*(str(r["id"]) for r in selected), str(run_id)][-COLOURS:]),
        running=any(state_of(run) == "running" for run in selected),
    )


async def run(view: View) -> Response:
    run_id = view.part("run")
    path = f"/runs/{segment(run_id)}"
    told, artifacts = await asyncio.gather(
        view.get(path, points=2), view.attempt(f"{path}/artifacts", path=view.query.get("artifacts") or None)
    )
    return view.page(
        "run.html",
        str(told.get("name") or told["id"]),
        at="runs",
        live="run.",
        ways=Ways(
            cli=f"stratal runs show {quote(run_id)} {view.flag}",
            python="import mlflow  # with the variables of `stratal env`\n\n"
            f"mlflow.get_run({run_id!r})\n"
            f"mlflow.artifacts.download_artifacts(run_id={run_id!r})",
        ),
        run=told,
        state_of=state_of(told),
        metrics=sorted(_named(told, "metrics").items()),
        params=sorted(_named(told, "params").items()),
        tags=sorted((k, v) for k, v in _named(told, "tags").items() if not k.startswith("mlflow.")),
        charts=_charts(view, [told], [s["key"] for s in told.get("series", ()) if s.get("count", 0) > 1]),
        artifacts=artifacts,
        below=view.query.get("artifacts", ""),
        made=await _versions_of(view, run_id),
        code=await code_of(view, told.get("job")),
        running=state_of(told) == "running",
    )


async def _versions_of(view: View, run_id: str) -> list[Json]:
    """The model versions that were registered from the run."""
    listed = await view.attempt("/models", limit=1000)
    if isinstance(listed, Refused) or not listed["models"]:
        return []
    names = [str(model["name"]) for model in listed["models"]][:_MODELS_LOOKED_AT]
    found = await asyncio.gather(*(view.attempt(f"/models/{segment(name)}") for name in names))
    versions = [v for told in found if not isinstance(told, Refused) for v in told.get("versions", ())]
    return [version for version in versions if version.get("run_id") == run_id]


async def anywhere(view: View) -> Response:
    """``/runs/ID`` without a project, as links printed by MLflow's client lead here: to the run's page."""
    return await to_project_of(view, f"/runs/{segment(view.part('run'))}", "run")


async def to_project_of(view: View, path: str, what: str) -> Response:
    """To the page at `path` below the one of the viewer's projects that has such a thing."""
    for project in view.projects:
        if not isinstance(await view.of(project).attempt(path), Refused):
            return view.redirect(view.of(project).base + path)
    raise Refused(404, "not_found", f"There is no such {what} in any project that you can see.")


def state_of(item: Json) -> str:
    """A run's state."""
    return str(item.get("state") or "unknown")


def _named(item: Json, what: str) -> dict[str, Any]:
    found = item.get(what)
    return found if isinstance(found, dict) else {}


def _columns(found: Sequence[Json]) -> list[Column]:
    """What every run has, and the metrics and parameters that most of these runs have."""
    metrics = _common(found, "metrics")
    params = _common(found, "params")
    return [
        Column("name", "Run", lambda run: run.get("name") or run["id"]),
        Column("state", "State", state_of),
        Column("experiment", "Experiment", lambda run: run.get("experiment")),
        *(_figure("metrics", name) for name in metrics),
        *(_figure("params", name) for name in params),
        Column("time", "Time", _seconds, numeric=True),
        Column("started", "Started", lambda run: run.get("started_at")),
    ]


def _common(found: Sequence[Json], what: str) -> list[str]:
    counted = Counter(name for run in found for name in _named(run, what))
    return sorted(name for name, _ in counted.most_common(_FIGURES))


def _figure(what: str, name: str) -> Column:
    def value(run: Json) -> Any:
        found = _named(run, what).get(name)
        try:
            return float(found) if isinstance(found, str) else found
        except ValueError:
            return found

    as_logged = (lambda run: _named(run, what).get(name, "")) if what == "params" else None
    return Column(name, name, value, numeric=True, text=as_logged)


def _seconds(run: Json) -> float | None:
    ended = moment(run.get("ended_at"))
    return between(run.get("started_at"), run.get("ended_at"), ended) if ended else None


def _selected(view: View, rows: Sequence[Json]) -> list[Json]:
    """The runs to draw, in the order in which they were selected."""
    by_id = {str(run["id"]): run for run in rows}
    wanted = view.query.get("select", "").split(",")
    return [by_id[run_id] for run_id in dict.fromkeys(wanted) if run_id in by_id][:COLOURS]


def _shared(selected: Sequence[Json]) -> list[str]:
    """The metrics of the selected runs, those that most of them have first."""
    counted = Counter(name for run in selected for name in sorted(_named(run, "metrics")))
    return [name for name, _ in counted.most_common()]


def _charts(view: View, drawn: Sequence[Json], metrics: Sequence[str]) -> list[dict[str, str]]:
    """One chart a metric, one line a run: where each line's points are, as the script reads it."""
    charts = []
    for metric in metrics:
        lines = [
            {
                "name": str(run.get("name") or run["id"]),
                "colour": number,
                "url": f"/api/v1{view.base}/runs/{segment(str(run['id']))}/metric?{urlencode({'key': metric})}",
            }
            for number, run in enumerate(drawn, 1)
            if metric in _named(run, "metrics")
        ]
        charts.append({"name": metric, "series": json.dumps(lines)})
    return charts
