"""Experiments: named groups of runs. Every project has one from the start, its default, called ``0``."""

from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from stratal.collab.conditions import compare
from stratal.collab.model import ACTIVE, DELETED, Experiment, Page, View
from stratal.collab.rules import check_tag_key, check_title, check_value
from stratal.collab.search import Condition, Entity, Grammar, offset_of, page_token, parse_filter, parse_order
from stratal.collab.tables import experiment_tags, experiments, runs
from stratal.collab.upsert import upsert
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound
from stratal.kernel.events import emit

DEFAULT_NAME = "Default"
MAX_PAGE = 50_000

_GRAMMAR = Grammar(
    frozenset({Entity.ATTRIBUTE, Entity.TAG}),
    text={"name": "name", "experiment_id": "experiment_id"},
    numbers={"creation_time": "created_at", "last_update_time": "updated_at"},
)


class Experiments:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, who: Principal, project_id: str, name: str, tags: dict[str, str]) -> Experiment:
        """Make an experiment. Raises `Conflict` when the name is taken, also by a deleted one."""
        require(who, "runs.write", project_id)
        check_title("an experiment", name)
        for key, value in tags.items():
            check_tag_key(key)
            check_value(f"tag {key!r}", value)
        await self.ensure_default(project_id)

        def work(connection: Connection) -> Experiment:
            made = _insert(connection, project_id, name, who.actor, self._clock(), is_default=False)
            upsert(
                connection,
                experiment_tags,
                [{"experiment_id": made.key, "key": k, "value": v} for k, v in tags.items()],
                ("experiment_id", "key"),
            )
            emit(connection, "experiment.created", made.id, actor=who.actor, project_id=project_id, name=name)
            return replace(made, tags=tags)

        try:
            return await self._database.write(work)
        except IntegrityError as error:
            raise _taken(name) from error

    async def get(self, who: Principal, project_id: str, experiment_id: str) -> Experiment:
        """The experiment, deleted or not. Raises `NotFound`."""
        require(who, "runs.read", project_id)
        if experiment_id == "0":
            await self.ensure_default(project_id)
        return await self._database.read(lambda c: with_tags(c, find(c, project_id, experiment_id)))

    async def get_by_name(self, who: Principal, project_id: str, name: str) -> Experiment:
        """The experiment called `name`, deleted or not. Raises `NotFound`."""
        require(who, "runs.read", project_id)
        if name == DEFAULT_NAME:
            await self.ensure_default(project_id)
        query = select(experiments).where(experiments.c.project_id == project_id, experiments.c.name == name)

        def work(connection: Connection) -> Experiment:
            row = connection.execute(query).one_or_none()
            if row is None:
                raise NotFound(f"There is no experiment named {name!r}.", reason="no_such_experiment")
            return with_tags(connection, _experiment(row))

        return await self._database.read(work)

    async def rename(self, who: Principal, project_id: str, experiment_id: str, name: str) -> None:
        """Give an experiment another name. Raises `Conflict` when that is taken, `Invalid` for a deleted one."""
        require(who, "runs.write", project_id)
        check_title("an experiment", name)

        def work(connection: Connection) -> None:
            found = require_active(find(connection, project_id, experiment_id))
            self._update(connection, found, name=name)

        try:
            await self._database.write(work)
        except IntegrityError as error:
            raise _taken(name) from error

    async def delete(self, who: Principal, project_id: str, experiment_id: str) -> None:
        """Mark an experiment and its runs deleted; `restore` brings them back."""
        await self._set_lifecycle(who, project_id, experiment_id, ACTIVE, DELETED)

    async def restore(self, who: Principal, project_id: str, experiment_id: str) -> None:
        """Bring a deleted experiment and its runs back."""
        await self._set_lifecycle(who, project_id, experiment_id, DELETED, ACTIVE)

    async def _set_lifecycle(
        self, who: Principal, project_id: str, experiment_id: str, old: str, new: str
    ) -> None:
        require(who, "runs.write", project_id)

        def work(connection: Connection) -> None:
            found = find(connection, project_id, experiment_id)
            if found.lifecycle != old:
                raise NotFound(
                    f"There is no {old} experiment {experiment_id!r}.", reason="no_such_experiment"
                )
            self._update(connection, found, lifecycle=new)
            connection.execute(update(runs).where(runs.c.experiment_id == found.key).values(lifecycle=new))
            kind = "experiment.deleted" if new == DELETED else "experiment.restored"
            emit(connection, kind, found.id, actor=who.actor, project_id=project_id, name=found.name)

        await self._database.write(work)

    async def set_tag(
        self, who: Principal, project_id: str, experiment_id: str, key: str, value: str
    ) -> None:
        require(who, "runs.write", project_id)
        check_tag_key(key)
        check_value(f"tag {key!r}", value)
        if experiment_id == "0":
            await self.ensure_default(project_id)

        def work(connection: Connection) -> None:
            found = require_active(find(connection, project_id, experiment_id))
            row = {"experiment_id": found.key, "key": key, "value": value}
            upsert(connection, experiment_tags, [row], ("experiment_id", "key"))
            self._update(connection, found)

        await self._database.write(work)

    async def delete_tag(self, who: Principal, project_id: str, experiment_id: str, key: str) -> None:
        """Remove a tag. Raises `NotFound` when the experiment does not have it."""
        require(who, "runs.write", project_id)

        def work(connection: Connection) -> None:
            found = require_active(find(connection, project_id, experiment_id))
            gone = connection.execute(
                delete(experiment_tags).where(
                    experiment_tags.c.experiment_id == found.key, experiment_tags.c.key == key
                )
            )
            if gone.rowcount == 0:
                raise NotFound(f"Experiment {experiment_id} has no tag {key!r}.", reason="no_such_tag")
            self._update(connection, found)

        await self._database.write(work)

    async def search(
        self,
        who: Principal,
        project_id: str,
        *,
        text: str = "",
        view: View = View.ACTIVE_ONLY,
        order_by: list[str] | None = None,
        limit: int = 1000,
        token: str = "",
    ) -> Page[Experiment]:
        """The experiments that `text` (a filter) finds, newest first unless `order_by` says otherwise."""
        require(who, "runs.read", project_id)
        if not 1 <= limit <= MAX_PAGE:
            raise Invalid(f"max_results must be between 1 and {MAX_PAGE}, not {limit}.")
        conditions = parse_filter(text, _GRAMMAR)
        orders = parse_order(order_by or [], _GRAMMAR)
        offset = offset_of(token)
        await self.ensure_default(project_id)

        def work(connection: Connection) -> Page[Experiment]:
            query = select(experiments).where(
                experiments.c.project_id == project_id, experiments.c.lifecycle.in_(view.lifecycles)
            )
            for condition in conditions:
                query = query.where(_clause(condition, connection.dialect.name))
            query = _ordered(query, [(order.key, order.ascending) for order in orders])
            rows = connection.execute(query.limit(limit + 1).offset(offset)).all()
            found = [_experiment(row) for row in rows[:limit]]
            tags = _tags_of(connection, [experiment.key for experiment in found])
            return Page(
                [replace(experiment, tags=tags.get(experiment.key, {})) for experiment in found],
                page_token(offset + limit) if len(rows) > limit else "",
            )

        return await self._database.read(work)

    async def ensure_default(self, project_id: str) -> None:
        """Make the project's default experiment unless it is there."""
        query = select(experiments.c.id).where(
            experiments.c.project_id == project_id, experiments.c.is_default == 1
        )
        if await self._database.read(lambda c: c.execute(query).scalar()) is not None:
            return

        def work(connection: Connection) -> None:
            if connection.execute(query).scalar() is None:
                _insert(connection, project_id, DEFAULT_NAME, "system", self._clock(), is_default=True)

        await self._database.write(work)

    def _update(self, connection: Connection, experiment: Experiment, **values: str) -> None:
        connection.execute(
            update(experiments)
            .where(experiments.c.id == experiment.key)
            .values(updated_at=self._clock(), **values)
        )


