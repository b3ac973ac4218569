"""Searching runs: every condition and order is SQL over indexed rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, case, exists, select
from sqlalchemy.sql.selectable import FromClause

from stratal.collab.conditions import compare, compare_metric
from stratal.collab.experiments import Experiments
from stratal.collab.loading import run_of, run_query, with_data
from stratal.collab.model import Page, Run, View
from stratal.collab.search import (
    Condition,
    Entity,
    Grammar,
    Order,
    offset_of,
    page_token,
    parse_filter,
    parse_order,
)
from stratal.collab.tables import (
    datasets,
    experiments,
    latest_metrics,
    run_datasets,
    run_params,
    run_tags,
    runs,
)
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid

MAX_PAGE = 50_000
MAX_EXPERIMENTS = 10_000

_TEXT = {
    **{name: name for name in ("run_name", "status", "user_id", "run_id", "artifact_uri")},
    **dict.fromkeys(("run name", "Run name", "Run Name", "name"), "run_name"),
    "run_uuid": "run_id",
}
_NUMBERS = {
    "start_time": "start_time",
    "end_time": "end_time",
    "created": "start_time",
    "Created": "start_time",
}
GRAMMAR = Grammar(frozenset(Entity), text=_TEXT, numbers=_NUMBERS)
_COLUMNS = {
    "run_name": runs.c.name,
    "run_id": runs.c.id,
    "status": runs.c.status,
    "user_id": runs.c.user_id,
    "start_time": runs.c.start_time,
    "end_time": runs.c.end_time,
}


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for. `experiment_ids` None: in the whole project; an empty list finds nothing."""

    experiment_ids: Sequence[str] | None = None
    text: str = ""
    view: View = View.ACTIVE_ONLY
    order_by: Sequence[str] = ()
    limit: int = 1000
    token: str = ""


class RunSearch:
    def __init__(self, database: Database, experiments_: Experiments) -> None:
        self._database = database
        self._experiments = experiments_

    async def search(self, who: Principal, project_id: str, query: Query) -> Page[Run]:
        """The runs found, newest first unless ordered otherwise; those without the ordering's key come last.

        Experiments that are not the project's hold nothing. Raises `Invalid` for a bad filter.
        """
        require(who, "runs.read", project_id)
        if not 0 <= query.limit <= MAX_PAGE:
            raise Invalid(f"max_results must be between 0 and {MAX_PAGE}, not {query.limit}.")
        conditions = parse_filter(query.text, GRAMMAR)
        orders = parse_order(query.order_by, GRAMMAR)
        offset = offset_of(query.token)

        def work(connection: Any) -> Page[Run]:
            dialect = connection.dialect.name
            statement = run_query(project_id).where(runs.c.lifecycle.in_(query.view.lifecycles))
            if query.experiment_ids is not None:
                statement = statement.where(_within(query.experiment_ids))
            for condition in conditions:
                statement = statement.where(_clause(condition, dialect))
            statement = _ordered(statement, orders)
            rows = connection.execute(statement.limit(query.limit + 1).offset(offset)).all()
            page = with_data(connection, [run_of(row) for row in rows[: query.limit]])
            more = len(rows) > query.limit
            return Page(page, page_token(offset + query.limit) if more and query.limit else "")

        return await self._database.read(work)


def _within(experiment_ids: Sequence[str]) -> ColumnElement[bool]:
    if len(experiment_ids) > MAX_EXPERIMENTS:
        raise Invalid(f"At most {MAX_EXPERIMENTS} experiments are searched at once.")
    numbers = {int(one) for one in experiment_ids if one.isascii() and one.isdecimal() and len(one) <= 18}
    wanted = experiments.c.id.in_(sorted(numbers - {0})) & (experiments.c.is_default == 0)
    return wanted | (experiments.c.is_default == 1) if 0 in numbers else wanted


def _clause(condition: Condition, dialect: str) -> ColumnElement[bool]:
    if condition.entity is Entity.ATTRIBUTE:
        return _attribute_clause(condition, dialect)
    if condition.entity is Entity.DATASET:
        return _dataset_clause(condition, dialect)
    if condition.entity is Entity.METRIC:
        return exists().where(
            latest_metrics.c.run_id == runs.c.id,
            latest_metrics.c.key == condition.key,
            compare_metric(latest_metrics.c.value, latest_metrics.c.is_nan, condition, dialect),
        )
    table = run_params if condition.entity is Entity.PARAM else run_tags
    here = (table.c.run_id == runs.c.id, table.c.key == condition.key)
    if condition.op == "IS NULL":
        return ~exists().where(*here)
    if condition.op == "IS NOT NULL":
        return exists().where(*here)
    return exists().where(*here, compare(table.c.value, condition, dialect))


def _attribute_clause(condition: Condition, dialect: str) -> ColumnElement[bool]:
    if condition.key == "artifact_uri":
        raise Invalid("Runs are not searched by artifact_uri: it follows from run_id.", reason="bad_filter")
    return compare(_COLUMNS[condition.key], condition, dialect)


def _dataset_clause(condition: Condition, dialect: str) -> ColumnElement[bool]:
    column = run_datasets.c.context if condition.key == "context" else datasets.c[condition.key]
    return (
        select(run_datasets.c.run_id)
        .join(datasets, datasets.c.id == run_datasets.c.dataset_id)
        .where(run_datasets.c.run_id == runs.c.id, compare(column, condition, dialect))
        .exists()
    )


def _ordered(statement: Select[Any], orders: Sequence[Order]) -> Select[Any]:
    by_start = False
    for number, order in enumerate(orders):
        value: ColumnElement[Any]
        if order.entity is Entity.ATTRIBUTE:
            if order.key == "artifact_uri":
                raise Invalid("Runs are not ordered by artifact_uri.", reason="bad_filter")
            value = _COLUMNS[order.key]
            by_start = by_start or order.key == "start_time"
            statement = statement.order_by(case((value.is_(None), 1), else_=0))
        else:
            table = {Entity.METRIC: latest_metrics, Entity.PARAM: run_params}.get(order.entity, run_tags)
            joined: FromClause = table.alias(f"order_{number}")
            statement = statement.outerjoin(
                joined, (joined.c.run_id == runs.c.id) & (joined.c.key == order.key)
            )
            value = joined.c.value
            last: list[tuple[ColumnElement[bool], int]] = [(joined.c.run_id.is_(None), 2)]
            if order.entity is Entity.METRIC:
                last.append((joined.c.is_nan == 1, 1))
            statement = statement.order_by(case(*last, else_=0))
        statement = statement.order_by(value.asc() if order.ascending else value.desc())
    if not by_start:
        statement = statement.order_by(runs.c.start_time.desc())
    return statement.order_by(runs.c.id)
