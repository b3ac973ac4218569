"""A snapshot's files as one relation, by field id.

An Iceberg table's columns are told apart by field id, not by name: a file written before a rename, an
added or a dropped column, or a widened type has other names, columns and types than the table has now
(https://iceberg.apache.org/spec/#column-projection). So the columns of each file are read from its
footer, files that look the same are read together, and each group is selected into the table's present
shape. Columns that a file lacks are constants: the partition's value where the partition field is an
identity, else the column's initial default, else NULL.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import duckdb

from stratal.engines.duckdb.statement import quote

Json = dict[str, Any]

_PRIMITIVES = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
    "timestamp_ns": "TIMESTAMP_NS",
    "timestamptz_ns": "TIMESTAMPTZ",
    "string": "VARCHAR",
    "uuid": "UUID",
    "binary": "BLOB",
    "unknown": "INTEGER",
}


class CannotRead(Exception):
    """A table or file that this engine cannot read rightly, so does not read at all."""


@dataclass
class Column:
    """One column of a Parquet file, nested ones with children: what the footer says."""

    name: str
    type: str
    field_id: int | None
    children: list["Column"] = field(default_factory=list)

    @property
    def signature(self) -> tuple[object, ...]:
        return (self.name, self.type, self.field_id, tuple(child.signature for child in self.children))


def duckdb_type(kind: str | Json) -> str:
    """DuckDB's name for an Iceberg type (as its JSON has it). Raises `CannotRead`."""
    if isinstance(kind, str):
        if kind.startswith("decimal"):
            return kind.upper().replace(" ", "")
        if kind.startswith("fixed"):
            return "BLOB"
        if kind not in _PRIMITIVES:
            raise CannotRead(f"columns of type {kind} cannot be read in SQL yet")
        return _PRIMITIVES[kind]
    if kind["type"] == "struct":
        fields = ", ".join(f"{quote(f['name'])} {duckdb_type(f['type'])}" for f in kind["fields"])
        return f"STRUCT({fields})" if fields else "INTEGER"
    if kind["type"] == "list":
        return f"{duckdb_type(kind['element'])}[]"
    return f"MAP({duckdb_type(kind['key'])}, {duckdb_type(kind['value'])})"


def relation(connection: duckdb.DuckDBPyConnection, table: Json) -> str:
    """The SELECT that yields the table's rows.

    `table` has ``fields`` (the snapshot's schema, Iceberg's JSON), ``files`` (each with ``path``,
    ``location``, ``partition``: field id → constant, ``deletes``: paths of position delete files) and
    ``names`` (field id → names it had, for files without field ids). Raises `CannotRead`.
    """
    fields: list[Json] = table["fields"]
    if not fields:
        raise CannotRead("it has no columns")
    if not table["files"]:
        columns = ", ".join(f"CAST(NULL AS {duckdb_type(f['type'])}) AS {quote(f['name'])}" for f in fields)
        return f"SELECT {columns} WHERE false"
    footers = _footers(connection, [file["path"] for file in table["files"]])
    groups: dict[object, list[Json]] = {}
    for file in table["files"]:
        columns_here = footers[file["path"]]
        key = (
            tuple(column.signature for column in columns_here),
            json.dumps(file["partition"], sort_keys=True),
            tuple(file["deletes"]),
        )
        groups.setdefault(key, []).append(file)
    names = {int(field_id): list(known) for field_id, known in table["names"].items()}
    selects = [_group(fields, footers[files[0]["path"]], files, names) for files in groups.values()]
    return "\nUNION ALL\n".join(selects)


def _group(fields: list[Json], columns: list[Column], files: list[Json], names: dict[int, list[str]]) -> str:
    constants = {int(key): value for key, value in files[0]["partition"].items()}
    chosen = []
    for wanted in fields:
        column = _find(wanted, columns, names)
        if column is not None:
            value = _project(wanted["type"], column, f"f.{quote(column.name)}", names)
        else:
            value = _missing(wanted, constants)
        chosen.append(f"{value} AS {quote(wanted['name'])}")
    paths = _list([file["path"] for file in files])
    source = f"read_parquet({paths}, hive_partitioning=false, union_by_name=false"
    select = f"SELECT {', '.join(chosen)} FROM {source}"  # noqa: S608 (names and texts are quoted above)
    if not files[0]["deletes"]:
        return select + ") AS f"
    pairs = ", ".join(f"({_text(file['path'])}, {_text(file['location'])})" for file in files)
    deletes = f"read_parquet({_list(files[0]['deletes'])}, hive_partitioning=false)"
    source = f"{select}, filename='stratal filename', file_row_number=true) AS f"
    known = (
        f"SELECT 1 FROM {deletes} AS d JOIN (VALUES {pairs}) AS p(path, location) ON d.file_path = p.location "  # noqa: S608
        f'WHERE p.path = f."stratal filename" AND d.pos = f.file_row_number'
    )  # fmt: skip
    return f"{source} WHERE NOT EXISTS ({known})"


