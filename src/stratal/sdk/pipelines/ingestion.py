"""Bringing files and databases in: types found out, bad rows kept aside with reasons, nothing silently changed.

CSV and JSON lines are read row by row. A column has the narrowest type that nearly all of its values have, or the one that
is declared; a row that does not fit goes to a table of its own, with where it came from and what is wrong
with it. Parquet files have types already and are taken as they are; sheets of Excel are read with python-calamine, which
the step's environment has then.

A table that is there keeps its columns and their types: values are brought into those. What of a source does not go into
them is a change of the table, which is made only as far as `evolve` allows.
"""

import csv
import datetime
import io
import json
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.lake import Body
from stratal.sdk.pipelines.values import Object, Table

Mode = Literal["append", "replace", "upsert"]
Evolve = Literal["refuse", "add", "widen"]
Format = Literal["csv", "json", "parquet", "excel"]
_NEARLY_ALL = 0.95
_REASON = 300


class TooManyBadRows(Exception):
    """More of a source's rows are bad than may be; nothing was written."""


class ColumnsChanged(Exception):
    """A source has columns or types that the table has not, and `evolve` does not allow the change; nothing was written."""


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
    format: Format | None = None,
    columns: Mapping[str, str] | None = None,
    mode: Mode = "append",
    keys: Sequence[str] = (),
    most_bad: float = 0.1,
    delimiter: str = ",",
    sheet: str | int = 0,
    evolve: Evolve = "refuse",
) -> Ingested:
    """Bring the rows of a file into the table `into`.

    `columns` declares types (``int``, ``float``, ``bool``, ``date``, ``time``, ``text``) by name; the others are
    found out. Bad rows go to ``<into>_bad`` (source, line, reason, row). `sheet` of an Excel file is a name or a number
    from 0.

    `evolve` says what becomes of a table that is there: ``refuse`` keeps its columns as they are, ``add`` takes new ones,
    ``widen`` also turns a column's type into one that holds both (int to float, date to time, anything to text).

    Raises `TooManyBadRows` when they are more than the part `most_bad`, `ColumnsChanged` for a change that is not allowed,
    `ValueError` for a file of which the format cannot be told.
    """
    name, data = _read(source)
    chosen = format or format_of(name, data)
    if chosen == "parquet":
        written = lake.current().write(into, Body(data, "parquet"), mode, keys, {})
        return Ingested(written, -1, 0, None)
    rows = list(read_rows(data, chosen, delimiter, sheet))
    return bring(name, rows, into, columns=columns, mode=mode, keys=keys, most_bad=most_bad, evolve=evolve)


def read_rows(data: bytes, format: Format, delimiter: str = ",", sheet: str | int = 0) -> "Read":
    """The rows of a file that are read one by one."""
    if format == "csv":
        return _csv_rows(data, delimiter)
    return _excel_rows(data, sheet) if format == "excel" else _json_rows(data)


def bring(
    name: str,
    rows: Sequence[tuple[int, Any, str | None]],
    into: str,
    *,
    columns: Mapping[str, str] | None = None,
    mode: Mode = "append",
    keys: Sequence[str] = (),
    most_bad: float = 0.1,
    evolve: Evolve = "refuse",
) -> Ingested:
    """Bring rows (with the line of each, and what is wrong with it) of the source `name` into a table; see `ingest`."""
    found = sorted_out(name, rows, into, columns=columns, mode=mode, most_bad=most_bad, evolve=evolve)
    bad = [
        {
            "source": name,
            "line": line,
            "reason": reason,
            "row": json.dumps(row, ensure_ascii=False, default=str)[:10_000],
        }
        for _, line, row, reason in found.bad
    ]
    aside = Table(f"{into}_bad").append(bad) if bad else None
    table = found.changes.write(Table(into), found.good, mode, keys) if found.good else Table(into)
    return Ingested(table, len(found.good), len(bad), aside)


@dataclass(frozen=True)
class Sorted:
    """Rows as they go into the table, those that do not with their number, line and reason, and what the table becomes."""

    good: list[dict[str, Any]]
    bad: list[tuple[int, int, Any, str]]
    changes: "Changes"


def sorted_out(
    name: str,
    rows: Sequence[tuple[int, Any, str | None]],
    into: str,
    *,
    columns: Mapping[str, str] | None,
    mode: Mode = "append",
    most_bad: float,
    evolve: Evolve,
) -> Sorted:
    """Which rows go into the table, and which do not and why. Nothing is written. Raises as `ingest`."""
    types = _types([row for _, row, reason in rows if reason is None], columns or {})
    types, changes = evolved(name, rows, types, {} if mode == "replace" else kinds_of(into), evolve, most_bad)
    found = Sorted([], [], changes)
    for number, (line, row, reason) in enumerate(rows):
        kept, wrong = ({}, reason) if reason is not None else _fitted(row, types)
        if wrong is None:
            found.good.append(kept)
        else:
            found.bad.append((number, line, row, wrong[:_REASON]))
    if len(found.bad) > most_bad * max(len(rows), 1):
        _, line, _, wrong = found.bad[0]
        raise TooManyBadRows(
            f"{len(found.bad)} of {len(rows)} rows of {name} are bad, for example line {line}: {wrong}"
        )
    return found


