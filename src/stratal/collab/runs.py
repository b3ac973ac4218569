"""Runs: what one training (or any other) attempt was given, measured and made.

A batch is one write: all of it is kept or none. Params are written once; logging the same value again
is fine (clients retry), another value is refused.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from stratal.collab import metrics as points
from stratal.collab.artifacts import insert_root
from stratal.collab.experiments import Experiments, require_active
from stratal.collab.experiments import find as find_experiment
from stratal.collab.loading import find, no_such_run, run_query, value_of, with_data
from stratal.collab.metrics import Column, Point
from stratal.collab.model import ACTIVE, DELETED, Dataset, Metric, Page, Root, RootKind, Run, RunStatus
from stratal.collab.names import random_name
from stratal.collab.rules import (
    MAX_METRICS,
    MAX_PARAMS,
    MAX_TAGS,
    check_key,
    check_number,
    check_tag_key,
    check_text,
    check_title,
    check_value,
)
from stratal.collab.search import offset_of, page_token
from stratal.collab.tables import datasets as dataset_rows
from stratal.collab.tables import model_metrics, run_datasets, run_models, run_params, run_tags, runs
from stratal.collab.upsert import upsert
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.ledger.lineage import Lineage
from stratal.ledger.past import refused_in_past

NAME_TAG = "mlflow.runName"
MODELS_TAG = "mlflow.log-model.history"
CONTEXT_TAG = "mlflow.data.context"

_LIFECYCLE = select(runs.c.lifecycle).where(
    runs.c.id == bindparam("run"), runs.c.project_id == bindparam("project")
)


@dataclass(frozen=True, slots=True)
class Batch:
    """What to log at once."""

    metrics: Sequence[Metric] = ()
    params: Sequence[tuple[str, str]] = ()
    tags: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class NewRun:
    """What a client says of a run that it begins. `start_time`: epoch milliseconds; None: now."""

    name: str = ""
    user_id: str = ""
    start_time: int | None = None
    tags: dict[str, str] = field(default_factory=dict)


class Runs:
    def __init__(self, database: Database, experiments: Experiments, lineage: Lineage, clock: Clock) -> None:
        self._database = database
        self._experiments = experiments
        self._lineage = lineage
        self._clock = clock

    # -- a run's life ----------------------------------------------------------------------------

    async def create(self, who: Principal, project_id: str, experiment_id: str, new: NewRun) -> Run:
        """Begin a run. One that is given no name gets a friendly one."""
        require(who, "runs.write", project_id)
        tags = dict(new.tags)
        if new.name and tags.get(NAME_TAG, new.name) != new.name:
            raise Invalid(f"The run's name {new.name!r} and its tag {NAME_TAG} differ.")
        name = check_title("a run", new.name or tags.get(NAME_TAG) or random_name())
        tags[NAME_TAG] = name
        _check_tags(tags.items())
        check_text("the user", new.user_id)
        started = self._clock() if new.start_time is None else check_number("start_time", new.start_time)
        run_id = uuid.uuid4().hex
        if experiment_id == "0":
            await self._experiments.ensure_default(project_id)

        def work(connection: Connection) -> Run:
            experiment = require_active(find_experiment(connection, project_id, experiment_id))
            values = {
                "id": run_id,
                "project_id": project_id,
                "experiment_id": experiment.key,
                "name": name,
                "user_id": new.user_id or who.name,
                "status": RunStatus.RUNNING.value,
                "start_time": started,
                "lifecycle": ACTIVE,
                "created_at": self._clock(),
                "created_by": who.actor,
                "workload": who.workload,
            }
            connection.execute(insert(runs).values(values))
            _set_tags(connection, run_id, tags.items())
            location = f"{experiment.id}/{run_id}/artifacts"
            insert_root(connection, Root(run_id, project_id, RootKind.RUN, location, name, sealed=False))
            emit(connection, "run.started", run_id, actor=who.actor, project_id=project_id, name=name)
            return replace(find(connection, project_id, run_id), tags=tags)

        run = await self._database.write(work)
        await self._lineage.record(who, "write", "run", run_id, project_id=project_id, name=name)
        return run

    async def get(self, who: Principal, project_id: str, run_id: str) -> Run:
        """The run with everything logged to it but metrics' histories. Raises `NotFound`."""
        require(who, "runs.read", project_id)
        return await self._database.read(lambda c: with_data(c, [find(c, project_id, run_id)])[0])

    async def by_id(self, run_id: str) -> Run:
        """The run with this id, of whichever project: for services that have authorised their caller."""
        project = select(runs.c.project_id).where(runs.c.id == run_id)

        def work(connection: Connection) -> Run:
            project_id = connection.execute(project).scalar() or ""
            return with_data(connection, [find(connection, project_id, run_id)])[0]

        return await self._database.read(work)

    async def of_workload(self, who: Principal, project_id: str, workload: str) -> list[Run]:
        """The runs that a workload (``job:12``) made, oldest first."""
        require(who, "runs.read", project_id)
        query = run_query(project_id).where(runs.c.workload == workload).order_by(runs.c.created_at)
        ids = await self._database.read(lambda c: [row.id for row in c.execute(query)])
        return await self._database.read(
            lambda c: with_data(c, [find(c, project_id, run_id) for run_id in ids])
        )

    async def update(
        self,
        who: Principal,
        project_id: str,
        run_id: str,
        *,
        status: RunStatus | None = None,
        end_time: int | None = None,
        name: str = "",
    ) -> Run:
        """Change what is given of a run's status, end (epoch milliseconds) and name."""
        require(who, "runs.write", project_id)
        values: dict[str, object] = {}
        if status is not None:
            values["status"] = status.value
        if end_time is not None:
            values["end_time"] = check_number("end_time", end_time)
        if name:
            values["name"] = check_title("a run", name)
        await self._check_past(who, run_id)

        def work(connection: Connection) -> Run:
            before = _active(connection, project_id, run_id)
            if values:
                connection.execute(update(runs).where(runs.c.id == run_id).values(values))
            if name:
                _set_tags(connection, run_id, [(NAME_TAG, name)])
            if status is not None and status.is_final and status is not before.status:
                kind = f"run.{status.lower()}"
                emit(
                    connection, kind, run_id, actor=who.actor, project_id=project_id, name=name or before.name
                )
            return find(connection, project_id, run_id)

        return await self._database.write(work)

    async def delete(self, who: Principal, project_id: str, run_id: str) -> None:
        """Mark a run deleted; `restore` brings it back."""
        await self._set_lifecycle(who, project_id, run_id, DELETED)

    async def restore(self, who: Principal, project_id: str, run_id: str) -> None:
        await self._set_lifecycle(who, project_id, run_id, ACTIVE)

    async def _set_lifecycle(self, who: Principal, project_id: str, run_id: str, lifecycle: str) -> None:
        require(who, "runs.write", project_id)
        await self._check_past(who, run_id)

        def work(connection: Connection) -> None:
            run = find(connection, project_id, run_id)
            if run.lifecycle == lifecycle:
                return
            connection.execute(update(runs).where(runs.c.id == run_id).values(lifecycle=lifecycle))
            kind = "run.deleted" if lifecycle == DELETED else "run.restored"
            emit(connection, kind, run_id, actor=who.actor, project_id=project_id, name=run.name)

        await self._database.write(work)

    # -- logging ---------------------------------------------------------------------------------

    async def log(self, who: Principal, project_id: str, run_id: str, batch: Batch) -> None:
        """Keep a batch, all or nothing. Raises `Invalid` for a param that has another value already."""
        require(who, "runs.write", project_id)
        _check_batch(batch)
        series: dict[str, list[Point]] = {}
        for metric in batch.metrics:
            series.setdefault(metric.key, []).append(Point(metric.timestamp, metric.step, metric.value))
        about_models = [metric for metric in batch.metrics if metric.model_id]
        await self._check_past(who, run_id)

        def work(connection: Connection) -> None:
            _require_active(connection, project_id, run_id)
            if batch.params:
                _add_params(connection, run_id, batch.params)
            if series:
                points.append(connection, run_id, series)
            if about_models:
                _add_model_metrics(connection, project_id, run_id, about_models)
            if batch.tags:
                _set_tags(connection, run_id, batch.tags)

        await self._database.write(work)

    async def delete_tag(self, who: Principal, project_id: str, run_id: str, key: str) -> None:
        """Remove a tag. Raises `NotFound` when the run does not have it."""
        require(who, "runs.write", project_id)

        def work(connection: Connection) -> None:
            _require_active(connection, project_id, run_id)
            gone = connection.execute(
                delete(run_tags).where(run_tags.c.run_id == run_id, run_tags.c.key == key)
            )
            if gone.rowcount == 0:
                raise NotFound(f"Run {run_id} has no tag {key!r}.", reason="no_such_tag")

        await self._database.write(work)

    async def log_inputs(
        self,
        who: Principal,
        project_id: str,
        run_id: str,
        read: Sequence[Dataset],
        models: Sequence[str] = (),
    ) -> None:
        """Note the data sets and logged models that a run read."""
        require(who, "runs.write", project_id)
        for dataset in read:
            _check_dataset(dataset)

        def work(connection: Connection) -> None:
            run = _active(connection, project_id, run_id)
            key = find_experiment(connection, project_id, run.experiment_id).key
            for dataset in read:
                _add_dataset(connection, run_id, key, dataset)
            rows = [{"run_id": run_id, "direction": "in", "model_id": m, "step": 0} for m in models]
            upsert(connection, run_models, rows, ("run_id", "direction", "model_id"))

        await self._database.write(work)

    async def log_outputs(
        self, who: Principal, project_id: str, run_id: str, models: Sequence[tuple[str, int]]
    ) -> None:
        """Note the logged models that a run made, each with the step at which it did."""
        require(who, "runs.write", project_id)

        def work(connection: Connection) -> None:
            _require_active(connection, project_id, run_id)
            rows = [{"run_id": run_id, "direction": "out", "model_id": m, "step": s} for m, s in models]
            upsert(connection, run_models, rows, ("run_id", "direction", "model_id"))

        await self._database.write(work)

    async def record_model(self, who: Principal, project_id: str, run_id: str, model_json: str) -> None:
        """Add a model's description to the run's tag of logged models, as clients before MLflow 3 expect."""
        require(who, "runs.write", project_id)
        try:
            described = json.loads(model_json)
        except (json.JSONDecodeError, RecursionError) as error:
            raise Invalid("model_json is not JSON.") from error
        if not isinstance(described, dict):
            raise Invalid("model_json is not a JSON object.")

        def work(connection: Connection) -> None:
            _require_active(connection, project_id, run_id)
            known = connection.execute(
                select(run_tags.c.value).where(run_tags.c.run_id == run_id, run_tags.c.key == MODELS_TAG)
            ).scalar()
            value = json.dumps([*_list_of(known), described])
            _set_tags(connection, run_id, [(MODELS_TAG, check_value(f"tag {MODELS_TAG}", value))])

        await self._database.write(work)

    async def _check_past(self, who: Principal, run_id: str) -> None:
        """A replay writes to the runs that it began itself. Raises `Conflict` for others."""
        if await self._lineage.pasts.of(who) is None:
            return
        maker = select(runs.c.workload).where(runs.c.id == run_id)
        if await self._database.read(lambda c: c.execute(maker).scalar()) != who.workload:
            raise refused_in_past("write to a run that it did not begin")

    # -- histories -------------------------------------------------------------------------------

    async def series(self, who: Principal, project_id: str, run_id: str, key: str) -> Column:
        """All points of a metric, by time, step and value; empty when the run has no such metric."""
        require(who, "runs.read", project_id)

        def work(connection: Connection) -> Column:
            find(connection, project_id, run_id)
            return points.history(connection, run_id, key)

        return await self._database.read(work)

    async def all_series(
        self, who: Principal, project_id: str, run_id: str, keys: Sequence[str]
    ) -> dict[str, Column]:
        """As `series`, for several metrics at once."""
        require(who, "runs.read", project_id)

        def work(connection: Connection) -> dict[str, Column]:
            find(connection, project_id, run_id)
            return {key: points.history(connection, run_id, key) for key in keys}

        return await self._database.read(work)

    async def history(
        self, who: Principal, project_id: str, run_id: str, key: str, *, limit: int | None, token: str
    ) -> Page[Point]:
        """The points of a metric, `limit` at a time (None: all)."""
        if limit is not None and limit < 1:
            raise Invalid(f"max_results must be at least 1, not {limit}.")
        offset = offset_of(token)
        column = await self.series(who, project_id, run_id, key)
        end = len(column) if limit is None else min(len(column), offset + limit)
        return Page(list(column.points(offset, end)), page_token(end) if end < len(column) else "")


