"""The queue as rows: who waits, who holds what, and `admission`'s decision over them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Connection, Select, bindparam, func, or_, select

from stratal.compute import dependencies
from stratal.compute.admission import MACHINE, Amount, Asking, Ceiling, Decision, ceiling_amount, decide
from stratal.compute.engine import Capacity
from stratal.compute.model import ACTIVE, JobState
from stratal.compute.quotas import every_quota
from stratal.compute.services.records import gpus_in_use as replicas_gpus
from stratal.compute.services.records import in_use as replicas_in_use
from stratal.compute.tables import arrays, jobs
from stratal.ledger.budgets import Toll, toll

MOST_STARTS = 100
_BLOCK = 200
_ACTIVE = [state.value for state in ACTIVE]
_NO_GPUS = "no gpus"

_SIZE = func.coalesce(jobs.c.nodes, 1)  # what is asked is asked for each node of a gang
_KIND = (
    jobs.c.project_id,
    jobs.c.array_id,
    (jobs.c.cpus * _SIZE).label("all_cpus"),
    (jobs.c.memory_bytes * _SIZE).label("all_memory"),
    (jobs.c.gpus * _SIZE).label("all_gpus"),
    jobs.c.gpu_type,
    jobs.c.grace_seconds,
)


def choose(c: Connection, capacity: Capacity, now: int) -> Sequence[int]:
    """The first `MOST_STARTS` waiting jobs whose turn it is, in their order. Looks far: not for the writer."""
    due = toll(c, now)
    ready = _first_of_each_kind(c, capacity, now, due)
    return _decide(c, capacity, ready, due).starts[:MOST_STARTS]


def confirm(
    c: Connection, capacity: Capacity, chosen: Sequence[int], now: int
) -> Mapping[int, Sequence[str]]:
    """Of the chosen those for whom there is room still, each with its GPUs, in the transaction that claims them."""
    due = toll(c, now)
    asking = [_asking(row, capacity, due) for row in c.execute(_CHOSEN, {"chosen": list(chosen), "now": now})]
    decision = _decide(c, capacity, iter(asking), due)
    wanted = {one.id: int(one.amount.gpus) for one in asking}
    held = _gpus_given(c) if any(wanted.values()) else set()
    free = [gpu for gpu in capacity.gpus if gpu.uuid not in held]
    assigned: dict[int, Sequence[str]] = {}
    for job_id in decision.starts:
        pool = decision.picks.get(job_id)
        mine = [gpu for gpu in free if _gpu_pool(gpu.type) == pool][: wanted[job_id]]
        free = [gpu for gpu in free if gpu not in mine]
        assigned[job_id] = [gpu.uuid for gpu in mine]
    return assigned


def explain(c: Connection, capacity: Capacity, job_id: int, now: int) -> Decision:
    """The decision as far as the waiting job, with all that holds it up."""
    query = _waiting().order_by(jobs.c.turn, jobs.c.id)
    due = toll(c, now)
    with c.execution_options(yield_per=_BLOCK).execute(query, {"now": now}) as rows:
        return _decide(c, capacity, (_asking(row, capacity, due) for row in rows), due, until=job_id)


def in_use(c: Connection) -> tuple[float, int, set[str]]:
    """What starting and running jobs, and replicas, are counted with: processors, bytes of memory, GPUs by UUID."""
    query = select(
        func.coalesce(func.sum(jobs.c.cpus * _SIZE), 0),
        func.coalesce(func.sum(jobs.c.memory_bytes * _SIZE), 0),
    )
    row = c.execute(query.where(jobs.c.state.in_(_ACTIVE))).one()
    cpus, memory = replicas_in_use(c)
    return float(row[0]) + cpus, int(row[1]) + memory, _gpus_given(c)


def next_moment(c: Connection, now: int) -> int | None:
    """When the next job has waited long enough after a failed attempt; None: none does."""
    soonest = select(func.min(jobs.c.waits_until)).where(
        jobs.c.state == JobState.QUEUED.value, jobs.c.waits_until > now
    )
    found: int | None = c.execute(soonest).scalar()
    return found


# -- what admission is told ------------------------------------------------------------------------


def _decide(
    c: Connection, capacity: Capacity, ready: Iterator[Asking], due: Toll | None, until: int | None = None
) -> Decision:
    ceilings = {
        MACHINE: Ceiling("machine", ceiling_amount(capacity.cpus, capacity.memory_bytes, None, None)),
        _NO_GPUS: Ceiling("gpus", ceiling_amount(None, None, 0, None)),
    }
    for kind, count in Counter(gpu.type for gpu in capacity.gpus).items():
        ceilings[_gpu_pool(kind)] = Ceiling("gpus", ceiling_amount(None, None, count, None))
    for project_id, quota in every_quota(c).items():
        ceilings[f"project {project_id}"] = Ceiling("quota", quota.amount)
    for project_id, left in ({} if due is None else due.left).items():
        ceilings[f"budget {project_id}"] = Ceiling("budget", ceiling_amount(cost=left))
    for row in c.execute(_LIMITED):
        ceilings[f"array {row.id}"] = Ceiling("array", ceiling_amount(None, None, None, row.parallel))
    return decide(ready, _holding(c, capacity, due), ceilings, until=until)


def _holding(c: Connection, capacity: Capacity, due: Toll | None) -> list[Asking]:
    """Those that run, each under the ceilings that it counts against, and the replicas of services."""
    kinds = {gpu.uuid: _gpu_pool(gpu.type) for gpu in capacity.gpus}
    holders = _gpus_held(c) if kinds else []
    given = {job_id: [kinds[uuid] for uuid in uuids if uuid in kinds][:1] for job_id, uuids in holders}
    found = []
    for row in c.execute(_HOLDING):
        one = _asking(row, capacity, due)
        found.append(Asking(one.id, one.turn, one.amount, [*one.pools, *given.get(one.id, ())]))
    # Replicas stand before every job: what they hold does not come back by waiting for jobs to end.
    found.append(Asking(0, -(2**62), Amount(*replicas_in_use(c))))
    theirs = Counter(kinds[uuid] for uuid in (replicas_gpus(c) if kinds else ()) if uuid in kinds)
    found += [Asking(0, -(2**62), Amount(gpus=count), [pool]) for pool, count in theirs.items()]
    return found


def _gpus_given(c: Connection) -> set[str]:
    """The GPUs that jobs and replicas hold."""
    return {uuid for _, uuids in _gpus_held(c) for uuid in uuids} | set(replicas_gpus(c))


def _gpus_held(c: Connection) -> list[tuple[int, list[str]]]:
    return [(row.id, orjson.loads(row.gpu_uuids)) for row in c.execute(_GPUS_HELD)]


def _first_of_each_kind(c: Connection, capacity: Capacity, now: int, due: Toll | None) -> Iterator[Asking]:
    """Those that wait for room, in their order; of those that ask for the same only as many as start at once."""
    alike = func.row_number().over(partition_by=_KIND, order_by=(jobs.c.turn, jobs.c.id))
    numbered = _waiting().add_columns(alike.label("nth")).subquery()
    columns = [column for column in numbered.c if column.name != "nth"]
    query = select(*columns).where(numbered.c.nth <= MOST_STARTS).order_by(numbered.c.turn, numbered.c.id)
    with c.execution_options(yield_per=_BLOCK).execute(query, {"now": now}) as rows:
        for row in rows:
            yield _asking(row, capacity, due)


def _columns() -> Select[Any]:
    return select(jobs.c.id, jobs.c.turn, *_KIND)


def _waiting() -> Select[Any]:
    """Those whose turn it may be at ``now``, a parameter."""
    return (
        _columns()
        .where(jobs.c.state == JobState.QUEUED.value)
        .where(or_(jobs.c.waits_until.is_(None), jobs.c.waits_until <= bindparam("now")))
        .where(~dependencies.unmet())
    )


# Built once: building costs more than running, and every job that starts asks.
_CHOSEN = (
    _waiting().where(jobs.c.id.in_(bindparam("chosen", expanding=True))).order_by(jobs.c.turn, jobs.c.id)
)
_HOLDING = _columns().where(jobs.c.state.in_(_ACTIVE))
_GPUS_HELD = select(jobs.c.id, jobs.c.gpu_uuids).where(jobs.c.state.in_(_ACTIVE), jobs.c.gpus > 0)
_LIMITED = select(arrays.c.id, arrays.c.parallel).where(
    arrays.c.parallel.is_not(None),
    arrays.c.id.in_(select(jobs.c.array_id).where(jobs.c.state.in_([JobState.QUEUED.value, *_ACTIVE]))),
)


def _asking(row: Any, capacity: Capacity, due: Toll | None) -> Asking:
    id_, turn, project_id, array_id, cpus, memory_bytes, gpus, gpu_type, grace = row
    pools = [MACHINE, f"project {project_id}"]
    if array_id is not None:
        pools.append(f"array {array_id}")
    kinds = (
        list(dict.fromkeys(gpu.type for gpu in capacity.gpus if gpu_type in (None, gpu.type))) if gpus else []
    )
    choices: Sequence[str] = ([_gpu_pool(kind) for kind in kinds] or [_NO_GPUS]) if gpus else ()
    cost = 0
    if due is not None and project_id in due.left:
        pools.append(f"budget {project_id}")
        # Never more than all that is left, so that one alone may always start on it.
        cost = min(due.of(cpus, memory_bytes, gpus, kinds, grace), max(1, due.left[project_id]))
    return Asking(id_, turn, Amount(cpus, memory_bytes, gpus, 1, cost), pools, choices)


def _gpu_pool(kind: str) -> str:
    return f"gpus {kind}"
