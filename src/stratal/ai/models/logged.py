"""Logged models: what a script saved while it ran, before anybody registered it under a name."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    delete,
    exists,
    insert,
    or_,
    select,
    update,
)

from stratal.ai.models.rows import pairs
from stratal.ai.models.tables import (
    logged_model_params,
    logged_model_tags,
    logged_models,
    model_versions,
)
from stratal.collab.artifacts import insert_root
from stratal.collab.conditions import compare, compare_metric
from stratal.collab.experiments import Experiments, require_active, wire_id
from stratal.collab.experiments import find as find_experiment
from stratal.collab.loading import find as find_run
from stratal.collab.loading import metric_of_model
from stratal.collab.model import ACTIVE, DELETED, Metric, Page, Root, RootKind
from stratal.collab.names import random_name
from stratal.collab.rules import check_key, check_tag_key, check_text, check_value
from stratal.collab.search import Condition, Entity, Grammar, offset_of, page_token, parse_filter, parse_order
from stratal.collab.tables import experiments, model_metrics
from stratal.collab.upsert import upsert
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.kernel.events import emit

MAX_PAGE = 10_000

_NUMBERS = {
    **dict.fromkeys(("creation_timestamp", "creation_time"), "created_at"),
    **dict.fromkeys(("last_updated_timestamp", "last_updated_time"), "updated_at"),
}
_GRAMMAR = Grammar(
    frozenset({Entity.ATTRIBUTE, Entity.METRIC, Entity.PARAM, Entity.TAG}),
    text={
        "name": "name",
        "model_id": "id",
        "model_type": "model_type",
        "status": "status",
        "source_run_id": "source_run_id",
    },
    numbers=_NUMBERS,
)


class LoggedStatus(StrEnum):
    """Is all of it uploaded?"""

    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A logged model. `registrations` are the (name, version) it was registered as. Times: epoch milliseconds."""

    id: str
    project_id: str
    experiment_id: str
    name: str
    model_type: str
    source_run_id: str | None
    status: LoggedStatus
    created_at: int
    updated_at: int
    created_by: str
    workload: str | None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: tuple[tuple[str, Metric], ...] = ()
    registrations: tuple[tuple[str, int], ...] = ()

    @property
    def location(self) -> str:
        """Where its files lie among the artifacts."""
        return f"{self.experiment_id}/models/{self.id}/artifacts"

    @property
    def artifact_uri(self) -> str:
        return f"mlflow-artifacts:/{self.location}"


@dataclass(frozen=True, slots=True)
class NewLoggedModel:
    """What a client says of a model it begins to log."""

    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OnDataset:
    """Count only metrics measured on this data set (an empty digest: on any version of it)."""

    name: str
    digest: str = ""


@dataclass(frozen=True, slots=True)
class LoggedOrder:
    field_name: str
    ascending: bool = True
    dataset: OnDataset | None = None


