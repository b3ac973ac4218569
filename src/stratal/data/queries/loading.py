"""Rows into tables: files imported, and CREATE TABLE … AS and INSERT INTO.

The engine makes the files, this stores them as objects of the lake and commits. Another commit in
between is met by doing it again from the new state.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
import orjson
from sqlalchemy import Connection

from stratal.data.lake.lake import Lake
from stratal.data.lake.model import (
    Change,
    Loaded,
    Place,
    TableInfo,
    TableName,
    shared_to_read,
    split_location,
    table_exists,
)
from stratal.data.objects.service import Objects
from stratal.data.queries.engine import Limits, QueryEngine, QueryPlan, TableInput, WritePlan, Written
from stratal.data.queries.planning import Planner
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound

_ATTEMPTS = 5
_CHUNK = 1024 * 1024
FORMATS = ("parquet", "csv", "json", "arrow")

Mode = Literal["create", "append", "extend", "replace", "upsert", "overwrite"]


@dataclass(frozen=True, slots=True)
class Staging:
    """Rows are to be committed to a branch of the table, not shown to its readers yet.

    `properties` go into the snapshot's summary; `also` records the staged snapshot in the commit's transaction.
    """

    branch: str
    properties: Mapping[str, str]
    also: Callable[[Connection, "Staged"], None]


@dataclass(frozen=True, slots=True)
class Staged:
    """What was committed to the branch. `base_id` is the table's snapshot that readers see meanwhile."""

    table: TableInfo
    base_id: int | None
    snapshot_id: int
    schema_id: int | None
    row_count: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Where rows come from: a query that is planned, or a local file of one of `FORMATS`."""

    query: QueryPlan | None = None
    source: Path | None = None
    format: str | None = None
    columns: Sequence[str] | None = None
    by_name: bool = False
    keys: Sequence[str] = ()
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadedRows:
    """What came of it: the table as it is now, the snapshot that was made, and how many rows were written."""

    table: TableInfo
    row_count: int
    snapshot_id: int | None = None


class Loader:
    def __init__(
        self, database: Database, objects: Objects, lake: Lake, engine: QueryEngine, planner: Planner
    ) -> None:
        self._planner = planner
        self._database = database
        self._objects = objects
        self._lake = lake
        self._engine = engine

    async def load(
        self,
        who: Principal,
        place: Place,
        name: TableName,
        rows: Rows,
        mode: Mode,
        limits: Limits,
        staging: Staging | None = None,
    ) -> LoadedRows:
        """Write rows into a table. ``create`` makes it (and its namespace) and refuses one that is there;
        the other modes make it when it is not. With `staging` its readers see nothing of it yet.

        Raises `Conflict` (``table_exists``, ``commit_failed``), `Invalid` for rows that do not fit, and what
        `QueryEngine.write` does.
        """
        require(who, "tables.write", place.id)
        for attempt in range(1, _ATTEMPTS + 1):
            present = await self._present(who, place, name)
            if present is not None and present.info.project_id != place.id:
                raise shared_to_read(name)
            if present is not None and mode == "create":
                raise table_exists(name)
            try:
                return await self._once(who, place, name, rows, mode, limits, present, staging)
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
        staging: Staging | None,
    ) -> LoadedRows:
        head = await self._head(present, staging)
        bucket = await self._lake.catalog.ensure_bucket(who, place)
        plan = WritePlan(
            query=rows.query,
            source=rows.source,
            source_format=rows.format,
            metadata=present.metadata if present else None,
            location=self._lake.catalog.new_location(bucket, name),
            known=await self._known(present.info, head) if present else {},
            mode="append" if mode == "create" else mode,
            columns=rows.columns,
            by_name=rows.by_name,
            limits=limits,
            keys=rows.keys,
            where=rows.where,
            target=await self._target(present, head) if mode in {"upsert", "overwrite"} else None,
            branch=staging.branch if staging else None,
            properties=staging.properties if staging else {},
        )

        def also(c: Connection, infos: list[TableInfo]) -> None:
            assert staging is not None
            base = present.info.snapshot_id if present else None
            staging.also(c, Staged(infos[0], base, written.snapshot_id, written.schema_id, written.row_count))

        async with self._engine.write(place.id, plan) as written:
            stored: list[tuple[str, str]] = []
            try:
                await self._store(who, written, stored)
                if present is None:
                    await self._ensure_namespace(who, place, name)
                change = Change(name, written.requirements, written.updates)
                (loaded,) = await self._lake.catalog.commit(
                    who, place, [change], also=also if staging else None
                )
            except BaseException:
                await self._take_back(who, stored)
                raise
            return LoadedRows(loaded.info, written.row_count, written.snapshot_id)

    async def _head(self, present: Loaded | None, staging: Staging | None) -> int | None:
        """The snapshot that a write builds on: the branch's, else the table's."""
        if present is None:
            return None
        if staging is not None:
            ref = orjson.loads(present.metadata).get("refs", {}).get(staging.branch)
            if ref is not None:
                return int(ref["snapshot-id"])
        return present.info.snapshot_id

    async def _target(self, present: Loaded | None, head: int | None) -> TableInput | None:
        if present is None:
            return None
        return await self._planner.input(present.info, head, ("stratal_target",))

    async def _present(self, who: Principal, place: Place, name: TableName) -> Loaded | None:
        try:
            return await self._lake.catalog.load(who, place, name)
        except NotFound:
            return None

    async def _known(self, info: TableInfo, head: int | None) -> Mapping[str, str]:
        """Local paths of a snapshot's manifests: what a further snapshot builds on."""
        if head is None:
            return {}
        snapshot = await self._lake.snapshots.get(info.id, head)
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
