"""``--after``: a job that starts only once others have succeeded, and what becomes of it when one does not.

A job that can never start any more is ended at once, as *stopped*, in the same transaction in which the
one it waited for ended; and so on through all that waited for it in turn.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, Select, and_, delete, exists, insert, or_, select, update

from stratal.compute.model import JobState
from stratal.compute.submission import after_of
from stratal.compute.tables import dependencies, jobs
from stratal.kernel.errors import Conflict, NotFound
from stratal.kernel.events import emit

_AT_ONCE = 500


def named(c: Connection, project_id: str, words: Sequence[str]) -> list[int]:
    """The ids of the jobs that `words` name, an array standing for all of its members.

    Raises `Invalid`; `NotFound` when the project has no such job; `Conflict` when one has ended without success.
    """
    job_ids, array_ids = after_of(words)
    found: dict[int, str] = {}
    for start in range(0, len(job_ids), _AT_ONCE):
        some = job_ids[start : start + _AT_ONCE]
        query = select(jobs.c.id, jobs.c.state).where(jobs.c.project_id == project_id, jobs.c.id.in_(some))
        found.update({row.id: row.state for row in c.execute(query)})
    for missing in (job_id for job_id in job_ids if job_id not in found):
        raise _missing(str(missing))
    for array_id in array_ids:
        query = select(jobs.c.id, jobs.c.state).where(
            jobs.c.project_id == project_id, jobs.c.array_id == array_id
        )
        members = {row.id: row.state for row in c.execute(query)}
        if not members:
            raise _missing(f"a{array_id}")
        found.update(members)
    for job_id, state in found.items():
        if JobState(state).ended and state != JobState.SUCCEEDED:
            raise Conflict(
                f"Job {job_id} ended as {state}: what comes after it would never start.",
                hint="Run that one again first, or leave it out of --after.",
                reason="never_succeeds",
            )
    return sorted(found)


def _missing(word: str) -> NotFound:
    return NotFound(f"There is no job {word} in this project to come after.", reason="no_such_job")


def insert_for(c: Connection, job_ids: Sequence[int], after: Sequence[int]) -> None:
    """Have each of `job_ids` wait for all of `after`."""
    if after and job_ids:
        rows = [{"job_id": job_id, "after_id": one} for job_id in job_ids for one in after]
        c.execute(insert(dependencies), rows)


def unmet() -> ColumnElement[bool]:
    """For a query of jobs: is there one that it comes after and that has not succeeded?"""
    earlier = jobs.alias("earlier")
    return exists(
        select(dependencies.c.after_id)
        .join(earlier, earlier.c.id == dependencies.c.after_id)
        .where(and_(dependencies.c.job_id == jobs.c.id, earlier.c.state != JobState.SUCCEEDED.value))
    )


def waited_for(c: Connection, job_id: int) -> list[tuple[int, str, str]]:
    """Id, name and state of what a job comes after and what has not succeeded yet."""
    query = (
        select(jobs.c.id, jobs.c.name, jobs.c.state)
        .join(dependencies, dependencies.c.after_id == jobs.c.id)
        .where(dependencies.c.job_id == job_id, jobs.c.state != JobState.SUCCEEDED.value)
        .order_by(jobs.c.id)
    )
    return [(row.id, row.name, row.state) for row in c.execute(query)]


def after_ids(c: Connection, job_id: int) -> list[int]:
    """Everything the job was asked to come after."""
    query = select(dependencies.c.after_id).where(dependencies.c.job_id == job_id)
    return sorted(c.execute(query).scalars())


def remove(c: Connection, job_ids: Select[tuple[int]]) -> None:
    """Forget whatever these jobs wait for and whatever waits for them."""
    either = or_(dependencies.c.job_id.in_(job_ids), dependencies.c.after_id.in_(job_ids))
    c.execute(delete(dependencies).where(either))


def give_up(c: Connection, job_id: int, state: JobState, now: int) -> list[int]:
    """A job ended as `state`: end those that can never start for it, and return their ids."""
    if state is JobState.SUCCEEDED:
        return []
    ended: list[int] = []
    todo = [(job_id, state)]
    while todo:
        earlier, how = todo.pop()
        waiting = select(dependencies.c.job_id).where(dependencies.c.after_id == earlier)
        reason = f"never started: job {earlier}, which it comes after, ended as {how}"
        change = (
            update(jobs)
            .where(jobs.c.id.in_(waiting), jobs.c.state == JobState.QUEUED.value)
            .values(state=JobState.STOPPED.value, ended_at=now, log_bytes=0, reason=reason)
            .returning(jobs.c.id, jobs.c.project_id, jobs.c.name, jobs.c.created_by)
        )
        for row in c.execute(change).all():
            told = {"name": row.name, "exit_code": None, "reason": reason}
            emit(c, "job.stopped", str(row.id), actor="system", project_id=row.project_id, **told)
            ended.append(row.id)
            todo.append((row.id, JobState.STOPPED))
    return ended
