"""Bringing files and databases in: types found out, bad rows kept aside with reasons, nothing silently changed.

CSV and JSON lines are read row by row. A column has the narrowest type that nearly all of its values have, or the one that
is declared; a row that does not fit goes to a table of its own, with where it came from and what is wrong
with it. Parquet files have types already and are taken as they are.
"""

import csv
import datetime
import io
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.lake import Body
from stratal.sdk.pipelines.values import Object, Table

Mode = Literal["append", "replace", "upsert"]
_NEARLY_ALL = 0.95
_REASON = 300


class TooManyBadRows(Exception):
    """More of a source's rows are bad than may be; nothing was written."""


@dataclass(frozen=True)
class Ingested:
    """What came of it: the table, how many rows it got, how many were kept aside and where (None: none were)."""

    table: Table
    rows: int
    bad: int
    bad_table: Table | None


def ingest(
    source: Path | Object | bytes,
    into: str,
    *,
    format: Literal["csv", "json", "parquet"] | None = None,
    columns: Mapping[str, str] | None = None,
    mode: Mode = "append",
    keys: Sequence[str] = (),
    most_bad: float = 0.1,
    delimiter: str = ",",
) -> Ingested:
    """Bring the rows of a file into the table `into`.

    `columns` declares types (``int``, ``float``, ``bool``, ``date``, ``time``, ``text``) by name; the others are
    found out. Bad rows go to ``<into>_bad`` (source, line, reason, row). Raises `TooManyBadRows` when they are more than
    the part `most_bad`, `ValueError` for a file of which the format cannot be told.
    """
    name, data = _read(source)
    chosen = format or _format_of(name, data)
    if chosen == "parquet":
        written = lake.current().write(into, Body(data, "parquet"), mode, keys, {})
        return Ingested(written, -1, 0, None)
    rows = list(_csv_rows(data, delimiter) if chosen == "csv" else _json_rows(data))
    return bring(name, rows, into, columns=columns, mode=mode, keys=keys, most_bad=most_bad)


def bring(
    name: str,
    rows: Sequence[tuple[int, Any, str | None]],
    into: str,
    *,
    columns: Mapping[str, str] | None = None,
    mode: Mode = "append",
    keys: Sequence[str] = (),
    most_bad: float = 0.1,
) -> Ingested:
    """Bring rows (with the line of each, and what is wrong with it) of the source `name` into a table; see `ingest`."""
    table = Table(into)
    types = _types([row for _, row, reason in rows if reason is None], columns or {})
    good: list[dict[str, Any]] = []
    bad: list[dict[str, Any]] = []
    for line, row, reason in rows:
        kept, wrong = ({}, reason) if reason is not None else _fitted(row, types)
        if wrong is None:
            good.append(kept)
        else:
            raw = json.dumps(row, ensure_ascii=False, default=str)
            bad.append({"source": name, "line": line, "reason": wrong[:_REASON], "row": raw[:10_000]})
    if len(bad) > most_bad * max(len(rows), 1):
        raise TooManyBadRows(
            f"{len(bad)} of {len(rows)} rows of {name} are bad, for example line {bad[0]['line']}: {bad[0]['reason']}"
        )
    aside = Table(f"{into}_bad").append(bad) if bad else None
    if good:
        table = lake.write(table, good, mode, keys=keys)
    return Ingested(table, len(good), len(bad), aside)


def ingest_sqlite(
    source: Path | Object,
    query: str,
    into: str,
    *,
    cursor: str,
    keys: Sequence[str] = (),
) -> Ingested:
    """Bring what is new in a SQLite database into the table `into`: rows whose `cursor` is above all that it has.

    `query` is a table's name or a SELECT. What was seen is what the table holds, so nothing else is to be kept or lost.
    With `keys` rows that have changed take the place of those before them.
    """
    selected = query if " " in query.strip() else f"SELECT * FROM {_quoted(query)}"  # noqa: S608
    newest = newest_of(into, cursor)
    with tempfile.TemporaryDirectory() as folder:
        path = source if isinstance(source, Path) else Path(folder) / "source.db"
        if isinstance(source, Object):
            path.write_bytes(source.read())
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            above = "" if newest is None else f" WHERE {_quoted(cursor)} > ?"
            text = f"SELECT * FROM ({selected}){above} ORDER BY {_quoted(cursor)}"  # noqa: S608 (its author's own query)
            found = [dict(row) for row in database.execute(text, () if newest is None else (newest,))]
    for row in found:
        for column, value in row.items():
            if isinstance(value, bytes):
                row[column] = value.hex()
    if not found:
        return Ingested(Table(into), 0, 0, None)
    written = lake.write(Table(into), found, "upsert" if keys else "append", keys=keys)
    return Ingested(written, len(found), 0, None)


