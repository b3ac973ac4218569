"""Snapshots: which there are, which files each has, and whether these are still the bytes that were committed."""

from dataclasses import replace

from sqlalchemy import Connection, select

from stratal.data.lake import iceberg, rows
from stratal.data.lake.files import Files
from stratal.data.lake.model import (
    FileVerdict,
    Place,
    SnapshotFile,
    SnapshotInfo,
    TableInfo,
    no_such_table,
)
from stratal.data.lake.tables import snapshots, tables
from stratal.data.objects.service import Objects
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound


class Snapshots:
    def __init__(self, database: Database, objects: Objects, files: Files) -> None:
        self._database = database
        self._objects = objects
        self._files = files

    # -- which there are ---------------------------------------------------------------------

    async def of_table(self, table: TableInfo) -> list[SnapshotInfo]:
        """Every snapshot ever committed to a table that the caller may read, newest first; expired ones too."""
        query = (
            select(snapshots)
            .where(snapshots.c.table_id == table.id)
            .order_by(
                snapshots.c.committed_at.desc(),
                snapshots.c.made_at.desc(),
                snapshots.c.sequence_number.desc(),
            )
        )
        found = await self._database.read(lambda c: c.execute(query).all())
        return [rows.to_snapshot(row, table.snapshot_id) for row in found]

    async def table_by_id(self, table_id: str) -> TableInfo:
        """The table with that id, dropped or not. Whoever asks must have been authorised. Raises `NotFound`."""
        row = await self._database.read(
            lambda c: c.execute(select(tables).where(tables.c.id == table_id)).one_or_none()
        )
        if row is None:
            raise NotFound(f"There is no table with the id {table_id[:60]!r}.", reason="no_such_table")
        return rows.to_table(row)

    async def get(self, table_id: str, snapshot_id: int) -> SnapshotInfo:
        """Raises `NotFound` (``no_such_snapshot``)."""

        def work(connection: Connection) -> SnapshotInfo | None:
            current = connection.execute(select(tables.c.snapshot_id).where(tables.c.id == table_id)).scalar()
            row = connection.execute(
                select(snapshots).where(
                    snapshots.c.table_id == table_id, snapshots.c.snapshot_id == snapshot_id
                )
            ).one_or_none()
            return None if row is None else rows.to_snapshot(row, current)

        found = await self._database.read(work)
        if found is None:
            raise NotFound(f"There is no snapshot {snapshot_id} of this table.", reason="no_such_snapshot")
        return found

    async def of_object(self, version_id: str) -> SnapshotInfo | None:
        """The snapshot whose manifest list is this object version: whoever read it was reading that snapshot."""
        query = (
            select(snapshots, tables.c.snapshot_id.label("current"))
            .join(tables, tables.c.id == snapshots.c.table_id)
            .where(snapshots.c.manifest_list_version == version_id)
            .order_by(snapshots.c.committed_at)
            .limit(1)
        )
        row = await self._database.read(lambda c: c.execute(query).one_or_none())
        return None if row is None else rows.to_snapshot(row, row.current)

    # -- which files they have ---------------------------------------------------------------

    async def files(
        self, table: TableInfo, snapshot: SnapshotInfo, *, metadata: bytes | None = None
    ) -> list[SnapshotFile]:
        """Every file of the snapshot: its manifest list, its manifests, its live data and delete files.

        Each with the object version it was when it was committed. With `metadata` (the table's) partitions
        are told too. Raises `NotFound` when bytes of a manifest are gone, `Invalid` when they are broken.
        """
        place = Place(table.project_id, "")
        listed = SnapshotFile("manifest list", snapshot.manifest_list, snapshot.version_id, format="avro")
        version = await self._objects.by_id(snapshot.version_id)
        if version is None:
            raise NotFound(f"The manifest list of snapshot {snapshot.snapshot_id} is gone.")
        manifests = await iceberg.read_list(await self._files.read(place, version), snapshot.manifest_list)
        versions = await self._files.pinned(table.id, [m.location for m in manifests])
        bodies = []
        found = [listed]
        for manifest in manifests:
            version = versions.get(manifest.location)
            if version is None:
                raise Invalid(f"{manifest.location} was not recorded with its commit.", reason="bad_manifest")
            found.append(
                SnapshotFile("manifest", manifest.location, version.id, size=version.size, format="avro")
            )
            bodies.append((manifest, await self._files.read(place, version)))
        named = await iceberg.read_files(bodies, metadata)
        pinned = await self._files.pinned(table.id, [file.location for file in named])
        return found + [
            replace(file, version_id=pinned[file.location].id if file.location in pinned else None)
            for file in named
        ]

    async def verify(self, table: TableInfo, snapshot: SnapshotInfo) -> list[FileVerdict]:
        """Hash every file of the snapshot now and compare with what was committed.

        A manifest that is broken or gone ends the search below it: what it names cannot be known then.
        """
        top = SnapshotFile("manifest list", snapshot.manifest_list, snapshot.version_id, format="avro")
        verdicts = [await self._verdict(top)]
        if verdicts[0].status != "verified":
            return verdicts
        place = Place(table.project_id, "")
        version = await self._objects.by_id(snapshot.version_id)
        assert version is not None
        manifests = await iceberg.read_list(await self._files.read(place, version), snapshot.manifest_list)
        versions = await self._files.pinned(table.id, [m.location for m in manifests])
        bodies = []
        for manifest in manifests:
            version = versions.get(manifest.location)
            file = SnapshotFile("manifest", manifest.location, version.id if version else None, format="avro")
            verdict = await self._verdict(file)
            verdicts.append(verdict)
            if verdict.status == "verified" and version is not None:
                bodies.append((manifest, await self._files.read(place, version)))
        named = await iceberg.read_files(bodies, None)
        pinned = await self._files.pinned(table.id, [file.location for file in named])
        for file in named:
            known = pinned.get(file.location)
            verdicts.append(await self._verdict(replace(file, version_id=known.id if known else None)))
        return verdicts

    async def _verdict(self, file: SnapshotFile) -> FileVerdict:
        if file.version_id is None:
            return FileVerdict(file, "unproven", None, None)
        try:
            result = await self._objects.verify(file.version_id)
        except NotFound:
            return FileVerdict(file, "missing", None, None)
        return FileVerdict(file, result.status, result.expected, result.found)


def resolve(infos: list[TableInfo], path: tuple[str, ...]) -> TableInfo:
    """The table that SQL means by `path`: exactly spelt, else regardless of case where that is unambiguous.

    One part is a table in ``default``; several are namespace and table, a level of which may hold dots
    when quoted. Raises `NotFound`, `Invalid` for an ambiguous name.
    """
    levels = tuple(part for item in path[:-1] for part in item.split(".")) or ("default",)
    wanted = (*levels, path[-1])
    exact = [info for info in infos if (*info.name.namespace, info.name.name) == wanted]
    if exact:
        return exact[0]
    folded = tuple(part.lower() for part in wanted)
    alike = [
        info
        for info in infos
        if tuple(part.lower() for part in (*info.name.namespace, info.name.name)) == folded
    ]
    if not alike:
        raise no_such_table(".".join(path))
    if len(alike) > 1:
        raise Invalid(
            f"{'.'.join(path)!r} could be {' or '.join(str(info.name) for info in alike)}.",
            hint="Spell it exactly, in double quotes.",
            reason="ambiguous_table",
        )
    return alike[0]
