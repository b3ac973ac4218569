"""The warehouse: SQL over the project's tables.

A statement is taken apart by the engine, planned here, authorised per table, attributed, and only then
run. Each query is logged with the snapshots it read; a workload's reads are recorded before any row leaves.
"""

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import delete, insert, select

from stratal.data.lake.lake import Lake
from stratal.data.lake.model import (
    DEFAULT_NAMESPACE,
    Place,
    TableInfo,
    TableName,
    check_namespace,
    check_table_name,
    shared_to_read,
    split_location,
)
from stratal.data.lake.snapshots import resolve
from stratal.data.objects.service import Objects
from stratal.data.queries.engine import (
    Column,
    Finished,
    Format,
    Limits,
    QueryEngine,
    QueryPlan,
    Result,
    Statement,
)
from stratal.data.queries.loading import FORMATS, LoadedRows, Loader, Mode, Rows, Staging, sniff_format
from stratal.data.queries.planning import Planned, Planner, Read, snapshot_refs
from stratal.data.queries.tables import queries
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound, StratalError, TooLarge, Unavailable
from stratal.kernel.ids import new_id
from stratal.ledger.lineage import Lineage

MAX_SQL_BYTES = 1024 * 1024
MAX_SECONDS = 3600.0
_LOGGED_SQL = 20_000
_LOG_DAYS = 30


@dataclass(frozen=True, slots=True)
class Ask:
    """A statement and how its answer is wanted. `limit` None: all rows; `max_bytes` cuts JSON answers.

    One that is not to write (`reads_only`) is refused when it would.
    """

    sql: str
    params: Sequence[Any] = ()
    format: Format = "json"
    limit: int | None = None
    max_bytes: int | None = None
    seconds: float | None = None
    reads_only: bool = False


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """One line of the query log. Times are epoch milliseconds."""

    id: str
    actor: str
    workload: str | None
    sql: str
    tables: list[dict[str, str | None]]
    state: str
    error: str | None
    row_count: int | None
    byte_count: int | None
    started_at: int
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Sourced:
    """Where staged rows come from: the query `sql`, or `body`, a file in `format` (one of `FORMATS`)."""

    sql: str | None = None
    body: AsyncIterator[bytes] | None = None
    format: str | None = None


class Answer:
    """A running query: its columns and what it reads are known, its bytes are still to come."""

    def __init__(
        self, query_id: str, columns: Sequence[Column], reads: Sequence[Read], result: Result
    ) -> None:
        self.id = query_id
        self.columns = columns
        self.snapshots = snapshot_refs(reads)
        self.byte_count = 0
        self._result = result

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._result.chunks():
            self.byte_count += len(chunk)
            yield chunk

    @property
    def finished(self) -> Finished:
        return self._result.finished