@dataclass(frozen=True)
class Changes:
    """What a source changes of a table: columns that are `new`, and those whose type becomes another (`widened`)."""

    new: Sequence[str] = ()
    widened: Mapping[str, str] = field(default_factory=dict)

    def write(self, table: Table, rows: list[dict[str, Any]], mode: str, keys: Sequence[str] = ()) -> Table:
        """Write the rows into the table as it is then. All of it is seen by others at once, like any step's writes."""
        if self.widened:
            casts = ", ".join(
                f"CAST({quoted(name)} AS {_SQL[kind]}) AS {quoted(name)}"
                for name, kind in self.widened.items()
            )
            before = lake.current().written.get(table.name, table)
            place = lake.current().at(".".join(map(quoted, table.name.split("."))), before.snapshot)
            text = f"SELECT * REPLACE ({casts}) FROM {place}"  # noqa: S608 (quoted names)
            table = lake.write_sql(table.name, text, "replace", [])
        if mode == "append" and self.new:
            mode = "extend"
        return lake.write(table, rows, mode, keys=keys)


def kinds_of(into: str) -> dict[str, str]:
    """The columns of a table, each with the type of ours that it holds (``other``: none of ours)."""
    table = lake.current().written.get(into, Table(into))
    return {name: _kind_of(kind) for name, kind in lake.types(table).items()}


def evolved(
    source: str,
    rows: Sequence[tuple[int, Any, str | None]],
    types: Mapping[str, str],
    present: Mapping[str, str],
    evolve: Evolve,
    most_bad: float,
) -> tuple[dict[str, str], Changes]:
    """The types in which rows go into a table that has the columns `present`, and what that changes of it.

    Raises `ColumnsChanged`, naming the column and the first row with it.
    """
    if not present:
        return dict(types), Changes()
    found = {name: kind for name, kind in present.items() if name in types}
    new = [name for name in types if name not in present]
    widened: dict[str, str] = {}
    good = [(line, row) for line, row, reason in rows if reason is None]
    for name, kind in types.items():
        values = [(line, row[name]) for line, row in good if row.get(name) not in (None, "")]
        if name in present:
            held = present[name]
            nearly = _NEARLY_ALL if evolve == "widen" else min(_NEARLY_ALL, 1 - most_bad)
            if held in {"other", kind} or not values or _share([v for _, v in values], held) >= nearly:
                continue  # what does not fit is bad
            wide = _widest(held, kind)
            line, value = next((line, value) for line, value in values if _converted(value, held)[1])
            if evolve != "widen":
                raise ColumnsChanged(
                    f"{source}, row {line}: column {name} is {held} in the table, and {str(value)[:60]!r} is none. Say "
                    f"evolve='widen' to make the column {wide}, or columns={{{name!r}: {held!r}}} to keep such rows aside."
                )
            found[name] = widened[name] = wide
        elif evolve == "refuse":
            line = next((line for line, _ in values), good[0][0] if good else 1)
            raise ColumnsChanged(
                f"{source}, row {line}: the table has no column {name} (it has {', '.join(present)}). Say evolve='add' to "
                "give it one."
            )
        else:
            found[name] = kind
    return found, Changes(new, widened)


def _widest(one: str, other: str) -> str:
    """The narrowest type that holds the values of both."""
    pair = {one, other}
    if len(pair) == 1:
        return one
    return "float" if pair == {"int", "float"} else "time" if pair == {"date", "time"} else "text"


_SQL = {
    "int": "BIGINT", "float": "DOUBLE", "bool": "BOOLEAN", "date": "DATE", "time": "TIMESTAMP", "text": "VARCHAR",
}  # fmt: skip


def _kind_of(sql: str) -> str:
    name = sql.upper().partition("(")[0]
    if "[" in sql or name in {"STRUCT", "MAP", "LIST", "DECIMAL"}:
        return "other"
    if name.startswith("TIMESTAMP"):
        return "time"
    if name in {
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "HUGEINT",
        "UTINYINT",
        "USMALLINT",
        "UINTEGER",
        "UBIGINT",
    }:
        return "int"
    known = {"DOUBLE": "float", "FLOAT": "float", "BOOLEAN": "bool", "DATE": "date", "VARCHAR": "text"}
    return known.get(name, "other")


