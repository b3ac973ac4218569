"""Jobs: asking for work to be run, and what became of it. The `reconciler` runs it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread
from sqlalchemy import Connection, delete, func, insert, select, update

from stratal.compute import dependencies, records
from stratal.compute.admission import turn_of
from stratal.compute.arrays import find_array, insert_members
from stratal.compute.checkpoints import Checkpoints
from stratal.compute.engine import Capacity
from stratal.compute.joblogs import JobLogs
from stratal.compute.logstream import LogStream
from stratal.compute.model import ACTIVE, Array, Attempt, Held, Job, JobSpec, JobState
from stratal.compute.quotas import quota_of
from stratal.compute.reconciler import Bell, Reconciler
from stratal.compute.snapshots import Snapshots
from stratal.compute.submission import array_indices, complete
from stratal.compute.tables import arrays, attempts, environments, jobs, quotas, rank_logs
from stratal.compute.waits import Wait, waits
from stratal.compute.workloads import Workloads
from stratal.identity.model import Principal, system_principal
from stratal.identity.permissions import require
from stratal.identity.tables import keys
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.kernel.events import emit
from stratal.ledger.budgets import Standing, require_open

_PURGE_SECONDS = 30.0
MOST_AT_ONCE = 1000
_BEYOND = 2**62  # what a database's integer still holds
_INSERT = insert(jobs).returning(jobs.c.id)


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
        checkpoints: Checkpoints,
        reconciler: Reconciler,
        clock: Clock,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._workloads = workloads
        self._snapshots = snapshots
        self._logs = logs
        self._checkpoints = checkpoints
        self._stream = LogStream(database, logs, reconciler.changed)
        self._reconciler = reconciler
        self._clock = clock
        self._used_up: set[str] = set()
        self._queueing: set[asyncio.Future[Job]] = set()

    @property
    def changed(self) -> Bell:
        """Rung at every change of a job."""
        return self._reconciler.changed

    async def start(self) -> None:
        await self._reconciler.start()

    async def close(self) -> None:
        await self._reconciler.close()

    # -- asking --------------------------------------------------------------------------------

    async def capacity(self) -> Capacity:
        """What the machines have, for rooms that size their own jobs."""
        return await self._workloads.engine.capacity()

    async def check(self, who: Principal, project_id: str, spec: JobSpec) -> JobSpec:
        """`spec` with its defaults filled in, when it could be submitted now. Raises what `submit` raises, but for
        what depends on other jobs."""
        spec = await self._complete(who, project_id, spec, await self._workloads.engine.capacity())
        now = self._clock()

        def possible(c: Connection) -> None:
            require_open(c, project_id, now)
            _check_quota(c, project_id, spec)

        await self._database.read(possible)
        return spec

    async def _complete(self, who: Principal, project_id: str, spec: JobSpec, capacity: Capacity) -> JobSpec:
        """`spec` with its defaults filled in, checked but for what other rows say."""
        require(who, "jobs.run", project_id)
        spec = complete(spec, capacity)
        if spec.snapshot_id is not None:
            await self._snapshots.get(project_id, spec.snapshot_id)
        elif spec.cwd:
            raise Invalid("Without code there is no folder to work in.", reason="bad_cwd")
        return spec

    async def submit(
        self,
        who: Principal,
        project_id: str,
        spec: JobSpec,
        *,
        also: Callable[[Connection, int], None] | None = None,
    ) -> Job:
        """Queue a job, or an array's jobs, the first of which is returned.

        When this returns they are durable and will be run, whatever dies meanwhile; one whose turn is now and whose
        environment is there is claimed in the same write, though it is returned as queued. `also` is given the job's id
        in the same write: what it records is there exactly when the job is, and what it raises undoes both.
        Raises `Invalid` for what makes no sense or could never fit on this machine or into the project's quota,
        `TooLarge`, `NotFound` for a snapshot or an earlier job that is not the project's, `Conflict` for an
        earlier job that has failed already, `OverBudget`, `Denied`.
        """
        capacity = await self._workloads.engine.capacity()
        spec = await self._complete(who, project_id, spec, capacity)
        environment = None
        if spec.array is None and not spec.after:
            environment = await self._reconciler.at_hand(spec)
        indices = None if spec.array is None else array_indices(spec.array)
        diff = await self._blobs.put(spec.source.diff) if spec.source.diff else None
        now = self._clock()
        values = records.values_of(spec, diff.sha256 if diff else None)
        values |= {
            "project_id": project_id,
            "state": JobState.QUEUED.value,
            "diff_blob": diff.key if diff else None,
            "created_by": who.actor,
            "creator_id": who.id,
            "creator_name": who.name,
            "creator_role": who.role.value,
            "queued_at": now,
            "turn": turn_of(now, spec.priority),
            "attempt": 0,
            "fence": 0,
            "reason": "",
            "usage": "{}",
        }

        def work(c: Connection) -> tuple[Job, Held | None]:
            require_open(c, project_id, now)
            _check_quota(c, project_id, spec)
            after = dependencies.named(c, project_id, spec.after)
            rows = [values] if indices is None else insert_members(c, values, indices, spec.parallel)
            made = [c.execute(_INSERT, row).scalar_one() for row in rows]
            dependencies.insert_for(c, made, after)
            for job_id in made:
                emit(c, "job.queued", str(job_id), actor=who.actor, project_id=project_id, name=spec.name)
            if also is not None:
                also(c, made[0])
            job = _find(c, project_id, made[0])
            if environment is None:
                return job, None
            return job, self._reconciler.claim_at_once(c, capacity, job.id, environment)

        async def queue() -> Job:
            job, held = await self._database.write(work)
            if held is not None and environment is not None:
                self._reconciler.carry(held, environment)
            else:
                self._reconciler.kick()
            return job

        queueing = asyncio.ensure_future(
            queue()
        )  # what it claims is carried on though its sender may have left
        self._queueing.add(queueing)
        queueing.add_done_callback(self._queueing.discard)
        try:
            return await asyncio.shield(queueing)
        except Exception:
            if diff is not None:
                await self._blobs.delete(diff.key)
            raise

    async def stop(self, who: Principal, project_id: str, job_id: int) -> Job:
        """Stop a job: one that waits never starts; one that runs gets SIGTERM, and SIGKILL after its grace.

        Returns the job as it is right after the request was recorded; for one that has ended, as it is.
        Raises `NotFound`, `Denied`.
        """
        require(who, "jobs.stop", project_id, what=f"job {job_id}")

        def work(c: Connection) -> Job:
            job = _find(c, project_id, job_id)
            self._stop_now(c, who, job)
            return _find(c, project_id, job_id)

        job = await self._database.write(work)
        self._reconciler.stop(job_id)
        return job

    async def heed(self, used_up: Mapping[str, Standing]) -> None:
        """Stop what runs of projects whose budget is used up and says so: each job fails by that, after its grace.

        The decision is in the job's row before anything is done, so that it holds whatever is killed then.
        """
        ended = {id_: standing.in_words for id_, standing in used_up.items() if standing.budget.stops}
        if ended:
            running = jobs.c.project_id.in_(list(ended)) & jobs.c.state.in_([state.value for state in ACTIVE])
            unasked = running & jobs.c.stop_requested_at.is_(None)
            query = select(jobs.c.id, jobs.c.project_id).where(unasked)

            def stop(c: Connection) -> list[tuple[int, str]]:
                found = [(row.id, ended[row.project_id]) for row in c.execute(query)]
                for job_id, why in found:
                    values = {"stop_requested_at": self._clock(), "stopped_by": "system", "stop_cause": why}
                    c.execute(update(jobs).where(jobs.c.id == job_id).values(values))
                return found

            if await self._database.read(lambda c: c.execute(query).first()):
                for job_id, why in await self._database.write(stop):
                    self._reconciler.stop(job_id, why)
        if self._used_up - used_up.keys():  # what waits for a budget may start now
            self._reconciler.kick()
        self._used_up = set(used_up)

    async def stop_without_credential(self) -> None:
        """Stop what runs though its credential was ended: whoever started it lost access to the project."""
        why = "whoever started it has no access to the project any more"
        ended = select(keys.c.id).where(keys.c.revoked_at.is_not(None))
        running = jobs.c.state.in_([state.value for state in ACTIVE]) & jobs.c.stop_requested_at.is_(None)
        query = select(jobs.c.id).where(running, jobs.c.key_id.in_(ended))

        def stop(c: Connection) -> list[int]:
            found = list(c.execute(query).scalars())
            values = {"stop_requested_at": self._clock(), "stopped_by": "system", "stop_cause": why}
            c.execute(update(jobs).where(jobs.c.id.in_(found)).values(values))
            return found

        if await self._database.read(lambda c: c.execute(query).first()):
            for job_id in await self._database.write(stop):
                self._reconciler.stop(job_id, why)

    async def stop_waiting_of(self, project_id: str, accounts: Sequence[str]) -> None:
        """Stop jobs of the project that wait and that these (by id) have queued."""
        query = select(jobs.c.id).where(
            jobs.c.project_id == project_id,
            jobs.c.state == JobState.QUEUED.value,
            jobs.c.creator_id.in_(list(accounts)),
        )
        who = system_principal(project_id, "")

        def stop(c: Connection) -> None:
            for job_id in list(c.execute(query).scalars()):
                self._stop_now(c, who, _find(c, project_id, job_id))

        await self._database.write(stop)

    async def stop_array(self, who: Principal, project_id: str, array_id: int) -> Array:
        """Stop every member of an array, as `stop` does. Raises `NotFound`, `Denied`."""
        require(who, "jobs.stop", project_id, what=f"array a{array_id}")

        def work(c: Connection) -> tuple[Array, list[int]]:
            found = find_array(c, project_id, array_id)
            rows = c.execute(records.query().where(jobs.c.array_id == array_id)).mappings()
            members = [records.job_of(dict(row)) for row in rows]
            unended = [job for job in members if not job.state.ended]
            for job in unended:
                self._stop_now(c, who, job)
            return found, [job.id for job in unended]

        found, ids = await self._database.write(work)
        for job_id in ids:
            self._reconciler.stop(job_id)
        return await self._database.read(lambda c: find_array(c, project_id, found.id))

    def _stop_now(self, c: Connection, who: Principal, job: Job) -> None:
        if job.state.ended or (job.state in ACTIVE and job.stop_requested_at is not None):
            return
        now = self._clock()
        values: dict[str, Any] = {"stop_requested_at": now, "stopped_by": who.actor}
        if job.state is JobState.QUEUED:
            logged = select(func.coalesce(func.sum(attempts.c.log_bytes), 0)).where(
                attempts.c.job_id == job.id
            )
            values |= {"state": JobState.STOPPED.value, "ended_at": now, "waits_until": None}
            values["log_bytes"] = c.execute(logged).scalar_one()
            again = f"stopped before attempt {job.attempt + 1} started"
            values["reason"] = again if job.attempt else "stopped before it started"
            emit(c, "job.stopped", str(job.id), actor=who.actor, project_id=job.project_id, name=job.name)
        c.execute(update(jobs).where(jobs.c.id == job.id).values(values))
        if job.state is JobState.QUEUED:
            dependencies.give_up(c, job.id, JobState.STOPPED, now)

    # -- looking -------------------------------------------------------------------------------

    async def get(self, who: Principal, project_id: str, job_id: int) -> Job:
        """Raises `NotFound`, also for a job of another project. A waiting job's `reason` says for what it waits."""
        require(who, "jobs.read", project_id, what=f"job {job_id}")
        job, held_up = await self._explained(project_id, job_id)
        if job.state is not JobState.QUEUED:
            return job
        words = "; ".join(wait.words for wait in held_up)
        return replace(
            job, reason=". ".join(filter(None, [job.reason, f"waits for {words}" if words else ""]))
        )

    async def why(self, who: Principal, project_id: str, job_id: int) -> tuple[Job, Sequence[Wait]]:
        """A job and all that it waits for right now; nothing: it runs, has ended or starts any moment. Raises `NotFound`."""
        require(who, "jobs.read", project_id, what=f"job {job_id}")
        job, held_up = await self._explained(project_id, job_id)
        if job.state is JobState.STARTING:
            said = (await self._logs.live(job.attempt_id, 0)).decode(errors="replace").strip().splitlines()
            last = said[-1].removeprefix("stratal: ") if said else "its environment and its code to be ready"
            held_up = [Wait("start", job.reason.removeprefix("waits: ") or last, {})]
        return job, held_up

    async def attempts(self, who: Principal, project_id: str, job_id: int) -> Sequence[Attempt]:
        """The job's attempts, first to last. Raises `NotFound`."""
        require(who, "jobs.read", project_id, what=f"job {job_id}")
        query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number)

        def work(c: Connection) -> list[Attempt]:
            _find(c, project_id, job_id)
            return [records.attempt_of(dict(row)) for row in c.execute(query).mappings()]

        return await self._database.read(work)

    async def after(self, who: Principal, project_id: str, job_id: int) -> Sequence[int]:
        """The jobs that must have succeeded before this one starts. Raises `NotFound`."""
        require(who, "jobs.read", project_id, what=f"job {job_id}")

        def work(c: Connection) -> list[int]:
            _find(c, project_id, job_id)
            return dependencies.after_ids(c, job_id)

        return await self._database.read(work)

    async def array(self, who: Principal, project_id: str, array_id: int) -> Array:
        """Raises `NotFound`, also for an array of another project."""
        require(who, "jobs.read", project_id, what=f"array a{array_id}")
        return await self._database.read(lambda c: find_array(c, project_id, array_id))

    async def by_workload(self, workload: str) -> Job:
        """The job that lineage calls ``job:<id>``, for rooms that explain it; they authorise. Raises `NotFound`."""
        kind, _, rest = workload.partition(":")
        number = rest.partition("/")[0]  # ``job:12/5.1``: a part of job 12 with a credential of its own
        if kind != "job" or not number.isdecimal() or len(number) > 15:
            raise NotFound(f"{workload[:60]!r} is no job.", reason="no_such_job")
        return await self._database.read(lambda c: _find(c, None, int(number)))

    async def list(
        self,
        who: Principal,
        project_id: str,
        *,
        states: Sequence[JobState] = (),
        array_id: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> JobPage:
        """The project's jobs, newest first: in one of `states`, of one array, with ids below `before`, where given."""
        require(who, "jobs.read", project_id)
        limit = max(1, min(limit, MOST_AT_ONCE))
        query = records.query().where(jobs.c.project_id == project_id)
        if states:
            query = query.where(jobs.c.state.in_([state.value for state in states]))
        if array_id is not None:
            query = query.where(jobs.c.array_id == min(max(array_id, 0), _BEYOND))
        if before is not None:
            query = query.where(jobs.c.id < min(max(before, 0), _BEYOND))
        query = query.order_by(jobs.c.id.desc()).limit(limit + 1)
        rows = await self._database.read(lambda c: [dict(r) for r in c.execute(query).mappings()])
        found = [records.job_of(row) for row in rows[:limit]]
        return JobPage(found, found[-1].id if len(rows) > limit else None)

    async def wait(self, who: Principal, project_id: str, job_id: int, seconds: float) -> Job:
        """The job once it has ended, or as it is after `seconds`. Raises `NotFound`."""
        require(who, "jobs.read", project_id, what=f"job {job_id}")
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            job = await self._database.read(lambda c: _find(c, project_id, job_id))
            left = deadline - asyncio.get_running_loop().time()
            if job.state.ended or left <= 0:
                return await self.get(who, project_id, job_id)
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
        self,
        who: Principal,
        project_id: str,
        job_id: int,
        *,
        attempt: int | None = None,
        rank: int | None = None,
        offset: int = 0,
        follow: bool = False,
    ) -> AsyncIterator[bytes]:
        """The job's log from byte `offset`: what there is now, and with `follow` all that comes until the job ended.

        The logs of its attempts one behind the other, or that of one `attempt` alone, or what the member
        `rank` of a gang wrote in an attempt (default: the last). Offsets stay the same for ever, so one who
        was cut off goes on from where they were. Raises `NotFound` before anything is yielded.
        """
        require(who, "jobs.read", project_id, what=f"job {job_id}")
        if offset < 0:
            raise Invalid("An offset is 0 or more.", reason="bad_offset")
        job = await self._database.read(lambda c: _find(c, project_id, job_id))
        if attempt is not None and not 1 <= attempt <= job.attempt:
            raise NotFound(
                f"Job {job_id} has no attempt {attempt}.",
                hint=f"It has had {job.attempt} so far." if job.attempt else "It has not started yet.",
                reason="no_such_attempt",
            )
        if rank is not None:
            if not 0 <= rank < job.world_size:
                has = f"It is a gang of {job.world_size}." if job.world_size else "It is no gang."
                raise NotFound(f"Job {job_id} has no rank {rank}.", hint=has, reason="no_such_rank")
            return self._stream.read_rank(job_id, attempt or job.attempt, rank, offset, follow=follow)
        return self._stream.read(job_id, attempt, offset, follow=follow)

    # -- the rest ------------------------------------------------------------------------------

    async def _explained(self, project_id: str, job_id: int) -> tuple[Job, Sequence[Wait]]:
        """The job, and for one that is queued what it waits for."""
        capacity = await self._workloads.engine.capacity()

        def work(c: Connection) -> tuple[Job, Sequence[Wait]]:
            job = _find(c, project_id, job_id)
            queued = job.state is JobState.QUEUED
            return job, waits(c, capacity, job, self._clock()) if queued else ()

        return await self._database.read(work)

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
        blobs = select(jobs.c.diff_blob).where(jobs.c.project_id == project_id, jobs.c.diff_blob.is_not(None))
        logs = select(attempts.c.log_blob).where(
            attempts.c.project_id == project_id, attempts.c.log_blob.is_not(None)
        )
        ranks = select(rank_logs.c.blob).where(rank_logs.c.project_id == project_id)
        for query in (blobs, logs, ranks):
            for key in await self._database.read(lambda c, query=query: list(c.execute(query).scalars())):  # type: ignore[misc]
                await self._blobs.delete(key)
        mine = select(jobs.c.id).where(jobs.c.project_id == project_id)
        for job_id in await self._database.read(lambda c: list(c.execute(mine).scalars())):
            await anyio.to_thread.run_sync(self._checkpoints.remove, job_id)

        def clear(c: Connection) -> None:
            dependencies.remove(c, mine)
            for table in (rank_logs, attempts, jobs, arrays, quotas):
                c.execute(delete(table).where(table.c.project_id == project_id))

        await self._database.write(clear)
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


def _find(c: Connection, project_id: str | None, job_id: int) -> Job:
    row = records.row_of(c, job_id) if 0 < job_id < _BEYOND else None
    if row is None or project_id not in (None, row["project_id"]):
        raise NotFound(
            f"There is no job {job_id} in this project.",
            hint="List them with: stratal jobs",
            reason="no_such_job",
        )
    return records.job_of(row)


def _check_quota(c: Connection, project_id: str, spec: JobSpec) -> None:
    ceiling = quota_of(c, project_id)
    size = spec.nodes or 1
    for asked, most, unit in (
        ((spec.cpus or 0) * size, ceiling.cpus, "processors"),
        ((spec.memory_bytes or 0) * size, ceiling.memory_bytes, "bytes of memory"),
        (spec.gpus * size, ceiling.gpus, "GPUs"),
        (1, ceiling.jobs, "jobs at once"),
    ):
        if most is not None and asked > most:
            raise Invalid(
                f"The project's quota allows {most:g} {unit}; this job asks for {asked:g}, so it could never run.",
                hint="Ask for less, or ask an administrator: stratal quota set PROJECT …",
                reason="over_quota",
            )