class LoggedModels:
    def __init__(self, database: Database, experiments_: Experiments, clock: Clock) -> None:
        self._database = database
        self._experiments = experiments_
        self._clock = clock

    async def create(
        self, who: Principal, project_id: str, experiment_id: str, new: NewLoggedModel
    ) -> LoggedModel:
        """Begin a model: its files can be uploaded, `finalize` says that they are all there."""
        require(who, "models.write", project_id)
        name = check_logged_name(new.name or random_name())
        check_value("the model type", new.model_type, 500)
        _check(new.params, new.tags)
        if experiment_id == "0":
            await self._experiments.ensure_default(project_id)
        model_id = f"m-{uuid.uuid4().hex}"

        def work(connection: Connection) -> LoggedModel:
            experiment = require_active(find_experiment(connection, project_id, experiment_id))
            workload = who.workload
            if new.source_run_id:
                workload = find_run(connection, project_id, new.source_run_id).workload
            now = self._clock()
            connection.execute(
                insert(logged_models).values(
                    id=model_id,
                    project_id=project_id,
                    experiment_id=experiment.key,
                    name=name,
                    model_type=new.model_type,
                    source_run_id=new.source_run_id or None,
                    status=LoggedStatus.PENDING.value,
                    lifecycle=ACTIVE,
                    created_at=now,
                    updated_at=now,
                    created_by=who.actor,
                    workload=workload,
                )
            )
            _set(connection, logged_model_params, model_id, new.params)
            _set(connection, logged_model_tags, model_id, new.tags)
            made = find(connection, project_id, model_id)
            insert_root(
                connection,
                Root(model_id, project_id, RootKind.LOGGED_MODEL, made.location, name, sealed=False),
            )
            emit(
                connection,
                "logged_model.created",
                model_id,
                actor=who.actor,
                project_id=project_id,
                name=name,
            )
            return with_data(connection, [made])[0]

        return await self._database.write(work)

    async def get(
        self, who: Principal, project_id: str, model_id: str, *, deleted: bool = False
    ) -> LoggedModel:
        """The model with what was logged to it. Raises `NotFound`, also for a deleted one unless `deleted`."""
        require(who, "models.read", project_id)
        return await self._database.read(
            lambda c: with_data(c, [find(c, project_id, model_id, deleted=deleted)])[0]
        )

    async def finalize(
        self, who: Principal, project_id: str, model_id: str, status: LoggedStatus
    ) -> LoggedModel:
        """Say that the model is complete, or that uploading it failed."""
        return await self._change(who, project_id, model_id, status=status.value)

    async def delete(self, who: Principal, project_id: str, model_id: str) -> None:
        """Mark a model deleted. Its bytes stay: versions registered from it pin them."""
        require(who, "models.write", project_id)

        def work(connection: Connection) -> None:
            model = find(connection, project_id, model_id)
            connection.execute(
                update(logged_models)
                .where(logged_models.c.id == model_id)
                .values(lifecycle=DELETED, updated_at=self._clock())
            )
            emit(
                connection,
                "logged_model.deleted",
                model_id,
                actor=who.actor,
                project_id=project_id,
                name=model.name,
            )

        await self._database.write(work)

    async def set_tags(
        self, who: Principal, project_id: str, model_id: str, tags: dict[str, str]
    ) -> LoggedModel:
        _check({}, tags)
        return await self._change(who, project_id, model_id, tags=tags)

    async def delete_tag(self, who: Principal, project_id: str, model_id: str, key: str) -> None:
        """Remove a tag. Raises `NotFound` when the model does not have it."""
        require(who, "models.write", project_id)

        def work(connection: Connection) -> None:
            find(connection, project_id, model_id)
            gone = connection.execute(
                delete(logged_model_tags).where(
                    logged_model_tags.c.model_id == model_id, logged_model_tags.c.key == key
                )
            )
            if gone.rowcount == 0:
                raise NotFound(f"Model {model_id} has no tag {key!r}.", reason="no_such_tag")

        await self._database.write(work)

    async def log_params(
        self, who: Principal, project_id: str, model_id: str, params: dict[str, str]
    ) -> LoggedModel:
        _check(params, {})
        return await self._change(who, project_id, model_id, params=params)

    async def _change(
        self,
        who: Principal,
        project_id: str,
        model_id: str,
        *,
        params: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
        **values: str,
    ) -> LoggedModel:
        require(who, "models.write", project_id)

        def work(connection: Connection) -> LoggedModel:
            find(connection, project_id, model_id)
            _set(connection, logged_model_params, model_id, params or {})
            _set(connection, logged_model_tags, model_id, tags or {})
            connection.execute(
                update(logged_models)
                .where(logged_models.c.id == model_id)
                .values(updated_at=self._clock(), **values)
            )
            return with_data(connection, [find(connection, project_id, model_id)])[0]

        return await self._database.write(work)

    async def search(
        self,
        who: Principal,
        project_id: str,
        experiment_ids: Sequence[str],
        *,
        text: str = "",
        datasets: Sequence[OnDataset] = (),
        order_by: Sequence[LoggedOrder] = (),
        limit: int = 50,
        token: str = "",
    ) -> Page[LoggedModel]:
        """The models of the experiments that a filter finds, newest first unless ordered otherwise.

        With `datasets` a condition on a metric must hold for one measured on one of them; without such a
        condition the model must have any metric on one of them.
        """
        require(who, "models.read", project_id)
        if not 1 <= limit <= MAX_PAGE:
            raise Invalid(f"max_results must be between 1 and {MAX_PAGE}, not {limit}.")
        conditions = parse_filter(text, _GRAMMAR)
        offset = offset_of(token)

        def work(connection: Connection) -> Page[LoggedModel]:
            query = _query(project_id).where(
                logged_models.c.lifecycle == ACTIVE,
                wire_id(experiments.c.is_default, experiments.c.id).in_(
                    [
                        int(one)
                        for one in experiment_ids
                        if one.isascii() and one.isdecimal() and len(one) < 19
                    ]
                ),
            )
            for condition in conditions:
                query = query.where(_clause(condition, datasets, connection.dialect.name))
            if datasets and not any(c.entity is Entity.METRIC for c in conditions):
                query = query.where(exists().where(*_measured(datasets)))
            query = _ordered(query, order_by).limit(limit + 1).offset(offset)
            rows = connection.execute(query).all()
            found = with_data(connection, [_model(row) for row in rows[:limit]])
            return Page(found, page_token(offset + limit) if len(rows) > limit else "")

        return await self._database.read(work)


