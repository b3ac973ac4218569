"""Tables of other projects that a project may read. There they are called ``<project>.<namespace>.<table>``.

What belongs to a shared table is what lies in its folder, and the files elsewhere in the lake that its commits
named; nothing else of the lake's bucket is readable, and none of it can be listed.
"""

from dataclasses import replace

from sqlalchemy import Connection, exists, func, or_, select

from stratal.data.lake.model import SEPARATOR, Namespace, TableInfo, TableName
from stratal.data.lake.rows import to_table
from stratal.data.lake.tables import table_files, tables
from stratal.data.objects.model import Bucket, BucketKind
from stratal.identity.shares import lent
from stratal.identity.tables import shares


def lent_tables(connection: Connection, receiver_id: str) -> list[TableInfo]:
    """The living tables of others that the project may read, under the names that it knows them by."""
    given = {share.object_id: share for share in lent(connection, receiver_id, "table")}
    if not given:
        return []
    query = select(tables).where(tables.c.id.in_(list(given)), tables.c.dropped_at.is_(None))
    found = []
    for row in connection.execute(query):
        info = to_table(row)
        giver = tuple(given[info.id].giver.split("."))
        found.append(replace(info, name=TableName((*giver, *info.name.namespace), info.name.name)))
    return sorted(found, key=lambda info: (*info.name.namespace, info.name.name))


def lent_table(connection: Connection, receiver_id: str, name: TableName) -> TableInfo | None:
    return next((info for info in lent_tables(connection, receiver_id) if info.name == name), None)


def levels_of(infos: list[TableInfo]) -> set[Namespace]:
    """The namespaces that the tables are in, and those above them."""
    return {info.name.namespace[:depth] for info in infos for depth in range(1, len(info.name.namespace) + 1)}


def lends(connection: Connection, receiver_id: str, bucket: Bucket, key: str) -> bool:
    """Is that key of a lake's bucket part of a table that the project may read?"""
    if bucket.kind is not BucketKind.LAKE:
        return False
    location = f"s3://{bucket.name}/{key}"
    inside = tables.c.location + "/"
    named = exists().where(table_files.c.table_id == tables.c.id, table_files.c.location == location)
    query = (
        select(tables.c.id)
        .join(shares, (shares.c.object_id == tables.c.id) & (shares.c.kind == "table"))
        .where(
            shares.c.receiver_id == receiver_id,
            tables.c.project_id == bucket.project_id,
            tables.c.dropped_at.is_(None),
            or_(func.substr(location, 1, func.length(inside)) == inside, named),
        )
    )
    return connection.execute(query.limit(1)).first() is not None


def find_shareable(connection: Connection, project_id: str, name: str) -> tuple[str, str] | None:
    """The id and full name of the project's own table called so (``namespace.table``)."""
    for row in connection.execute(
        select(tables).where(tables.c.project_id == project_id, tables.c.dropped_at.is_(None))
    ):
        full = ".".join([*row.namespace.split(SEPARATOR), row.name])
        if full == name:
            return row.id, full
    return None
