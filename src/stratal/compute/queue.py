"""The queue as rows: who waits, who holds what, and `admission`'s decision over them, made or explained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select

from stratal.compute import dependencies
from stratal.compute.admission import MACHINE, Amount, Asking, Ceiling, Decision, Hold, ceiling_amount, decide
from stratal.compute.engine import Capacity
from stratal.compute.model import ACTIVE, Job, JobState
from stratal.compute.quotas import every_quota
from stratal.compute.services.records import in_use as replicas_in_use
from stratal.compute.tables import arrays, jobs

_ACTIVE = [state.value for state in ACTIVE]
_BLOCK = 200
MOST_STARTS = 100
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that a job waits for. `what` is for programs, `words` for people, `details` for both."""

    what: str
    words: str
    details: Mapping[str, Any]


def choose(c: Connection, capacity: Capacity, now: int) -> Sequence[int]:
    """The first `MOST_STARTS` waiting jobs whose turn it is, in their order. Looks far: not for the writer."""
    return _decide(c, capacity, _first_of_each_kind(c, now)).starts[:MOST_STARTS]


def confirm(c: Connection, capacity: Capacity, chosen: Sequence[int], now: int) -> Sequence[int]:
    """Of the chosen those for whom there is room still, in the transaction that claims them."""
    return _decide(c, capacity, _ready(c, now, chosen)).starts


def in_use(c: Connection) -> tuple[float, int]:
    """Processors and bytes of memory that starting and running jobs, and replicas, are counted with."""
    query = select(func.coalesce(func.sum(jobs.c.cpus), 0), func.coalesce(func.sum(jobs.c.memory_bytes), 0))
    row = c.execute(query.where(jobs.c.state.in_(_ACTIVE))).one()
    cpus, memory = replicas_in_use(c)
    return float(row[0]) + cpus, int(row[1]) + memory


def next_moment(c: Connection, now: int) -> int | None:
    """When the next job has waited long enough after a failed attempt; None: none does."""
    soonest = select(func.min(jobs.c.waits_until)).where(
        jobs.c.state == JobState.QUEUED.value, jobs.c.waits_until > now
    )
    found: int | None = c.execute(soonest).scalar()
    return found


def waits(c: Connection, capacity: Capacity, job: Job, now: int) -> list[Wait]:
    """All that a queued job waits for right now; empty: it starts any moment."""
    earlier = dependencies.waited_for(c, job.id)
    found = [
        Wait("job", f"job {id_} ({name}) to succeed: it is {state}", {"job": id_, "state": state})
        for id_, name, state in earlier[:_NAMED]
    ]
    if others := len(earlier) - len(found):
        found.append(Wait("jobs", f"{others} more jobs to succeed", {"jobs": others}))
    if job.waits_until is not None and job.waits_until > now:
        seconds = (job.waits_until - now) / 1000
        words = f"the pause of {seconds:.0f} s that is left after attempt {job.attempt}"
        found.append(Wait("pause", words, {"until": job.waits_until, "attempt": job.attempt}))
    if found:
        return found
    decision = _decide(c, capacity, _ready(c, now), until=job.id)
    return [_in_words(job, hold, decision.looked_at - 1) for hold in decision.holds.get(job.id, ())]


def _decide(c: Connection, capacity: Capacity, ready: Iterator[Asking], until: int | None = None) -> Decision:
    quotas = every_quota(c)
    ceilings = {
        MACHINE: Ceiling("machine", ceiling_amount(capacity.cpus, capacity.memory_bytes, None, None)),
        **{f"project {project}": Ceiling("quota", quota.amount) for project, quota in quotas.items()},
    }
    query = select(arrays.c.id, arrays.c.parallel).where(arrays.c.parallel.is_not(None))
    unended = select(jobs.c.array_id).where(jobs.c.state.in_([JobState.QUEUED.value, *_ACTIVE]))
    for row in c.execute(query.where(arrays.c.id.in_(unended))):
        ceilings[f"array {row.id}"] = Ceiling("array", ceiling_amount(None, None, None, row.parallel))
    holding = [_asking(row) for row in c.execute(_columns().where(jobs.c.state.in_(_ACTIVE)))]
    # Replicas stand before every job: what they hold does not come back by waiting for jobs to end.
    holding.append(Asking(0, -(2**62), Amount(*replicas_in_use(c))))
    return decide(ready, holding, ceilings, until=until)