def find(connection: Connection, project_id: str, model_id: str, *, deleted: bool = False) -> LoggedModel:
    """The model's own row. Raises `NotFound`."""
    row = connection.execute(_query(project_id).where(logged_models.c.id == model_id)).one_or_none()
    if row is None or (row.lifecycle == DELETED and not deleted):
        raise NotFound(f"There is no logged model {model_id[:100]!r}.", reason="no_such_model")
    return _model(row)


def with_data(connection: Connection, models: Sequence[LoggedModel]) -> list[LoggedModel]:
    """The models with tags, params, metrics (each with the run that measured it) and registrations."""
    filled: list[LoggedModel] = []
    for start in range(0, len(models), 500):
        batch = models[start : start + 500]
        ids = [model.id for model in batch]
        tags = pairs(connection, logged_model_tags, "model_id", ids)
        params = pairs(connection, logged_model_params, "model_id", ids)
        metrics: dict[str, list[tuple[str, Metric]]] = {}
        for row in connection.execute(
            select(model_metrics)
            .where(model_metrics.c.model_id.in_(ids), model_metrics.c.project_id == batch[0].project_id)
            .order_by(model_metrics.c.key)
        ):
            metrics.setdefault(row.model_id, []).append((row.run_id, metric_of_model(row)))
        registered: dict[str, list[tuple[str, int]]] = {}
        for row in connection.execute(
            select(model_versions)
            .where(model_versions.c.logged_model_id.in_(ids), model_versions.c.deleted_at.is_(None))
            .order_by(model_versions.c.name, model_versions.c.version)
        ):
            registered.setdefault(row.logged_model_id, []).append((row.name, row.version))
        filled += [
            replace(
                model,
                tags=tags.get(model.id, {}),
                params=params.get(model.id, {}),
                metrics=tuple(metrics.get(model.id, ())),
                registrations=tuple(registered.get(model.id, ())),
            )
            for model in batch
        ]
    return filled


def check_logged_name(name: str) -> str:
    """Return `name` when it can name a logged model: clients build paths and queries with it."""
    if not name.strip() or len(name) > 500 or any(c in "/:.%\"'\\" or ord(c) < 32 for c in name):
        raise Invalid(
            f"{name[:100]!r} cannot name a logged model.",
            hint="Use up to 500 characters, none of them / : . % \" ' or a control character.",
            reason="bad_name",
        )
    return check_text("the name", name)


