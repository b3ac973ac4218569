"""Rows of functions, revisions and invocations, and what they mean. Functions that take a connection run inside
a read or a write of the database."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping, Select, delete, func, insert, or_, select, update

from stratal.ai.functions.model import (
    ENDED,
    PENDING,
    Deployment,
    Function,
    Invocation,
    InvocationState,
    Revision,
    RevisionState,
    Wishes,
)
from stratal.ai.functions.tables import function_dues, function_sources, functions
from stratal.ai.functions.tables import function_invocations as calls
from stratal.ai.functions.tables import function_revisions as revisions
from stratal.identity.tables import projects
from stratal.kernel.events import outbox

KEPT = 1000
"""So many ended invocations of a function are remembered; as many dead ones beside them."""

# -- functions -----------------------------------------------------------------------------------


def _functions() -> Select[Any]:
    return (
        select(functions, projects.c.name.label("project"))
        .join(projects, functions.c.project_id == projects.c.id)
        .where(functions.c.removed_at.is_(None))
    )


def live_functions(c: Connection, kind: str) -> list[Function]:
    """Every function (or app) that was not removed, by name."""
    query = _functions().where(functions.c.kind == kind).order_by(functions.c.name)
    return [_function(row) for row in c.execute(query).mappings()]


def function_named(c: Connection, kind: str, project_id: str, name: str) -> Function | None:
    mine = (functions.c.kind == kind) & (functions.c.project_id == project_id)
    query = _functions().where(mine, functions.c.name == name)
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else _function(row)


def insert_function(c: Connection, function: Function) -> None:
    c.execute(
        insert(functions).values(
            id=function.id,
            project_id=function.project_id,
            kind=function.kind,
            name=function.name,
            label=function.label,
            active_revision=function.active_revision,
            created_at=function.created_at,
            created_by=function.created_by,
        )
    )


def update_function(c: Connection, function_id: str, **values: Any) -> None:
    c.execute(update(functions).where(functions.c.id == function_id).values(**values))


def _function(row: RowMapping) -> Function:
    return Function(
        id=row["id"],
        project_id=row["project_id"],
        project=row["project"],
        name=row["name"],
        active_revision=row["active_revision"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        kind=row["kind"],
        label=row["label"],
    )


# -- revisions -----------------------------------------------------------------------------------


def insert_revision(
    c: Connection, function_id: str, asked: Deployment, values: Mapping[str, Any]
) -> Revision:
    """Add the function's next revision; older ones that are not ready yet are superseded by it.

    Its workload's name and key come with `name_workload`, in the same transaction: they carry its number.
    """
    supersede_pending(c, function_id, "A newer revision was deployed meanwhile.")
    last = c.execute(
        select(func.max(revisions.c.number)).where(revisions.c.function_id == function_id)
    ).scalar()
    row = {
        "function_id": function_id,
        "number": (last or 0) + 1,
        "target": asked.target,
        "snapshot_id": asked.snapshot_id,
        "cwd": asked.cwd,
        "source": _json(asked.source),
        "requirements": asked.requirements,
        "env": _json(asked.env),
        "wishes": _json(asked.wishes.values()),
        "key_id": "",
        "workload": "",
        "state": RevisionState.PREPARING.value,
        "failure": "",
        **values,
    }
    return _revision(c.execute(insert(revisions).values(row).returning(revisions)).mappings().one())


def update_revision(c: Connection, seq: int, **values: Any) -> None:
    c.execute(update(revisions).where(revisions.c.seq == seq).values(**values))


def advance(c: Connection, seq: int, **values: Any) -> Revision | None:
    """Bring a revision that is on its way one step on; None when it was superseded or removed meanwhile."""
    change = (
        update(revisions)
        .where(revisions.c.seq == seq, revisions.c.state.in_([s.value for s in PENDING]))
        .values(**values)
        .returning(revisions)
    )
    row = c.execute(change).mappings().one_or_none()
    return None if row is None else _revision(row)


def supersede_pending(c: Connection, function_id: str, why: str) -> None:
    """Give up the function's revisions that are not ready yet."""
    c.execute(
        update(revisions)
        .where(revisions.c.function_id == function_id, revisions.c.state.in_([s.value for s in PENDING]))
        .values(state=RevisionState.SUPERSEDED.value, failure=why)
    )


