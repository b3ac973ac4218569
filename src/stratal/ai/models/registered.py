"""Registered models: the names under which versions are kept, their tags and aliases."""

import posixpath
import re
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from stratal.ai.models.lent import home_of, model_as_lent
from stratal.ai.models.model import RegisteredModel
from stratal.ai.models.pinning import PROMPT_TAG
from stratal.ai.models.registry import Models
from stratal.ai.models.rows import find_model, find_version, model_of, with_versions
from stratal.ai.models.tables import (
    model_aliases,
    model_versions,
    registered_model_tags,
    registered_models,
)
from stratal.collab.artifacts import rename_root
from stratal.collab.conditions import compare
from stratal.collab.model import Page
from stratal.collab.rules import check_tag_key, check_text, check_value
from stratal.collab.search import Condition, Entity, Grammar, offset_of, page_token, parse_filter, parse_order
from stratal.collab.upsert import upsert
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.shares import end_shares, rename_shared
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.ledger.past import refused_in_past

MAX_PAGE = 1000
MAX_NAME = 250

_ALIAS = re.compile(r"[\w\-]{1,255}\Z")
_RESERVED_ALIAS = re.compile(r"(latest|v\d+)\Z", re.IGNORECASE)
_GRAMMAR = Grammar(
    frozenset({Entity.ATTRIBUTE, Entity.TAG}),
    text={"name": "name"},
    numbers={},
    order_only={
        "creation_timestamp": "created_at",
        "timestamp": "updated_at",
        "last_updated_timestamp": "updated_at",
    },
)