def _ready(c: Connection, now: int, among: Sequence[int] | None = None) -> Iterator[Asking]:
    """Those that wait for room alone, in the order of their places; read as far as they are asked for."""
    query = _waiting(now).order_by(jobs.c.turn, jobs.c.id)
    if among is not None:
        query = query.where(jobs.c.id.in_(among))
    with c.execution_options(yield_per=_BLOCK).execute(query) as rows:
        yield from map(_asking, rows)


def _first_of_each_kind(c: Connection, now: int) -> Iterator[Asking]:
    """As `_ready`, but of those that ask for the same from the same pools only as many as are started at once."""
    alike = func.row_number().over(partition_by=_KIND, order_by=(jobs.c.turn, jobs.c.id))
    numbered = _waiting(now).add_columns(alike.label("nth")).subquery()
    columns = [column for column in numbered.c if column.name != "nth"]
    query = select(*columns).where(numbered.c.nth <= MOST_STARTS).order_by(numbered.c.turn, numbered.c.id)
    with c.execution_options(yield_per=_BLOCK).execute(query) as rows:
        yield from map(_asking, rows)


def _waiting(now: int) -> Select[Any]:
    return (
        _columns()
        .where(jobs.c.state == JobState.QUEUED.value)
        .where(or_(jobs.c.waits_until.is_(None), jobs.c.waits_until <= now))
        .where(~dependencies.unmet())
    )


_KIND = (jobs.c.project_id, jobs.c.array_id, jobs.c.cpus, jobs.c.memory_bytes)


def _columns() -> Select[Any]:
    return select(jobs.c.id, jobs.c.turn, *_KIND)


def _asking(row: Any) -> Asking:
    id_, turn, project_id, array_id, cpus, memory_bytes = row
    pools = [MACHINE, f"project {project_id}"]
    if array_id is not None:
        pools.append(f"array {array_id}")
    return Asking(id_, turn, Amount(cpus, memory_bytes, 0, 1), pools)


# -- words -----------------------------------------------------------------------------------------

_UNITS = {"cpus": "cpus", "gpus": "GPUs", "jobs": "jobs at once"}


def _in_words(job: Job, hold: Hold, ahead: int) -> Wait:
    wants = Amount(job.cpus, job.memory_bytes, 0, 1)
    details: dict[str, Any] = {"ahead": ahead}
    if hold.behind is not None:
        details |= {"behind": hold.behind}
        words = f"job {hold.behind}, which comes first and for which the room is kept"
        return Wait("turn", words, details)
    details |= {
        name: {"asked": getattr(wants, name), "free": max(0, getattr(hold.free, name))} for name in hold.short
    }
    lacking = " and ".join(
        f"{_said(name, getattr(wants, name))} ({_said(name, max(0, getattr(hold.free, name)), bare=True)} free)"
        for name in hold.short
    )
    if hold.kind == "array":
        words = f"its array, of which {hold.limit.jobs:g} may run at once"
        return Wait("array", words, {**details, "parallel": hold.limit.jobs})
    if hold.kind == "quota":
        ceiling = ", ".join(_said(name, getattr(hold.limit, name)) for name in hold.short)
        words = f"its project's quota of {ceiling}: it needs {lacking}"
        return Wait("quota", words, {**details, **{f"quota_{n}": getattr(hold.limit, n) for n in hold.short}})
    return Wait("capacity", lacking, details)


def _said(name: str, value: float, *, bare: bool = False) -> str:
    if name == "memory_bytes":
        return f"{value / 2**30:.1f} GiB" if value >= 2**30 / 10 or not value else f"{value / 2**20:.0f} MiB"
    return f"{value:g}" if bare else f"{value:g} {_UNITS[name]}"