def revision(c: Connection, seq: int) -> Revision | None:
    row = c.execute(select(revisions).where(revisions.c.seq == seq)).mappings().one_or_none()
    return None if row is None else _revision(row)


def revisions_of(c: Connection, function_id: str, limit: int = 100) -> list[Revision]:
    """The function's revisions, newest first."""
    query = (
        select(revisions)
        .where(revisions.c.function_id == function_id)
        .order_by(revisions.c.number.desc())
        .limit(limit)
    )
    return [_revision(row) for row in c.execute(query).mappings()]


def activate(c: Connection, function_id: str, seq: int) -> bool:
    """Make the revision the one that answers. False when it was superseded or its function removed meanwhile."""
    change = (
        update(revisions)
        .where(revisions.c.seq == seq, revisions.c.state.in_([s.value for s in PENDING]))
        .values(state=RevisionState.ACTIVE.value)
    )
    if c.execute(change.returning(revisions.c.seq)).first() is None:
        return False
    live = (
        update(functions)
        .where(functions.c.id == function_id, functions.c.removed_at.is_(None))
        .values(active_revision=seq)
    )
    if c.execute(live.returning(functions.c.id)).first() is None:
        return False
    c.execute(
        update(revisions)
        .where(
            revisions.c.function_id == function_id,
            revisions.c.seq != seq,
            revisions.c.state == RevisionState.ACTIVE.value,
        )
        .values(state=RevisionState.SUPERSEDED.value)
    )
    return True


def ended_workloads(c: Connection) -> list[str]:
    """The workloads of revisions that no request reaches any more."""
    query = select(revisions.c.workload).where(
        revisions.c.state.in_([RevisionState.SUPERSEDED.value, RevisionState.FAILED.value])
    )
    return [str(workload) for workload in c.execute(query).scalars()]


def held_environments(c: Connection) -> set[str]:
    """The environments that functions run in."""
    query = (
        select(revisions.c.environment_id)
        .join(functions, functions.c.id == revisions.c.function_id)
        .where(
            revisions.c.environment_id.is_not(None),
            functions.c.removed_at.is_(None),
            or_(
                revisions.c.seq == functions.c.active_revision,
                revisions.c.state.in_([s.value for s in PENDING]),
            ),
        )
        .distinct()
    )
    return {str(id_) for id_ in c.execute(query).scalars()}


def payer_of(c: Connection, function_id: str) -> tuple[str, str] | None:
    """(the person who deployed the newest revision, the function's name)."""
    query = (
        select(revisions.c.creator_name, functions.c.name)
        .join(functions, functions.c.id == revisions.c.function_id)
        .where(functions.c.id == function_id)
        .order_by(revisions.c.number.desc())
        .limit(1)
    )
    row = c.execute(query).first()
    return None if row is None else (row.creator_name, row.name)


def _revision(row: RowMapping) -> Revision:
    return Revision(
        seq=row["seq"],
        function_id=row["function_id"],
        number=row["number"],
        target=row["target"],
        snapshot_id=row["snapshot_id"],
        cwd=row["cwd"],
        source=orjson.loads(row["source"]),
        requirements=row["requirements"],
        environment_id=row["environment_id"],
        env=orjson.loads(row["env"]),
        wishes=Wishes(**orjson.loads(row["wishes"])),
        key_id=row["key_id"],
        workload=row["workload"],
        state=RevisionState(row["state"]),
        failure=row["failure"],
        created_at=row["created_at"],
        created_by=row["created_by"],
        creator_name=row["creator_name"],
    )


# -- invocations ---------------------------------------------------------------------------------

_SHOWN = (
    *(column for column in calls.c if column.name not in {"input", "result", "log", "query", "headers"}),
    func.length(calls.c.result).label("result_bytes"),
    func.length(calls.c.log).label("log_bytes"),
)
_ENDED = [state.value for state in ENDED]