class Warehouse:
    """`limits` are what a statement may use; `spool` is a folder of its own for files on their way into tables.
    `start` empties it, `close` ends the engine's workers."""

    def __init__(
        self,
        database: Database,
        objects: Objects,
        lake: Lake,
        engine: QueryEngine,
        lineage: Lineage,
        clock: Clock,
        *,
        spool: Path,
        limits: Limits,
    ) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._lake = lake
        self._engine = engine
        self._lineage = lineage
        self._clock = clock
        self._limits = limits
        self._planner = Planner(lake)
        self._loader = Loader(database, objects, lake, engine, self._planner)

    async def start(self) -> None:
        """Forget queries logged more than 30 days ago, and files that a killed server was importing."""
        await asyncio.to_thread(_empty, self._spool)
        before = self._clock() - _LOG_DAYS * 86_400_000
        await self._database.write(lambda c: c.execute(delete(queries).where(queries.c.started_at < before)))

    async def close(self) -> None:
        await self._engine.close()

    async def purge(self, project_id: str) -> None:
        """Forget a project's queries. May be repeated."""
        await self._database.write(
            lambda c: c.execute(delete(queries).where(queries.c.project_id == project_id))
        )

    # -- queries -----------------------------------------------------------------------------

    @asynccontextmanager
    async def query(self, who: Principal, place: Place, ask: Ask) -> AsyncIterator[Answer]:
        """Run one statement; leaving the context early ends it.

        Raises `Invalid` (the statement, with the engine's message and caret), `NotFound` (a table),
        `Denied`, `TooLarge` (memory), `Busy`, `Unavailable` (a worker was lost: try again).
        """
        require(who, "sql.query", place.id)
        _check(ask)
        query_id = new_id("qry")
        record = _Record(query_id, who, place.id, ask.sql, self._clock(), time.perf_counter())
        try:
            statement = await self._engine.parse(place.id, ask.sql)
            planned = await self._plan(who, place, statement)
            record.reads = planned.reads
            if ask.reads_only and statement.kind in {"create", "insert"}:
                raise Invalid(
                    "Only statements that read are taken here.",
                    hint="Begin with SELECT.",
                    reason="reads_only",
                )
            if statement.kind in {"create", "insert"}:
                loaded = await self._write(who, place, statement, planned, ask)
                record.reads = [*planned.reads, Read(loaded.table, loaded.table.snapshot_id)]
                plan = replace(self._query_plan(statement, planned, ask), **_counted(loaded.row_count))
            else:
                plan = self._query_plan(statement, planned, ask)
            async with self._engine.query(place.id, plan) as result:
                answer = Answer(query_id, result.columns, record.reads, result)
                yield answer
                record.finish(answer)
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            await asyncio.shield(self._log(record))

    async def _plan(self, who: Principal, place: Place, statement: Statement) -> Planned:
        planned = await self._planner.plan(who, place, statement)
        if statement.kind != "explain":
            for read in planned.reads:  # what is another project's was found by its share
                if read.snapshot_id is not None:
                    await self._attribute(who, read)
        return planned

    async def _attribute(self, who: Principal, read: Read) -> None:
        await self._lineage.record(
            who, "read", "snapshot", f"{read.table.id}@{read.snapshot_id}",
            project_id=read.table.project_id, name=str(read.table.name),
        )  # fmt: skip

    async def reading(self, who: Principal, place: Place, name: TableName) -> TableInfo:
        """The table as it is now, for whoever reads this state of it by other means than a statement: allowed and attributed
        as one that reads it. Raises `NotFound`, `Denied`."""
        require(who, "sql.query", place.id)
        info = await self._lake.catalog.find(who, place, name)
        if info.snapshot_id is not None:
            await self._attribute(who, Read(info, info.snapshot_id))
        return info

    def _query_plan(self, statement: Statement, planned: Planned, ask: Ask) -> QueryPlan:
        return QueryPlan(
            sql=statement.sql,
            params=ask.params,
            tables=planned.tables,
            moved=planned.moved,
            listing=planned.listing,
            show_tables=" ".join(statement.sql.lower().rstrip("; \n").split()) == "show tables",
            format=ask.format,
            limit=ask.limit,
            max_bytes=ask.max_bytes,
            limits=self._limited(ask.seconds),
        )

    def _limited(self, seconds: float | None) -> Limits:
        return self._limits if seconds is None else replace(self._limits, seconds=seconds)

    # -- writing -----------------------------------------------------------------------------

    async def _write(
        self, who: Principal, place: Place, statement: Statement, planned: Planned, ask: Ask
    ) -> LoadedRows:
        name = await self._target(who, place, statement)
        mode: Mode = "append"
        if statement.kind == "create":
            mode = "replace" if statement.replace else "create"
        rows = Rows(
            query=replace(self._query_plan(statement, planned, ask), limit=None, max_bytes=None),
            columns=statement.columns,
            by_name=statement.by_name or statement.kind == "create",
        )
        try:
            return await self._loader.load(who, place, name, rows, mode, self._limited(ask.seconds))
        except Conflict as error:
            if error.reason == "table_exists" and statement.if_not_exists:
                return LoadedRows(await self._lake.catalog.find(who, place, name), 0)
            raise

    async def _target(self, who: Principal, place: Place, statement: Statement) -> TableName:
        """The table written to: one that is there, however its name's case, or for CREATE a new name."""
        try:
            found = resolve(await self._lake.catalog.readable(who, place), statement.target)
            if found.project_id != place.id:
                raise shared_to_read(found.name)
            return found.name
        except NotFound:
            if statement.kind == "insert":
                raise
        *levels, name = statement.target
        namespace = tuple(part for level in levels for part in level.split(".")) or DEFAULT_NAMESPACE
        return TableName(check_namespace(namespace), check_table_name(name))

    async def stage(
        self,
        who: Principal,
        place: Place,
        name: TableName,
        source: "Sourced",
        mode: Mode,
        staging: Staging,
        *,
        keys: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
    ) -> LoadedRows:
        """Commit rows to a branch of a table (see `Staging`): those of a query, or of a file that is sent.

        No bytes at all are no rows: the table must be there then. Raises as `query` and `Loader.load`.
        """
        require(who, "tables.write", place.id)
        sql = source.sql
        path: Path | None = None
        try:
            if sql is None:
                path = self._spool / new_id("imp")
                assert source.body is not None
                await _receive(source.body, path)
                if (await asyncio.to_thread(path.stat)).st_size == 0:
                    sql = _no_rows(await self._lake.catalog.find(who, place, name))
            if sql is None:
                rows = Rows(source=path, format=source.format, by_name=True)
            else:
                ask = Ask(sql)
                _check(ask)
                statement = await self._engine.parse(place.id, sql)
                if statement.kind != "query":
                    raise Invalid("Rows come from a query: SELECT …", reason="no_query")
                planned = await self._plan(who, place, statement)
                rows = Rows(query=self._query_plan(statement, planned, ask), by_name=True)
            rows = replace(rows, keys=keys, where=where or {})
            return await self._loader.load(who, place, name, rows, mode, self._limits, staging)
        finally:
            if path is not None:
                await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))

    # -- importing ---------------------------------------------------------------------------

    async def import_object(
        self, who: Principal, place: Place, name: TableName, location: str, format: str | None, mode: Mode
    ) -> LoadedRows:
        """Write the rows of an object (``s3://bucket/key``) into a table; a workload has then read it.

        Raises `NotFound`, also for another project's bucket, and as `Loader.load`.
        """
        require(who, "tables.write", place.id)
        parts = split_location(location)
        if parts is None:
            raise Invalid(f"{location[:200]!r} is not like s3://bucket/key.", reason="bad_source")
        version = await self._objects.head(who, *parts)
        path = self._objects.local_path(version)
        if path is None:
            raise Unavailable("The object's bytes are not on this machine.", reason="bytes_elsewhere")
        await self._lineage.record(
            who, "read", "object", version.id,
            project_id=version.project_id, name=f"{version.bucket}/{version.key}",
        )  # fmt: skip
        return await self._import(who, place, name, path, parts[1], format, mode)

    async def import_upload(
        self,
        who: Principal,
        place: Place,
        name: TableName,
        body: AsyncIterator[bytes],
        filename: str,
        format: str | None,
        mode: Mode,
    ) -> LoadedRows:
        """Write the rows of a file that is sent into a table. Raises as `Loader.load`."""
        require(who, "tables.write", place.id)
        path = self._spool / new_id("imp")
        try:
            await _receive(body, path)
            return await self._import(who, place, name, path, filename, format, mode)
        finally:
            await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))

    async def _import(
        self,
        who: Principal,
        place: Place,
        name: TableName,
        path: Path,
        filename: str,
        format: str | None,
        mode: Mode,
    ) -> LoadedRows:
        chosen = format if format else await asyncio.to_thread(sniff_format, path, filename)
        if chosen not in FORMATS:
            raise Invalid(
                f"{chosen[:40]!r} is not a format that can be imported.",
                hint=f"One of: {', '.join(FORMATS)}.",
                reason="unknown_format",
            )
        if chosen in {"csv", "json"} and (await asyncio.to_thread(path.stat)).st_size == 0:
            raise Invalid(
                "The file is empty: not even a header says what columns the table would have.",
                reason="source_unreadable",
            )
        rows = Rows(source=path, format=chosen, by_name=True)
        return await self._loader.load(who, place, name, rows, mode, self._limits)

    # -- the log -----------------------------------------------------------------------------

    async def log(self, who: Principal, place: Place, *, limit: int = 100) -> list[QueryRecord]:
        """The project's queries, newest first."""
        require(who, "sql.query", place.id)
        query = (
            select(queries)
            .where(queries.c.project_id == place.id)
            .order_by(queries.c.started_at.desc(), queries.c.id.desc())
            .limit(limit)
        )
        found = await self._database.read(lambda c: c.execute(query).all())
        return [
            QueryRecord(
                id=row.id,
                actor=row.actor,
                workload=row.workload,
                sql=row.sql,
                tables=orjson.loads(row.tables),
                state=row.state,
                error=row.error,
                row_count=row.row_count,
                byte_count=row.byte_count,
                started_at=row.started_at,
                duration_ms=row.duration_ms,
            )
            for row in found
        ]

    async def _log(self, record: "_Record") -> None:
        with contextlib.suppress(RuntimeError):  # the database is closed: the server is ending
            await self._database.write(lambda c: c.execute(insert(queries).values(record.row())))


