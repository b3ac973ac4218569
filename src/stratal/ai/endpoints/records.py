"""Rows of endpoints and revisions, and what they mean: the one place that turns the one into the other.

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
    Revision,
    RevisionState,
    Wishes,
)
from stratal.ai.endpoints.runtime import Greeting, Plan
from stratal.ai.endpoints.tables import endpoint_revisions, endpoints
from stratal.compute.services.model import ServiceName
from stratal.identity.model import Kind

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
            **values_of_wishes(endpoint.wishes),
            stopped=int(endpoint.stopped),
            active_revision=endpoint.active_revision,
            shares=values_of_shares(endpoint.shares),
            created_at=endpoint.created_at,
            created_by=endpoint.created_by,
        )
    )


def update_endpoint(c: Connection, endpoint_id: str, **values: Any) -> None:
    c.execute(update(endpoints).where(endpoints.c.id == endpoint_id).values(**values))


def values_of_wishes(wishes: Wishes) -> dict[str, Any]:
    return {name: getattr(wishes, name) for name in Wishes.__slots__}


def values_of_shares(shares: Mapping[int, int]) -> str:
    return _json({str(seq): percent for seq, percent in shares.items()})


def _endpoint(row: RowMapping) -> Endpoint:
    return Endpoint(
        id=row["id"],
        project_id=row["project_id"],
        name=row["name"],
        wishes=Wishes(**{name: row[name] for name in Wishes.__slots__}),
        stopped=bool(row["stopped"]),
        active_revision=row["active_revision"],
        shares={int(seq): percent for seq, percent in orjson.loads(row["shares"]).items()},
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


_PINNED = (
    *("model_version_id", "model_name", "model_version", "files", "plan", "job_id", "requirements"),
    "environment_id",
)


def values_of_revision(c: Connection, seq: int) -> dict[str, Any]:
    """What a revision pinned, for a new one that is the same."""
    query = select(*(endpoint_revisions.c[name] for name in _PINNED)).where(endpoint_revisions.c.seq == seq)
    return dict(c.execute(query).mappings().one())


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


def revisions(c: Connection, seqs: Sequence[int | None]) -> list[Revision]:
    """Those with these numbers, oldest first."""
    query = select(endpoint_revisions).where(endpoint_revisions.c.seq.in_([s for s in seqs if s is not None]))
    return [_revision(row) for row in c.execute(query.order_by(endpoint_revisions.c.seq)).mappings()]


def newest(c: Connection, endpoint_id: str) -> Revision | None:
    return next(iter(revisions_of(c, endpoint_id, 1)), None)


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


def advance(c: Connection, seq: int, **values: Any) -> Revision | None:
    """Bring a revision that is on its way one step on; None when it was superseded or removed meanwhile."""
    change = (
        update(endpoint_revisions)
        .where(endpoint_revisions.c.seq == seq, endpoint_revisions.c.state.in_([s.value for s in PENDING]))
        .values(**values)
        .returning(endpoint_revisions)
    )
    row = c.execute(change).mappings().one_or_none()
    return None if row is None else _revision(row)


def activate(c: Connection, endpoint_id: str, seq: int) -> tuple[int, dict[int, int]] | None:
    """Let the revision answer, with the share it was deployed for; returns the endpoint's traffic from now on.

    None when it was superseded or its endpoint removed meanwhile.
    """
    row = c.execute(
        update(endpoint_revisions)
        .where(endpoint_revisions.c.seq == seq, endpoint_revisions.c.state.in_([s.value for s in PENDING]))
        .values(state=RevisionState.ACTIVE.value)
        .returning(endpoint_revisions.c.share)
    ).first()
    here = select(endpoints.c.active_revision, endpoints.c.shares).where(
        endpoints.c.id == endpoint_id, endpoints.c.removed_at.is_(None)
    )
    endpoint = c.execute(here).first()
    if row is None or endpoint is None:
        return None
    active, shares = seq, {}
    if row.share is not None and row.share < 100 and endpoint.active_revision is not None:
        active = endpoint.active_revision
        shares = {int(s): p for s, p in orjson.loads(endpoint.shares).items()} | {seq: row.share}
        if (
            sum(shares.values()) == 100
        ):  # nothing is left for the active one: the largest share takes its place
            active = max(shares, key=lambda other: (shares[other], other))
            del shares[active]
    set_traffic(c, endpoint_id, active, shares)
    update_endpoint(c, endpoint_id, stopped=0)
    return active, shares


def set_traffic(c: Connection, endpoint_id: str, active: int, shares: Mapping[int, int]) -> None:
    """From now on `active` answers, beside the others with their percentages; whatever else did, does not any more."""
    update_endpoint(c, endpoint_id, active_revision=active, shares=values_of_shares(shares))
    c.execute(
        update(endpoint_revisions)
        .where(
            endpoint_revisions.c.endpoint_id == endpoint_id,
            endpoint_revisions.c.seq.not_in([active, *shares]),
            endpoint_revisions.c.state == RevisionState.ACTIVE.value,
        )
        .values(state=RevisionState.SUPERSEDED.value)
    )


def greeted(c: Connection, seq: int, greeting: Greeting) -> None:
    """Note on the revision what its replica told of itself: what it takes, and what it really loaded."""
    update_revision(
        c,
        seq,
        interface=_json(greeting.interface),
        loaded=_json(greeting.loaded),
        libraries=_json(greeting.libraries),
    )


def payer(c: Connection, name: ServiceName) -> tuple[str, str]:
    """Who pays for a revision's replicas (who deployed it), and what the endpoint is called."""
    query = (
        select(endpoint_revisions.c.person, endpoint_revisions.c.created_by, endpoints.c.name)
        .join(endpoints, endpoints.c.id == endpoint_revisions.c.endpoint_id)
        .where(endpoint_revisions.c.seq == int(name.version))
    )
    row = c.execute(query).one_or_none()
    if row is None:
        return "", name.owner
    kind, _, deployer = row.created_by.partition(":")
    return row.person or (deployer if kind in list(Kind) else ""), row.name


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
        share=row["share"],
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


def held_environments(c: Connection) -> set[str]:
    """The environments that endpoints' revisions were served in."""
    query = (
        select(endpoint_revisions.c.environment_id)
        .join(endpoints, endpoints.c.id == endpoint_revisions.c.endpoint_id)
        .where(endpoint_revisions.c.environment_id.is_not(None), endpoints.c.removed_at.is_(None))
        .distinct()
    )
    return {str(id_) for id_ in c.execute(query).scalars()}


def purge(c: Connection, project_id: str) -> None:
    """Remove every row of a project's endpoints."""
    of_project = select(endpoints.c.id).where(endpoints.c.project_id == project_id)
    c.execute(delete(endpoint_revisions).where(endpoint_revisions.c.endpoint_id.in_(of_project)))
    c.execute(delete(endpoints).where(endpoints.c.project_id == project_id))


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _read(text: str | None) -> Any:
    return None if text is None else orjson.loads(text)
