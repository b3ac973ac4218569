"""The catalogue: making, changing, renaming and dropping tables.

A commit writes the new metadata file first and then, in one transaction, swaps the pointers of all its
tables, each only if it still points where the commit started from. Whoever is killed in between leaves
a metadata file that nothing points to, and whoever loses the race starts again from the new state:
either its requirements still hold there, or it is told so. A commit therefore happened or did not; it
is never in doubt.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, update
from sqlalchemy.exc import IntegrityError

from stratal.data.lake import held, iceberg, rows
from stratal.data.lake.files import Files, lake_bucket, pins
from stratal.data.lake.lent import lent_table, lent_tables, levels_of
from stratal.data.lake.model import (
    SEPARATOR,
    AddedSnapshot,
    Change,
    Facts,
    Loaded,
    Namespace,
    Place,
    TableInfo,
    TableName,
    check_namespace,
    check_table_name,
    creates_table,
    no_such_table,
    shared_to_read,
    split_location,
    table_exists,
)
from stratal.data.lake.namespaces import exists
from stratal.data.lake.tables import lakes, tables
from stratal.data.objects.model import BucketKind, Description
from stratal.data.objects.service import Objects
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.shares import end_shares, rename_shared
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Internal, Invalid, StratalError, Unavailable
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id, random_token
from stratal.ledger.lineage import Lineage
from stratal.ledger.past import Past, refused_in_past

log = logging.getLogger("stratal.lake")

_JSON = Description(content_type="application/json")
_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Definition:
    """A new table, its parts in Iceberg's JSON. `location` None: a folder of its own."""

    schema: Mapping[str, Any]
    partition_spec: Mapping[str, Any] | None = None
    sort_order: Mapping[str, Any] | None = None
    location: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """One table's part of a commit, ready to be swapped in."""

    table: TableInfo | None
    name: TableName
    table_id: str
    facts: Facts
    metadata_location: str
    snapshots: list[tuple[AddedSnapshot, str]]
    pins: Mapping[str, str]


class _Overtaken(Exception):
    """Another commit came between reading and swapping."""


