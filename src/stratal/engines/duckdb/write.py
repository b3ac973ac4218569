"""Rows as new files of an Iceberg table, and the commit that would add them.

Runs in the worker: files go to its scratch folder, and what pyiceberg would send to a catalogue
(requirements and updates) is handed back. The server stores the files, then commits. So this process
needs no network and no credential, and a commit that is refused leaves nothing visible.
"""

import shutil
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.exceptions import ResolveError
from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream
from pyiceberg.manifest import ManifestFile
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.schema import Schema, promote
from pyiceberg.table import CreateTableTransaction, StagedTable, Table, TableProperties, Transaction
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil, new_table_metadata
from pyiceberg.table.refs import SnapshotRef
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update.snapshot import _MergeAppendFiles, _OverwriteFiles
from pyiceberg.types import IcebergType

from stratal.engines.duckdb.arrow_types import Shape, storable
from stratal.engines.duckdb.data_files import DataFiles, arrow_schema
from stratal.engines.duckdb.statement import Refused, quote, quote_path, runnable

Json = dict[str, Any]
_CHUNK_BYTES = 96 * 1024 * 1024
_BATCH_ROWS = 65_536
_MANIFESTS = 32
_ADDING = ("append", "extend")


def write(database: duckdb.DuckDBPyConnection, request: Json, scratch: Path) -> Json:
    """Make the files; see `WritePlan` and `Written` of the port. Raises `Refused` and DuckDB's errors."""
    folder = scratch / f"write-{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        return _write(database, request, _Scratch(folder, request["known"]))
    except pa.ArrowException as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise Refused("source_unreadable", f"The rows could not be read: {error}") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _write(database: duckdb.DuckDBPyConnection, request: Json, files: "_Scratch") -> Json:
    schema, batches = _rows(database, request)
    if not schema.names:
        raise Refused("no_columns", "The rows have no columns.")
    merging = request["mode"] in {"upsert", "overwrite"} and request["target"] is not None
    if merging:
        schema, batches = _merged(database, request, pa.Table.from_batches(batches, schema))
    kept = storable(schema)
    transaction = _transaction(request, kept, files)
    metadata = transaction.table_metadata
    positional = request.get("sql") is not None and not request["by_name"] and request["metadata"] is not None
    shape = Shape(schema, arrow_schema(metadata), columns=request["columns"], positional=positional)
    replacing = request["mode"] not in _ADDING and request["metadata"] is not None
    branch = request["branch"]
    # pyiceberg writes a table's first snapshot to its main branch only; `_on_branch` renames that.
    onto = branch if branch and metadata.refs else "main"
    with (
        _overwrite(transaction, files, onto, request["properties"])
        if replacing
        else _append(transaction, files, onto, request["properties"])
    ) as snapshot:
        if replacing and metadata.current_snapshot() is not None:
            for task in transaction._scan().plan_files():
                snapshot.delete_data_file(task.file)
        counted = _Counted(_chunks(batches, shape))
        for data_file in DataFiles(metadata, files, snapshot.commit_uuid).write(counted):
            snapshot.append_data_file(data_file)
    create = isinstance(transaction, CreateTableTransaction)
    requirements = [] if create else [_plain_json(r) for r in transaction._requirements]
    updates = [_plain_json(u) for u in transaction._updates]
    if branch:
        requirements, updates = _on_branch(request, requirements, updates)
    return {
        "files": {location: str(path) for location, path in files.written.items()},
        "requirements": [{"type": "assert-create"}] if create else requirements,
        "updates": updates,
        "row_count": counted.rows,
        "snapshot_id": next(u["snapshot"]["snapshot-id"] for u in updates if u["action"] == "add-snapshot"),
        "schema_id": transaction.table_metadata.current_schema_id,
    }


class _Overwrite(_OverwriteFiles):
    """pyiceberg's, but a manifest that names no living file is not taken along, from snapshot to snapshot, for ever."""

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        own = self._snapshot_id
        return [
            m
            for m in manifests
            if m.added_snapshot_id in {None, own} or m.has_added_files() or m.has_existing_files()
        ]


