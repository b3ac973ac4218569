"""What a claim, a start and an end write, each within one transaction of the caller's.

Every write of a held job names its owner and its fence, so a server that was thought dead cannot write
over its successor: it gets `Superseded`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, func, insert, select, update

from stratal.compute import dependencies, metered, records
from stratal.compute.engine import Usage
from stratal.compute.model import ACTIVE, Held, Job, JobState, RankLog, before, pause_ms
from stratal.compute.tables import attempts, jobs, rank_logs
from stratal.identity.keys import Keys
from stratal.identity.members import role_now
from stratal.kernel.events import emit
from stratal.ledger import metering

Row = dict[str, Any]


class Superseded(Exception):
    """Another server holds the job now: nothing more of this one's may be written."""


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended. `again`: another may follow, if the job has one left."""

    state: JobState
    exit_code: int | None
    reason: str
    ended_at: int
    again: bool
    usage: Usage
    isolation: str | None
    log_blob: str
    log_bytes: int
    checkpoint_bytes: int | None
    gpu_type: str = ""
    ranks: Sequence[RankLog] = ()


def mine(held: Held) -> Any:
    """UPDATE of the job, as long as it is held as `held` says."""
    return update(jobs).where(
        jobs.c.id == held.job.id, jobs.c.owner == held.owner, jobs.c.fence == held.fence
    )


def write(c: Connection, held: Held, **values: object) -> None:
    """Raises `Superseded`."""
    if c.execute(mine(held).values(**values).returning(jobs.c.id)).first() is None:
        raise Superseded


# Built once: building costs more than running, and every job that starts asks.
_HELD = records.query().where(jobs.c.id.in_(bindparam("ids", expanding=True))).order_by(jobs.c.id)
_CLAIM = (
    update(jobs)
    .where(jobs.c.id == bindparam("its_id"), jobs.c.state == JobState.QUEUED.value)
    .values(
        state=JobState.STARTING.value,
        attempt=jobs.c.attempt + 1,
        starting_at=bindparam("now"),
        started_at=None,
        ended_at=None,
        exit_code=None,
        waits_until=None,
        gpu_uuids=bindparam("uuids"),
        reason="",
        owner=bindparam("holder"),
        fence=jobs.c.fence + 1,
        lease_until=bindparam("until"),
    )
    .returning(jobs.c.id)
)
_EQUIP = (
    update(jobs)
    .where(jobs.c.id == bindparam("its_id"))
    .values(key_id=bindparam("key"), environment_id=bindparam("environment"))
)
_BEGIN = insert(attempts)
_RUNS = {
    "state": JobState.RUNNING.value,
    "started_at": bindparam("since"),
    "isolation": bindparam("fenced_by"),
}
_START = (
    update(jobs)
    .where(
        jobs.c.id == bindparam("its_id"),
        jobs.c.owner == bindparam("holder"),
        jobs.c.fence == bindparam("held"),
        jobs.c.state.in_(before(JobState.RUNNING)),
    )
    .values(**_RUNS, reason="")
    .returning(jobs.c.stop_requested_at)
)
_START_ATTEMPT = (
    update(attempts)
    .where(attempts.c.job_id == bindparam("its_id"), attempts.c.number == bindparam("nth"))
    .values(**_RUNS)
)


def held_rows(c: Connection, ids: Sequence[int]) -> Sequence[Row]:
    return [dict(row) for row in c.execute(_HELD, {"ids": list(ids)}).mappings()]


def at_hand(c: Connection, chosen: Sequence[int]) -> Sequence[int]:
    """Of the chosen those that wait still and that nobody else is changing at this moment, held until COMMIT.

    On PostgreSQL a job whose row another transaction has locked is passed over, so that it delays no other's
    start. SQLite has one writer, and does without the clause.
    """
    query = select(jobs.c.id).where(jobs.c.id.in_(chosen), jobs.c.state == JobState.QUEUED.value)
    return list(c.execute(query.order_by(jobs.c.id).with_for_update(skip_locked=True)).scalars())


def claim(
    c: Connection,
    keys: Keys,
    job_id: int,
    gpus: Sequence[str],
    owner: str,
    lease_until: int,
    now: int,
    environment_id: str | None = None,
) -> Held | None:
    """Begin the job's next attempt with these GPUs and a credential of its own; None when it waits no more.

    `environment_id`: of the environment that it will run in, where that is known already.
    """
    uuids = orjson.dumps(list(gpus)).decode()
    change = {"its_id": job_id, "now": now, "uuids": uuids, "until": lease_until, "holder": owner}
    if c.execute(_CLAIM, change).first() is None:
        return None
    held = records.held_of(held_rows(c, [job_id])[0])
    job = held.job
    creator = replace(held.creator, role=role_now(c, held.creator, job.project_id))
    credential = keys.insert_for_workload(c, creator, job.project_id, job.workload)
    environment_id = environment_id or job.environment_id
    c.execute(_EQUIP, {"its_id": job_id, "key": credential.id, "environment": environment_id})
    begun = {
        "job_id": job.id,
        "number": job.attempt,
        "project_id": job.project_id,
        "state": JobState.STARTING.value,
        "gpu_uuids": uuids,
        "starting_at": now,
        "reason": "",
        "usage": "{}",
        "environment_id": environment_id,
    }
    c.execute(_BEGIN, begun)
    return replace(held, key_id=credential.id, job=replace(job, environment_id=environment_id))


def set_environment(c: Connection, held: Held, environment_id: str) -> None:
    """Raises `Superseded`."""
    write(c, held, environment_id=environment_id)
    c.execute(_attempt(held.job).values(environment_id=environment_id))


def start(c: Connection, held: Held, started_at: int, isolation: str) -> bool:
    """Record that it runs; True when it was asked to stop meanwhile. Raises `Superseded`."""
    job = held.job
    told = {"its_id": job.id, "since": started_at, "fenced_by": isolation}
    row = c.execute(_START, {**told, "holder": held.owner, "held": held.fence}).first()
    if row is None:
        raise Superseded
    c.execute(_START_ATTEMPT, {**told, "nth": job.attempt})
    news = {"name": job.name, "attempt": job.attempt}
    emit(c, "job.started", str(job.id), actor=job.created_by, project_id=job.project_id, **news)
    return row.stop_requested_at is not None


def end(c: Connection, keys: Keys, held: Held, how: End, now: int) -> JobState:
    """End the attempt, its credential with it, and the job too unless it is tried again.

    Returns the state that the job is in then. What the attempt used goes into the ledger, and what can never
    start for it ends, in the same transaction. Raises `Superseded`.
    """
    row = c.execute(select(jobs.c.usage, jobs.c.stop_requested_at).where(jobs.c.id == held.job.id)).one()
    job = held.job
    again = how.again and job.attempt <= job.retries and row.stop_requested_at is None
    attempt_values: Row = {
        "state": how.state.value,
        "ended_at": how.ended_at,
        "exit_code": how.exit_code,
        "reason": how.reason,
        "usage": records.usage_json(how.usage),
        "log_blob": how.log_blob,
        "log_bytes": how.log_bytes,
    }
    values: Row = {"lease_until": None, "checkpoint_bytes": how.checkpoint_bytes}
    values["usage"] = records.usage_json(_together(records.usage_of(row.usage), how.usage))
    if how.isolation is not None:
        values["isolation"] = attempt_values["isolation"] = how.isolation
    if again:
        waits = now + pause_ms(job.attempt)
        values |= {"state": JobState.QUEUED.value, "waits_until": waits, "owner": None, "key_id": None}
        values |= {"starting_at": None, "started_at": None}
        values["reason"] = f"attempt {job.attempt} {in_words(how.state, how.exit_code, how.reason)}"
    else:
        values |= {name: attempt_values[name] for name in ("state", "ended_at", "exit_code", "reason")}
        others = select(func.coalesce(func.sum(attempts.c.log_bytes), 0)).where(
            attempts.c.job_id == job.id, attempts.c.number != job.attempt
        )
        values["log_bytes"] = c.execute(others).scalar_one() + how.log_bytes
    if (
        c.execute(mine(held).where(jobs.c.state.in_(_ACTIVE)).values(values).returning(jobs.c.id)).first()
        is None
    ):
        raise Superseded
    c.execute(_attempt(job).values(attempt_values))
    metering.measure(c, metered.running_of(held, how.usage, how.gpu_type), how.ended_at)
    if how.ranks:
        same = {"job_id": job.id, "number": job.attempt, "project_id": job.project_id}
        rows = [{**same, "rank": one.rank, "blob": one.blob, "bytes": one.size} for one in how.ranks]
        c.execute(insert(rank_logs), rows)
    keys.end_workload(c, job.workload)
    told = {"name": job.name, "attempt": job.attempt, "exit_code": how.exit_code, "reason": how.reason[:500]}
    told["priority"] = job.priority
    kind = "job.requeued" if again else f"job.{how.state}"
    emit(c, kind, str(job.id), actor=job.created_by, project_id=job.project_id, **told)
    if again:
        return JobState.QUEUED
    dependencies.give_up(c, job.id, how.state, now)
    return how.state


_ACTIVE = [state.value for state in ACTIVE]


def in_words(state: JobState, exit_code: int | None, reason: str) -> str:
    """``failed with exit code 3``, ``failed: memory limit of 1 GiB exceeded``, ``ended unseen``."""
    if state is JobState.UNKNOWN:
        return "ended and nobody saw how"
    if reason:
        return f"{state}: {reason}"
    return f"{state} with exit code {exit_code}" if exit_code is not None else str(state)


def _attempt(job: Job) -> Any:
    return update(attempts).where(attempts.c.job_id == job.id, attempts.c.number == job.attempt)


def _together(before_: Usage, now: Usage) -> Usage:
    return Usage(
        cpu_seconds=before_.cpu_seconds + now.cpu_seconds,
        peak_memory_bytes=max(before_.peak_memory_bytes, now.peak_memory_bytes),
        wall_seconds=before_.wall_seconds + now.wall_seconds,
        memory_byte_seconds=before_.memory_byte_seconds + now.memory_byte_seconds,
        gpu_seconds=before_.gpu_seconds + now.gpu_seconds,
        gpu_busy_seconds=before_.gpu_busy_seconds + now.gpu_busy_seconds,
        gpu_peak_memory_bytes=max(before_.gpu_peak_memory_bytes, now.gpu_peak_memory_bytes),
    )
