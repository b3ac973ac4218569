"""Planning: which files make up what a statement names. The engine reads these and nothing else."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from stratal.data.lake import iceberg
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place, SnapshotFile, TableInfo
from stratal.data.lake.snapshots import resolve
from stratal.data.queries.engine import DataFile, Names, Reference, Statement, TableInput
from stratal.identity.model import Principal
from stratal.kernel.errors import Internal, Invalid, NotFound, Unsupported

_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class Read:
    """A snapshot that a statement reads; `snapshot_id` None: the table has none yet."""

    table: TableInfo
    snapshot_id: int | None


@dataclass(frozen=True, slots=True)
class Planned:
    """The inputs of one statement, and of which snapshots they are."""

    tables: list[TableInput]
    moved: list[tuple[Reference, Names]]
    listing: list[tuple[Names, Sequence[Mapping[str, Any]]]]
    reads: list[Read]


@dataclass(frozen=True, slots=True)
class _Contents:
    """What does not change about a snapshot, so is remembered."""

    fields: list[dict[str, Any]]
    names: dict[int, list[str]]
    files: list[DataFile]


class Planner:
    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._known: OrderedDict[tuple[str, int], _Contents] = OrderedDict()

    async def plan(self, who: Principal, place: Place, statement: Statement) -> Planned:
        """Resolve every table of the statement to one snapshot. Raises `NotFound`, `Denied`, `Invalid`, `Unsupported`."""
        planned = Planned([], [], [], [])
        if not statement.tables and not statement.listing:
            return planned
        # One look at the catalogue, so that one statement sees one state of it.
        infos = await self._lake.catalog.readable(who, place)
        done: dict[tuple[Names, int | None], Names] = {}
        for reference in statement.tables:
            info = resolve(infos, reference.path)
            snapshot_id = await self._moment(info, reference) if reference.at else info.snapshot_id
            path = reference.path
            if reference.at:
                path = (*path[:-1], f"{path[-1]}@{snapshot_id}")
                planned.moved.append((reference, path))
            if (path, snapshot_id) in done:
                continue
            done[(path, snapshot_id)] = path
            contents = await self._contents(info, snapshot_id)
            planned.tables.append(
                TableInput(str(info.name), path, contents.fields, contents.files, contents.names)
            )
            if not any(r.table.id == info.id and r.snapshot_id == snapshot_id for r in planned.reads):
                planned.reads.append(Read(info, snapshot_id))
        if statement.listing:
            planned.listing.extend((_sql_path(info), info.fields) for info in infos)
        return planned

    async def input(self, info: TableInfo, snapshot_id: int | None, path: Names) -> TableInput:
        """One snapshot of a table as the input called `path`. Raises as `plan`."""
        contents = await self._contents(info, snapshot_id)
        return TableInput(str(info.name), path, contents.fields, contents.files, contents.names)

    async def _contents(self, info: TableInfo, snapshot_id: int | None) -> _Contents:
        if snapshot_id is None:
            return _Contents([dict(field) for field in info.fields], {}, [])
        key = (info.id, snapshot_id)
        schema_is_current = snapshot_id == info.snapshot_id and not info.of_past
        known = self._known.get(key)
        if known is None:
            known = await self._look(info, snapshot_id)
            self._known[key] = known
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        # The table as it is now is shown by its present columns, which may have changed since the snapshot.
        return _Contents(
            [dict(field) for field in info.fields] if schema_is_current else known.fields,
            known.names,
            known.files,
        )

    async def _look(self, info: TableInfo, snapshot_id: int) -> _Contents:
        snapshot = await self._lake.snapshots.get(info.id, snapshot_id)
        _, metadata = await self._lake.files.read_location(Place(info.project_id, ""), info.metadata_location)
        fields, names = await iceberg.schema_of(metadata, snapshot.schema_id)
        files = await self._lake.snapshots.files(info, snapshot, metadata=metadata)
        deletes = [file for file in files if file.kind in {"position deletes", "equality deletes"}]
        _check_readable(info, files)
        data = [file for file in files if file.kind == "data"]
        paths = await self._paths(info, data + deletes)
        return _Contents(
            fields,
            names,
            [
                DataFile(
                    paths[file.location],
                    file.location,
                    dict(file.partition or {}),
                    tuple(paths[d.location] for d in deletes if _applies(d, file)),
                )
                for file in data
            ],
        )

    async def _paths(self, info: TableInfo, files: Sequence[SnapshotFile]) -> dict[str, str]:
        versions = await self._lake.files.pinned(info.id, [file.location for file in files])
        paths: dict[str, str] = {}
        for file in files:
            version = versions.get(file.location)
            if version is None or version.blob_key is None:
                raise Internal(
                    f"Table {info.name} cannot be read: the bytes of {file.location} are gone.",
                    hint="See which snapshots are whole with: stratal tables show",
                    reason="table_broken",
                )
            paths[file.location] = self._lake.files.path(version)
        return paths

    # -- time travel -------------------------------------------------------------------------

    async def _moment(self, info: TableInfo, reference: Reference) -> int:
        """The snapshot that ``AT (VERSION => …)`` or ``AT (TIMESTAMP => …)`` means."""
        assert reference.at is not None
        unit, value = reference.at
        _, data = await self._lake.files.read_location(Place(info.project_id, ""), info.metadata_location)
        metadata = orjson.loads(data)
        if unit == "VERSION":
            return _version(info, metadata, value)
        if unit == "TIMESTAMP":
            return _at(info, metadata, value)
        raise Invalid(
            f"AT ({unit} => …) is not known.", hint="Use VERSION or TIMESTAMP.", reason="bad_time_travel"
        )


def _version(info: TableInfo, metadata: dict[str, Any], value: str) -> int:
    ref = metadata.get("refs", {}).get(value)
    if ref is not None:
        return int(ref["snapshot-id"])
    known = {str(snapshot["snapshot-id"]) for snapshot in metadata.get("snapshots", [])}
    if value not in known:
        raise NotFound(
            f"Table {info.name} has no snapshot, branch or tag {value[:60]!r}.",
            hint=f"List them with: stratal tables show {info.name}",
            reason="no_such_snapshot",
        )
    return int(value)


def _at(info: TableInfo, metadata: dict[str, Any], value: str) -> int:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise Invalid(
            f"{value[:60]!r} is not a time.",
            hint="Write it like '2026-01-31 08:00:00' (UTC).",
            reason="bad_time_travel",
        ) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    until = moment.timestamp() * 1000
    before = [e for e in metadata.get("snapshot-log", []) if e["timestamp-ms"] <= until]
    if not before:
        raise NotFound(f"Table {info.name} had no snapshot at {value}.", reason="no_such_snapshot")
    return int(max(before, key=lambda entry: entry["timestamp-ms"])["snapshot-id"])


def _check_readable(info: TableInfo, files: Sequence[SnapshotFile]) -> None:
    for file in files:
        if file.kind == "equality deletes":
            raise Unsupported(
                f"Table {info.name} has equality deletes, which SQL here does not read yet.",
                hint="Compact it with the engine that wrote them.",
                reason="table_unreadable",
            )
        if file.kind in {"data", "position deletes"} and file.format != "parquet":
            raise Unsupported(
                f"Table {info.name} has {file.kind} in {file.format}, which SQL here does not read; only Parquet.",
                reason="table_unreadable",
            )


def _applies(delete: SnapshotFile, data: SnapshotFile) -> bool:
    """Position deletes apply to data files of their partition that are not newer (Iceberg's spec, Scan Planning)."""
    return data.sequence_number <= delete.sequence_number and data.partition_key == delete.partition_key


def _sql_path(info: TableInfo) -> Names:
    """How SQL names the table: a table of ``default`` needs no namespace."""
    return (*info.name.namespace, info.name.name)


def snapshot_refs(reads: Sequence[Read]) -> list[dict[str, str | None]]:
    """What answers say was read. Ids are text: they exceed what JSON's readers hold exactly."""
    return [
        {
            "table": str(read.table.name),
            "snapshot_id": str(read.snapshot_id) if read.snapshot_id is not None else None,
        }
        for read in reads
    ]
