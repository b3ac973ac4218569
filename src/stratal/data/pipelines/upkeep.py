"""Keeps a worker for every run that needs one, a job for every big step, and no branch that nobody needs.

What should be is in the rows; this looks again and again and brings it about, and may be killed between any two
lines. A job is queued in the same transaction that writes its number into the run or the step, so that
neither is ever without the other.
"""

import asyncio
import contextlib
import logging
from typing import Any

from sqlalchemy import Connection, Select, exists, func, select, update

from stratal.compute.jobs import Jobs
from stratal.compute.model import JobSpec, JobState, Source
from stratal.compute.reconciler import Bell
from stratal.compute.tables import jobs as job_rows
from stratal.data.pipelines import records, replaying
from stratal.data.pipelines.journal import Journal
from stratal.data.pipelines.model import Run, RunState, Step, StepState
from stratal.data.pipelines.staging import Stage
from stratal.data.pipelines.tables import pipelines, runs, steps
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, StratalError

log = logging.getLogger("stratal.pipelines")

CARRIED = ".stratal"
"""The folder of a run's code in which the SDK lies that its worker runs."""

WORKER_CPUS = 0.5
WORKER_MEMORY = 1024**3
_RETRIES = 20
_TICK_SECONDS = 1.0
_IDLE_SECONDS = 10.0
_SWEEP_TICKS = 10
_ENDED_JOBS = [state.value for state in JobState if state.ended]


