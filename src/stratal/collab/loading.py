"""Reading runs whole: their rows joined with what was logged, for many at a time."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Select, select

from stratal.collab.experiments import wire_id
from stratal.collab.model import Dataset, Metric, Run, RunStatus
from stratal.collab.tables import (
    datasets,
    experiments,
    latest_metrics,
    run_datasets,
    run_models,
    run_params,
    run_tags,
    runs,
)
from stratal.kernel.errors import NotFound

_BATCH = 500


def run_query(project_id: str) -> Select[Any]:
    """SQL: the rows of a project's runs, as `run_of` reads them."""
    return (
        select(
            runs,
            wire_id(experiments.c.is_default, experiments.c.id).label("wire_experiment_id"),
            experiments.c.name.label("experiment_name"),
        )
        .join(experiments, experiments.c.id == runs.c.experiment_id)
        .where(runs.c.project_id == project_id)
    )


def run_of(row: Any) -> Run:
    """A run without what was logged to it, from a row of `run_query`."""
    return Run(
        row.id,
        row.project_id,
        str(row.wire_experiment_id),
        row.experiment_name,
        row.name,
        row.user_id,
        RunStatus(row.status),
        row.start_time,
        row.end_time,
        row.lifecycle,
        row.created_by,
        row.workload,
    )


def find(connection: Connection, project_id: str, run_id: str) -> Run:
    """The run, deleted or not, without what was logged to it. Raises `NotFound`."""
    row = connection.execute(run_query(project_id).where(runs.c.id == run_id)).one_or_none()
    if row is None:
        raise no_such_run(run_id)
    return run_of(row)


def no_such_run(run_id: str) -> NotFound:
    return NotFound(f"There is no run {run_id[:100]!r}.", reason="no_such_run")


def with_data(connection: Connection, found: Sequence[Run]) -> list[Run]:
    """The runs with their latest metrics, params, tags, data sets and models."""
    filled: list[Run] = []
    for start in range(0, len(found), _BATCH):
        filled += _fill(connection, found[start : start + _BATCH])
    return filled


def value_of(row: Any) -> float:
    """The value in a row of latest values."""
    return math.nan if row.is_nan else float(row.value)


def _fill(connection: Connection, found: Sequence[Run]) -> Iterator[Run]:
    ids = [run.id for run in found]
    metrics: dict[str, list[Metric]] = {}
    for row in connection.execute(
        select(latest_metrics).where(latest_metrics.c.run_id.in_(ids)).order_by(latest_metrics.c.key)
    ):
        metrics.setdefault(row.run_id, []).append(Metric(row.key, value_of(row), row.timestamp, row.step))
    params = _pairs(connection, run_params, ids)
    tags = _pairs(connection, run_tags, ids)
    read = _datasets(connection, ids)
    used = _models(connection, ids)
    for run in found:
        models = used.get(run.id, [])
        yield replace(
            run,
            metrics=tuple(metrics.get(run.id, [])),
            params=params.get(run.id, {}),
            tags=tags.get(run.id, {}),
            datasets=tuple(read.get(run.id, [])),
            input_models=tuple(model for direction, model, _ in models if direction == "in"),
            output_models=tuple((model, step) for direction, model, step in models if direction == "out"),
        )


def metric_of_model(row: Any) -> Metric:
    """A metric from a row of `model_metrics`."""
    return Metric(
        row.key,
        value_of(row),
        row.timestamp,
        row.step,
        row.model_id,
        row.dataset_name,
        row.dataset_digest,
    )


def _pairs(connection: Connection, table: Any, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    result: dict[str, dict[str, str]] = {}
    for row in connection.execute(select(table).where(table.c.run_id.in_(ids)).order_by(table.c.key)):
        result.setdefault(row.run_id, {})[row.key] = row.value
    return result


def _datasets(connection: Connection, ids: Sequence[str]) -> dict[str, list[Dataset]]:
    result: dict[str, list[Dataset]] = {}
    query = (
        select(datasets, run_datasets.c.run_id, run_datasets.c.tags)
        .join(run_datasets, run_datasets.c.dataset_id == datasets.c.id)
        .where(run_datasets.c.run_id.in_(ids))
        .order_by(datasets.c.id)
    )
    for row in connection.execute(query):
        result.setdefault(row.run_id, []).append(
            Dataset(
                row.name,
                row.digest,
                row.source_type,
                row.source,
                row.schema,
                row.profile,
                json.loads(row.tags),
            )
        )
    return result


def _models(connection: Connection, ids: Sequence[str]) -> dict[str, list[tuple[str, str, int]]]:
    result: dict[str, list[tuple[str, str, int]]] = {}
    query = (
        select(run_models)
        .where(run_models.c.run_id.in_(ids))
        .order_by(run_models.c.step, run_models.c.model_id)
    )
    for row in connection.execute(query):
        result.setdefault(row.run_id, []).append((row.direction, row.model_id, row.step))
    return result
