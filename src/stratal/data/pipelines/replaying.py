"""Replays: a run that repeats another, each step from what that step was given and shown then.

Its steps are done on their own, not on what the replayed steps before them made: whoever differs is named, and those after
it are still judged by what they were given. So the journal answers the worker with the outputs of the run that is
repeated, and keeps what the replay's own steps returned and staged for the comparison.
"""

from sqlalchemy import Connection, select

from stratal.compute.tables import jobs
from stratal.data.lake.held import past_of
from stratal.data.pipelines import records
from stratal.data.pipelines.model import Run, Step
from stratal.data.pipelines.tables import steps

_FURTHEST = 1000


def original(c: Connection, run: Run, name: str) -> Step | None:
    """The step of that name in the run that is repeated."""
    here = (steps.c.run_id == run.replay_of, steps.c.name == name)
    row = c.execute(select(steps).where(*here)).mappings().one_or_none()
    return None if row is None else records.step_of(row)


def doer(c: Connection, step: Step) -> Step:
    """The step that did the work: itself, or the one of an earlier run whose result it took."""
    for _ in range(_FURTHEST):
        if step.taken_from is None:
            break
        row = c.execute(select(steps).where(steps.c.id == step.taken_from)).mappings().one_or_none()
        if row is None:
            break
        step = records.step_of(row)
    return step


def past(c: Connection, step: Step) -> dict[tuple[str, str], str]:
    """What the step was shown when it was done."""
    workload = doer(c, step).workload
    return {} if workload is None else past_of(c, workload)


def environment_of(c: Connection, run: Run, step: Step) -> str | None:
    """The environment in which the repeated step, a job of its own, was done."""
    then = original(c, run, step.name)
    job_id = None if then is None else doer(c, then).job_id
    if job_id is None:
        return run.environment
    found = c.execute(select(jobs.c.environment_id).where(jobs.c.id == job_id)).scalar()
    return found or run.environment