def insert_invocations(c: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    c.execute(insert(calls), [{**_EMPTY, **row} for row in rows])


_EMPTY: dict[str, Any] = {
    "revision": None,
    "dedupe": None,
    "query": "",
    "headers": "{}",
    "depth": 0,
    "input": None,
    "result": None,
    "result_type": "",
    "status": None,
    "error": None,
    "log": b"",
    "attempt": 0,
    "failures": 0,
    "owner": None,
    "waits_until": None,
    "started_at": None,
    "ended_at": None,
}


def invocation(c: Connection, function_id: str, invocation_id: str) -> Invocation | None:
    query = select(*_SHOWN).where(calls.c.id == invocation_id, calls.c.function_id == function_id)
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else _invocation(row)


def invocations_of(
    c: Connection, function_id: str, states: Collection[InvocationState], before: str | None, limit: int
) -> list[Invocation]:
    """The function's invocations, newest first."""
    query = select(*_SHOWN).where(calls.c.function_id == function_id).order_by(calls.c.id.desc()).limit(limit)
    if states:
        query = query.where(calls.c.state.in_([state.value for state in states]))
    if before is not None:
        query = query.where(calls.c.id < before)
    return [_invocation(row) for row in c.execute(query).mappings()]


def requests_of(
    c: Connection, app_id: str, before: str | None, limit: int
) -> list[tuple[Invocation, str, str]]:
    """An app's requests, newest first, each with its method and its path."""
    query = select(*_SHOWN, calls.c.query).where(calls.c.function_id == app_id)
    query = query.order_by(calls.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(calls.c.id < before)
    found = []
    for row in c.execute(query).mappings():
        method, _, path = row["query"].partition(" ")
        found.append((_invocation(row), method, path))
    return found


def log_of(c: Connection, function_id: str, invocation_id: str) -> bytes | None:
    query = select(calls.c.log).where(calls.c.id == invocation_id, calls.c.function_id == function_id)
    found = c.execute(query).scalar()
    return None if found is None else bytes(found)


def result_of(c: Connection, function_id: str, invocation_id: str) -> bytes | None:
    query = select(calls.c.result).where(calls.c.id == invocation_id, calls.c.function_id == function_id)
    found = c.execute(query).scalar()
    return None if found is None else bytes(found)


def counts(c: Connection, function_id: str) -> dict[str, int]:
    """How many invocations that are remembered are in which state."""
    query = (
        select(calls.c.state, func.count()).where(calls.c.function_id == function_id).group_by(calls.c.state)
    )
    return {state: int(count) for state, count in c.execute(query)}


def due(c: Connection, function_ids: Collection[str], now: int, limit: int) -> list[tuple[str, str]]:
    """(id, function) of the waiting invocations of these functions whose time has come, oldest first."""
    query = (
        select(calls.c.id, calls.c.function_id)
        .where(
            calls.c.state == InvocationState.QUEUED.value,
            calls.c.waits_until <= now,
            calls.c.function_id.in_(function_ids),
        )
        .order_by(calls.c.waits_until, calls.c.id)
        .limit(limit)
    )
    return [(row.id, row.function_id) for row in c.execute(query)]


def next_due(c: Connection) -> int | None:
    """When the next waiting invocation's time comes."""
    query = select(func.min(calls.c.waits_until)).where(calls.c.state == InvocationState.QUEUED.value)
    return c.execute(query).scalar()


def claim(c: Connection, invocation_id: str, owner: str, revision: int, now: int) -> RowMapping | None:
    """Begin the invocation's next attempt; its row, or None when it waits no more."""
    change = (
        update(calls)
        .where(calls.c.id == invocation_id, calls.c.state == InvocationState.QUEUED.value)
        .values(
            state=InvocationState.RUNNING.value,
            owner=owner,
            revision=revision,
            attempt=calls.c.attempt + 1,
            started_at=now,
            waits_until=None,
        )
    )
    return c.execute(change.returning(calls)).mappings().first()


def write_held(
    c: Connection, invocation_id: str, owner: str, attempt: int, values: Mapping[str, Any]
) -> bool:
    """Write to an invocation that this server runs in this attempt; False when it does so no more."""
    change = (
        update(calls)
        .where(
            calls.c.id == invocation_id,
            calls.c.state == InvocationState.RUNNING.value,
            calls.c.owner == owner,
            calls.c.attempt == attempt,
        )
        .values(values)
    )
    return c.execute(change.returning(calls.c.id)).first() is not None


def give_back(c: Connection, owner: str, now: int) -> int:
    """Have what another server ran (it is dead) wait again; returns how many."""
    change = (
        update(calls)
        .where(
            calls.c.state == InvocationState.RUNNING.value,
            or_(calls.c.owner.is_(None), calls.c.owner != owner),
        )
        .values(state=InvocationState.QUEUED.value, owner=None, waits_until=now)
    )
    return len(c.execute(change.returning(calls.c.id)).all())


def retry(c: Connection, function_id: str, invocation_id: str, now: int) -> bool:
    """Have a dead invocation wait again, as if it were new; False when it is not dead."""
    change = (
        update(calls)
        .where(
            calls.c.id == invocation_id,
            calls.c.function_id == function_id,
            calls.c.state == InvocationState.DEAD.value,
        )
        .values(
            state=InvocationState.QUEUED.value,
            failures=0,
            waits_until=now,
            ended_at=None,
            error=None,
            status=None,
        )
    )
    return c.execute(change.returning(calls.c.id)).first() is not None


def give_up_waiting(c: Connection, function_id: str, why: str, now: int) -> None:
    """End the function's invocations that wait: there is nobody to run them any more."""
    c.execute(
        update(calls)
        .where(calls.c.function_id == function_id, calls.c.state == InvocationState.QUEUED.value)
        .values(
            state=InvocationState.DEAD.value,
            ended_at=now,
            waits_until=None,
            error=_json({"code": "function_removed", "type": "", "message": why}),
        )
    )


def prune(c: Connection, function_id: str, keep: int = KEPT) -> None:
    """Forget all but the newest ended invocations, of those that went well or were waited for, and of dead ones."""
    dead = [InvocationState.DEAD.value]
    for states in ([state for state in _ENDED if state not in dead], dead):
        of_it = (calls.c.function_id == function_id) & calls.c.state.in_(states)
        newest = select(calls.c.id).where(of_it).order_by(calls.c.id.desc()).offset(keep).limit(1)
        last = c.execute(newest).scalar()
        if last is not None:
            c.execute(delete(calls).where(of_it, calls.c.id <= last))


def purge(c: Connection, project_id: str, kind: str) -> None:
    """Remove every row of a project's functions (or apps)."""
    mine = (functions.c.project_id == project_id) & (functions.c.kind == kind)
    of_project = select(functions.c.id).where(mine)
    for table in (calls, function_sources, function_dues):
        c.execute(delete(table).where(table.c.function_id.in_(of_project)))
    c.execute(delete(revisions).where(revisions.c.function_id.in_(of_project)))
    c.execute(delete(functions).where(mine))


def _invocation(row: RowMapping) -> Invocation:
    return Invocation(
        id=row["id"],
        function_id=row["function_id"],
        project_id=row["project_id"],
        revision=row["revision"],
        trigger=row["trigger"],
        state=InvocationState(row["state"]),
        caller=row["caller"],
        content_type=row["content_type"],
        attempt=row["attempt"],
        failures=row["failures"],
        status=row["status"],
        error=None if row["error"] is None else orjson.loads(row["error"]),
        result_type=row["result_type"],
        result_bytes=row["result_bytes"],
        log_bytes=row["log_bytes"],
        waits_until=row["waits_until"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def removed(c: Connection, function_ids: Collection[str]) -> set[str]:
    """Which of these functions are not there any more, not even as removed ones (their project is gone)."""
    there = set(c.execute(select(functions.c.id).where(functions.c.id.in_(function_ids))).scalars())
    return set(function_ids) - there


def last_event(c: Connection) -> int:
    """The newest event of the outbox."""
    return int(c.execute(select(func.coalesce(func.max(outbox.c.seq), 0))).scalar_one())