class Catalog:
    def __init__(
        self, database: Database, objects: Objects, files: Files, lineage: Lineage, clock: Clock
    ) -> None:
        self._database = database
        self._objects = objects
        self._files = files
        self._lineage = lineage
        self._clock = clock

    # -- reading -----------------------------------------------------------------------------

    async def find(self, who: Principal, place: Place, name: TableName) -> TableInfo:
        """Raises `NotFound` (``no_such_table``)."""
        require(who, "tables.read", place.id)
        return await self._found(
            who, name, await self._database.read(lambda c: rows.find_table(c, place.id, name))
        )

    async def find_readable(self, who: Principal, place: Place, name: TableName) -> TableInfo:
        """A table of the project, or one that is shared with it. Raises `NotFound` (``no_such_table``)."""
        require(who, "tables.read", place.id)
        found = await self._database.read(
            lambda c: rows.find_table(c, place.id, name) or lent_table(c, place.id, name)
        )
        return await self._found(who, name, found)

    async def _found(self, who: Principal, name: TableName, info: TableInfo | None) -> TableInfo:
        if info is None:
            raise no_such_table(name)
        past = await self._lineage.pasts.of(who)
        return info if past is None else held.as_shown(past, info)

    async def load(self, who: Principal, place: Place, name: TableName) -> Loaded:
        """The table with its metadata; also one that is shared with the project. Raises `NotFound`."""
        info = await self.find_readable(who, place, name)
        return held.metadata_as_shown(await self._loaded(info))

    async def all(self, who: Principal, place: Place, namespace: Namespace | None = None) -> list[TableInfo]:
        """The project's tables by name. Raises `NotFound` for a namespace that is not there."""
        require(who, "tables.read", place.id)
        return await self._as_shown(
            who, await self._database.read(lambda c: rows.tables_in(c, place.id, namespace))
        )

    async def readable(
        self, who: Principal, place: Place, namespace: Namespace | None = None
    ) -> list[TableInfo]:
        """As `all`, and then the tables that are shared with the project and that it has none of that name itself."""
        require(who, "tables.read", place.id)

        def work(connection: Connection) -> list[TableInfo]:
            others = lent_tables(connection, place.id)
            if namespace is not None:
                spaces = levels_of(others)
                others = [info for info in others if info.name.namespace == namespace]
                if namespace in spaces and not exists(connection, place.id, namespace):
                    return others
            own = rows.tables_in(connection, place.id, namespace)
            taken = {info.name for info in own}
            return own + [info for info in others if info.name not in taken]

        return await self._as_shown(who, await self._database.read(work))

    async def _as_shown(self, who: Principal, found: list[TableInfo]) -> list[TableInfo]:
        past = await self._lineage.pasts.of(who)
        return found if past is None else [held.as_shown(past, info) for info in found]

    async def _loaded(self, info: TableInfo) -> Loaded:
        _, data = await self._files.read_location(Place(info.project_id, ""), info.metadata_location)
        return Loaded(info, data)

    # -- making ------------------------------------------------------------------------------

    async def create(
        self, who: Principal, place: Place, name: TableName, definition: Definition, *, stage: bool = False
    ) -> Loaded:
        """Make an empty table; with `stage` only say what it would be, for a commit that creates it.

        Raises `NotFound` (namespace), `Conflict` (``table_exists``), `Invalid`.
        """
        require(who, "tables.write", place.id)
        check_namespace(name.namespace)
        check_table_name(name.name)
        await self._database.read(lambda c: rows.check_free(c, place, name))
        if await self._lineage.pasts.of(who) is not None:
            raise refused_in_past("make a table")
        bucket = await self.ensure_bucket(who, place)
        location = definition.location or self.new_location(bucket, name)
        facts = await iceberg.create(
            location=location,
            schema=definition.schema,
            partition_spec=definition.partition_spec,
            sort_order=definition.sort_order,
            properties=definition.properties,
        )
        await self._check_places(place, bucket, facts.location, *facts.paths)
        if stage:
            return Loaded(_staged(place, name, facts, self._clock()), facts.data)
        prepared = _Prepared(None, name, new_id("tbl"), facts, await self._store(who, facts, 0), [], {})
        try:
            (info,) = await asyncio.shield(self._swap_or_discard(who, place, [prepared]))
        except _Overtaken as error:
            raise table_exists(name) from error
        return Loaded(info, facts.data)

    async def ensure_bucket(self, who: Principal, place: Place) -> str:
        """The project's lake bucket, made with its first table."""
        bucket = await self._files.bucket(place)
        if bucket is not None:
            return bucket
        slug = re.sub(r"[^a-z0-9]+", "-", place.name.lower())[:40].strip("-")
        name = "-".join(part for part in ("lake", slug, re.sub(r"[^a-z0-9]", "", place.id)[-6:]) if part)
        try:
            await self._objects.create_bucket(who, name, project_id=place.id, kind=BucketKind.LAKE)
        except Conflict as error:
            if error.reason != "bucket_owned":
                name = f"{name}-{random_token(8)}"
                await self._objects.create_bucket(who, name, project_id=place.id, kind=BucketKind.LAKE)

        def work(connection: Connection) -> str:
            known = lake_bucket(connection, place.id)
            if known is None:
                connection.execute(lakes.insert().values(project_id=place.id, bucket=name))
            return known or name

        return await self._database.write(work)

    async def _check_places(self, place: Place, bucket: str, *locations: str) -> None:
        """A table lies in its project's lake bucket alone. Raises `Invalid`, or `Denied` for what is not the project's."""
        for location in locations:
            parts = split_location(location)
            if parts is None or parts[0] != bucket or not location.startswith("s3://"):
                raise await self._files.misplaced(
                    place,
                    location,
                    f"{location[:300]!r} is no place for a table of this project.",
                    hint=f"Leave the location out, or begin it with s3://{bucket}/" if bucket else "",
                    reason="bad_location",
                )

    def new_location(self, bucket: str, name: TableName) -> str:
        """A folder that no table had before, readable and made of characters that every client's paths can take."""
        parts = [re.sub(r"[^A-Za-z0-9_-]+", "_", part)[:60] for part in (*name.namespace, name.name)]
        return f"s3://{bucket}/{'/'.join(parts)}-{random_token(10)}"

    async def register(
        self,
        who: Principal,
        place: Place,
        name: TableName,
        metadata_location: str,
        *,
        overwrite: bool = False,
    ) -> Loaded:
        """Make a table of a metadata file that lies in the project's lake bucket; with `overwrite` in place of
        the table of that name. Raises `NotFound`, `Conflict`, `Invalid`."""
        require(who, "tables.write", place.id)
        check_namespace(name.namespace)
        check_table_name(name.name)
        bucket = await self._files.bucket(place) or ""  # without one the file cannot be in it
        await self._check_places(place, bucket, metadata_location)
        _, data = await self._files.read_location(place, metadata_location)
        facts = await iceberg.load(data)
        await self._check_places(place, bucket, facts.location, *facts.paths)
        if await self._lineage.pasts.of(who) is not None:
            raise refused_in_past("register a table")
        present = await self._database.read(lambda c: rows.find_table(c, place.id, name))
        if present is not None and not overwrite:
            raise table_exists(name)
        # The other table's history is not this one's, even under its name.
        table_id = present.id if present and present.uuid == facts.uuid else new_id("tbl")
        added, found = await self._pin(place, table_id, facts)
        prepared = _Prepared(
            present if present and present.id == table_id else None,
            name, table_id, facts, metadata_location, added, found,
        )  # fmt: skip
        replaced = present if present and present.id != table_id else None
        try:
            (info,) = await self._swap(who, place, [prepared], replaced=replaced)
        except _Overtaken as error:
            raise Conflict("Another commit came first.", hint="Try again.", reason="commit_failed") from error
        return Loaded(info, data)

    # -- changing ----------------------------------------------------------------------------

    async def commit(
        self,
        who: Principal,
        place: Place,
        changes: Sequence[Change],
        *,
        also: Callable[[Connection, list[TableInfo]], None] | None = None,
    ) -> list[Loaded]:
        """Apply all changes or none; returns the tables as they are then.

        `also` is further writing in the very transaction that swaps the pointers, given the tables as they are
        then: it happens if and only if the commit does, and what it raises undoes both.
        Raises `Conflict` (``commit_failed``) when a requirement does not hold, `NotFound`, `Invalid`; and
        `Unavailable` when something failed before the swap: nothing has changed then either.
        """
        require(who, "tables.write", place.id)
        if len({change.table for change in changes}) != len(changes):
            raise Invalid("A commit can name each table once.", reason="bad_commit")
        past = await self._lineage.pasts.of(who)
        if past is not None:
            return await self._commit_aside(who, place, changes, past, also)
        # Shielded: who waits may be cancelled, but whether the swap happened must be known before anything is removed.
        return await asyncio.shield(self._commit(who, place, changes, also))

    async def _commit_aside(
        self,
        who: Principal,
        place: Place,
        changes: Sequence[Change],
        past: Past,
        also: Callable[[Connection, list[TableInfo]], None] | None,
    ) -> list[Loaded]:
        """The commit of a workload that is held to a past: to branches of its own, which it is shown from now on.

        Raises `Conflict` (``held_to_past``) for what would make a table.
        """
        if any(creates_table(change.requirements) for change in changes):
            raise refused_in_past("make a table")
        diverted = [held.aside(past, change) for change in changes]
        loaded = await asyncio.shield(self._commit(who, place, diverted, also))
        new = held.left(changes)
        shown: list[Loaded] = []
        for one in loaded:
            if str(one.info.name) in new:
                version = held.version(one.info, new[str(one.info.name)])
                await self._lineage.pasts.show(past, place.id, "snapshot", str(one.info.name), version)
            shown.append(held.metadata_as_shown(Loaded(held.as_shown(past, one.info), one.metadata)))
        return shown

    async def _commit(
        self,
        who: Principal,
        place: Place,
        changes: Sequence[Change],
        also: Callable[[Connection, list[TableInfo]], None] | None,
    ) -> list[Loaded]:
        for _ in range(_ATTEMPTS):
            prepared, unchanged = await self._prepare(who, place, changes)
            try:
                infos = await self._swap_or_discard(who, place, list(prepared.values()), also)
            except _Overtaken:
                continue
            done = {info.name: Loaded(info, prepared[info.name].facts.data) for info in infos}
            return [done.get(change.table) or unchanged[change.table] for change in changes]
        raise Conflict(
            "Other commits kept coming first.", hint="Reload the table and try again.", reason="commit_failed"
        )

    async def _prepare(
        self, who: Principal, place: Place, changes: Sequence[Change]
    ) -> tuple[dict[TableName, _Prepared], dict[TableName, Loaded]]:
        prepared: dict[TableName, _Prepared] = {}
        unchanged: dict[TableName, Loaded] = {}
        try:
            for change in changes:
                one = await self._prepare_one(who, place, change)
                if isinstance(one, Loaded):
                    unchanged[change.table] = one
                else:
                    prepared[change.table] = one
        except BaseException as error:
            await self._discard(who, prepared.values())
            if isinstance(error, StratalError) and not isinstance(error, Internal):
                raise
            if not isinstance(error, Exception):
                raise
            log.exception("a commit could not be prepared")
            raise Unavailable(
                f"The commit was not made: {error}. Nothing has changed.", hint="Try again."
            ) from error
        return prepared, unchanged

    async def _prepare_one(self, who: Principal, place: Place, change: Change) -> "_Prepared | Loaded":
        table, others = await self._database.read(
            lambda c: (
                rows.find_table(c, place.id, change.table),
                lent_table(c, place.id, change.table),
            )
        )
        if table is None and others is not None:
            raise shared_to_read(change.table)
        if table is None and not creates_table(change.requirements):
            raise no_such_table(change.table)
        if table is None:
            check_namespace(change.table.namespace)
            check_table_name(change.table.name)
            await self._database.read(lambda c: rows.check_free(c, place, change.table))
        bucket = await self.ensure_bucket(who, place)
        base = (await self._loaded(table)).metadata if table is not None else None
        facts = await iceberg.apply(
            base, table.metadata_location if table else None, change.requirements, change.updates
        )
        if facts is None:
            assert table is not None
            assert base is not None
            return Loaded(table, base)
        await self._check_places(place, bucket, facts.location, *facts.paths)
        table_id = table.id if table else new_id("tbl")
        added, found = await self._pin(place, table_id, facts)
        stored = await self._store(who, facts, table.version + 1 if table else 0)
        return _Prepared(table, change.table, table_id, facts, stored, added, found)

    async def _pin(
        self, place: Place, table_id: str, facts: Facts
    ) -> tuple[list[tuple[AddedSnapshot, str]], dict[str, str]]:
        """Find the object versions of what new snapshots name. Raises `Invalid` when a file of theirs is missing."""
        known = await self._database.read(lambda c: rows.known_snapshots(c, table_id))
        added: list[tuple[AddedSnapshot, str]] = []
        found: dict[str, str] = {}
        for snapshot in facts.snapshots:
            if snapshot.snapshot_id in known:
                continue
            version, data = await self._files.read_location(place, snapshot.manifest_list)
            added.append((snapshot, version.id))
            manifests = await iceberg.read_list(data, snapshot.manifest_list)
            fresh = await self._unpinned(table_id, [m.location for m in manifests], found)
            bodies = []
            for manifest in manifests:
                if manifest.location in fresh:
                    version, body = await self._files.read_location(place, manifest.location)
                    found[manifest.location] = version.id
                    bodies.append((manifest, body))
            named = await iceberg.read_files(bodies, None)
            new = await self._unpinned(table_id, [f.location for f in named], found)
            versions = await self._files.current(place, new)
            missing = next((location for location in new if location not in versions), None)
            if missing is not None:
                raise await self._files.misplaced(
                    place,
                    missing,
                    f"The commit names {missing[:300]}, which is no object of this project.",
                    hint="A table's files lie in buckets of its own project.",
                    reason="no_such_file",
                )
            found |= {location: version.id for location, version in versions.items()}
        return added, found

    async def _unpinned(self, table_id: str, locations: list[str], found: Mapping[str, str]) -> list[str]:
        wanted = [location for location in dict.fromkeys(locations) if location not in found]
        known = await self._database.read(lambda c: pins(c, table_id, wanted))
        return [location for location in wanted if location not in known]

    async def _store(self, who: Principal, facts: Facts, version: int) -> str:
        location = f"{facts.location}/metadata/{version:05d}-{uuid4()}.metadata.json"
        bucket, key = _split(location)
        await self._objects.put_bytes(who, bucket, key, facts.data, description=_JSON)
        return location

    async def _discard(self, who: Principal, prepared: Iterable[_Prepared]) -> None:
        """Remove metadata files that nothing will point to; one that stays behind does no harm."""
        for one in prepared:
            bucket, key = _split(one.metadata_location)
            try:
                await self._objects.delete(who, bucket, key)
            except Exception:
                log.warning("could not remove the unused %s", one.metadata_location)

    async def _swap_or_discard(
        self,
        who: Principal,
        place: Place,
        prepared: Sequence[_Prepared],
        also: Callable[[Connection, list[TableInfo]], None] | None = None,
    ) -> list[TableInfo]:
        """Swap; when that was refused, remove the metadata files that were written for it."""
        try:
            infos = await self._swap(who, place, prepared, also=also)
        except Exception:
            await self._discard(who, prepared)
            raise
        return infos

    async def _swap(
        self,
        who: Principal,
        place: Place,
        prepared: Sequence[_Prepared],
        *,
        replaced: TableInfo | None = None,
        also: Callable[[Connection, list[TableInfo]], None] | None = None,
    ) -> list[TableInfo]:
        """The transaction of a commit. Raises `_Overtaken`, `Conflict`, `NotFound`, `Invalid`."""

        def work(connection: Connection) -> list[TableInfo]:
            now = self._clock()
            if replaced is not None:
                _mark_dropped(connection, replaced, now, purge=False)
                end_shares(connection, "table", replaced.id, who.actor)
            done: list[TableInfo] = []
            for one in prepared:
                rows.check_location_free(connection, place.id, one.facts.location, one.table_id)
                if one.table is None:
                    rows.check_free(connection, place, one.name)
                    rows.insert_table(
                        connection, who, place, one.name, one.table_id, one.facts, one.metadata_location, now
                    )
                    self._tell(connection, who, place, "table.created", one.table_id, one.name)
                elif not rows.swap_metadata(connection, one.table, one.facts, one.metadata_location, now):
                    raise _Overtaken
                rows.insert_snapshots(connection, who, one.table_id, one.snapshots, one.pins, now)
                for snapshot, _ in one.snapshots:
                    emit(
                        connection, "table.committed", one.table_id, actor=who.actor, project_id=place.id,
                        name=str(one.name), snapshot_id=str(snapshot.snapshot_id), operation=snapshot.operation,
                    )  # fmt: skip
                info = rows.find_table(connection, place.id, one.name)
                assert info is not None
                done.append(info)
            if also is not None:
                also(connection, done)
            return done

        try:
            infos = await self._database.write(work)
        except IntegrityError as error:  # the name was taken, or the very snapshot recorded, in between
            raise _Overtaken from error
        await self._record(who, place, prepared)
        return infos

    async def _record(self, who: Principal, place: Place, prepared: Sequence[_Prepared]) -> None:
        """The edges of what a workload wrote. They repeat what the snapshots' rows say, so failing here fails nothing."""
        try:
            for one in prepared:
                for snapshot, _ in one.snapshots:
                    await self._lineage.record(
                        who, "write", "snapshot", f"{one.table_id}@{snapshot.snapshot_id}",
                        project_id=place.id, name=str(one.name),
                    )  # fmt: skip
        except Exception:
            log.exception("a commit of %s could not be recorded in the lineage", who.actor)

    # -- renaming and dropping -----------------------------------------------------------------

    async def rename(self, who: Principal, place: Place, source: TableName, target: TableName) -> None:
        """Raises `NotFound` (table, or the target's namespace), `Conflict` (``table_exists``)."""
        require(who, "tables.write", place.id)
        if await self._lineage.pasts.of(who) is not None:
            raise refused_in_past("rename a table")
        check_namespace(target.namespace)
        check_table_name(target.name)

        def work(connection: Connection) -> None:
            info = rows.find_table(connection, place.id, source)
            if info is None:
                raise _not_own(connection, place, source)
            rows.check_free(connection, place, target)
            connection.execute(
                update(tables)
                .where(tables.c.id == info.id)
                .values(
                    namespace=SEPARATOR.join(target.namespace), name=target.name, updated_at=self._clock()
                )
            )
            rename_shared(connection, "table", info.id, str(target))
            self._tell(connection, who, place, "table.renamed", info.id, target, before=str(source))

        await self._database.write(work)

    async def drop(self, who: Principal, place: Place, name: TableName, *, purge: bool) -> TableInfo:
        """Take the table out of the catalogue; `purge` marks its bytes for removal (see `lake.Lake`).

        Raises `NotFound`.
        """
        require(who, "tables.write", place.id)
        if await self._lineage.pasts.of(who) is not None:
            raise refused_in_past("drop a table")

        def work(connection: Connection) -> TableInfo:
            info = rows.find_table(connection, place.id, name)
            if info is None:
                raise _not_own(connection, place, name)
            _mark_dropped(connection, info, self._clock(), purge=purge)
            end_shares(connection, "table", info.id, who.actor)
            self._tell(connection, who, place, "table.dropped", info.id, name, purge=purge)
            return info

        return await self._database.write(work)

    def _tell(
        self,
        connection: Connection,
        who: Principal,
        place: Place,
        kind: str,
        table_id: str,
        name: TableName,
        **data: object,
    ) -> None:
        emit(connection, kind, table_id, actor=who.actor, project_id=place.id, name=str(name), **data)


def _not_own(connection: Connection, place: Place, name: TableName) -> StratalError:
    shared = lent_table(connection, place.id, name) is not None
    return shared_to_read(name) if shared else no_such_table(name)


def _mark_dropped(connection: Connection, table: TableInfo, now: int, *, purge: bool) -> None:
    connection.execute(
        update(tables).where(tables.c.id == table.id).values(dropped_at=now, purging=1 if purge else 0)
    )


def _split(location: str) -> tuple[str, str]:
    parts = split_location(location)
    assert parts is not None
    return parts


def _staged(place: Place, name: TableName, facts: Facts, now: int) -> TableInfo:
    return TableInfo(
        id="",
        project_id=place.id,
        name=name,
        uuid=facts.uuid,
        location=facts.location,
        metadata_location="",
        version=0,
        snapshot_id=None,
        row_count=0,
        byte_count=0,
        file_count=0,
        fields=facts.fields,
        created_at=now,
        created_by="",
        updated_at=now,
        dropped_at=None,
    )
