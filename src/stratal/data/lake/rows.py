"""The lake's rows: the SQL that its services share. Each function runs inside a read or a write."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Row, Select, func, insert, or_, select, update

from stratal.data.lake.model import (
    SEPARATOR,
    Facts,
    Namespace,
    Place,
    SnapshotInfo,
    TableInfo,
    TableName,
    no_such_namespace,
    table_exists,
)
from stratal.data.lake.namespaces import exists
from stratal.data.lake.tables import snapshots, table_files, tables
from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid


def find_table(connection: Connection, project_id: str, name: TableName) -> TableInfo | None:
    """The living table of that name."""
    row = connection.execute(
        live_tables(project_id).where(
            tables.c.namespace == SEPARATOR.join(name.namespace), tables.c.name == name.name
        )
    ).one_or_none()
    return None if row is None else to_table(row)


def live_tables(project_id: str) -> Select[Any]:
    return select(tables).where(tables.c.project_id == project_id, tables.c.dropped_at.is_(None))


def to_table(row: Row[Any]) -> TableInfo:
    return TableInfo(
        id=row.id,
        project_id=row.project_id,
        name=TableName(tuple(row.namespace.split(SEPARATOR)), row.name),
        uuid=row.uuid,
        location=row.location,
        metadata_location=row.metadata_location,
        version=row.version,
        snapshot_id=row.snapshot_id,
        row_count=row.row_count,
        byte_count=row.byte_count,
        file_count=row.file_count,
        fields=orjson.loads(row.fields),
        created_at=row.created_at,
        created_by=row.created_by,
        updated_at=row.updated_at,
        dropped_at=row.dropped_at,
    )


def to_snapshot(row: Row[Any], current: int | None) -> SnapshotInfo:
    return SnapshotInfo(
        table_id=row.table_id,
        snapshot_id=row.snapshot_id,
        parent_id=row.parent_id,
        schema_id=row.schema_id,
        operation=row.operation,
        summary=orjson.loads(row.summary),
        manifest_list=row.manifest_list,
        version_id=row.manifest_list_version,
        made_at=row.made_at,
        committed_at=row.committed_at,
        committed_by=row.committed_by,
        workload=row.workload,
        current=row.snapshot_id == current,
    )


def check_free(connection: Connection, place: Place, name: TableName) -> None:
    """Raises `NotFound` when the namespace is missing, `Conflict` (``table_exists``) when the name is taken."""
    if not exists(connection, place.id, name.namespace):
        raise no_such_namespace(name.namespace)
    if find_table(connection, place.id, name) is not None:
        raise table_exists(name)


def check_location_free(connection: Connection, project_id: str, location: str, besides: str | None) -> None:
    """A table's folder is its own: what lies in another's would be lost with that table. Raises `Invalid`."""
    inside = tables.c.location + "/"
    query = live_tables(project_id).where(
        or_(
            tables.c.location == location,
            func.substr(location, 1, func.length(inside)) == inside,
            func.substr(tables.c.location, 1, len(location) + 1) == location + "/",
        )
    )
    if besides is not None:
        query = query.where(tables.c.id != besides)
    other = connection.execute(query.limit(1)).first()
    if other is not None:
        raise Invalid(
            f"The location {location[:300]} overlaps the one of another table.",
            hint="Leave the location out, and the table gets a folder of its own.",
            reason="bad_location",
        )


def insert_table(
    connection: Connection,
    who: Principal,
    place: Place,
    name: TableName,
    table_id: str,
    facts: Facts,
    metadata_location: str,
    now: int,
) -> None:
    connection.execute(
        insert(tables).values(
            id=table_id,
            project_id=place.id,
            namespace=SEPARATOR.join(name.namespace),
            name=name.name,
            created_at=now,
            created_by=who.actor,
            version=0,
            **_state(facts, metadata_location, now),
        )
    )


def swap_metadata(
    connection: Connection, table: TableInfo, facts: Facts, metadata_location: str, now: int
) -> bool:
    """The compare-and-swap: point the table at its new metadata if it still shows the one that this was made from."""
    done = connection.execute(
        update(tables)
        .where(
            tables.c.id == table.id,
            tables.c.metadata_location == table.metadata_location,
            tables.c.dropped_at.is_(None),
        )
        .values(version=tables.c.version + 1, **_state(facts, metadata_location, now))
    )
    return done.rowcount == 1


def _state(facts: Facts, metadata_location: str, now: int) -> dict[str, Any]:
    return {
        "uuid": facts.uuid,
        "location": facts.location,
        "metadata_location": metadata_location,
        "snapshot_id": facts.snapshot_id,
        "row_count": facts.row_count,
        "byte_count": facts.byte_count,
        "file_count": facts.file_count,
        "fields": orjson.dumps(facts.fields).decode(),
        "updated_at": now,
    }


def insert_snapshots(
    connection: Connection,
    who: Principal,
    table_id: str,
    added: Sequence[tuple[Any, str]],
    pins: Mapping[str, str],
    now: int,
) -> None:
    """Record new snapshots, each with its manifest list's object version, and the versions of their files."""
    if pins:
        connection.execute(
            insert(table_files),
            [{"table_id": table_id, "location": key, "version_id": value} for key, value in pins.items()],
        )
    if added:
        connection.execute(
            insert(snapshots),
            [
                {
                    "table_id": table_id,
                    "snapshot_id": snapshot.snapshot_id,
                    "parent_id": snapshot.parent_id,
                    "sequence_number": snapshot.sequence_number,
                    "schema_id": snapshot.schema_id,
                    "manifest_list": snapshot.manifest_list,
                    "manifest_list_version": version_id,
                    "operation": snapshot.operation,
                    "summary": orjson.dumps(dict(snapshot.summary)).decode(),
                    "made_at": snapshot.made_at,
                    "committed_at": now,
                    "committed_by": who.actor,
                    "workload": who.workload,
                }
                for snapshot, version_id in added
            ],
        )


def known_snapshots(connection: Connection, table_id: str) -> set[int]:
    return set(
        connection.execute(select(snapshots.c.snapshot_id).where(snapshots.c.table_id == table_id)).scalars()
    )


def tables_in(connection: Connection, project_id: str, namespace: Namespace | None) -> list[TableInfo]:
    """Living tables by name; of one namespace when it is given. Raises `NotFound` when that is missing."""
    query = live_tables(project_id).order_by(tables.c.namespace, tables.c.name)
    if namespace is not None:
        if not exists(connection, project_id, namespace):
            raise no_such_namespace(namespace)
        query = query.where(tables.c.namespace == SEPARATOR.join(namespace))
    return [to_table(row) for row in connection.execute(query)]
