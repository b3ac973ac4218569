"""Jobs: asking for work to be run, and what became of it. The `reconciler` runs it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from stratal.compute import records
from stratal.compute.joblogs import JobLogs
from stratal.compute.model import ACTIVE, Job, JobSpec, JobState
from stratal.compute.reconciler import Reconciler, in_use
from stratal.compute.snapshots import Snapshots
from stratal.compute.submission import complete
from stratal.compute.tables import environments, jobs
from stratal.compute.workloads import Workloads
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.kernel.events import emit

_POLL_SECONDS = 0.15
_PURGE_SECONDS = 30.0
MOST_AT_ONCE = 1000
_BEYOND = 2**62  # what a database's integer still holds


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first; `more_before` is the id to go on from, None when these were the last."""

    jobs: Sequence[Job]
    more_before: int | None


class Jobs:
    """`start` before use; `close` lets go, and what runs goes on running."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workloads: Workloads,
        snapshots: Snapshots,
        logs: JobLogs,
        reconciler: Reconciler,
        clock: Clock,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._workloads = workloads
        self._snapshots = snapshots
        self._logs = logs
        self._reconciler = reconciler
        self._clock = clock

    async def start(self) -> None:
        await self._reconciler.start()

    async def close(self) -> None:
        await self._reconciler.close()

    # -- asking --------------------------------------------------------------------------------

    async def submit(self, who: Principal, project_id: str, spec: JobSpec) -> Job:
        """Queue a job. When this returns the job is durable and will be run, whatever dies meanwhile.

        Raises `Invalid` for what makes no sense or could never fit on this machine, `TooLarge`,
        `NotFound` for a snapshot that is not the project's, `Denied`.
        """
        require(who, "jobs.run", project_id)
        spec = complete(spec, await self._workloads.engine.capacity())
        if spec.snapshot_id is not None:
            await self._snapshots.get(project_id, spec.snapshot_id)
        elif spec.cwd:
            raise Invalid("Without code there is no folder to work in.", reason="bad_cwd")
        diff = await self._blobs.put(spec.source.diff) if spec.source.diff else None
        values = records.values_of(spec, diff.sha256 if diff else None)
        values |= {
            "project_id": project_id,
            "state": JobState.QUEUED.value,
            "diff_blob": diff.key if diff else None,
            "created_by": who.actor,
            "creator_id": who.id,
            "creator_name": who.name,
            "creator_role": who.role.value,
            "queued_at": self._clock(),
            "attempt": 0,
            "fence": 0,
            "reason": "",
            "usage": "{}",
        }

        def work(c: Connection) -> Job:
            job_id = c.execute(insert(jobs).values(values).returning(jobs.c.id)).scalar_one()
            emit(c, "job.queued", str(job_id), actor=who.actor, project_id=project_id, name=values["name"])
            return records.job_of(_row(c, job_id))

        job = await self._database.write(work)
        self._reconciler.kick()
        return job

    async def stop(self, who: Principal, project_id: str, job_id: int) -> Job:
        """Stop a job: one that waits never starts; one that runs gets SIGTERM, and SIGKILL 10 seconds later.

        Returns the job as it is right after the request was recorded; for one that has ended, as it is.
        Raises `NotFound`, `Denied`.
        """
        require(who, "jobs.stop", project_id, what=f"job {job_id}")

        def work(c: Connection) -> Job:
            job = _find(c, project_id, job_id)
            if job.state.ended:
                return job
            values = {"stop_requested_at": self._clock(), "stopped_by": who.actor}
            if job.state is JobState.QUEUED:
                values |= {"state": JobState.STOPPED.value, "ended_at": self._clock(), "log_bytes": 0}
                values["reason"] = "stopped before it started"
                emit(c, "job.stopped", str(job_id), actor=who.actor, project_id=project_id, name=job.name)
            elif job.stop_requested_at is not None:
                return job
            c.execute(update(jobs).where(jobs.c.id == job_id).values(values))
            return records.job_of(_row(c, job_id))

        job = await self._database.write(work)
        self._reconciler.stop(job_id)
        return job

    # -- looking -------------------------------------------------------------------------------

    async def get(self, who: Principal, project_id: str, job_id: int) -> Job:
        """Raises `NotFound`, also for a job of another project. A waiting job's `reason` says for what it waits."""
        require(who, "jobs.read", project_id, what=f"job {job_id}")
        job = await self._database.read(lambda c: _find(c, project_id, job_id))
        return await self._explained(job) if job.state is JobState.QUEUED else job

    async def by_workload(self, workload: str) -> Job:
        """The job that lineage calls ``job:<id>``, for rooms that explain it; they authorise. Raises `NotFound`."""
        kind, _, number = workload.partition(":")
        if kind != "job" or not number.isdecimal() or len(number) > 15:
            raise NotFound(f"{workload[:60]!r} is no job.", reason="no_such_job")
        return await self._database.read(lambda c: _find(c, None, int(number)))

    async def list(
        self,
        who: Principal,
        project_id: str,
        *,
        states: Sequence[JobState] = (),
        before: int | None = None,
        limit: int = 100,
    ) -> JobPage:
        """The project's jobs, newest first: those in one of `states` (default: all) with ids below `before`."""
        require(who, "jobs.read", project_id)
        limit = max(1, min(limit, MOST_AT_ONCE))
        query = records.query().where(jobs.c.project_id == project_id)
        if states:
            query = query.where(jobs.c.state.in_([state.value for state in states]))
        if before is not None:
            query = query.where(jobs.c.id < min(max(before, 0), _BEYOND))
        query = query.order_by(jobs.c.id.desc()).limit(limit + 1)
        rows = await self._database.read(lambda c: [dict(r) for r in c.execute(query).mappings()])
        found = [records.job_of(row) for row in rows[:limit]]
        return JobPage(found, found[-1].id if len(rows) > limit else None)

    async def wait(self, who: Principal, project_id: str, job_id: int, seconds: float) -> Job:
        """The job once it has ended, or as it is after `seconds`. Raises `NotFound`."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            job = await self.get(who, project_id, job_id)
            left = deadline - asyncio.get_running_loop().time()
            if job.state.ended or left <= 0:
                return job
            await self._reconciler.changed.wait(min(left, 5.0))

    async def diff(self, who: Principal, project_id: str, job_id: int) -> bytes:
        """What ``git diff HEAD --binary`` said where the job was sent from; b"" for a clean tree. Raises `NotFound`."""
        require(who, "jobs.read", project_id, what=f"job {job_id}")

        def key(c: Connection) -> str | None:
            _find(c, project_id, job_id)
            return c.execute(select(jobs.c.diff_blob).where(jobs.c.id == job_id)).scalar()

        blob = await self._database.read(key)
        return b"" if blob is None else await self._blobs.read_all(blob)

    async def lock(self, who: Principal, project_id: str, environment_id: str) -> bytes:
        """The lock document of an environment that a job of the project ran in. Raises `NotFound` for others."""
        require(who, "jobs.read", project_id, what="such environment")
        query = (
            select(environments.c.lock_blob)
            .join(jobs, jobs.c.environment_id == environments.c.id)
            .where(jobs.c.project_id == project_id, environments.c.id == environment_id)
        )
        key = await self._database.read(lambda c: c.execute(query.limit(1)).scalar())
        if key is None:
            raise NotFound(
                f"No job of this project ran in the environment {environment_id[:80]!r}.",
                reason="no_such_environment",
            )
        return await self._blobs.read_all(key)

    # -- logs ----------------------------------------------------------------------------------

    async def logs(
        self, who: Principal, project_id: str, job_id: int, *, offset: int = 0, follow: bool = False
    ) -> AsyncIterator[bytes]:
        """The job's log from byte `offset`: what there is now, and with `follow` all that comes until the job ended.

        Offsets stay the same for ever, so one who was cut off goes on from where they were. Raises
        `NotFound` before anything is yielded.
        """
        require(who, "jobs.read", project_id, what=f"job {job_id}")
        if offset < 0:
            raise Invalid("An offset is 0 or more.", reason="bad_offset")
        await self._database.read(lambda c: _find(c, project_id, job_id))
        return self._log(job_id, offset, follow)

    async def _log(self, job_id: int, offset: int, follow: bool) -> AsyncIterator[bytes]:
        while True:
            row = await self._database.read(lambda c: _row(c, job_id))
            job = records.job_of(row)
            if job.state.ended:
                if row["log_blob"] is not None:
                    size = (job.log_bytes or 0) - offset
                    async for chunk in self._logs.stored(row["log_blob"], offset, size):
                        yield chunk
                return
            chunk = await self._logs.live(job.attempt_id, offset) if job.state in ACTIVE else b""
            offset += len(chunk)
            if chunk:
                yield chunk
            elif follow:
                await self._reconciler.changed.wait(_POLL_SECONDS if job.state in ACTIVE else 5.0)
            elif not await self._ended_meanwhile(job_id):
                return

    async def _ended_meanwhile(self, job_id: int) -> bool:
        return records.job_of(await self._database.read(lambda c: _row(c, job_id))).state.ended

    # -- the rest ------------------------------------------------------------------------------

    async def _explained(self, job: Job) -> Job:
        """A waiting job with what it waits for as its reason."""
        capacity = await self._workloads.engine.capacity()

        def work(c: Connection) -> tuple[float, int, int]:
            earlier = select(func.count()).where(jobs.c.state == JobState.QUEUED, jobs.c.id < job.id)
            return *in_use(c), c.execute(earlier).scalar_one()

        cpus, memory, earlier = await self._database.read(work)
        free = max(0.0, capacity.cpus - cpus), max(0, capacity.memory_bytes - memory)
        reason = (
            f"waits for {job.cpus:g} cpus and {job.memory_bytes / 2**30:.1f} GiB "
            f"({free[0]:g} and {free[1] / 2**30:.1f} GiB are free)"
        )
        if earlier:
            reason += f", behind {earlier} other{'s' * (earlier > 1)}"
        return replace(job, reason=reason)

    async def purge(self, project_id: str) -> None:
        """Stop and remove everything of the project: jobs, logs, code. May be repeated."""
        now = self._clock()

        def end(c: Connection) -> list[int]:
            mine = update(jobs).where(jobs.c.project_id == project_id)
            waiting = mine.where(jobs.c.state == JobState.QUEUED)
            c.execute(waiting.values(state=JobState.STOPPED.value, ended_at=now, stop_requested_at=now))
            active = mine.where(jobs.c.state.in_([state.value for state in ACTIVE]))
            return list(c.execute(active.values(stop_requested_at=now).returning(jobs.c.id)).scalars())

        for job_id in await self._database.write(end):
            self._reconciler.stop(job_id)
        await self._until_none_runs(project_id)
        keys = select(jobs.c.log_blob, jobs.c.diff_blob).where(jobs.c.project_id == project_id)
        for row in await self._database.read(lambda c: c.execute(keys).all()):
            for key in row:
                if key is not None:
                    await self._blobs.delete(key)
        await self._database.write(lambda c: c.execute(delete(jobs).where(jobs.c.project_id == project_id)))
        await self._snapshots.purge(project_id)

    async def _until_none_runs(self, project_id: str) -> None:
        """Wait for the project's jobs to end; one that does not is cleared away at the next start."""
        active = select(jobs.c.id).where(
            jobs.c.project_id == project_id, jobs.c.state.in_([state.value for state in ACTIVE])
        )
        deadline = asyncio.get_running_loop().time() + _PURGE_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            if await self._database.read(lambda c: c.execute(active.limit(1)).first()) is None:
                return
            await self._reconciler.changed.wait(0.5)


def _row(c: Connection, job_id: int) -> dict[str, Any]:
    return dict(c.execute(records.query().where(jobs.c.id == job_id)).mappings().one())


def _find(c: Connection, project_id: str | None, job_id: int) -> Job:
    query = records.query().where(jobs.c.id == job_id)
    if project_id is not None:
        query = query.where(jobs.c.project_id == project_id)
    row = c.execute(query).mappings().one_or_none() if 0 < job_id < _BEYOND else None
    if row is None:
        raise NotFound(
            f"There is no job {job_id} in this project.",
            hint="List them with: stratal jobs",
            reason="no_such_job",
        )
    return records.job_of(dict(row))
