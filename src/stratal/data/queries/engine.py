"""The port to whatever executes SQL: DuckDB in worker processes here, a distributed engine elsewhere.

Planning is ours in every engine: it is told exactly which files make up each table that a statement
names, and reads nothing else. It holds no truth and no credential. A *session* is a project's id: what
runs for one project never shares a process with another's.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Names = tuple[str, ...]
Format = Literal["json", "csv", "arrow"]
StatementKind = Literal["query", "explain", "create", "insert"]


@dataclass(frozen=True, slots=True)
class Reference:
    """One table as a statement names it. `at` is (``VERSION`` or ``TIMESTAMP``, value) for time travel;
    `location` and `length` say where in the statement it stands, in bytes."""

    path: Names
    at: tuple[str, str] | None
    location: int
    length: int
    alias: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What a statement is. For ``create`` and ``insert``, `sql` is the query that makes the rows for `target`."""

    kind: StatementKind
    sql: str
    tables: Sequence[Reference]
    listing: bool
    target: Names
    columns: Sequence[str] | None
    by_name: bool
    if_not_exists: bool
    replace: bool


@dataclass(frozen=True, slots=True)
class DataFile:
    """One Parquet file of a snapshot: where it lies on this machine and what the table calls it.

    `partition` maps the field ids of identity partition fields to the file's value, as text or None;
    `deletes` are the local paths of position delete files that apply to it.
    """

    path: str
    location: str
    partition: Mapping[int, Any]
    deletes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableInput:
    """One table of a query: the name the statement uses, and the snapshot's schema and files.

    `fields` are the schema's fields in Iceberg's JSON form; `names` maps field ids to names for files
    that carry no ids (Iceberg's name mapping).
    """

    name: str
    path: Names
    fields: Sequence[Mapping[str, Any]]
    files: Sequence[DataFile]
    names: Mapping[int, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one statement may use: bytes of memory, bytes of disk for what does not fit, seconds, threads."""

    memory_bytes: int
    spill_bytes: int
    seconds: float
    threads: int


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """A statement and everything it may read. `moved` pairs each time-travelling reference with the `path` of
    its input; `listing` are further tables to show, without rows, when the statement asks what there is."""

    sql: str
    params: Sequence[Any]
    tables: Sequence[TableInput]
    moved: Sequence[tuple[Reference, Names]]
    listing: Sequence[tuple[Names, Sequence[Mapping[str, Any]]]]
    show_tables: bool
    format: Format
    limit: int | None
    max_bytes: int | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Finished:
    """How a query ended: rows delivered, whether more would have come, the engine's own milliseconds."""

    row_count: int
    truncated: bool
    duration_ms: float


class Result(Protocol):
    """A running query whose first bytes are there."""

    columns: Sequence[Column]

    def chunks(self) -> AsyncIterator[bytes]:
        """The result's bytes in the plan's format, once. Raises as `QueryEngine.query`."""
        ...

    @property
    def finished(self) -> Finished:
        """Available when `chunks` is exhausted."""
        ...


@dataclass(frozen=True, slots=True)
class WritePlan:
    """Rows to become files of a table.

    Either `query` (a plan whose statement makes the rows) or `source` (a local file in `source_format`:
    ``parquet``, ``csv``, ``arrow``, ``json``). `metadata` is the table's metadata JSON, None when the table is to be
    made at `location` with the rows' own schema. `known` maps locations to local paths of the present
    snapshot's manifests. `mode` says whether the rows are added (``extend``: with the columns that
    the table lacks), take the place of all others, of those with the
    same `keys` (``upsert``), or of those that have the values of `where` (``overwrite``): for these two, `target` is the
    table as it is. With `branch` the table's main branch is left as it is, and what the commit changes for all
    readers alike (columns) is left out and told as `Written.later`. `properties` go into the snapshot's summary.
    """

    query: QueryPlan | None
    source: Path | None
    source_format: str | None
    metadata: bytes | None
    location: str
    known: Mapping[str, str]
    mode: Literal["append", "extend", "replace", "upsert", "overwrite"]
    columns: Sequence[str] | None
    by_name: bool
    limits: Limits
    keys: Sequence[str] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    target: TableInput | None = None
    branch: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Written:
    """What a write produced: files (location → local path, to be stored by the caller before it commits and
    then left to the engine), and the Iceberg requirements and updates of the commit, as JSON values."""

    files: Mapping[str, Path]
    requirements: Sequence[Mapping[str, Any]]
    updates: Sequence[Mapping[str, Any]]
    row_count: int
    snapshot_id: int = 0
    schema_id: int | None = None
    """For a write to a branch: the schema that becomes the table's when the snapshot does."""


class QueryEngine(Protocol):
    async def parse(self, session: str, sql: str) -> Statement:
        """Take a statement apart without running it. Raises `Invalid` with the parser's message and caret, or
        for what is not offered; `Unavailable` when a worker was lost or none could be had."""
        ...

    def query(self, session: str, plan: QueryPlan) -> AbstractAsyncContextManager[Result]:
        """Run it. Leaving the context early, or cancelling, ends the query.

        Raises `Invalid` for what is wrong with the statement, with the engine's message; over a limit it
        is `TooLarge` (memory, spill) or `Invalid` with reason ``query_timeout``; `Unavailable` with reason
        ``query_worker_lost`` when the worker died and trying again may help.
        """
        ...

    def write(self, session: str, plan: WritePlan) -> AbstractAsyncContextManager[Written]:
        """Make the rows into files, which exist while the context is open. Raises as `query`."""
        ...

    async def close(self) -> None:
        """End every worker."""
        ...
