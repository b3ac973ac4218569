"""The values of the lake, and what can be a name or a location. No I/O, and no pyiceberg."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound

SEPARATOR = "\x1f"
DEFAULT_NAMESPACE = ("default",)
MAIN = "main"
_LEVELS = 16
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f./\\]")
_LOCATION = re.compile(r"(?:s3|s3a|s3n)://([^/]+)/(.+)\Z", re.DOTALL)

Namespace = tuple[str, ...]
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TableName:
    """A table's name within its project; as text ``namespace.table``."""

    namespace: Namespace
    name: str

    def __str__(self) -> str:
        return ".".join((*self.namespace, self.name))


@dataclass(frozen=True, slots=True)
class Place:
    """The project a call is about."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    name: Namespace
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class TableInfo:
    """What the catalogue knows of a table without opening its metadata. `version` counts its metadata files.

    Counts are of the current snapshot's rows, bytes and data files; None where its writer did not say,
    0 without a snapshot. `fields` is the current schema in Iceberg's JSON. Times are epoch milliseconds.
    """

    id: str
    project_id: str
    name: TableName
    uuid: str
    location: str
    metadata_location: str
    version: int
    snapshot_id: int | None
    row_count: int | None
    byte_count: int | None
    file_count: int | None
    fields: Sequence[Json]
    created_at: int
    created_by: str
    updated_at: int
    dropped_at: int | None
    of_past: bool = False
    """It is shown as it was earlier: `snapshot_id` is not the newest, and `fields` need not be that snapshot's."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One snapshot as it was committed. `version_id` is the object version of its manifest list; `made_at` the
    writer's clock, `committed_at` ours; `current` says whether it is what the table shows now."""

    table_id: str
    snapshot_id: int
    parent_id: int | None
    schema_id: int | None
    operation: str | None
    summary: Mapping[str, str]
    manifest_list: str
    version_id: str
    made_at: int
    committed_at: int
    committed_by: str
    workload: str | None
    current: bool


@dataclass(frozen=True, slots=True)
class Loaded:
    """A table with its metadata file's bytes, ready to be handed out."""

    info: TableInfo
    metadata: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit asks of one table, in the JSON of Iceberg's REST protocol."""

    table: TableName
    requirements: Sequence[Json]
    updates: Sequence[Json]


@dataclass(frozen=True, slots=True)
class AddedSnapshot:
    """A snapshot as the metadata file has it."""

    snapshot_id: int
    parent_id: int | None
    sequence_number: int | None
    schema_id: int | None
    manifest_list: str
    operation: str | None
    summary: Mapping[str, str]
    made_at: int


@dataclass(frozen=True, slots=True)
class Facts:
    """A metadata file and what the catalogue keeps of it in rows."""

    data: bytes
    uuid: str
    location: str
    snapshot_id: int | None
    row_count: int | None
    byte_count: int | None
    file_count: int | None
    fields: list[dict[str, Any]]
    snapshots: list[AddedSnapshot]
    paths: Sequence[str]
    """Where the table's properties send data and metadata, beside `location`."""


FileKind = Literal["manifest list", "manifest", "data", "position deletes", "equality deletes"]


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """One file of a snapshot and the object version it was when committed (None: not recorded then).

    `rows` is what the manifest says the file holds. `partition` maps the ids of fields that the file's
    partition has by identity to the value as text.
    """

    kind: FileKind
    location: str
    version_id: str | None
    size: int | None = None
    rows: int | None = None
    format: str = ""
    sequence_number: int = 0
    partition: Mapping[int, str | None] | None = None
    partition_key: str = ""


@dataclass(frozen=True, slots=True)
class FileVerdict:
    """What hashing one file of a snapshot just now showed. `status` is that of `objects.model.Verification`,
    or ``missing`` where nothing lies, or ``unproven`` where no version was recorded."""

    file: SnapshotFile
    status: Literal["verified", "broken", "missing", "deleted", "dropped", "unproven"]
    expected: str | None
    found: str | None


def check_namespace(levels: Sequence[str]) -> Namespace:
    """Return the levels when they can name a namespace, else raise `Invalid` (``bad_name``)."""
    if not levels:
        raise Invalid("A namespace needs a name.", reason="bad_name")
    if len(levels) > _LEVELS:
        raise Invalid(f"A namespace has at most {_LEVELS} levels.", reason="bad_name")
    for level in levels:
        _check("namespace", level)
    return tuple(levels)


def check_table_name(name: str) -> str:
    """Return `name` when it can name a table, else raise `Invalid` (``bad_name``)."""
    _check("table", name)
    return name


def _check(what: str, name: str) -> None:
    shown = name if len(name) <= 60 else name[:57] + "..."
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise Invalid(f"The name of the {what} is not valid Unicode.", reason="bad_name") from error
    if not 0 < size <= 255 or _FORBIDDEN.search(name) or name != name.strip():
        raise Invalid(
            f"{shown!r} cannot name a {what}.",
            hint="Use 1 to 255 bytes without '.', '/', '\\', control characters, or spaces at the ends.",
            reason="bad_name",
        )


def parse_table_name(text: str) -> TableName:
    """``ns.table``, ``a.b.table``, or ``table`` in the namespace ``default``. Raises `Invalid`."""
    parts = text.split(".")
    namespace = check_namespace(parts[:-1]) if len(parts) > 1 else DEFAULT_NAMESPACE
    return TableName(namespace, check_table_name(parts[-1]))


def split_location(location: str) -> tuple[str, str] | None:
    """(bucket, key) of an ``s3://`` location; None when it is no such thing."""
    found = _LOCATION.match(location)
    return (found[1], found[2]) if found else None


def no_such_table(name: TableName | str) -> NotFound:
    return NotFound(
        f"There is no table {str(name)[:200]!r} in this project.",
        hint="List them with: stratal tables",
        reason="no_such_table",
    )


def shared_to_read(name: TableName | str) -> Denied:
    return Denied(
        f"The table {str(name)[:200]!r} is another project's, which shares it to be read.",
        hint="Write to a table of this project: CREATE TABLE … AS SELECT … FROM it.",
        reason="shared_read_only",
    )


def table_exists(name: TableName) -> Conflict:
    return Conflict(f"There is a table {str(name)!r} already.", reason="table_exists")


def no_such_namespace(namespace: Namespace) -> NotFound:
    return NotFound(
        f"There is no namespace {'.'.join(namespace)[:200]!r} in this project.", reason="no_such_namespace"
    )


def creates_table(requirements: Sequence[Json]) -> bool:
    """Does a commit with these requirements create its table?"""
    return any(requirement.get("type") == "assert-create" for requirement in requirements)
