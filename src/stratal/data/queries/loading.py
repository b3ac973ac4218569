"""Rows into tables: files imported, and CREATE TABLE … AS and INSERT INTO.

The engine makes the files, this stores them as objects of the lake and commits. Another commit in
between is met by doing it again from the new state.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio.to_thread

from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Change, Loaded, Place, TableInfo, TableName, split_location, table_exists
from stratal.data.objects.service import Objects
from stratal.data.queries.engine import Limits, QueryEngine, QueryPlan, WritePlan, Written
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound

_ATTEMPTS = 5
_CHUNK = 1024 * 1024
FORMATS = ("parquet", "csv", "json", "arrow")

Mode = Literal["create", "append", "replace"]


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows come from: a query that is planned, or a local file of one of `FORMATS`."""

    query: QueryPlan | None = None
    source: Path | None = None
    format: str | None = None
    columns: Sequence[str] | None = None
    by_name: bool = False


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """What came of it: the table as it is now, and how many rows were written."""

    table: TableInfo
    row_count: int


class Loader:
    def __init__(self, database: Database, objects: Objects, lake: Lake, engine: QueryEngine) -> None:
        self._database = database
        self._objects = objects
        self._lake = lake
        self._engine = engine

    async def load(
        self, who: Principal, place: Place, name: TableName, rows: Rows, mode: Mode, limits: Limits
    ) -> LoadedRows:
        """Write rows into a table. ``create`` makes it (and its namespace) and refuses one that is there;
        ``append`` and ``replace`` make it when it is not.

        Raises `Conflict` (``table_exists``, ``commit_failed``), `Invalid` for rows that do not fit, and what
        `QueryEngine.write` does.
        """
        require(who, "tables.write", place.id)
        for attempt in range(1, _ATTEMPTS + 1):
            present = await self._present(who, place, name)
            if present is not None and mode == "create":
                raise table_exists(name)
            try:
                return await self._once(who, place, name, rows, mode, limits, present)
            except Conflict as error:
                if error.reason not in {"commit_failed", "table_exists"} or attempt == _ATTEMPTS:
                    raise
        raise AssertionError

    async def _once(
        self,
        who: Principal,
        place: Place,
        name: TableName,
        rows: Rows,
        mode: Mode,
        limits: Limits,
        present: Loaded | None,
    ) -> LoadedRows:
        bucket = await self._lake.catalog.ensure_bucket(who, place)
        plan = WritePlan(
            query=rows.query,
            source=rows.source,
            source_format=rows.format,
            metadata=present.metadata if present else None,
            location=self._lake.catalog.new_location(bucket, name),
            known=await self._known(present.info) if present else {},
            mode="replace" if mode == "replace" else "append",
            columns=rows.columns,
            by_name=rows.by_name,
            limits=limits,
        )
        async with self._engine.write(place.id, plan) as written:
            stored: list[tuple[str, str]] = []
            try:
                await self._store(who, written, stored)
                if present is None:
                    await self._ensure_namespace(who, place, name)
                change = Change(name, written.requirements, written.updates)
                (loaded,) = await self._lake.catalog.commit(who, place, [change])
            except BaseException:
                await self._take_back(who, stored)
                raise
            return LoadedRows(loaded.info, written.row_count)

    async def _present(self, who: Principal, place: Place, name: TableName) -> Loaded | None:
        try:
            return await self._lake.catalog.load(who, place, name)
        except NotFound:
            return None

    async def _known(self, info: TableInfo) -> Mapping[str, str]:
        """Local paths of the current snapshot's manifests: what a further snapshot builds on."""
        if info.snapshot_id is None:
            return {}
        snapshot = await self._lake.snapshots.get(info.id, info.snapshot_id)
        files = await self._lake.snapshots.files(info, snapshot)
        wanted = [file.location for file in files if file.kind in {"manifest list", "manifest"}]
        versions = await self._lake.files.pinned(info.id, wanted[1:])
        listed = await self._objects.by_id(snapshot.version_id)
        if listed is not None:
            versions[snapshot.manifest_list] = listed
        return {location: self._lake.files.path(version) for location, version in versions.items()}

    async def _store(self, who: Principal, written: Written, stored: list[tuple[str, str]]) -> None:
        for location, path in written.files.items():
            parts = split_location(location)
            if parts is None:
                raise Invalid(f"{location[:200]!r} is no place for a table's file.", reason="bad_location")
            await self._objects.put(who, parts[0], parts[1], _chunks(path))
            stored.append(parts)

    async def _take_back(self, who: Principal, stored: Sequence[tuple[str, str]]) -> None:
        """Remove the files of a commit that was refused; what stays behind is only unused."""
        with anyio.CancelScope(shield=True):
            for bucket, key in stored:
                await self._objects.delete(who, bucket, key)

    async def _ensure_namespace(self, who: Principal, place: Place, name: TableName) -> None:
        await self._database.write(lambda c: self._lake.namespaces.ensure(c, who, place, name.namespace))


_SUFFIXES = {
    "parquet": "parquet", "pq": "parquet", "csv": "csv", "tsv": "csv", "txt": "csv",
    "json": "json", "jsonl": "json", "ndjson": "json", "arrow": "arrow", "feather": "arrow", "ipc": "arrow",
}  # fmt: skip


def sniff_format(path: Path, filename: str) -> str:
    """The format of a file by its first bytes, else by its name. Raises `Invalid` (``unknown_format``)."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] == b"PAR1":
        return "parquet"
    if head[:6] == b"ARROW1":
        return "arrow"
    suffix = filename.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix not in _SUFFIXES:
        raise Invalid(
            f"What format {filename[-100:]!r} has cannot be told.",
            hint=f"Say it: --format {'|'.join(FORMATS)}",
            reason="unknown_format",
        )
    return _SUFFIXES[suffix]


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    file = await anyio.to_thread.run_sync(path.open, "rb")
    try:
        while chunk := await anyio.to_thread.run_sync(file.read, _CHUNK):
            yield chunk
    finally:
        file.close()
