"""Rows of replicas and what they mean. Functions that take a connection run inside a read or a write."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping, Select, delete, func, insert, select, update

from stratal.compute.engine import Gpu, Usage
from stratal.compute.services.model import Needs, ReplicaInfo, ServiceName
from stratal.compute.services.tables import service_replicas as rows
from stratal.identity.tables import projects

KEPT = 20
"""So many ended replicas of an owner are remembered, with their logs."""


_IN_USE = select(
    func.coalesce(func.sum(rows.c.cpus), 0), func.coalesce(func.sum(rows.c.memory_bytes), 0)
).where(rows.c.ended_at.is_(None))


def in_use(c: Connection) -> tuple[float, int]:
    """Processors and bytes of memory that replicas are counted with."""
    row = c.execute(_IN_USE).one()
    return float(row[0]), int(row[1])


def gpus_in_use(c: Connection) -> list[str]:
    """The GPUs, by UUID, that replicas hold."""
    query = select(rows.c.gpu_uuids).where(rows.c.ended_at.is_(None), rows.c.gpu_uuids != "[]")
    return [uuid for held in c.execute(query).scalars() for uuid in orjson.loads(held)]


def with_gpus() -> Select[Any]:
    """Those that hold GPUs now: their kind and id, their project's id and name, the UUIDs as JSON."""
    query = select(
        rows.c.kind, rows.c.id, rows.c.project_id, projects.c.name.label("project"), rows.c.gpu_uuids
    )
    query = query.join(projects, projects.c.id == rows.c.project_id)
    return query.where(rows.c.ended_at.is_(None), rows.c.gpu_uuids != "[]")


def add(
    c: Connection, attempt_id: str, name: ServiceName, needs: Needs, gpus: Sequence[Gpu], now: int
) -> None:
    c.execute(
        insert(rows).values(
            id=attempt_id,
            project_id=name.project_id,
            kind=name.kind,
            owner_id=name.owner,
            version=name.version,
            cpus=needs.cpus,
            memory_bytes=needs.memory_bytes,
            gpu_uuids=orjson.dumps([gpu.uuid for gpu in gpus]).decode(),
            gpu_type=gpus[0].type if gpus else None,
            started_at=now,
            reason="",
        )
    )


def change(c: Connection, attempt_id: str, **values: Any) -> None:
    c.execute(update(rows).where(rows.c.id == attempt_id).values(**values))


def end(c: Connection, attempt_id: str, **values: Any) -> list[str]:
    """Write a replica's end down, once; returns the keys of the logs that nobody needs any more."""
    ended = update(rows).where(rows.c.id == attempt_id, rows.c.ended_at.is_(None)).values(**values)
    row = c.execute(ended.returning(rows.c.kind, rows.c.owner_id)).first()
    if row is None:
        return [values["log_blob"]] if values.get("log_blob") else []
    return prune(c, row.kind, row.owner_id, KEPT)


def prune(c: Connection, kind: str, owner: str, keep: int) -> list[str]:
    """Forget all but the newest ended replicas of an owner; returns the keys of their logs."""
    query = (
        _newest(select(rows.c.id, rows.c.log_blob))
        .where(rows.c.kind == kind, rows.c.owner_id == owner, rows.c.ended_at.is_not(None))
        .offset(keep)
        .limit(1000)
    )
    old = c.execute(query).all()
    if old:
        c.execute(delete(rows).where(rows.c.id.in_([row.id for row in old])))
    return [row.log_blob for row in old if row.log_blob]


def purge(c: Connection, project_id: str, kind: str) -> list[str]:
    """Remove every row of a kind in a project; returns the keys of their logs."""
    gone = delete(rows).where(rows.c.project_id == project_id, rows.c.kind == kind)
    return [key for key in c.execute(gone.returning(rows.c.log_blob)).scalars() if key]


def running(c: Connection) -> list[ReplicaInfo]:
    """Those whose end was not recorded, oldest first."""
    query = select(rows).where(rows.c.ended_at.is_(None)).order_by(rows.c.started_at, rows.c.id)
    return [_replica(row) for row in c.execute(query).mappings()]


def of_owner(c: Connection, kind: str, owner: str, limit: int) -> list[ReplicaInfo]:
    """The owner's replicas, newest first."""
    query = _newest(select(rows)).where(rows.c.kind == kind, rows.c.owner_id == owner).limit(limit)
    return [_replica(row) for row in c.execute(query).mappings()]


def replica(c: Connection, attempt_id: str) -> ReplicaInfo | None:
    row = c.execute(select(rows).where(rows.c.id == attempt_id)).mappings().one_or_none()
    return None if row is None else _replica(row)


def owner_of(c: Connection, attempt_id: str) -> tuple[str, str] | None:
    """The kind and owner of a replica's service."""
    row = c.execute(select(rows.c.kind, rows.c.owner_id).where(rows.c.id == attempt_id)).one_or_none()
    return None if row is None else (row.kind, row.owner_id)


def log_blob(c: Connection, attempt_id: str) -> str | None:
    """Where an ended replica's log is kept."""
    key = c.execute(select(rows.c.log_blob).where(rows.c.id == attempt_id)).scalar()
    return None if key is None else str(key)


def _newest(query: Select[Any]) -> Select[Any]:
    return query.order_by(rows.c.started_at.desc(), rows.c.id.desc())


def _replica(row: RowMapping) -> ReplicaInfo:
    gpus = orjson.loads(row["gpu_uuids"])
    return ReplicaInfo(
        id=row["id"],
        service=ServiceName(row["kind"], row["owner_id"], row["version"], row["project_id"]),
        needs=Needs(row["cpus"], row["memory_bytes"], len(gpus), row["gpu_type"]),
        started_at=row["started_at"],
        ready_at=row["ready_at"],
        ended_at=row["ended_at"],
        exit_code=row["exit_code"],
        reason=row["reason"],
        isolation=None if row["isolation"] is None else orjson.loads(row["isolation"]),
        usage=Usage() if row["usage"] is None else Usage(**orjson.loads(row["usage"])),
        gpu_uuids=gpus,
    )