def newest_of(into: str, cursor: str) -> Any:
    """The greatest value that the table has in a column; None when it has none, or is not there."""
    try:
        path = ".".join(map(_quoted, into.split(".")))
        (row,) = lake.read_sql(f"SELECT max({_quoted(cursor)}) AS newest FROM {path}")  # noqa: S608
    except Exception as error:
        if "no table" in str(error).lower() or "does not exist" in str(error).lower():
            return None
        raise
    return row["newest"]


def _read(source: Path | Object | bytes) -> tuple[str, bytes]:
    if isinstance(source, Path):
        return source.name, source.read_bytes()
    if isinstance(source, Object):
        return source.location, source.read()
    return "bytes", source


def _format_of(name: str, data: bytes) -> Literal["csv", "json", "parquet"]:
    if data[:4] == b"PAR1":
        return "parquet"
    suffix = name.lower().rpartition(".")[2]
    if suffix in {"json", "jsonl", "ndjson"}:
        return "json"
    if suffix in {"csv", "tsv", "txt"}:
        return "csv"
    raise ValueError(f"What format {name} has cannot be told: say format='csv', 'json' or 'parquet'.")


Read = Iterator[tuple[int, Any, str | None]]
"""Line, row, and what is wrong with it."""


def _csv_rows(data: bytes, delimiter: str) -> Read:
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig", errors="replace")), delimiter=delimiter)
    header = next(reader, [])
    for fields in reader:
        if not fields:
            continue
        if len(fields) != len(header):
            yield reader.line_num, fields, f"it has {len(fields)} fields, not {len(header)}"
        else:
            yield reader.line_num, dict(zip(header, fields, strict=True)), None


def _json_rows(data: bytes) -> Read:
    for number, line in enumerate(data.decode("utf-8-sig", errors="replace").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, line, f"it is not JSON: {error}"
            continue
        if isinstance(row, dict):
            yield number, row, None
        else:
            yield number, line, "it is no object"


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "false": False, "yes": True, "no": False}[str(value).strip().lower()]


def _date(value: Any) -> str:
    return datetime.date.fromisoformat(str(value).strip()).isoformat()


def _time(value: Any) -> str:
    return datetime.datetime.fromisoformat(str(value).strip()).isoformat()


def _text(value: Any) -> Any:
    return value if isinstance(value, str | list | dict) else str(value)


_TYPES: dict[str, Callable[[Any], Any]] = {
    "int": _int, "float": _float, "bool": _bool, "date": _date, "time": _time, "text": _text,
}  # fmt: skip


def _types(rows: Sequence[Mapping[str, Any]], declared: Mapping[str, str]) -> dict[str, str]:
    """The type of each column: as declared, else the first that nearly all of its values have."""
    unknown = next((kind for kind in declared.values() if kind not in _TYPES), None)
    if unknown is not None:
        raise ValueError(f"There is no type {unknown!r}: say {', '.join(_TYPES)}.")
    found = dict(declared)
    for column in dict.fromkeys(name for row in rows for name in row):
        if column in found:
            continue
        values = [row[column] for row in rows if row.get(column) not in (None, "")]
        found[column] = next(
            kind for kind in _TYPES if kind == "text" or (values and _share(values, kind) >= _NEARLY_ALL)
        )
    return found


def _share(values: Sequence[Any], kind: str) -> float:
    return sum(_converted(value, kind)[1] is None for value in values) / len(values)


def _converted(value: Any, kind: str) -> tuple[Any, str | None]:
    try:
        return _TYPES[kind](value), None
    except (ValueError, KeyError, TypeError, OverflowError):
        return None, f"{str(value)[:60]!r} is no {kind}"


def _fitted(row: Mapping[str, Any], types: Mapping[str, str]) -> tuple[dict[str, Any], str | None]:
    kept: dict[str, Any] = {}
    for column, kind in types.items():
        value = row.get(column)
        if value is None or (value == "" and kind != "text"):
            kept[column] = None
            continue
        kept[column], wrong = _converted(value, kind)
        if wrong is not None:
            return {}, f"column {column}: {wrong}"
    return kept, None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