def ingest_rows(
    rows: Iterable[Mapping[str, Any]],
    into: str,
    *,
    name: str = "rows",
    columns: Mapping[str, str] | None = None,
    mode: Mode = "append",
    keys: Sequence[str] = (),
    most_bad: float = 0.1,
    evolve: Evolve = "refuse",
) -> Ingested:
    """Bring rows from anywhere (another library's connector, say) into the table `into`, by the rules of `ingest`; `name` is
    what the source is called where a row is kept aside. With no rows nothing is written."""
    found: list[tuple[int, Any, str | None]] = [
        (number, dict(row), None) if isinstance(row, Mapping) else (number, row, "it is no row")
        for number, row in enumerate(rows, 1)
    ]
    if not found:
        return Ingested(Table(into), 0, 0, None)
    return bring(name, found, into, columns=columns, mode=mode, keys=keys, most_bad=most_bad, evolve=evolve)


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
    selected = query if " " in query.strip() else f"SELECT * FROM {quoted(query)}"  # noqa: S608
    newest = newest_of(into, cursor)
    with tempfile.TemporaryDirectory() as folder:
        path = source if isinstance(source, Path) else Path(folder) / "source.db"
        if isinstance(source, Object):
            path.write_bytes(source.read())
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            database.row_factory = sqlite3.Row
            above = "" if newest is None else f" WHERE {quoted(cursor)} > ?"
            text = f"SELECT * FROM ({selected}){above} ORDER BY {quoted(cursor)}"  # noqa: S608 (its author's own query)
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
        path = ".".join(map(quoted, into.split(".")))
        (row,) = lake.read_sql(f"SELECT max({quoted(cursor)}) AS newest FROM {path}")  # noqa: S608
    except Exception as error:
        if lake.is_missing(error):
            return None
        raise
    return row["newest"]


def _read(source: Path | Object | bytes) -> tuple[str, bytes]:
    if isinstance(source, Path):
        return source.name, source.read_bytes()
    if isinstance(source, Object):
        return source.location, source.read()
    return "bytes", source


def format_of(name: str, data: bytes) -> Format:
    if data[:4] == b"PAR1":
        return "parquet"
    suffix = name.lower().rpartition(".")[2]
    if suffix in {"xlsx", "xlsm", "xlsb", "xls", "ods"}:
        return "excel"
    if suffix in {"json", "jsonl", "ndjson"}:
        return "json"
    if suffix in {"csv", "tsv", "txt"}:
        return "csv"
    raise ValueError(
        f"What format {name} has cannot be told: say format='csv', 'json', 'parquet' or 'excel'."
    )


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


def _excel_rows(data: bytes, sheet: str | int) -> Read:
    """The rows below the first that is not empty, by its cells' names; numbers of rows are those that Excel shows."""
    from python_calamine import CalamineWorkbook

    book = CalamineWorkbook.from_filelike(io.BytesIO(data))
    if isinstance(sheet, str) and sheet not in book.sheet_names:
        raise ValueError(f"There is no sheet {sheet!r}; there are {', '.join(book.sheet_names)}.")
    found = (
        book.get_sheet_by_name(sheet) if isinstance(sheet, str) else book.get_sheet_by_index(sheet)
    ).to_python(skip_empty_area=False)
    first = next((number for number, cells in enumerate(found) if any(cell != "" for cell in cells)), None)
    if first is None:
        return
    header = [str(cell).strip() for cell in found[first]]
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"Two columns of the sheet are called {twice!r}.")
    for number, cells in enumerate(found[first + 1 :], first + 2):
        row = {name: _cell(cell) for name, cell in zip(header, cells, strict=False) if name}
        stray = next(
            (cell for name, cell in zip(header, cells, strict=False) if not name and cell != ""), None
        )
        if stray is not None:
            yield number, row, f"{str(stray)[:60]!r} stands in a column without a name"
        elif any(value not in (None, "") for value in row.values()):
            yield number, row, None


def _cell(value: Any) -> Any:
    """A cell as the other formats have it: whole numbers as such, moments as text."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, datetime.datetime):
        midnight = value.time() == datetime.time()
        return value.date().isoformat() if midnight else value.isoformat()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, datetime.timedelta) else value


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
_FITS: dict[str, Callable[[Any], Any]] = {**_TYPES, "other": lambda value: value}
"""Also for columns that are there with a type of which there is none among ours."""
_OTHER_NAMES = {
    **dict.fromkeys(("integer", "bigint", "long", "int64"), "int"),
    **dict.fromkeys(("double", "real", "float64"), "float"),
    **dict.fromkeys(("string", "str", "varchar"), "text"),
    **dict.fromkeys(("timestamp", "datetime"), "time"),
    "boolean": "bool",
}
"""What SQL, Arrow and Python call them."""


def _types(rows: Sequence[Mapping[str, Any]], declared: Mapping[str, str]) -> dict[str, str]:
    """The type of each column: as declared, else the first that nearly all of its values have."""
    found = {name: _OTHER_NAMES.get(kind.lower(), kind.lower()) for name, kind in declared.items()}
    unknown = next((declared[name] for name, kind in found.items() if kind not in _TYPES), None)
    if unknown is not None:
        raise ValueError(f"There is no type {unknown!r}: say {', '.join(_TYPES)}.")
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
        return _FITS[kind](value), None
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


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
