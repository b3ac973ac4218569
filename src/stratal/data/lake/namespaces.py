"""Namespaces: what tables are grouped by. They nest; making ``a.b`` makes ``a`` too."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Column, Connection, Select, delete, func, insert, select, update

from stratal.data.lake.model import (
    SEPARATOR,
    Namespace,
    NamespaceInfo,
    Place,
    check_namespace,
    no_such_namespace,
)
from stratal.data.lake.tables import namespaces, tables
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id

_MAX_PROPERTIES_BYTES = 64 * 1024


class Namespaces:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(
        self, who: Principal, place: Place, name: Namespace, properties: Mapping[str, str]
    ) -> NamespaceInfo:
        """Make a namespace and those above it. Raises `Conflict` (``namespace_exists``), `Invalid` (``bad_name``)."""
        require(who, "tables.write", place.id)
        check_namespace(name)
        text = _properties(properties)

        def work(connection: Connection) -> None:
            if exists(connection, place.id, name):
                raise Conflict(f"There is a namespace {'.'.join(name)!r} already.", reason="namespace_exists")
            self.ensure(connection, who, place, name, text)

        await self._database.write(work)
        return NamespaceInfo(name, dict(properties))

    def ensure(
        self, connection: Connection, who: Principal, place: Place, name: Namespace, properties: str = "{}"
    ) -> None:
        """Make the namespace and those above it where missing, in the caller's transaction."""
        for depth in range(1, len(name) + 1):
            level = name[:depth]
            if exists(connection, place.id, level):
                continue
            connection.execute(
                insert(namespaces).values(
                    id=new_id("nsp"),
                    project_id=place.id,
                    name=SEPARATOR.join(level),
                    properties=properties if level == name else "{}",
                    created_at=self._clock(),
                    created_by=who.actor,
                )
            )
            emit(
                connection,
                "namespace.created",
                ".".join(level),
                actor=who.actor,
                project_id=place.id,
                name=".".join(level),
            )

    async def below(self, who: Principal, place: Place, parent: Namespace = ()) -> list[Namespace]:
        """The namespaces directly below `parent` (default: the topmost), by name. Raises `NotFound`."""
        require(who, "tables.read", place.id)

        def work(connection: Connection) -> list[Namespace]:
            if parent and not exists(connection, place.id, parent):
                raise no_such_namespace(parent)
            names = connection.execute(
                select(namespaces.c.name)
                .where(namespaces.c.project_id == place.id)
                .order_by(namespaces.c.name)
            ).scalars()
            split = [tuple(name.split(SEPARATOR)) for name in names]
            return [name for name in split if len(name) == len(parent) + 1 and name[: len(parent)] == parent]

        return await self._database.read(work)

    async def exists(self, who: Principal, place: Place, name: Namespace) -> bool:
        require(who, "tables.read", place.id)
        return await self._database.read(lambda c: exists(c, place.id, name))

    async def get(self, who: Principal, place: Place, name: Namespace) -> NamespaceInfo:
        """Raises `NotFound` (``no_such_namespace``)."""
        require(who, "tables.read", place.id)
        text = await self._database.read(
            lambda c: c.execute(_row(place.id, name, namespaces.c.properties)).scalar()
        )
        if text is None:
            raise no_such_namespace(name)
        return NamespaceInfo(name, orjson.loads(text))

    async def drop(self, who: Principal, place: Place, name: Namespace) -> None:
        """Remove an empty namespace. Raises `NotFound`, `Conflict` (``namespace_not_empty``)."""
        require(who, "tables.write", place.id)
        text = SEPARATOR.join(name)

        def work(connection: Connection) -> None:
            if not exists(connection, place.id, name):
                raise no_such_namespace(name)
            held = connection.execute(
                select(func.count())
                .select_from(tables)
                .where(
                    tables.c.project_id == place.id, tables.c.namespace == text, tables.c.dropped_at.is_(None)
                )
            ).scalar_one()
            below = connection.execute(
                select(func.count())
                .select_from(namespaces)
                .where(
                    namespaces.c.project_id == place.id,
                    func.substr(namespaces.c.name, 1, len(text) + 1) == text + SEPARATOR,
                )
            ).scalar_one()
            if held or below:
                raise Conflict(
                    f"The namespace {'.'.join(name)!r} is not empty: it holds {held} tables and {below} namespaces.",
                    hint="Drop these first.",
                    reason="namespace_not_empty",
                )
            connection.execute(
                delete(namespaces).where(namespaces.c.project_id == place.id, namespaces.c.name == text)
            )
            emit(
                connection,
                "namespace.dropped",
                ".".join(name),
                actor=who.actor,
                project_id=place.id,
                name=".".join(name),
            )

        await self._database.write(work)

    async def set_properties(
        self,
        who: Principal,
        place: Place,
        name: Namespace,
        *,
        removals: Sequence[str],
        updates: Mapping[str, str],
    ) -> tuple[list[str], list[str], list[str]]:
        """Change properties; returns the keys (updated, removed, missing). Raises `NotFound`, `Invalid`."""
        require(who, "tables.write", place.id)
        both = set(removals) & set(updates)
        if both:
            raise Invalid(
                f"Properties cannot be removed and set at once: {', '.join(sorted(both))[:200]}.",
                reason="unprocessable",
            )

        def work(connection: Connection) -> tuple[list[str], list[str], list[str]]:
            text = connection.execute(_row(place.id, name, namespaces.c.properties)).scalar()
            if text is None:
                raise no_such_namespace(name)
            present: dict[str, str] = orjson.loads(text)
            removed = [key for key in removals if key in present]
            missing = [key for key in removals if key not in present]
            kept = {key: value for key, value in present.items() if key not in removed} | dict(updates)
            connection.execute(
                update(namespaces)
                .where(namespaces.c.project_id == place.id, namespaces.c.name == SEPARATOR.join(name))
                .values(properties=_properties(kept))
            )
            return list(updates), removed, missing

        return await self._database.write(work)


def exists(connection: Connection, project_id: str, name: Namespace) -> bool:
    return connection.execute(_row(project_id, name, namespaces.c.id)).scalar() is not None


def _row(project_id: str, name: Namespace, column: Column[str]) -> Select[Any]:
    return select(column).where(
        namespaces.c.project_id == project_id, namespaces.c.name == SEPARATOR.join(name)
    )


def _properties(properties: Mapping[str, str]) -> str:
    text = orjson.dumps(dict(properties)).decode()
    if len(text) > _MAX_PROPERTIES_BYTES:
        raise Invalid("The namespace's properties are over 64 KiB.", reason="bad_properties")
    return text
