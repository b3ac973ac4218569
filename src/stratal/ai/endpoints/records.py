"""Rows of endpoints, revisions and replicas, and what they mean: the one place that turns the one into the other.

Functions that take a connection run inside a read or a write of the database.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from stratal.ai.endpoints.model import (
    PENDING,
    Endpoint,
    PinnedFile,
    ReplicaInfo,
    Revision,
    RevisionState,
)
from stratal.ai.endpoints.runtime import Greeting, Plan
from stratal.ai.endpoints.tables import endpoint_revisions, endpoints, replicas
from stratal.compute.engine import Isolation

_KEPT_REPLICAS = 10


# -- endpoints -----------------------------------------------------------------------------------


def live_endpoints(c: Connection, project_id: str | None = None) -> list[Endpoint]:
    """Every endpoint that was not removed, by name; of one project when given."""
    query = select(endpoints).where(endpoints.c.removed_at.is_(None)).order_by(endpoints.c.name)
    if project_id is not None:
        query = query.where(endpoints.c.project_id == project_id)
    return [_endpoint(row) for row in c.execute(query).mappings()]


def endpoint_named(c: Connection, project_id: str, name: str) -> Endpoint | None:
    query = select(endpoints).where(
        endpoints.c.project_id == project_id, endpoints.c.name == name, endpoints.c.removed_at.is_(None)
    )
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else _endpoint(row)


def insert_endpoint(c: Connection, endpoint: Endpoint) -> None:
    c.execute(
        insert(endpoints).values(
            id=endpoint.id,
            project_id=endpoint.project_id,
            name=endpoint.name,
            idle_ms=endpoint.idle_ms,
            stopped=int(endpoint.stopped),
            active_revision=endpoint.active_revision,
            created_at=endpoint.created_at,
            created_by=endpoint.created_by,
        )
    )


def update_endpoint(c: Connection, endpoint_id: str, **values: Any) -> None:
    c.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(**values))


def _endpoint(row: RowMapping) -> Endpoint:
    return Endpoint(
        id=row["id"],
        project_id=row["project_id"],
        name=row["name"],
        idle_ms=row["idle_ms"],
        stopped=bool(row["stopped"]),
        active_revision=row["active_revision"],
        created_at=row["created_at"],
        created_by=row["created_by"],
    )


# -- revisions -----------------------------------------------------------------------------------


def insert_revision(c: Connection, endpoint_id: str, values: Mapping[str, Any]) -> Revision:
    """Add the endpoint's next revision; older ones that are not ready yet are superseded by it."""
    of_it = endpoint_revisions.c.endpoint_id == endpoint_id
    supersede_pending(c, endpoint_id, "A newer revision was deployed meanwhile.")
    last = c.execute(select(func.max(endpoint_revisions.c.number)).where(of_it)).scalar()
    row = (
        c.execute(
            insert(endpoint_revisions)
            .values(
                endpoint_id=endpoint_id,
                number=(last or 0) + 1,
                state=RevisionState.PREPARING.value,
                failure="",
                **values,
            )
            .returning(endpoint_revisions)
        )
        .mappings()
        .one()
    )
    return _revision(row)


def supersede_pending(c: Connection, endpoint_id: str, why: str) -> None:
    """Give up the endpoint's revisions that are not ready yet."""
    c.execute(
        update(endpoint_revisions)
        .where(
            endpoint_revisions.c.endpoint_id == endpoint_id,
            endpoint_revisions.c.state.in_([s.value for s in PENDING]),
        )
        .values(state=RevisionState.SUPERSEDED.value, failure=why)
    )


def revision(c: Connection, seq: int) -> Revision | None:
    row = (
        c.execute(select(endpoint_revisions).where(endpoint_revisions.c.seq == seq)).mappings().one_or_none()
    )
    return None if row is None else _revision(row)


def revisions_of(c: Connection, endpoint_id: str, limit: int = 100) -> list[Revision]:
    """The endpoint's revisions, newest first."""
    query = (
        select(endpoint_revisions)
        .where(endpoint_revisions.c.endpoint_id == endpoint_id)
        .order_by(endpoint_revisions.c.number.desc())
        .limit(limit)
    )
    return [_revision(row) for row in c.execute(query).mappings()]


def update_revision(c: Connection, seq: int, **values: Any) -> None:
    c.execute(update(endpoint_revisions).where(endpoint_revisions.c.seq == seq).values(**values))


def activate(c: Connection, endpoint_id: str, seq: int) -> bool:
    """Make the revision the one that answers. False when it was superseded or its endpoint removed meanwhile."""
    row = c.execute(
        update(endpoint_revisions)
        .where(endpoint_revisions.c.seq == seq, endpoint_revisions.c.state.in_([s.value for s in PENDING]))
        .values(state=RevisionState.ACTIVE.value)
        .returning(endpoint_revisions.c.seq)
    ).first()
    if row is None:
        return False
    live = c.execute(
        update(endpoints)
        .where(endpoints.c.id == endpoint_id, endpoints.c.removed_at.is_(None))
        .values(active_revision=seq, stopped=0)
        .returning(endpoints.c.id)
    ).first()
    c.execute(
        update(endpoint_revisions)
        .where(
            endpoint_revisions.c.endpoint_id == endpoint_id,
            endpoint_revisions.c.seq != seq,
            endpoint_revisions.c.state == RevisionState.ACTIVE.value,
        )
        .values(state=RevisionState.SUPERSEDED.value)
    )
    return live is not None


def greeted(c: Connection, seq: int, greeting: Greeting) -> None:
    """Note on the revision what its replica told of itself: what it takes, and what it really loaded."""
    update_revision(
        c,
        seq,
        interface=_json(greeting.interface),
        loaded=_json(greeting.loaded),
        libraries=_json(greeting.libraries),
    )