def _active(connection: Connection, project_id: str, run_id: str) -> Run:
    _require_active(connection, project_id, run_id)
    return find(connection, project_id, run_id)


def _require_active(connection: Connection, project_id: str, run_id: str) -> None:
    """Raises `NotFound`, and `Invalid` for a deleted run."""
    lifecycle = connection.execute(_LIFECYCLE, {"run": run_id, "project": project_id}).scalar()
    if lifecycle is None:
        raise no_such_run(run_id)
    if lifecycle != ACTIVE:
        raise Invalid(
            f"Run {run_id} is deleted.", hint="Restore it before logging to it.", reason="not_active"
        )


def _check_batch(batch: Batch) -> None:
    for what, sent, most in (
        ("metrics", batch.metrics, MAX_METRICS),
        ("params", batch.params, MAX_PARAMS),
        ("tags", batch.tags, MAX_TAGS),
    ):
        if len(sent) > most:
            raise Invalid(f"A batch has at most {most} {what}; this one has {len(sent)}.")
    for metric in batch.metrics:
        check_key("metric", metric.key)
        check_number(f"The step of metric {metric.key!r}", metric.step)
        if check_number(f"The timestamp of metric {metric.key!r}", metric.timestamp) < 0:
            raise Invalid(f"The timestamp of metric {metric.key!r} must not be negative.")
        for text in (metric.model_id, metric.dataset_name, metric.dataset_digest):
            check_value(f"metric {metric.key!r}", text, 500)
    seen: dict[str, str] = {}
    for key, value in batch.params:
        check_value(f"param {check_key('param', key)!r}", value)
        if seen.setdefault(key, value) != value:
            raise _changed(key, seen[key], value)
    _check_tags(batch.tags)