class RegisteredModels:
    def __init__(self, database: Database, versions: Models, clock: Clock) -> None:
        self._database = database
        self._versions = versions
        self._clock = clock

    async def create(
        self, who: Principal, project_id: str, name: str, *, description: str = "", tags: dict[str, str]
    ) -> RegisteredModel:
        """Take a name. Raises `Conflict` when it is taken."""
        require(who, "models.write", project_id)
        check_model_name(name)
        check_value("the description", description)
        for key, value in tags.items():
            check_value(f"tag {check_tag_key(key)!r}", value)
        if await self._versions.in_past(who):
            await self.get(who, project_id, name)  # a name that was taken then is taken
            raise _taken(name)
        now = self._clock()
        made = RegisteredModel(new_id("mod"), project_id, name, description, now, now, who.actor, tags)

        def work(connection: Connection) -> None:
            connection.execute(
                insert(registered_models).values(
                    id=made.id,
                    project_id=project_id,
                    name=name,
                    description=description,
                    last_version=0,
                    created_at=now,
                    updated_at=now,
                    created_by=who.actor,
                )
            )
            rows = [{"model_id": made.id, "key": key, "value": value} for key, value in tags.items()]
            upsert(connection, registered_model_tags, rows, ("model_id", "key"))
            emit(connection, "model.created", made.id, actor=who.actor, project_id=project_id, name=name)

        try:
            await self._database.write(work)
        except IntegrityError as error:
            raise _taken(name) from error
        return made

    async def get(self, who: Principal, project_id: str, name: str) -> RegisteredModel:
        """The model with its aliases and the newest version of each stage; also a shared one. Raises `NotFound`."""
        require(who, "models.read", project_id)

        def work(connection: Connection) -> RegisteredModel:
            place, there = home_of(connection, project_id, name)
            found = with_versions(connection, [find_model(connection, place, there)])[0]
            return found if place == project_id else model_as_lent(found, name)

        return await self._database.read(work)

    async def rename(self, who: Principal, project_id: str, name: str, new_name: str) -> RegisteredModel:
        """Give a model another name. Its versions' ids, which lineage refers to, stay."""
        require(who, "models.write", project_id)
        check_model_name(new_name)
        if await self._versions.in_past(who):
            raise refused_in_past("rename a model")

        def work(connection: Connection) -> RegisteredModel:
            model = find_model(connection, project_id, name)
            self._touch(connection, model, name=new_name)
            rename_shared(connection, "model", model.id, new_name)
            of_model = model_versions.c.model_id == model.id
            connection.execute(update(model_versions).where(of_model).values(name=new_name))
            rows = connection.execute(select(model_versions.c.id, model_versions.c.version).where(of_model))
            for row in rows.all():
                rename_root(connection, row.id, f"{new_name}/{row.version}")
            emit(
                connection,
                "model.renamed",
                model.id,
                actor=who.actor,
                project_id=project_id,
                name=new_name,
                old_name=name,
            )
            return with_versions(connection, [find_model(connection, project_id, new_name)])[0]

        try:
            return await self._database.write(work)
        except IntegrityError as error:
            raise _taken(new_name) from error

    async def describe(self, who: Principal, project_id: str, name: str, description: str) -> RegisteredModel:
        require(who, "models.write", project_id)
        check_value("the description", description)
        if await self._versions.in_past(who):
            return await self.get(who, project_id, name)

        def work(connection: Connection) -> RegisteredModel:
            model = find_model(connection, project_id, name)
            self._touch(connection, model, description=description)
            return with_versions(connection, [find_model(connection, project_id, name)])[0]

        return await self._database.write(work)

    async def delete(self, who: Principal, project_id: str, name: str) -> None:
        """Remove a model and its versions; see `Models.delete` for what stays of them."""
        require(who, "models.write", project_id)
        if await self._versions.in_past(who):
            raise refused_in_past("delete a model")

        def work(connection: Connection) -> None:
            model = find_model(connection, project_id, name)
            numbers = connection.execute(
                select(model_versions.c.version).where(
                    model_versions.c.model_id == model.id, model_versions.c.deleted_at.is_(None)
                )
            )
            for number in list(numbers.scalars()):
                self._versions.delete_within(
                    connection, who, find_version(connection, project_id, name, number)
                )
            for table in (model_aliases, registered_model_tags):
                connection.execute(delete(table).where(table.c.model_id == model.id))
            end_shares(connection, "model", model.id, who.actor)
            connection.execute(delete(registered_models).where(registered_models.c.id == model.id))
            emit(connection, "model.deleted", model.id, actor=who.actor, project_id=project_id, name=name)

        await self._database.write(work)
        await self._versions.drop_released()

    async def set_tag(self, who: Principal, project_id: str, name: str, key: str, value: str) -> None:
        require(who, "models.write", project_id)
        check_value(f"tag {check_tag_key(key)!r}", value)
        if await self._versions.in_past(who):
            return

        def work(connection: Connection) -> None:
            model = find_model(connection, project_id, name)
            row = {"model_id": model.id, "key": key, "value": value}
            upsert(connection, registered_model_tags, [row], ("model_id", "key"))

        await self._database.write(work)

    async def delete_tag(self, who: Principal, project_id: str, name: str, key: str) -> None:
        """Remove a tag; one that is not there is fine."""
        require(who, "models.write", project_id)
        if await self._versions.in_past(who):
            return

        def work(connection: Connection) -> None:
            model = find_model(connection, project_id, name)
            connection.execute(
                delete(registered_model_tags).where(
                    registered_model_tags.c.model_id == model.id, registered_model_tags.c.key == key
                )
            )

        await self._database.write(work)

    async def set_alias(self, who: Principal, project_id: str, name: str, alias: str, version: str) -> None:
        """Point an alias at a version, moving it from the one it named. Raises `NotFound` without that one."""
        require(who, "models.write", project_id)
        check_alias(alias)
        if await self._versions.in_past(who):
            return

        def work(connection: Connection) -> None:
            model = find_model(connection, project_id, name)
            target = find_version(connection, project_id, name, version)
            row = {"model_id": model.id, "alias": alias, "version": target.version}
            upsert(connection, model_aliases, [row], ("model_id", "alias"))
            self._touch(connection, model)
            emit(
                connection,
                "model.aliased",
                target.id,
                actor=who.actor,
                project_id=project_id,
                name=name,
                alias=alias,
                version=target.version,
            )

        await self._database.write(work)

    async def delete_alias(self, who: Principal, project_id: str, name: str, alias: str) -> None:
        """Remove an alias; one that is not there is fine."""
        require(who, "models.write", project_id)
        if await self._versions.in_past(who):
            return

        def work(connection: Connection) -> None:
            model = find_model(connection, project_id, name)
            connection.execute(
                delete(model_aliases).where(
                    model_aliases.c.model_id == model.id, model_aliases.c.alias == alias
                )
            )

        await self._database.write(work)

    async def search(
        self,
        who: Principal,
        project_id: str,
        *,
        text: str = "",
        order_by: Sequence[str] = (),
        limit: int = 100,
        token: str = "",
    ) -> Page[RegisteredModel]:
        """The models a filter finds, by name unless ordered otherwise.

        Prompts are registered models too for MLflow, marked by a tag; only a filter on that tag finds them.
        """
        require(who, "models.read", project_id)
        if not 1 <= limit <= MAX_PAGE:
            raise Invalid(f"max_results must be between 1 and {MAX_PAGE}, not {limit}.")
        conditions = parse_filter(text, _GRAMMAR)
        if not any(c.entity is Entity.TAG and c.key == PROMPT_TAG for c in conditions):
            conditions.append(Condition(Entity.TAG, PROMPT_TAG, "!=", "true"))
        orders = parse_order(order_by, _GRAMMAR)
        offset = offset_of(token)

        def work(connection: Connection) -> Page[RegisteredModel]:
            query = select(registered_models).where(registered_models.c.project_id == project_id)
            for condition in conditions:
                query = query.where(_clause(condition, connection.dialect.name))
            for order in orders:
                column = registered_models.c[order.key]
                query = query.order_by(column if order.ascending else column.desc())
            query = query.order_by(registered_models.c.name).limit(limit + 1).offset(offset)
            rows = connection.execute(query).all()
            found = with_versions(connection, [model_of(row) for row in rows[:limit]])
            return Page(found, page_token(offset + limit) if len(rows) > limit else "")

        return await self._database.read(work)

    def _touch(self, connection: Connection, model: RegisteredModel, **values: str) -> None:
        connection.execute(
            update(registered_models)
            .where(registered_models.c.id == model.id)
            .values(updated_at=self._clock(), **values)
        )