def _append(transaction: Transaction, files: FileIO, branch: str, properties: Json) -> _MergeAppendFiles:
    """pyiceberg's append that merges small manifests: once there are `_MANIFESTS`, the new one holds what all of them
    name, so that a table of many small appends is planned from a few files. The data files stay as they are."""
    appending = _MergeAppendFiles(
        operation=Operation.APPEND,
        transaction=transaction,
        io=files,
        branch=branch,
        snapshot_properties=properties,
    )
    said = transaction.table_metadata.properties
    if TableProperties.MANIFEST_MERGE_ENABLED not in said:
        appending._merge_enabled = True
    if TableProperties.MANIFEST_MIN_MERGE_COUNT not in said:
        appending._min_count_to_merge = _MANIFESTS
    return appending


def _overwrite(transaction: Transaction, files: FileIO, branch: str, properties: Json) -> _Overwrite:
    there = transaction.table_metadata.snapshot_by_name(branch) is not None
    return _Overwrite(
        operation=Operation.OVERWRITE if there else Operation.APPEND,
        transaction=transaction,
        io=files,
        branch=branch,
        snapshot_properties=properties,
    )


def _on_branch(request: Json, requirements: list[Json], updates: list[Json]) -> tuple[list[Json], list[Json]]:
    """The commit without what readers of the main branch would notice, expecting the branch as the server has it."""
    for update in updates:
        if update["action"] == "set-snapshot-ref":
            update["ref-name"] = request["branch"]
    if request["metadata"] is None:
        return requirements, updates
    there = orjson.loads(request["metadata"]).get("refs", {})
    kept = [
        r
        for r in requirements
        if r["type"] != "assert-current-schema-id" and (there or r["type"] != "assert-ref-snapshot-id")
    ]
    for requirement in kept:
        if requirement["type"] == "assert-ref-snapshot-id" and request["branch"] not in there:
            requirement["snapshot-id"] = None
    return kept, [u for u in updates if u["action"] != "set-current-schema"]