def _query(project_id: str) -> Select[Any]:
    return (
        select(logged_models, wire_id(experiments.c.is_default, experiments.c.id).label("experiment"))
        .join(experiments, experiments.c.id == logged_models.c.experiment_id)
        .where(logged_models.c.project_id == project_id)
    )


def _model(row: Any) -> LoggedModel:
    return LoggedModel(
        row.id,
        row.project_id,
        str(row.experiment),
        row.name,
        row.model_type,
        row.source_run_id,
        LoggedStatus(row.status),
        row.created_at,
        row.updated_at,
        row.created_by,
        row.workload,
    )


def _check(params: dict[str, str], tags: dict[str, str]) -> None:
    for key, value in params.items():
        check_value(f"param {check_key('param', key)!r}", value)
    for key, value in tags.items():
        check_value(f"tag {check_tag_key(key)!r}", value)


def _set(connection: Connection, table: Any, model_id: str, values: dict[str, str]) -> None:
    rows = [{"model_id": model_id, "key": key, "value": value} for key, value in values.items()]
    upsert(connection, table, rows, ("model_id", "key"))


def _measured(datasets: Sequence[OnDataset], key: str | None = None) -> list[ColumnElement[bool]]:
    """SQL: rows of `model_metrics` about the model at hand, on one of the data sets if there are any."""
    here: list[ColumnElement[bool]] = [
        model_metrics.c.model_id == logged_models.c.id,
        model_metrics.c.project_id == logged_models.c.project_id,
    ]
    if key is not None:
        here.append(model_metrics.c.key == key)
    if datasets:
        here.append(or_(*map(_on, datasets)))
    return here


def _on(dataset: OnDataset) -> ColumnElement[bool]:
    named = model_metrics.c.dataset_name == dataset.name
    return and_(named, model_metrics.c.dataset_digest == dataset.digest) if dataset.digest else named


def _clause(condition: Condition, datasets: Sequence[OnDataset], dialect: str) -> ColumnElement[bool]:
    if condition.entity is Entity.ATTRIBUTE:
        return compare(logged_models.c[condition.key], condition, dialect)
    if condition.entity is Entity.METRIC:
        holds = compare_metric(model_metrics.c.value, model_metrics.c.is_nan, condition, dialect)
        return exists().where(*_measured(datasets, condition.key), holds)
    table = logged_model_params if condition.entity is Entity.PARAM else logged_model_tags
    here = (table.c.model_id == logged_models.c.id, table.c.key == condition.key)
    if condition.op == "IS NULL":
        return ~exists().where(*here)
    if condition.op == "IS NOT NULL":
        return exists().where(*here)
    return exists().where(*here, compare(table.c.value, condition, dialect))


def _ordered(query: Select[Any], orders: Sequence[LoggedOrder]) -> Select[Any]:
    for order in orders:
        value: ColumnElement[Any]
        parsed = parse_order([_quoted(order.field_name)], _GRAMMAR)[0]
        if parsed.entity is Entity.METRIC:
            datasets = [order.dataset] if order.dataset else []
            value = (
                select(model_metrics.c.value)
                .where(*_measured(datasets, parsed.key))
                .order_by(model_metrics.c.timestamp.desc(), model_metrics.c.step.desc())
                .limit(1)
                .correlate(logged_models)
                .scalar_subquery()
            )
        elif parsed.entity is Entity.ATTRIBUTE:
            value = logged_models.c[parsed.key]
        else:
            raise Invalid(
                f"Models are not ordered by {order.field_name[:100]!r}, only by metrics and attributes."
            )
        query = query.order_by(
            case((value.is_(None), 1), else_=0), value.asc() if order.ascending else value.desc()
        )
    return query.order_by(logged_models.c.created_at.desc(), logged_models.c.id.desc())


def _quoted(field_name: str) -> str:
    """``metrics.my key`` → ``metrics.`my key` ``: this protocol sends the field by itself, unquoted."""
    entity, dot, key = field_name.partition(".")
    return f"{entity}.`{key}`" if dot and not key.startswith(("`", '"')) else field_name