def _find(wanted: Json, columns: list[Column], names: dict[int, list[str]]) -> Column | None:
    """The column that holds the wanted field: by id, or by a known name in a file that carries no ids."""
    if any(column.field_id is not None for column in columns):
        return next((column for column in columns if column.field_id == wanted["id"]), None)
    known = names.get(wanted["id"], [wanted["name"]])
    return next((column for column in columns if column.name in known), None)


def _missing(wanted: Json, constants: dict[int, Any]) -> str:
    kind = duckdb_type(wanted["type"])
    value = constants.get(wanted["id"], wanted.get("initial-default"))
    if value is None:
        return f"CAST(NULL AS {kind})"
    if kind == "BLOB":
        return f"unhex({_text(str(value))})"
    return f"CAST({_text(str(value))} AS {kind})"


def _project(kind: str | Json, column: Column, value: str, names: dict[int, list[str]]) -> str:
    """The SQL that turns a file's column into the wanted type; the plain column when it is that already."""
    wanted = duckdb_type(kind)
    if isinstance(kind, str):
        if column.type == wanted:
            return value
        if kind == "uuid" and column.type == "BLOB":
            return f"CAST(hex({value}) AS UUID)"
        if kind == "string" and column.type == "BLOB":
            return f"decode({value})"
        return f"CAST({value} AS {wanted})"
    if kind["type"] == "struct":
        return _struct(kind, column, value, names)
    if kind["type"] == "list":
        inner = _element(column)
        new = _project(kind["element"], inner, "x", names)
        return value if new == "x" else f"list_transform({value}, lambda x: {new})"
    pair = column.children[0].children
    key = _project(kind["key"], pair[0], "e.key", names)
    item = _project(kind["value"], pair[1], "e.value", names)
    if (key, item) == ("e.key", "e.value"):
        return value
    entries = f"list_transform(map_entries({value}), lambda e: struct_pack(key := {key}, value := {item}))"
    return f"CASE WHEN {value} IS NULL THEN NULL ELSE map_from_entries({entries}) END"


def _element(column: Column) -> Column:
    """A list's element, whether written with the repeated group between (three levels) or without (two)."""
    inner = column.children[0]
    if inner.name in {"list", "bag", "array"} and len(inner.children) == 1:
        return inner.children[0]
    return inner


def _struct(kind: Json, column: Column, value: str, names: dict[int, list[str]]) -> str:
    if not kind["fields"]:
        return f"CAST(NULL AS {duckdb_type(kind)})"
    parts, same = [], len(kind["fields"]) == len(column.children)
    for position, wanted in enumerate(kind["fields"]):
        child = _find(wanted, column.children, names)
        if child is None:
            parts.append(f"{quote(wanted['name'])} := {_missing(wanted, {})}")
            same = False
            continue
        plain = f"{value}.{quote(child.name)}"
        new = _project(wanted["type"], child, plain, names)
        same = same and new == plain and child is column.children[position] and child.name == wanted["name"]
        parts.append(f"{quote(wanted['name'])} := {new}")
    if same:
        return value
    return f"CASE WHEN {value} IS NULL THEN NULL ELSE struct_pack({', '.join(parts)}) END"


def _footers(connection: duckdb.DuckDBPyConnection, paths: list[str]) -> dict[str, list[Column]]:
    """The columns of each file. The rows of `parquet_schema` are each file's tree in pre-order."""
    rows = connection.execute(
        "SELECT file_name, name, coalesce(num_children, 0), field_id, coalesce(duckdb_type, type) "
        "FROM parquet_schema($1)",
        [paths],
    ).fetchall()
    trees: dict[str, list[Column]] = {}
    index = 0
    while index < len(rows):
        name = rows[index][0]
        root, index = _tree(rows, index)
        trees[name] = root.children
    return trees


def _tree(rows: list[tuple[Any, ...]], index: int) -> tuple[Column, int]:
    _, name, count, field_id, kind = rows[index]
    column = Column(name, (kind or "").replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"), field_id)
    index += 1
    for _ in range(count):
        child, index = _tree(rows, index)
        column.children.append(child)
    return column, index


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _list(values: list[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"
