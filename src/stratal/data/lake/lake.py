"""The lake as others use it: one object with its parts, and the removal of dropped tables' bytes."""

import asyncio
import contextlib
import logging

from sqlalchemy import Connection, delete, select, update

from stratal.data.lake import rows
from stratal.data.lake.catalog import Catalog
from stratal.data.lake.files import Files, lake_bucket, reader
from stratal.data.lake.lent import lends, lent_tables, levels_of
from stratal.data.lake.model import (
    FileVerdict,
    Namespace,
    NamespaceInfo,
    Place,
    SnapshotFile,
    SnapshotInfo,
    TableInfo,
    TableName,
    split_location,
)
from stratal.data.lake.namespaces import Namespaces
from stratal.data.lake.snapshots import Snapshots
from stratal.data.lake.tables import lakes, namespaces, snapshots, table_files, tables
from stratal.data.objects.service import Objects
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.ledger.lineage import Lineage

log = logging.getLogger("stratal.lake")


class Lake:
    """`namespaces`, `catalog`, `snapshots` and `files` are its parts. `start` finishes purges that were cut off."""

    def __init__(self, database: Database, objects: Objects, lineage: Lineage, clock: Clock) -> None:
        self._database = database
        self._objects = objects
        self.files = Files(database, objects)
        self.namespaces = Namespaces(database, clock)
        self.catalog = Catalog(database, objects, self.files, lineage, clock)
        self.snapshots = Snapshots(database, objects, self.files)
        objects.lend(lends)
        self._resuming: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._resuming = asyncio.create_task(self._resume())

    async def close(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._resuming

    # -- namespaces, those of shared tables included --------------------------------------------

    async def namespaces_below(self, who: Principal, place: Place, parent: Namespace = ()) -> list[Namespace]:
        """The namespaces directly below `parent`: the project's, and those that shared tables are in. Raises `NotFound`."""
        shared = await self._shared_namespaces(who, place)
        own: list[Namespace] = []
        if parent not in shared or await self.namespaces.exists(who, place, parent):
            own = await self.namespaces.below(who, place, parent)
        deep = len(parent) + 1
        return sorted({*own, *(name for name in shared if len(name) == deep and name[:-1] == parent)})

    async def namespace(self, who: Principal, place: Place, name: Namespace) -> NamespaceInfo:
        """A namespace of the project, or one that shared tables are in. Raises `NotFound`."""
        shared = name in await self._shared_namespaces(who, place)
        if shared and not await self.namespaces.exists(who, place, name):
            return NamespaceInfo(name, {})
        return await self.namespaces.get(who, place, name)

    async def _shared_namespaces(self, who: Principal, place: Place) -> set[Namespace]:
        require(who, "tables.read", place.id)
        return levels_of(await self._database.read(lambda c: lent_tables(c, place.id)))

    # -- for explanations ----------------------------------------------------------------------

    async def snapshot_of_object(self, version_id: str) -> SnapshotInfo | None:
        """The snapshot whose manifest list is this object version; None when it is none's."""
        return await self.snapshots.of_object(version_id)

    async def by_id(self, table_id: str) -> TableInfo:
        """The table with that id, dropped or not. Whoever asks must have been authorised. Raises `NotFound`."""
        return await self.snapshots.table_by_id(table_id)

    async def snapshot(self, table_id: str, snapshot_id: int) -> SnapshotInfo:
        """One snapshot, expired or not. Raises `NotFound`."""
        return await self.snapshots.get(table_id, snapshot_id)

    async def snapshot_files(self, table: TableInfo, snapshot: SnapshotInfo) -> list[SnapshotFile]:
        """See `Snapshots.files`."""
        return await self.snapshots.files(table, snapshot)

    async def verify_snapshot(self, table_id: str, snapshot_id: int) -> list[FileVerdict]:
        """Hash every file of a snapshot now, also of a dropped table. Raises `NotFound` for what never was."""
        snapshot = await self.snapshots.get(table_id, snapshot_id)
        return await self.snapshots.verify(await self.by_id(table_id), snapshot)

    # -- dropping ------------------------------------------------------------------------------

    async def drop(self, who: Principal, place: Place, name: TableName, *, purge: bool) -> None:
        """Drop a table; with `purge` its objects are deleted when this returns, their bytes go at once after.

        Raises `NotFound`.
        """
        info = await self.catalog.drop(who, place, name, purge=purge)
        if purge:
            await asyncio.shield(self._purge_table(who, info))

    async def purge(self, project_id: str) -> None:
        """Forget everything of a project (its bytes go with its buckets). May be repeated."""

        def work(connection: Connection) -> None:
            inside = select(tables.c.id).where(tables.c.project_id == project_id)
            connection.execute(delete(table_files).where(table_files.c.table_id.in_(inside)))
            connection.execute(delete(snapshots).where(snapshots.c.table_id.in_(inside)))
            for table in (tables, namespaces, lakes):
                connection.execute(delete(table).where(table.c.project_id == project_id))

        await self._database.write(work)

    async def _resume(self) -> None:
        query = select(tables).where(tables.c.purging == 1)
        for row in await self._database.read(lambda c: c.execute(query).all()):
            info = rows.to_table(row)
            try:
                await self._purge_table(reader(Place(info.project_id, "")), info)
            except Exception:
                log.exception("the bytes of the dropped table %s could not be removed", info.id)

    async def _purge_table(self, who: Principal, info: TableInfo) -> None:
        """Remove what lies in the table's folder, and the files it named elsewhere in the lake that no other table names."""
        place = split_location(info.location + "/")
        assert place is not None
        bucket, prefix = place
        bucket_now = await self._database.read(lambda c: lake_bucket(c, info.project_id))
        if bucket_now == bucket:
            while keys := [o.key for o in (await self._objects.list(who, bucket, prefix=prefix)).objects]:
                await self._objects.delete_many(who, bucket, keys)
            await self._objects.delete_many(who, bucket, await self._strays(info, bucket))
        await self._database.write(
            lambda c: c.execute(update(tables).where(tables.c.id == info.id).values(purging=0))
        )

    async def _strays(self, info: TableInfo, bucket: str) -> list[str]:
        def work(connection: Connection) -> list[str]:
            others = (
                select(table_files.c.location)
                .join(tables, tables.c.id == table_files.c.table_id)
                .where(
                    tables.c.project_id == info.project_id,
                    tables.c.id != info.id,
                    tables.c.dropped_at.is_(None),
                )
            )
            return list(
                connection.execute(
                    select(table_files.c.location).where(
                        table_files.c.table_id == info.id, table_files.c.location.not_in(others)
                    )
                ).scalars()
            )

        found = [split_location(location) for location in await self._database.read(work)]
        return [parts[1] for parts in found if parts is not None and parts[0] == bucket]