def _merged(
    database: duckdb.DuckDBPyConnection, request: Json, new: pa.Table
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The table as it is with the new rows in the place of those they replace.

    NULL keys are equal to each other. Raises `Refused` for new rows of which two have the same keys.
    """
    names = {name.lower() for name in new.schema.names}
    wanted = [*request["keys"], *request["where"]]
    missing = [name for name in wanted if name.lower() not in names]
    if missing:
        raise Refused("no_such_key", f"The rows have no column {', '.join(map(repr, missing))}.")
    database.register("stratal_new", new)
    keys = ", ".join(map(quote, request["keys"]))
    if request["mode"] == "upsert":
        twice = database.execute(
            f"SELECT {keys} FROM stratal_new GROUP BY ALL HAVING count(*) > 1 LIMIT 1"  # noqa: S608
        ).fetchone()
        if twice is not None:
            raise Refused(
                "duplicate_keys", f"Two of the new rows have the same {keys}: {', '.join(map(repr, twice))}."
            )
        same = " AND ".join(f"n.{quote(k)} IS NOT DISTINCT FROM o.{quote(k)}" for k in request["keys"])
        gone = f"EXISTS (SELECT 1 FROM stratal_new n WHERE {same})"  # noqa: S608
        params: list[Any] = []
    else:
        gone = " AND ".join(
            f"o.{quote(k)} IS NOT DISTINCT FROM ${i}" for i, k in enumerate(request["where"], 1)
        )
        params = list(request["where"].values())
        stray = database.execute(
            f"SELECT count(*) FROM stratal_new o WHERE NOT ({gone})",  # noqa: S608
            params,
        ).fetchone()
        if stray is not None and stray[0]:
            raise Refused(
                "rows_elsewhere", f"{stray[0]} of the new rows do not have the values that are overwritten."
            )
    target = quote_path(tuple(request["target"]["path"]))
    # The table's columns first and with its types, so that replacing rows changes neither.
    query = f"SELECT o.* FROM {target} o WHERE NOT ({gone}) UNION ALL BY NAME SELECT * FROM stratal_new"  # noqa: S608
    reader = database.execute(query, params or None).to_arrow_reader(_BATCH_ROWS)
    assert reader is not None
    return reader.schema, iter(reader)


# -- where rows come from ----------------------------------------------------------------------------


def _rows(database: duckdb.DuckDBPyConnection, request: Json) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    if request.get("sql") is not None:
        reader = database.execute(runnable(request), request["params"] or None).to_arrow_reader(_BATCH_ROWS)
        assert reader is not None
        return reader.schema, iter(reader)
    path = request["source"]
    match request["source_format"]:
        case "parquet":
            return _parquet(path)
        case "arrow":
            return _arrow(path)
        case "csv":
            return _sniffed(database, path, "read_csv")
        case "json":
            return _sniffed(database, path, "read_json_auto")
        case other:
            raise Refused("unknown_format", f"Files of the format {other!r} cannot be read.")


def _parquet(path: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise Refused("source_unreadable", f"That is not a Parquet file: {error}") from error
    return file.schema_arrow, file.iter_batches(_BATCH_ROWS)


def _arrow(path: str) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    try:
        stream = pa.ipc.open_stream(path)
        return stream.schema, iter(stream)
    except pa.ArrowException:
        pass
    try:
        file = pa.ipc.open_file(path)
    except pa.ArrowException as error:
        raise Refused("source_unreadable", f"That is not an Arrow file: {error}") from error
    return file.schema, (file.get_batch(index) for index in range(file.num_record_batches))


def _sniffed(
    database: duckdb.DuckDBPyConnection, path: str, function: str
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """CSV and JSON, with types from the first rows; when a later row disagrees, from all of them."""
    with Path(path).open("rb") as file:
        compression = "gzip" if file.read(2) == b"\x1f\x8b" else "none"
    source = f"{function}($1, compression=$2, sample_size=$3)"  # which of two functions is ours to say
    size = 20_480
    try:
        database.execute(f"SELECT count(COLUMNS(*)) FROM {source}", [path, compression, size])  # noqa: S608
    except duckdb.ConversionException:
        size = -1
    reader = database.execute(f"SELECT * FROM {source}", [path, compression, size]).to_arrow_reader(  # noqa: S608
        _BATCH_ROWS
    )
    assert reader is not None
    return reader.schema, iter(reader)


def _chunks(batches: Iterator[pa.RecordBatch], shape: Shape) -> Iterator[pa.Table]:
    """Tables of about `_CHUNK_BYTES`, so that memory stays bounded however many rows there are."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        shaped = shape.apply(batch)
        held.append(shaped)
        size += shaped.nbytes
        if size >= _CHUNK_BYTES:
            yield pa.Table.from_batches(held)
            held, size = [], 0
    if held and any(batch.num_rows for batch in held):
        yield pa.Table.from_batches(held)


class _Counted:
    """Hands tables on and counts their rows."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self.rows = 0

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> pa.Table:
        table = next(self._tables)
        self.rows += table.num_rows
        return table


# -- what they become part of ------------------------------------------------------------------------


def _transaction(request: Json, schema: pa.Schema, files: "_Scratch") -> Transaction:
    catalog = NoopCatalog("stratal")
    if request["metadata"] is None:
        metadata = new_table_metadata(
            schema=_iceberg(schema),
            partition_spec=UNPARTITIONED_PARTITION_SPEC,
            sort_order=UNSORTED_SORT_ORDER,
            location=request["location"],
            properties={},
        )
        return CreateTableTransaction(StagedTable(("ns", "table"), metadata, "", files, catalog))
    metadata = TableMetadataUtil.parse_raw(request["metadata"])
    if request["branch"]:
        metadata = _as_branch(metadata, request["branch"])
    transaction = Table(("ns", "table"), metadata, "", files, catalog).transaction()
    if request["mode"] != "append":
        _adapt(transaction, schema, keep=request["mode"] == "extend")
    return transaction


def _as_branch(metadata: TableMetadata, branch: str) -> TableMetadata:
    """The table as it looks from a branch, which begins where the main branch is when it is not there yet."""
    ref = metadata.refs.get(branch)
    head = metadata.snapshot_by_id(ref.snapshot_id) if ref is not None else metadata.current_snapshot()
    if head is None:
        return metadata
    seen = {
        "refs": {
            **metadata.refs,
            branch: SnapshotRef.model_validate({"snapshot-id": head.snapshot_id, "type": "branch"}),
        },
        "current_snapshot_id": head.snapshot_id,
        "current_schema_id": metadata.current_schema_id if head.schema_id is None else head.schema_id,
    }
    if ref is None:  # as the main branch is now: columns may have changed since its snapshot
        seen["current_schema_id"] = metadata.current_schema_id
    return metadata.model_copy(update=seen)


def _adapt(transaction: Transaction, schema: pa.Schema, *, keep: bool = False) -> None:
    """Give a table that is replaced the new rows' columns; with `keep`, one that is added to, those it lacks.

    Missing ones are dropped, new ones added, wider types taken. A column whose type has nothing to do with
    the former one is another column of that name: it gets an id of its own, so that old snapshots stay readable.
    """
    wanted = _iceberg(schema)
    types = {column.name: column.field_type for column in wanted.fields}  # their ids are all the same yet
    if keep:
        there = {column.name for column in transaction.table_metadata.schema().fields}
        wanted = Schema(*[column for column in wanted.fields if column.name not in there])
    try:
        with transaction.update_schema() as update:
            for old in () if keep else transaction.table_metadata.schema().fields:
                if old.name not in types or not _related(old.field_type, types[old.name]):
                    update.delete_column((old.name,))
        with transaction.update_schema() as update:
            update.union_by_name(wanted)
    except ValueError as error:
        raise Refused(
            "columns_do_not_match",
            f"The table's columns cannot become those of the new rows: {error}",
            "Drop the table first, or import under another name.",
        ) from error


def _related(old: IcebergType, new: IcebergType) -> bool:
    """Can values of one of the types be held by the other?"""
    if not old.is_primitive or not new.is_primitive:
        return type(old) is type(new)
    for narrow, wide in ((old, new), (new, old)):
        try:
            promote(narrow, wide)
        except ResolveError:
            continue
        return True
    return False


def _iceberg(schema: pa.Schema) -> Schema:
    try:
        converted = Catalog._convert_schema_if_needed(schema)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise Refused("type_not_storable", f"A table cannot hold these columns: {error}") from error
    return converted


def _plain_json(model: Any) -> Any:
    return orjson.loads(model.model_dump_json())


# -- files -------------------------------------------------------------------------------------------


class _Scratch(FileIO):
    """Writes below one folder and reads what it wrote, and the files that the server named."""

    def __init__(self, folder: Path, known: dict[str, str]) -> None:
        super().__init__()
        self._folder = folder
        self._known = known
        self._numbers = count()
        self.written: dict[str, Path] = {}

    def new_input(self, location: str) -> InputFile:
        path = self.written.get(location) or self._known.get(location)
        if path is None:
            raise FileNotFoundError(location)
        return _Input(location, Path(path))

    def new_output(self, location: str) -> OutputFile:
        """pyiceberg writes the manifests of one commit in threads: a number is given out once, whatever happens."""
        path = self.written.setdefault(location, self._folder / f"{next(self._numbers)}")
        return _Output(location, path)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        name = location if isinstance(location, str) else location.location
        path = self.written.pop(name, None)
        if path is not None:
            path.unlink(missing_ok=True)


class _Input(InputFile):
    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location)
        self._path = path

    def __len__(self) -> int:
        return self._path.stat().st_size

    def exists(self) -> bool:
        return self._path.exists()

    def open(self, seekable: bool = True) -> InputStream:
        return self._path.open("rb")


class _Output(OutputFile):
    def __init__(self, location: str, path: Path) -> None:
        super().__init__(location)
        self._path = path

    def __len__(self) -> int:
        return self._path.stat().st_size

    def exists(self) -> bool:
        return self._path.exists()

    def to_input_file(self) -> InputFile:
        return _Input(self.location, self._path)

    def create(self, overwrite: bool = False) -> OutputStream:
        return self._path.open("wb" if overwrite else "xb")