class _Record:
    """What the log will say of a query."""

    def __init__(
        self, query_id: str, who: Principal, project_id: str, sql: str, started_at: int, clock: float
    ) -> None:
        self.reads: list[Read] = []
        self._id = query_id
        self._who = who
        self._project_id = project_id
        self._sql = sql
        self._started_at = started_at
        self._clock = clock
        self._state = "cancelled"
        self._error: str | None = None
        self._rows: int | None = None
        self._bytes: int | None = None

    def finish(self, answer: Answer) -> None:
        with contextlib.suppress(RuntimeError):  # left before the end: stays cancelled
            self._rows = answer.finished.row_count
            self._state = "succeeded"
        self._bytes = answer.byte_count

    def fail(self, error: BaseException) -> None:
        if isinstance(error, Exception):
            self._state = "failed"
            self._error = error.message if isinstance(error, StratalError) else "defect"

    def row(self) -> dict[str, object]:
        return {
            "id": self._id,
            "project_id": self._project_id,
            "actor": self._who.actor,
            "workload": self._who.workload,
            "sql": self._sql[:_LOGGED_SQL],
            "tables": orjson.dumps(snapshot_refs(self.reads)).decode(),
            "state": self._state,
            "error": self._error[:2000] if self._error else None,
            "row_count": self._rows,
            "byte_count": self._bytes,
            "started_at": self._started_at,
            "duration_ms": round((time.perf_counter() - self._clock) * 1000, 3),
        }