def find(connection: Connection, project_id: str, experiment_id: str) -> Experiment:
    """The experiment that clients of the project call `experiment_id`, without its tags. Raises `NotFound`."""
    query = select(experiments).where(experiments.c.project_id == project_id)
    row = None
    if experiment_id == "0":
        row = connection.execute(query.where(experiments.c.is_default == 1)).one_or_none()
    elif experiment_id.isascii() and experiment_id.isdecimal() and len(experiment_id) <= 18:
        row = connection.execute(
            query.where(experiments.c.id == int(experiment_id), experiments.c.is_default == 0)
        ).one_or_none()
    if row is None:
        raise NotFound(f"There is no experiment {experiment_id[:100]!r}.", reason="no_such_experiment")
    return _experiment(row)


def require_active(experiment: Experiment) -> Experiment:
    """Return the experiment unless it is deleted. Raises `Invalid`."""
    if experiment.lifecycle != ACTIVE:
        raise Invalid(
            f"Experiment {experiment.id} ({experiment.name!r}) is deleted.",
            hint="Restore it, or use another one.",
            reason="not_active",
        )
    return experiment


def with_tags(connection: Connection, experiment: Experiment) -> Experiment:
    return replace(experiment, tags=_tags_of(connection, [experiment.key]).get(experiment.key, {}))