def values_of_files(files: Sequence[PinnedFile]) -> str:
    return _json([{"path": f.path, "sha256": f.sha256, "size": f.size, "blob": f.blob} for f in files])


def values_of_plan(plan: Plan) -> str:
    return _json({"runtime": plan.runtime, "options": plan.options})


def _revision(row: RowMapping) -> Revision:
    plan = orjson.loads(row["plan"])
    return Revision(
        seq=row["seq"],
        endpoint_id=row["endpoint_id"],
        number=row["number"],
        model_version_id=row["model_version_id"],
        model_name=row["model_name"],
        model_version=row["model_version"],
        files=tuple(PinnedFile(**file) for file in orjson.loads(row["files"])),
        plan=Plan(plan["runtime"], plan["options"]),
        job_id=row["job_id"],
        requirements=row["requirements"],
        environment_id=row["environment_id"],
        state=RevisionState(row["state"]),
        failure=row["failure"],
        interface=_read(row["interface"]),
        loaded=_read(row["loaded"]) or {},
        libraries=_read(row["libraries"]) or {},
        created_at=row["created_at"],
        created_by=row["created_by"],
    )


def holds_model(c: Connection, model_version_id: str) -> bool:
    """Does a revision, of a removed endpoint too, stand on this model version? Its predictions are explained by it."""
    query = select(endpoint_revisions.c.seq).where(endpoint_revisions.c.model_version_id == model_version_id)
    return c.execute(query.limit(1)).first() is not None


# -- replicas ------------------------------------------------------------------------------------


def held_environments(c: Connection) -> set[str]:
    """The environments that endpoints' revisions were served in."""
    query = (
        select(endpoint_revisions.c.environment_id)
        .join(endpoints, endpoints.c.id == endpoint_revisions.c.endpoint_id)
        .where(endpoint_revisions.c.environment_id.is_not(None), endpoints.c.removed_at.is_(None))
        .distinct()
    )
    return {str(id_) for id_ in c.execute(query).scalars()}


def insert_replica(c: Connection, attempt_id: str, revision_seq: int, now: int) -> None:
    c.execute(insert(replicas).values(id=attempt_id, revision=revision_seq, started_at=now, reason=""))


def running_replicas(c: Connection) -> list[ReplicaInfo]:
    """Those whose end was not recorded."""
    return [
        _replica(row) for row in c.execute(select(replicas).where(replicas.c.ended_at.is_(None))).mappings()
    ]


def replicas_of(c: Connection, endpoint_id: str, limit: int = _KEPT_REPLICAS) -> list[ReplicaInfo]:
    """The endpoint's replicas, newest first."""
    query = (
        select(replicas)
        .join(endpoint_revisions, endpoint_revisions.c.seq == replicas.c.revision)
        .where(endpoint_revisions.c.endpoint_id == endpoint_id)
        .order_by(replicas.c.started_at.desc(), replicas.c.id.desc())
        .limit(limit)
    )
    return [_replica(row) for row in c.execute(query).mappings()]


def update_replica(c: Connection, attempt_id: str, **values: Any) -> None:
    c.execute(update(replicas).where(replicas.c.id == attempt_id).values(**values))


def log_blob(c: Connection, attempt_id: str) -> str | None:
    """Where an ended replica's log is kept."""
    blob = c.execute(select(replicas.c.log_blob).where(replicas.c.id == attempt_id)).scalar()
    return None if blob is None else str(blob)


def prune_replicas(c: Connection, endpoint_id: str, keep: int = _KEPT_REPLICAS) -> list[str]:
    """Forget all but the newest ended replicas; returns the keys of the blobs that nobody needs any more."""
    query = (
        select(replicas.c.id, replicas.c.log_blob)
        .join(endpoint_revisions, endpoint_revisions.c.seq == replicas.c.revision)
        .where(endpoint_revisions.c.endpoint_id == endpoint_id, replicas.c.ended_at.is_not(None))
        .order_by(replicas.c.started_at.desc(), replicas.c.id.desc())
        .offset(keep)
        .limit(1000)
    )
    old = c.execute(query).all()
    if old:
        c.execute(delete(replicas).where(replicas.c.id.in_([row.id for row in old])))
    return [row.log_blob for row in old if row.log_blob]


def purge(c: Connection, project_id: str) -> list[str]:
    """Remove every row of a project's endpoints; returns the keys of the blobs that were theirs."""
    of_project = select(endpoints.c.id).where(endpoints.c.project_id == project_id)
    theirs = select(endpoint_revisions.c.seq).where(endpoint_revisions.c.endpoint_id.in_(of_project))
    blobs = c.execute(
        delete(replicas).where(replicas.c.revision.in_(theirs)).returning(replicas.c.log_blob)
    ).scalars()
    found = [blob for blob in blobs if blob]
    c.execute(delete(endpoint_revisions).where(endpoint_revisions.c.endpoint_id.in_(of_project)))
    c.execute(delete(endpoints).where(endpoints.c.project_id == project_id))
    return found


def isolation_json(isolation: Isolation) -> str:
    return _json(
        {
            "sandbox": isolation.sandbox,
            "network": isolation.network,
            "memory": isolation.memory,
            "landlock": isolation.landlock,
            "other_inputs": list(isolation.other_inputs),
        }
    )


def _replica(row: RowMapping) -> ReplicaInfo:
    return ReplicaInfo(
        id=row["id"],
        revision=row["revision"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        exit_code=row["exit_code"],
        reason=row["reason"],
        isolation=_read(row["isolation"]),
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _read(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