def _counted(count: int) -> dict[str, Any]:
    """The answer of a statement that wrote: how many rows."""
    return {
        "sql": f"SELECT {count:d}::BIGINT AS count",
        "params": (),
        "tables": [],
        "moved": [],
        "listing": [],
    }


def _no_rows(info: TableInfo) -> str:
    path = ".".join('"' + part.replace('"', '""') + '"' for part in (*info.name.namespace, info.name.name))
    return f"SELECT * FROM {path} WHERE false"  # noqa: S608


def _check(ask: Ask) -> None:
    try:
        size = len(ask.sql.encode())
    except UnicodeEncodeError as error:
        raise Invalid("The statement is not valid Unicode.", reason="sql_error") from error
    if size > MAX_SQL_BYTES:
        raise TooLarge(f"The statement is over {MAX_SQL_BYTES >> 20} MiB.", reason="sql_too_long")
    if not ask.sql.strip():
        raise Invalid("There is no statement to run.", reason="empty_statement")
    if "\0" in ask.sql:
        raise Invalid("The statement contains NUL.", reason="sql_error")
    if ask.limit is not None and ask.limit < 0:
        raise Invalid("limit cannot be negative.", reason="bad_limit")
    if ask.seconds is not None and not 0 < ask.seconds <= MAX_SECONDS:
        raise Invalid(f"timeout_seconds must be over 0 and at most {MAX_SECONDS:g}.", reason="bad_timeout")


async def _receive(body: AsyncIterator[bytes], path: Path) -> None:
    file = await asyncio.to_thread(path.open, "xb")
    try:
        async for chunk in body:
            await asyncio.to_thread(file.write, chunk)
    finally:
        await asyncio.to_thread(file.close)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
