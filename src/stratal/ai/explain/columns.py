"""Which columns a table's columns come from, as far as queries made it.

The query whose rows a snapshot holds is kept with the write; it is taken apart with sqlglot, on a thread and only when
somebody asks. What a Python step computes has no columns that could be followed, and is said to be unknown.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import anyio.to_thread
from sqlalchemy import Connection, select

from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place, TableInfo, TableName
from stratal.data.pipelines.tables import writes
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.database import Database

_AT = re.compile(r"\s+AT\s*\(\s*VERSION\s*=>\s*\d+\s*\)", re.IGNORECASE)
_LONGEST = 100_000
_DEEPEST = 50

Place_ = tuple[str, str]
"""A table's name and a column's."""


@dataclass(frozen=True, slots=True)
class Origin:
    """One column: the columns its values are computed from in the query itself, and those where that begins.

    `roots` are columns of tables that no query here made.
    """

    name: str
    sources: Sequence[Place_]
    roots: Sequence[Place_]


@dataclass(frozen=True, slots=True)
class Origins:
    """The columns of a table at its present snapshot; `unknown` says why nothing is known ("": it is)."""

    table: str
    snapshot: str | None
    columns: Sequence[Origin] = field(default_factory=tuple)
    unknown: str = ""


class Columns:
    def __init__(self, database: Database, lake: Lake) -> None:
        self._database = database
        self._lake = lake

    async def of(self, who: Principal, place: Place, name: TableName) -> Origins:
        """Where the columns of a table come from. Raises `NotFound`."""
        require(who, "tables.read", place.id)
        info = await self._lake.catalog.find(who, place, name)
        shown = None if info.snapshot_id is None else str(info.snapshot_id)
        infos = {str(one.name): one for one in await self._lake.catalog.all(who, place)}
        queries = await self._database.read(lambda c: _queries(c, infos))
        text = queries.get(str(name))
        if text is None:
            return Origins(str(name), shown, unknown="no query of a pipeline made what it shows now")

        def work() -> Origins:
            schemas = {table: [str(column["name"]) for column in one.fields] for table, one in infos.items()}
            known: dict[str, dict[str, list[Place_]]] = {}
            direct = _taken_apart(str(name), queries, schemas, known)
            if direct is None:
                return Origins(str(name), shown, unknown="its query could not be taken apart")
            columns = [
                Origin(column, sources, _roots(str(name), column, queries, schemas, known))
                for column, sources in direct.items()
            ]
            return Origins(str(name), shown, columns)

        return await anyio.to_thread.run_sync(work)


def _queries(c: Connection, infos: Mapping[str, TableInfo]) -> dict[str, str]:
    """Table name → the query that made its present snapshot."""
    now = {info.id: (name, info.snapshot_id) for name, info in infos.items()}
    found: dict[str, str] = {}
    ids = list(now)
    for start in range(0, len(ids), 500):
        query = select(writes.c.table_id, writes.c.snapshot_id, writes.c.sql).where(
            writes.c.table_id.in_(ids[start : start + 500]),
            writes.c.state == "published",
            writes.c.sql.is_not(None),
        )
        for row in c.execute(query):
            name, snapshot_id = now[row.table_id]
            if row.snapshot_id == snapshot_id:
                found[name] = row.sql
    return found


def _taken_apart(
    table: str,
    queries: Mapping[str, str],
    schemas: Mapping[str, Sequence[str]],
    known: dict[str, dict[str, list[Place_]]],
) -> dict[str, list[Place_]] | None:
    """Column → the columns it is computed from, of the query that made the table; None when that cannot be told."""
    if table not in known:
        found = columns_of(queries[table], schemas)
        if found is None:
            return None
        known[table] = found
    return known[table]


def columns_of(text: str, schemas: Mapping[str, Sequence[str]]) -> dict[str, list[Place_]] | None:
    """Output column → (table, column) that its values are computed from; None for a query that cannot be taken apart."""
    import sqlglot
    from sqlglot import exp
    from sqlglot.lineage import lineage
    from sqlglot.optimizer.qualify import qualify

    if len(text) > _LONGEST:
        return None
    schema: dict[str, object] = {}
    for namespace in {name.rpartition(".")[0] for name in schemas}:
        inside = {name: columns for name, columns in schemas.items() if name.rpartition(".")[0] == namespace}
        schema[namespace] = {
            name.rpartition(".")[2]: dict.fromkeys(columns, "varchar") for name, columns in inside.items()
        }
    try:
        parsed = sqlglot.parse_one(_AT.sub("", text), dialect="duckdb")
        whole = qualify(parsed, schema=schema, dialect="duckdb", validate_qualify_columns=False)
        found: dict[str, list[Place_]] = {}
        if not isinstance(whole, exp.Query):
            return None
        for column in whole.named_selects:
            places: dict[Place_, None] = {}
            for node in lineage(column, whole, schema=schema, dialect="duckdb").walk():
                if not node.downstream and isinstance(node.expression, exp.Table):
                    source = ".".join(part.name for part in node.expression.parts)
                    places[source, node.name.rpartition(".")[2].strip('"')] = None
            found[column] = list(places)
    except (sqlglot.errors.SqlglotError, RecursionError, ValueError, KeyError, AttributeError):
        return None
    return found


def _roots(
    table: str,
    column: str,
    queries: Mapping[str, str],
    schemas: Mapping[str, Sequence[str]],
    known: dict[str, dict[str, list[Place_]]],
) -> list[Place_]:
    """The columns at which following the queries ends."""
    roots: dict[Place_, None] = {}
    waiting = [(table, column, 0)]
    seen = set[Place_]()
    while waiting:
        name, wanted, depth = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        direct = _taken_apart(name, queries, schemas, known) if name in queries and depth < _DEEPEST else None
        if direct is None or wanted not in direct:
            roots[name, wanted] = None
            continue
        waiting += [(source, source_column, depth + 1) for source, source_column in direct[wanted]]
    return sorted(roots)
