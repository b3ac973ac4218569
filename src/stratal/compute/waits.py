"""What a job waits for, in words: the reading side of `admission`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from stratal.compute import dependencies, queue
from stratal.compute.admission import Amount, Hold
from stratal.compute.engine import Capacity
from stratal.compute.model import Job
from stratal.ledger.units import shown

_NAMED = 5
_UNITS = {"cpus": "cpus", "gpus": "GPUs", "jobs": "jobs at once"}


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that a job waits for. `what` is for programs, `words` for people, `details` for both."""

    what: str
    words: str
    details: Mapping[str, Any]


def waits(c: Connection, capacity: Capacity, job: Job, now: int) -> Sequence[Wait]:
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
    decision = queue.explain(c, capacity, job.id, now)
    wants = Amount(job.cpus * job.size, job.memory_bytes * job.size, job.gpus * job.size, 1)
    told = [_told(job, wants, hold) for hold in decision.holds.get(job.id, ())]
    ahead = {"ahead": decision.looked_at - 1}
    return [Wait(wait.what, wait.words, {**wait.details, **ahead}) for wait in told]


def _told(job: Job, wants: Amount, hold: Hold) -> Wait:
    if hold.behind is not None:
        words = f"job {hold.behind}, which comes first and for which the room is kept"
        return Wait("turn", words, {"behind": hold.behind})
    details: dict[str, Any] = {
        name: {"asked": getattr(wants, name), "free": max(0, getattr(hold.free, name))} for name in hold.short
    }
    if hold.kind == "array":
        words = f"its array, of which {hold.limit.jobs:g} may run at once"
        return Wait("array", words, {**details, "parallel": hold.limit.jobs})
    if hold.kind == "gpus":
        kind = hold.pool.removeprefix("gpus ") if job.gpu_type is None else job.gpu_type
        free = max(0, hold.free.gpus)
        words = f"{wants.gpus:g} GPU{'s' * (wants.gpus > 1)} of type {kind} ({free:g} free)"
        return Wait("gpus", words, {**details, "type": kind})
    if hold.kind == "budget":
        left = shown(int(max(0, hold.free.cost)))
        words = f"its project's budget: {left} of it are left beside what runs, and a start reserves more"
        return Wait("budget", words, {"free": left})
    lacking = " and ".join(
        f"{_said(name, getattr(wants, name))} ({_said(name, max(0, getattr(hold.free, name)), bare=True)} free)"
        for name in hold.short
    )
    if hold.kind == "quota":
        ceiling = ", ".join(_said(name, getattr(hold.limit, name)) for name in hold.short)
        words = f"its project's quota of {ceiling}: it needs {lacking}"
        return Wait("quota", words, {**details, **{f"quota_{n}": getattr(hold.limit, n) for n in hold.short}})
    return Wait("capacity", lacking, details)


def _said(name: str, value: float, *, bare: bool = False) -> str:
    if name == "memory_bytes":
        return f"{value / 2**30:.1f} GiB" if value >= 2**30 / 10 or not value else f"{value / 2**20:.0f} MiB"
    return f"{value:g}" if bare else f"{value:g} {_UNITS[name]}"
