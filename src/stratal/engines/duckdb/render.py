"""Results as bytes: JSON rows, CSV, or an Arrow IPC stream.

JSON has no dates, bytes, decimals or NaN, and its readers often hold numbers as doubles. So a number is
a JSON number when a double holds it exactly, else a string of its digits; NaN and infinities are strings
(``"NaN"``, ``"Infinity"``, ``"-Infinity"``); dates and times are ISO 8601 (with offset ``Z`` when zoned);
bytes are base64; UUIDs, intervals and the rest strings; lists arrays; structs objects; maps objects when
their keys are strings, else arrays of ``{"key": …, "value": …}``. The column's type says which it was.
"""

import base64
import csv
import datetime
import decimal
import io
import math
import uuid
from collections.abc import Iterator
from typing import Any

import duckdb
import orjson

_SAFE = 2**53 - 1
_CHUNK_BYTES = 1024 * 1024
_FETCH_FIRST, _FETCH_MOST = 64, 4096


def json_value(value: Any) -> Any:
    """One of DuckDB's Python values as what `orjson` takes."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        return value if -_SAFE <= value <= _SAFE else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else _not_finite(value)
    if isinstance(value, decimal.Decimal):
        return _decimal(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: json_value(item) for key, item in value.items()}
        return [{"key": json_value(key), "value": json_value(item)} for key, item in value.items()]
    return str(value)


def _not_finite(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _decimal(value: decimal.Decimal) -> float | int | str:
    if value.is_nan():
        return "NaN"
    if value.is_infinite():
        return _not_finite(float(value))
    if value == value.to_integral_value() and value.as_tuple().exponent == 0:
        return json_value(int(value))  # type: ignore[no-any-return]
    near = float(value)
    return near if decimal.Decimal(repr(near)) == value else str(value)


def columns(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, str]]:
    return [{"name": str(item[0]), "type": str(item[1])} for item in cursor.description or []]


class _RowEncoder:
    """Encodes batches of rows as ``[…],[…]``: values that `orjson` writes as documented are left to it.

    These are the types below, and numbers as long as they are safe, which it checks for integers and we
    for floating-point columns; a batch with an unsafe one goes value by value.
    """

    _NATIVE = frozenset(
        {"BOOLEAN", "VARCHAR", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT",
         "UINTEGER", "UBIGINT", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "UUID"}
    )  # fmt: skip
    _OPTIONS = orjson.OPT_STRICT_INTEGER | orjson.OPT_UTC_Z

    def __init__(self, types: list[str]) -> None:
        self._floats = [index for index, kind in enumerate(types) if kind in {"DOUBLE", "FLOAT"}]
        native = self._NATIVE | {"DOUBLE", "FLOAT"}
        self._others = [index for index, kind in enumerate(types) if kind not in native]

    def __call__(self, batch: list[Any]) -> bytes:
        if all(math.isfinite(sum(row[index] or 0.0 for row in batch)) for index in self._floats):
            rows = batch
            if self._others:
                rows = [list(row) for row in batch]
                for row in rows:
                    for index in self._others:
                        row[index] = json_value(row[index])
            try:
                return orjson.dumps(rows, option=self._OPTIONS)[1:-1]
            except orjson.JSONEncodeError:
                pass
        return b",".join(orjson.dumps([json_value(value) for value in row]) for row in batch)


class Rows:
    """Reads a cursor's rows up to `limit` of them and about `max_bytes` of output; then `truncated` says if more came."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, limit: int | None, max_bytes: int | None) -> None:
        self._cursor = cursor
        self._limit = limit
        self._max_bytes = max_bytes
        self._fetch = _FETCH_FIRST
        self.count = 0
        self.size = 0
        self.truncated = False

    def _batches(self) -> Iterator[list[Any]]:
        while batch := self._cursor.fetchmany(self._fetch):
            if self._limit is not None and self.count + len(batch) > self._limit:
                self.truncated = True
                batch = batch[: self._limit - self.count]
            self.count += len(batch)
            if batch:
                yield batch
            if self.truncated:
                return

    def _fits(self, chunk: bytes) -> bool:
        self.size += len(chunk)
        # As many rows next time as make about a chunk, so that wide rows do not pile up in memory.
        self._fetch = max(1, min(_FETCH_MOST, _CHUNK_BYTES * self.count // max(1, self.size)))
        return self._max_bytes is None or self.size <= self._max_bytes

    def json(self) -> Iterator[bytes]:
        """The rows as a JSON array, in pieces."""
        encode = _RowEncoder([column["type"] for column in columns(self._cursor)])
        yield b"["
        first = True
        for batch in self._batches():
            chunk = (b"" if first else b",") + encode(batch)
            first = False
            yield chunk
            if not self._fits(chunk):
                self.truncated = True
                break
        yield b"]"

    def csv(self) -> Iterator[bytes]:
        """The rows as RFC 4180 with a header; NULL is empty, nested values are JSON."""
        yield _csv_lines([[column["name"] for column in columns(self._cursor)]])
        for batch in self._batches():
            chunk = _csv_lines([[_csv_value(value) for value in row] for row in batch])
            yield chunk
            if not self._fits(chunk):
                self.truncated = True
                return

    def arrow(self) -> Iterator[bytes]:
        """The rows as an Arrow IPC stream, batch by batch."""
        import pyarrow as pa  # a tenth of a second that the other formats need not wait

        reader = self._cursor.to_arrow_reader(8_192)
        assert reader is not None
        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, reader.schema) as writer:
            yield _drain(buffer)
            for batch in reader:
                if self._limit is not None and self.count + batch.num_rows > self._limit:
                    self.truncated = True
                    batch = batch.slice(0, self._limit - self.count)
                self.count += batch.num_rows
                writer.write_batch(batch)
                chunk = _drain(buffer)
                self.size += len(chunk)
                yield chunk
                if self.truncated:
                    break
        yield _drain(buffer)


def _drain(buffer: io.BytesIO) -> bytes:
    chunk = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return chunk


def _csv_lines(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _csv_value(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, uuid.UUID | int | decimal.Decimal | str):
        return value
    plain = json_value(value)
    return orjson.dumps(plain).decode() if isinstance(plain, list | dict) else plain