def _check_tags(tags: Iterable[tuple[str, str]]) -> None:
    for key, value in tags:
        check_value(f"tag {check_tag_key(key)!r}", value)
        if key == NAME_TAG:
            check_title("a run", value)


def _check_dataset(dataset: Dataset) -> None:
    for what, value, most in (
        ("name", dataset.name, 500),
        ("digest", dataset.digest, 500),
        ("source_type", dataset.source_type, 500),
    ):
        if not value:
            raise Invalid(f"A data set needs a {what}.", reason="missing_value")
        check_value(f"the data set's {what}", value, most)
    check_value("the data set's source", dataset.source, 1_000_000)
    check_value("the data set's schema", dataset.schema or "", 1_048_575)
    check_value("the data set's profile", dataset.profile or "", 16_777_215)
    for key, value in dataset.tags.items():
        check_value("the data set's tag", key, 255)
        check_value(f"the data set's tag {key!r}", value, 5000)


def _add_params(connection: Connection, run_id: str, params: Sequence[tuple[str, str]]) -> None:
    new = dict(params)
    known = connection.execute(
        select(run_params).where(run_params.c.run_id == run_id, run_params.c.key.in_(list(new)))
    )
    for row in known:
        if new.pop(row.key) != row.value:
            raise _changed(row.key, row.value, dict(params)[row.key])
    if new:
        connection.execute(
            insert(run_params), [{"run_id": run_id, "key": key, "value": new[key]} for key in new]
        )


