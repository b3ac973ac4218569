"""Tables and objects as a step sees them: over the platform's doors, or in a folder when there is no server.

Which of the two is decided by where the code runs: a step of a run has its own credential in its
environment and uses the doors; everything else (``python pipeline.py``, a test) uses the folder.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from stratal.sdk.pipelines.values import Model, Object, Table


class Lake(Protocol):
    """Where tables and objects are. `written` are the tables that were written, as they were left."""

    written: dict[str, Table]

    def at(self, quoted: str, snapshot: str | None) -> str:
        """How SQL names a table at a snapshot."""
        ...

    def query(self, text: str) -> list[dict[str, Any]]: ...

    def arrow(self, text: str) -> Any: ...

    def columns(self, text: str) -> list[str]: ...

    def write(
        self, name: str, body: "Body", mode: str, keys: Sequence[str], where: dict[str, Any]
    ) -> Table: ...

    def write_sql(self, name: str, text: str, mode: str, keys: Sequence[str]) -> Table: ...

    def types(self, text: str) -> dict[str, str]:
        """The columns of a query and SQL's names of their types."""
        ...

    def read_object(self, wanted: Object) -> bytes: ...

    def put_object(self, place: Object, data: bytes) -> Object: ...

    def put_report(self, key: str, page: bytes) -> Object: ...

    def list_objects(self, bucket: str, prefix: str) -> list[Object]: ...

    def deploy(self, model: Model, endpoint: str, wishes: dict[str, Any], seconds: float) -> str:
        """Have the endpoint serve the model's version; its address once it does."""
        ...

    def publish_features(
        self, view: str, definition: dict[str, Any], snapshot: str | None
    ) -> dict[str, Any]: ...

    def lookup_features(self, view: str, keys: list[dict[str, Any]]) -> list[dict[str, Any] | None]: ...


class Body:
    """Rows on their way into a table: bytes in `format` (``json``: a row per line, ``arrow``, ``parquet``, ``csv``)."""

    def __init__(self, data: bytes, format: str) -> None:
        self.data = data
        self.format = format


_chosen: list[Lake] = []


def current() -> Lake:
    """Where the code that runs now has its tables."""
    if not _chosen:
        if "STRATAL_STEP" in os.environ:
            from stratal.sdk.pipelines.doors import PlatformLake

            use(PlatformLake.of_environment())
        else:
            from stratal.sdk.pipelines.local import LocalLake

            use(LocalLake(Path(os.environ.get("STRATAL_LOCAL") or ".stratal-local")))
    return _chosen[-1]


def use(lake: Lake) -> None:
    """From now on, tables are there."""
    _chosen[:] = [lake]


def read_sql(text: str) -> list[dict[str, Any]]:
    """The rows of a query, as dicts."""
    return current().query(text)


def write_sql(name: str, text: str, mode: str, keys: Sequence[str]) -> Table:
    """Make the rows of a query those of the table `name`."""
    return current().write_sql(name, text, mode, keys)


def rows(table: Table) -> list[dict[str, Any]]:
    return current().query(_all_of(table))


def arrow(table: Table) -> Any:
    return current().arrow(_all_of(table))


def columns(table: Table) -> list[str]:
    """The names of the table's columns."""
    return current().columns(_all_of(table))


def write(
    table: Table, data: Any, mode: str, *, keys: Sequence[str] = (), where: dict[str, Any] | None = None
) -> Table:
    if mode == "upsert" and not keys:
        raise ValueError("An upsert needs the names of its key columns.")
    return current().write(table.name, body_of(data), mode, keys, where or {})


def read_object(wanted: Object) -> bytes:
    return current().read_object(wanted)


def put_object(place: Object, data: bytes) -> Object:
    return current().put_object(place, data)


def list_objects(bucket: str, prefix: str) -> list[Object]:
    return current().list_objects(bucket, prefix)


def types(table: Table) -> dict[str, str]:
    """The table's columns and SQL's names of their types; empty when there is no such table."""
    try:
        return current().types(_all_of(table))
    except Exception as error:
        if is_missing(error):
            return {}
        raise


def is_missing(error: Exception) -> bool:
    """Does an error of a query say that its table is not there?"""
    return "no table" in str(error).lower() or "does not exist" in str(error).lower()


def _all_of(table: Table) -> str:
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in table.name.split("."))
    return f"SELECT * FROM {current().at(quoted, table.snapshot)}"  # noqa: S608 (a quoted name)


_FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}


def body_of(data: Any) -> Body:
    """Rows in any of the forms a step may have them. Raises `TypeError`."""
    if isinstance(data, Path):
        suffix = data.suffix.lower()
        if suffix not in _FORMATS:
            raise TypeError(f"{data} is no file of rows: only {', '.join(_FORMATS)}.")
        return Body(data.read_bytes(), _FORMATS[suffix])
    kind = type(data).__module__.partition(".")[0]
    if kind == "pandas":
        import pyarrow as pa

        data, kind = pa.Table.from_pandas(data, preserve_index=False), "pyarrow"
    elif kind == "polars":
        data, kind = data.to_arrow(), "pyarrow"
    elif kind == "duckdb":
        data, kind = data.to_arrow_table(), "pyarrow"
    if kind == "pyarrow" or hasattr(data, "__arrow_c_stream__"):
        import pyarrow as pa

        data = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
        sink = pa.BufferOutputStream()
        with (
            pa.RecordBatchReader.from_stream(data) as batches,
            pa.ipc.new_stream(sink, batches.schema) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch)
        return Body(sink.getvalue().to_pybytes(), "arrow")
    if isinstance(data, Iterable) and not isinstance(data, str | bytes | dict):
        return Body(_json_lines(data), "json")
    raise TypeError(
        f"A table cannot be written from {type(data).__name__}: give it a list of dicts, a pyarrow table, a data "
        "frame, or the Path of a Parquet, CSV or JSON-lines file."
    )


def _json_lines(data: Iterable[Any]) -> bytes:
    lines = []
    for row in data:
        if not isinstance(row, dict):
            raise TypeError(f"Each row must be a dict, not {type(row).__name__}.")
        lines.append(json.dumps(row, ensure_ascii=False, default=str, allow_nan=False))
    return ("\n".join(lines) + "\n").encode() if lines else b""
