"""Insert or replace, said the way both databases understand."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[dict[str, Any]],
    key: Sequence[str],
    *,
    keep: bool = False,
) -> None:
    """Insert `rows`; where `key` (the columns of a unique constraint) exists, replace the other columns.

    With `keep` an existing row stays as it is. All rows must have the same columns.
    """
    if not rows:
        return
    statement = (postgres_insert if connection.dialect.name == "postgresql" else sqlite_insert)(table)
    others = [] if keep else [name for name in rows[0] if name not in key]
    if others:
        changed = {name: statement.excluded[name] for name in others}
        final = statement.on_conflict_do_update(index_elements=list(key), set_=changed)
    else:
        final = statement.on_conflict_do_nothing(index_elements=list(key))
    connection.execute(final, list(rows))
