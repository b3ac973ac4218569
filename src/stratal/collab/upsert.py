"""Insert or replace, said the way both databases understand."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Table
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
    if rows:
        others = () if keep else tuple(name for name in rows[0] if name not in key)
        connection.execute(_statement(connection.dialect.name, table, tuple(key), others), list(rows))


@cache
def _statement(dialect: str, table: Table, key: tuple[str, ...], others: tuple[str, ...]) -> Executable:
    """Built once each: putting it together costs more than running it."""
    statement = (postgres_insert if dialect == "postgresql" else sqlite_insert)(table)
    if not others:
        return statement.on_conflict_do_nothing(index_elements=key)
    return statement.on_conflict_do_update(
        index_elements=key, set_={name: statement.excluded[name] for name in others}
    )