def _changed(key: str, old: str, new: str) -> Invalid:
    return Invalid(
        f"Changing param values is not allowed: {key!r} was logged as {old[:200]!r} already, not {new[:200]!r}.",
        hint="Log what changes as a tag or a metric, or begin another run.",
        reason="param_changed",
    )


def _set_tags(connection: Connection, run_id: str, tags: Iterable[tuple[str, str]]) -> None:
    final = dict(tags)
    rows = [{"run_id": run_id, "key": key, "value": value} for key, value in final.items()]
    upsert(connection, run_tags, rows, ("run_id", "key"))
    if NAME_TAG in final:
        connection.execute(update(runs).where(runs.c.id == run_id).values(name=final[NAME_TAG]))


def _add_model_metrics(
    connection: Connection, project_id: str, run_id: str, measured: Sequence[Metric]
) -> None:
    newest: dict[tuple[str, ...], Point] = {}
    for row in connection.execute(select(model_metrics).where(model_metrics.c.run_id == run_id)):
        at = (row.model_id, row.key, row.dataset_name, row.dataset_digest)
        newest[at] = Point(row.timestamp, row.step, value_of(row))
    changed: dict[tuple[str, ...], Point] = {}
    for metric in measured:
        at = (metric.model_id, metric.key, metric.dataset_name, metric.dataset_digest)
        point = Point(metric.timestamp, metric.step, metric.value)
        if at not in newest or point.rank > newest[at].rank:
            newest[at] = changed[at] = point
    rows = [
        {
            "model_id": model_id,
            "run_id": run_id,
            "key": key,
            "dataset_name": name,
            "dataset_digest": digest,
            "project_id": project_id,
            **points.stored(point),
        }
        for (model_id, key, name, digest), point in changed.items()
    ]
    upsert(connection, model_metrics, rows, ("model_id", "run_id", "key", "dataset_name", "dataset_digest"))


def _add_dataset(connection: Connection, run_id: str, experiment_key: int, dataset: Dataset) -> None:
    here = (
        dataset_rows.c.experiment_id == experiment_key,
        dataset_rows.c.name == dataset.name,
        dataset_rows.c.digest == dataset.digest,
    )
    known = connection.execute(select(dataset_rows.c.id).where(*here)).scalar()
    if known is None:
        known = new_id("dst")
        connection.execute(
            insert(dataset_rows).values(
                id=known,
                experiment_id=experiment_key,
                name=dataset.name,
                digest=dataset.digest,
                source_type=dataset.source_type,
                source=dataset.source,
                schema=dataset.schema,
                profile=dataset.profile,
            )
        )
    row = {
        "run_id": run_id,
        "dataset_id": known,
        "context": dataset.tags.get(CONTEXT_TAG),
        "tags": json.dumps(dataset.tags),
    }
    upsert(connection, run_datasets, [row], ("run_id", "dataset_id"))


def _list_of(text: str | None) -> list[object]:
    try:
        known = json.loads(text or "[]")
    except json.JSONDecodeError:
        return []
    return known if isinstance(known, list) else []