def check_model_name(name: str) -> str:
    """Return `name` when it can name a registered model, else raise `Invalid`.

    At most 250 characters, no ``/``, ``:`` or ``@``, no control character, and not a path's ``.`` or ``..``.
    """
    if not name.strip():
        raise Invalid("A registered model needs a name.", reason="missing_value")
    odd = any(c in "/:@\\" or ord(c) < 32 or ord(c) == 127 for c in name)
    if odd or len(name) > MAX_NAME or posixpath.normpath(name) != name or name in {".", ".."}:
        raise Invalid(
            f"{name[:100]!r} cannot name a registered model.",
            hint=f"Use at most {MAX_NAME} characters, none of them '/', ':', '@' or a control character.",
            reason="bad_name",
        )
    return check_text("the name", name)


def check_alias(alias: str) -> str:
    """Return `alias` when it can be one: letters, digits, ``_`` and ``-``, not ``latest`` nor like ``v1``."""
    if not _ALIAS.match(alias):
        raise Invalid(
            f"{alias[:100]!r} cannot be an alias.",
            hint="Use 1 to 255 letters, digits, '_' or '-'.",
            reason="bad_name",
        )
    if _RESERVED_ALIAS.match(alias):
        raise Invalid(f"The alias {alias!r} is reserved.", reason="bad_name")
    return alias


def _clause(condition: Condition, dialect: str) -> ColumnElement[bool]:
    if condition.entity is Entity.ATTRIBUTE:
        return compare(registered_models.c[condition.key], condition, dialect)
    tags = registered_model_tags
    here = (tags.c.model_id == registered_models.c.id, tags.c.key == condition.key)
    if condition.op == "IS NULL":
        return ~exists().where(*here)
    if condition.op == "IS NOT NULL":
        return exists().where(*here)
    if condition.key == PROMPT_TAG and condition.op == "!=":
        return ~exists().where(*here, tags.c.value == condition.value)
    return exists().where(*here, compare(tags.c.value, condition, dialect))


def _taken(name: str) -> Conflict:
    return Conflict(
        f"There is a registered model {name!r} already.",
        hint="Register a new version of it instead.",
        reason="model_exists",
    )