class Upkeep:
    """`start` before use, `close` at the end; `kick` when something is to be done now."""

    def __init__(self, database: Database, jobs: Jobs, journal: Journal, stage: Stage) -> None:
        self.changed = Bell()
        self._database = database
        self._jobs = jobs
        self._journal = journal
        self._stage = stage
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="pipelines: upkeep")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def kick(self) -> None:
        self._kicked.set()
        self.changed.ring()

    async def _run(self) -> None:
        ticks = 0
        while True:
            self._kicked.clear()
            busy = True
            try:
                busy = await self._look()
                if ticks % _SWEEP_TICKS == 0:
                    await self._stage.sweep()
            except StratalError as error:
                log.warning("pipelines cannot go on right now: %s", error)
            except Exception:
                log.exception("looking after pipelines failed")
            ticks += 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS if busy else _IDLE_SECONDS):
                    await self._kicked.wait()

    async def _look(self) -> bool:
        """One look at everything; False when no run is unended."""

        def read(c: Connection) -> tuple[list[Run], list[Run], list[Step], list[tuple[Step, str]], int]:
            queued = [
                records.run_of(row)
                for row in c.execute(
                    records.query()
                    .where(
                        runs.c.state == RunState.QUEUED.value, runs.c.job_id.is_(None), ~exists(_before_it())
                    )
                    .order_by(runs.c.id)
                    .limit(100)
                ).mappings()
            ]
            unended = runs.c.state.in_([RunState.QUEUED.value, RunState.RUNNING.value])
            lost = [
                records.run_of(row)
                for row in c.execute(
                    records.query()
                    .join(job_rows, job_rows.c.id == runs.c.job_id)
                    .where(unended, job_rows.c.state.in_(_ENDED_JOBS))
                ).mappings()
            ]
            running = steps.c.state == StepState.RUNNING.value
            jobless = select(steps).where(running, steps.c.small == 0, steps.c.job_id.is_(None)).limit(200)
            silent = (
                select(steps, job_rows.c.state.label("job_state"), job_rows.c.reason.label("job_reason"))
                .join(job_rows, job_rows.c.id == steps.c.job_id)
                .where(running, steps.c.small == 0, job_rows.c.state.in_(_ENDED_JOBS))
            )
            active = c.execute(
                select(func.count()).select_from(runs).where(unended, runs.c.job_id.is_not(None))
            ).scalar_one()
            return (
                queued,
                lost,
                [records.step_of(row) for row in c.execute(jobless).mappings()],
                [
                    (records.step_of(row), f"its job {row['job_state']}: {row['job_reason']}".rstrip(": "))
                    for row in c.execute(silent).mappings()
                ],
                active,
            )

        queued, lost, jobless, silent, active = await self._database.read(read)
        await self._note_those_who_wait()
        await self._stop_strays()
        for run in lost:
            await self._worker_gone(run)
        for step, why in silent:
            await self._database.write(lambda c, s=step, w=why: self._journal.job_ended(c, s, w))  # type: ignore[misc]
        room = await self._most_workers() - active + len(lost)
        for run in queued[: max(0, room)]:
            await self._start_worker(run)
        for step in jobless:
            await self._start_step(step)
        if lost or silent:
            self.changed.ring()
        return bool(queued or active)

    async def _note_those_who_wait(self) -> None:
        """Runs that wait for another of their pipeline say for which."""
        other = _before_it(runs_before.c.id).limit(1).scalar_subquery()
        query = select(runs.c.id, other).where(
            runs.c.state == RunState.QUEUED.value,
            runs.c.job_id.is_(None),
            runs.c.reason == "",
            exists(_before_it()),
        )
        waiting = await self._database.read(lambda c: list(c.execute(query.limit(100))))
        if not waiting:
            return

        def work(c: Connection) -> None:
            for run_id, first in waiting:
                here = (runs.c.id == run_id, runs.c.state == RunState.QUEUED.value, runs.c.reason == "")
                c.execute(
                    update(runs).where(*here).values(reason=f"waits for run {first} of the same pipeline")
                )

        await self._database.write(work)

    async def _stop_strays(self) -> None:
        """Stop what still works for runs that were cancelled: another took their place."""
        working = job_rows.c.state.not_in(_ENDED_JOBS) & job_rows.c.stop_requested_at.is_(None)
        gone = runs.c.state == RunState.CANCELLED.value
        workers = select(runs.c.id, job_rows.c.id).join(job_rows, job_rows.c.id == runs.c.job_id)
        own = (
            select(runs.c.id, job_rows.c.id)
            .join(steps, steps.c.run_id == runs.c.id)
            .join(job_rows, job_rows.c.id == steps.c.job_id)
        )

        def read(c: Connection) -> list[tuple[Run, int]]:
            found = [*c.execute(workers.where(working, gone)), *c.execute(own.where(working, gone))]
            return [(records.find_run(c, None, run_id), job_id) for run_id, job_id in found]

        for run, job_id in await self._database.read(read):
            await self._jobs.stop(records.creator(run), run.project_id, job_id)

    async def _most_workers(self) -> int:
        """So many that they leave half of the processors to the steps they wait for."""
        return max(1, int((await self._jobs.capacity()).cpus / 2 / WORKER_CPUS))

    async def _worker_gone(self, run: Run) -> None:
        """The worker's job has ended (its retries are used up, or it was stopped), but the run has not."""

        def work(c: Connection) -> None:
            present = records.find_run(c, None, run.id)
            if present.state.ended or present.job_id != run.job_id:
                return
            job = c.execute(
                select(job_rows.c.state, job_rows.c.reason).where(job_rows.c.id == run.job_id)
            ).one()
            stopped = job.state == JobState.STOPPED.value
            reason = f"its worker, job {run.job_id}, {job.state}: {job.reason}".rstrip(": ")
            self._journal.end(c, present, RunState.CANCELLED if stopped else RunState.FAILED, reason)

        await self._database.write(work)

    async def _start_worker(self, run: Run) -> None:
        spec = JobSpec(
            argv=["python", "-m", "stratal.sdk.pipelines.worker"],
            name=f"pipeline-run-{run.id}",
            cpus=min(WORKER_CPUS, (await self._jobs.capacity()).cpus),
            memory_bytes=min(WORKER_MEMORY, (await self._jobs.capacity()).memory_bytes // 4),
            retries=_RETRIES,
            priority=1,  # a worker holds little and brings work forward
            **_shared(run),
        )

        def also(c: Connection, job_id: int) -> None:
            claimed = c.execute(
                update(runs)
                .where(runs.c.id == run.id, runs.c.job_id.is_(None), runs.c.state == RunState.QUEUED.value)
                .values(job_id=job_id)
            )
            if claimed.rowcount != 1:
                raise Conflict("The run has a worker.", reason="superseded")

        try:
            await self._jobs.submit(records.creator(run), run.project_id, spec, also=also)
        except StratalError as error:
            if error.reason == "superseded":
                return
            if error.status >= 500:
                raise
            why = f"no worker: {error}"
            await self._database.write(
                lambda c: self._journal.end(c, records.find_run(c, None, run.id), RunState.FAILED, why)
            )

    async def _start_step(self, step: Step) -> None:
        run = await self._database.read(lambda c: records.find_run(c, None, step.run_id))
        if run.state.ended:
            return
        how = step.call
        shared = _shared(run)
        shared["env"] = {**shared["env"], "STRATAL_STEP": step.name}
        if how.get("requirements") is not None:
            shared["requirements"] = how["requirements"]
        shared["network"] = how.get("network") or shared["network"]
        if run.replay_of is not None:
            shared["pinned_environment"] = await self._database.read(
                lambda c: replaying.environment_of(c, run, step)
            )
        spec = JobSpec(
            argv=["python", "-m", "stratal.sdk.pipelines.step_job"],
            name=_job_name(run, step),
            cpus=how.get("cpus"),
            memory_bytes=how.get("memory_bytes"),
            gpus=how.get("gpus") or 0,
            gpu_type=how.get("gpu_type"),
            timeout_seconds=how.get("timeout_seconds"),
            **shared,
        )

        def also(c: Connection, job_id: int) -> None:
            claimed = c.execute(
                update(steps)
                .where(
                    steps.c.id == step.id, steps.c.state == StepState.RUNNING.value, steps.c.job_id.is_(None)
                )
                .values(job_id=job_id)
            )
            if claimed.rowcount != 1:
                raise Conflict("The step has a job.", reason="superseded")

        try:
            await self._jobs.submit(records.creator(run), run.project_id, spec, also=also)
        except StratalError as error:
            if error.reason == "superseded":
                return
            if error.status >= 500:
                raise
            why = str(error)
            await self._database.write(lambda c: self._journal.job_ended(c, step, why))
            self.changed.ring()


runs_before = runs.alias("runs_before")


def _before_it(*columns: Any) -> Select[Any]:
    """The unended runs that a run of a deployed pipeline waits for, where its pipeline's runs take turns."""
    return (
        select(*columns or (runs_before.c.id,))
        .join(
            pipelines,
            (pipelines.c.project_id == runs_before.c.project_id)
            & (pipelines.c.name == runs_before.c.pipeline),
        )
        .where(
            pipelines.c.overlap == "queue",
            runs.c.trigger.not_in(["manual", "replay"]),
            runs.c.replay_of.is_(None),
            runs_before.c.project_id == runs.c.project_id,
            runs_before.c.pipeline == runs.c.pipeline,
            runs_before.c.replay_of.is_(None),
            runs_before.c.state.in_([RunState.QUEUED.value, RunState.RUNNING.value]),
            runs_before.c.id < runs.c.id,
        )
        .order_by(runs_before.c.id)
        .correlate(runs)
    )


def _shared(run: Run) -> dict[str, Any]:
    """What the worker's job and the steps' jobs have in common: the run's code, and the SDK that lies in it."""
    depth = len([part for part in run.cwd.split("/") if part])
    root = "/".join([".."] * depth) or "."
    return {
        "env": {
            "PYTHONPATH": f"{root}/{CARRIED}",
            "STRATAL_CODE_ROOT": root,
            "STRATAL_PIPELINE_RUN": str(run.id),
        },
        "requirements": run.requirements,
        "pinned_environment": run.environment,
        "network": run.network,
        "snapshot_id": run.snapshot_id,
        "cwd": run.cwd,
        "source": _source(run),
    }


def _source(run: Run) -> Source:
    known = ("kind", "commit", "branch", "remote", "dirty", "untracked", "submodules")
    return Source(**{name: run.source[name] for name in known if name in run.source})


def _job_name(run: Run, step: Step) -> str:
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in step.name)[:40]
    return f"run-{run.id}-{plain}".strip("-")
