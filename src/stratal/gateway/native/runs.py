"""``/api/v1/projects/{project}/runs`` and ``…/experiments``: what was tried, for people to look at.

A value that JSON has no number for is written ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``.
"""

import math
from typing import Annotated

from fastapi import APIRouter, Depends, Query

from stratal.collab.artifacts import Artifacts
from stratal.collab.experiments import Experiments
from stratal.collab.metrics import Column, downsample
from stratal.collab.model import Entry, Experiment, Run, View
from stratal.collab.run_search import Query as RunQuery
from stratal.collab.run_search import RunSearch
from stratal.collab.runs import Runs
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
Points = Annotated[int, Query(ge=2, le=10_000, description="At most so many points per metric.")]


def router(
    projects: Projects, experiments: Experiments, runs: Runs, search: RunSearch, artifacts: Artifacts
) -> APIRouter:
    """Routes of experiments and runs; they are written through MLflow's own protocol."""
    api = APIRouter(tags=["runs"])

    @api.get("/projects/{project}/experiments")
    async def list_experiments(
        who: Who, project: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100, page_token: str = ""
    ) -> dict[str, object]:
        place = await projects.get(who, project)
        page = await experiments.search(who, place.id, limit=limit, token=page_token)
        return {
            "experiments": [_experiment(one) for one in page.items],
            "next_page_token": page.next_token or None,
        }

    @api.get("/projects/{project}/runs")
    async def list_runs(
        who: Who,
        project: str,
        experiment: Annotated[list[str] | None, Query(description="Experiments by id; absent: all.")] = None,
        filter: Annotated[str, Query(description="As MLflow writes it: metrics.auc > 0.9")] = "",
        order_by: Annotated[list[str] | None, Query()] = None,
        deleted: bool = False,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        page_token: str = "",
    ) -> dict[str, object]:
        """The project's runs with their latest metrics and their params, newest first."""
        place = await projects.get(who, project)
        view = View.DELETED_ONLY if deleted else View.ACTIVE_ONLY
        query = RunQuery(experiment, filter, view, order_by or (), limit, page_token)
        page = await search.search(who, place.id, query)
        return {"runs": [_run(run) for run in page.items], "next_page_token": page.next_token or None}

    @api.get("/projects/{project}/runs/{run_id}")
    async def get_run(who: Who, project: str, run_id: str, points: Points = 200) -> dict[str, object]:
        """A run with everything logged to it; each metric's series is thinned out to `points`."""
        place = await projects.get(who, project)
        run = await runs.get(who, place.id, run_id)
        columns = await runs.all_series(who, place.id, run_id, [metric.key for metric in run.metrics])
        return {
            **_run(run),
            "tags": run.tags,
            "artifact_uri": run.artifact_uri,
            "series": [_series(metric.key, columns[metric.key], points) for metric in run.metrics],
            "datasets": [
                {
                    "name": one.name,
                    "digest": one.digest,
                    "source_type": one.source_type,
                    "source": one.source,
                    "context": one.tags.get("mlflow.data.context"),
                }
                for one in run.datasets
            ],
            "models": [model for model, _ in run.output_models],
            "input_models": list(run.input_models),
        }

    @api.get("/projects/{project}/runs/{run_id}/metric")
    async def get_metric(
        who: Who, project: str, run_id: str, key: str, points: Points = 1000
    ) -> dict[str, object]:
        """One metric's series, thinned out to `points`."""
        place = await projects.get(who, project)
        return _series(key, await runs.series(who, place.id, run_id, key), points)

    @api.get("/projects/{project}/runs/{run_id}/artifacts")
    async def list_artifacts(who: Who, project: str, run_id: str, path: str = "") -> dict[str, object]:
        """What lies in a directory of the run's artifacts."""
        place = await projects.get(who, project)
        location = await artifacts.location_of(who, place.id, run_id)
        directory = path.strip("/")
        _, entries = await artifacts.entries(
            who, place.id, f"{location}/{directory}" if directory else location
        )
        return {"artifacts": [_entry(entry) for entry in entries]}

    return api


def _experiment(experiment: Experiment) -> dict[str, object]:
    return {
        "name": experiment.name,
        "id": experiment.id,
        "created_at": iso(experiment.created_at),
        "updated_at": iso(experiment.updated_at),
        "tags": experiment.tags,
    }


def _run(run: Run) -> dict[str, object]:
    kind, _, number = (run.workload or "").partition(":")
    return {
        "name": run.name,
        "id": run.id,
        "experiment": run.experiment,
        "experiment_id": run.experiment_id,
        "state": run.status.lower(),
        "started_at": iso(run.start_time),
        "ended_at": None if run.end_time is None else iso(run.end_time),
        "created_by": run.created_by,
        "job": number if kind == "job" else None,
        "metrics": {metric.key: plain(metric.value) for metric in run.metrics},
        "steps": {metric.key: metric.step for metric in run.metrics},
        "params": run.params,
    }


def _series(key: str, column: Column, points: int) -> dict[str, object]:
    kept = downsample(column, points)
    return {
        "key": key,
        "count": len(column),
        "points": [
            {"step": point.step, "at": iso(point.timestamp), "value": plain(point.value)} for point in kept
        ],
    }


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.path.rsplit("/", 1)[-1],
        "path": entry.path,
        "directory": entry.is_directory,
        "size": entry.size,
    }


def plain(value: float) -> object:
    """A float as JSON has it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