def wire_id(is_default: ColumnElement[int], key: ColumnElement[int]) -> ColumnElement[int]:
    """SQL: the number by which clients know an experiment."""
    return case((is_default == 1, 0), else_=key)


def _tags_of(connection: Connection, keys: list[int]) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for start in range(0, len(keys), 500):
        query = select(experiment_tags).where(experiment_tags.c.experiment_id.in_(keys[start : start + 500]))
        for row in connection.execute(query):
            found.setdefault(row.experiment_id, {})[row.key] = row.value
    return found


def _insert(
    connection: Connection, project_id: str, name: str, actor: str, now: int, *, is_default: bool
) -> Experiment:
    values = {
        "project_id": project_id,
        "is_default": int(is_default),
        "name": name,
        "lifecycle": ACTIVE,
        "created_at": now,
        "updated_at": now,
        "created_by": actor,
    }
    key = connection.execute(insert(experiments).values(values).returning(experiments.c.id)).scalar_one()
    return Experiment(key, "0" if is_default else str(key), project_id, name, ACTIVE, now, now)


def _experiment(row: Any) -> Experiment:
    return Experiment(
        row.id,
        "0" if row.is_default else str(row.id),
        row.project_id,
        row.name,
        row.lifecycle,
        row.created_at,
        row.updated_at,
    )


def _clause(condition: Condition, dialect: str) -> ColumnElement[bool]:
    if condition.entity is Entity.ATTRIBUTE:
        if condition.key == "experiment_id":
            return _id_clause(condition)
        return compare(experiments.c[condition.key], condition, dialect)
    tag = and_(
        experiment_tags.c.experiment_id == experiments.c.id,
        experiment_tags.c.key == condition.key,
    )
    if condition.op == "IS NULL":
        return ~exists().where(tag)
    if condition.op == "IS NOT NULL":
        return exists().where(tag)
    return exists().where(tag, compare(experiment_tags.c.value, condition, dialect))


def _id_clause(condition: Condition) -> ColumnElement[bool]:
    asked = condition.value if isinstance(condition.value, tuple) else (str(condition.value),)
    if condition.op not in {"=", "!=", "IN", "NOT IN"} or not all(
        one.isascii() and one.isdecimal() and len(one) <= 18 for one in asked
    ):
        raise Invalid("experiment_id is compared by =, !=, IN or NOT IN with numbers in quotes.")
    known = wire_id(experiments.c.is_default, experiments.c.id).in_([int(one) for one in asked])
    return ~known if condition.op in {"!=", "NOT IN"} else known


def _ordered(query: Select[Any], orders: list[tuple[str, bool]]) -> Select[Any]:
    for key, ascending in orders or [("created_at", False)]:
        column = experiments.c["id" if key == "experiment_id" else key]
        query = query.order_by(column if ascending else column.desc())
    return query.order_by(experiments.c.id.desc())


def _taken(name: str) -> Conflict:
    return Conflict(
        f"There is an experiment named {name!r} already (a deleted one keeps its name).",
        hint="Use another name, or restore the deleted one.",
        reason="experiment_exists",
    )
