"""Makes jobs happen: claims what is queued, carries each job from its claim to its recorded end.

The database says what should be, the engine what is; this brings them together, and may be killed
between any two lines. A claim is one UPDATE that names its owner and raises the job's fence; every later
write names both, so a server that was thought dead cannot write over its successor. The attempt's id
goes to the engine, which starts no id twice. So after a restart each job held before is taken over and
looked up: the engine knows it (then it is followed to its end), or it was never started (then it is
made ready again). How it ended, the end of its credential and the news of it are one transaction.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
from sqlalchemy import Connection, func, or_, select, update

from stratal.compute import records
from stratal.compute.engine import WorkloadSpec, WorkloadStatus
from stratal.compute.environments import Environment, Environments, remove_tree
from stratal.compute.joblogs import JobLogs
from stratal.compute.model import ACTIVE, NO_SUCH_PROGRAM, Held, Job, JobState, before, outcome
from stratal.compute.services.records import in_use as replicas_in_use
from stratal.compute.snapshots import Snapshots
from stratal.compute.tables import jobs
from stratal.compute.workloads import Workloads
from stratal.identity.keys import Credential, Keys
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, StratalError, Unavailable
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.compute")

ClientEnv = Callable[[Credential, str], Mapping[str, str]]
"""The variables that point clients at this instance, for a credential and its project's name."""

Row = dict[str, Any]

LEASE_MS = 60_000
_TICK_SECONDS = 15.0
_AGAIN_SECONDS = 1.0
_STOP_GRACE_SECONDS = 10.0
_CLAIMED_AT_ONCE = 50
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_NETWORK = (
    *(b"Name or service not known", b"Temporary failure in name resolution", b"Network is unreachable"),
    *(b"Could not resolve host", b"getaddrinfo failed", b"NameResolutionError", b"No address associated"),
)


class Superseded(Exception):
    """Another server holds the job now: nothing more of this one's may be written."""


class Bell:
    """Rung at every change of a job; whoever waits looks again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Until it rings, but no longer than `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()


class Reconciler:
    """`start`, then `kick` whenever something was queued; `close` lets go, and what runs goes on running.

    `exclusive`: nobody else can hold jobs (the home's lock says so), so what an earlier server held is
    taken over at once instead of when its lease has run out.
    """

    def __init__(
        self,
        database: Database,
        keys: Keys,
        workloads: Workloads,
        environments: Environments,
        snapshots: Snapshots,
        logs: JobLogs,
        work: Path,
        clock: Clock,
        client_env: ClientEnv,
        *,
        exclusive: bool = True,
    ) -> None:
        self.changed = Bell()
        self._database = database
        self._keys = keys
        self._workloads = workloads
        self._environments = environments
        self._snapshots = snapshots
        self._logs = logs
        self._work = work
        self._clock = clock
        self._client_env = client_env
        self._exclusive = exclusive
        self._owner = new_id("srv")
        self._carried: dict[int, asyncio.Task[None]] = {}
        self._stops: dict[int, asyncio.Event] = {}
        self._kicked = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._loop = asyncio.create_task(self._run(), name="jobs: reconcile")

    async def close(self) -> None:
        tasks = [task for task in (self._loop, *self._carried.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def kick(self) -> None:
        """Something may be started: look now."""
        self._kicked.set()
        self.changed.ring()

    def stop(self, job_id: int) -> None:
        """A stop was recorded for a job: carry it out."""
        if job_id in self._stops:
            self._stops[job_id].set()
        self.kick()

    # -- the loop ------------------------------------------------------------------------------

    async def _run(self) -> None:
        fresh = True
        while True:
            self._kicked.clear()
            try:
                if fresh or not self._exclusive:
                    await self._take_over(await self._workloads.adopted())
                if fresh:
                    await self._clear_away(await self._workloads.adopted())
                    fresh = False
                await self._renew()
                await self._claim()
            except StratalError as error:
                log.warning("jobs cannot be started right now: %s", error)
            except Exception:
                log.exception("reconciling jobs failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._kicked.wait()

    async def _take_over(self, known: Mapping[str, WorkloadStatus]) -> None:
        """Hold every job that an earlier server left starting or running."""
        free = or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < self._clock())

        def work(c: Connection) -> Sequence[Row]:
            change = update(jobs).where(jobs.c.state.in_([state.value for state in ACTIVE]))
            change = change.where(jobs.c.owner != self._owner)
            if not self._exclusive:
                change = change.where(free)
            return _held(c, list(c.execute(change.values(self._lease()).returning(jobs.c.id)).scalars()))

        for row in await self._database.write(work):
            held = records.held_of(row)
            log.info("taking over job %d (%s)", held.job.id, held.job.state)
            self._carry(held, known.get(held.job.attempt_id))

    def _lease(self) -> dict[str, Any]:
        until = self._clock() + LEASE_MS
        return {"owner": self._owner, "fence": jobs.c.fence + 1, "lease_until": until}

    async def _clear_away(self, known: Mapping[str, WorkloadStatus]) -> None:
        """Remove what ended jobs left: attempts that the engine still remembers, folders."""
        held = {f"job-{job_id}-" for job_id in self._carried}
        for attempt_id, status in known.items():
            if attempt_id.startswith("job-") and not attempt_id.startswith(tuple(held) or "\0"):
                if status.state == "running":  # its job's row is gone, or somebody else wrote its end
                    with contextlib.suppress(StratalError, TimeoutError):
                        await self._workloads.engine.stop(attempt_id, 0)
                        async with asyncio.timeout(_STOP_GRACE_SECONDS):
                            await self._workloads.ended(attempt_id)
                await self._workloads.forget(attempt_id)

        def sweep() -> None:
            for folder in self._work.glob("job-*"):
                if not folder.name.startswith(tuple(held) or "\0"):
                    remove_tree(folder)

        await anyio.to_thread.run_sync(sweep)

    async def _renew(self) -> None:
        if not self._carried:
            return
        mine = update(jobs).where(
            jobs.c.owner == self._owner, jobs.c.state.in_([state.value for state in ACTIVE])
        )
        until = self._clock() + LEASE_MS
        await self._database.write(lambda c: c.execute(mine.values(lease_until=until)))

    async def _claim(self) -> None:
        """Claim, oldest first, what the free processors and memory allow; the first that must wait holds up the rest."""
        waiting = select(jobs.c.id).where(jobs.c.state == JobState.QUEUED).limit(1)
        if await self._database.read(lambda c: c.execute(waiting).first()) is None:
            return
        capacity = await self._workloads.engine.capacity()

        def work(c: Connection) -> Sequence[Row]:
            cpus, memory = in_use(c)
            query = select(jobs.c.id, jobs.c.cpus, jobs.c.memory_bytes).where(jobs.c.state == JobState.QUEUED)
            claimed = []
            for job_id, wants_cpus, wants_memory in c.execute(
                query.order_by(jobs.c.id).limit(_CLAIMED_AT_ONCE)
            ):
                cpus, memory = cpus + wants_cpus, memory + wants_memory
                if cpus > capacity.cpus + 1e-9 or memory > capacity.memory_bytes:
                    break
                if self._claim_one(c, job_id):
                    claimed.append(job_id)
            return _held(c, claimed)

        for row in await self._database.write(work):
            self._carry(records.held_of(row), None)

    def _claim_one(self, c: Connection, job_id: int) -> bool:
        claim = (
            update(jobs)
            .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
            .values(
                state=JobState.STARTING.value,
                attempt=jobs.c.attempt + 1,
                starting_at=self._clock(),
                **self._lease(),
            )
            .returning(jobs.c.id)
        )
        if c.execute(claim).first() is None:
            return False
        held = records.held_of(_held(c, [job_id])[0])
        job = held.job
        credential = self._keys.insert_for_workload(c, held.creator, job.project_id, job.workload)
        c.execute(update(jobs).where(jobs.c.id == job_id).values(key_id=credential.id))
        return True

    # -- one job, from its claim to its end ------------------------------------------------------

    def _carry(self, held: Held, status: WorkloadStatus | None) -> None:
        stop = asyncio.Event()
        if held.job.stop_requested_at is not None:
            stop.set()
        self._stops[held.job.id] = stop
        task = asyncio.create_task(self._carry_on(held, status, stop), name=f"job {held.job.id}")
        self._carried[held.job.id] = task
        task.add_done_callback(lambda _: self._let_go(held.job.id))
        self.changed.ring()

    def _let_go(self, job_id: int) -> None:
        self._carried.pop(job_id, None)
        self._stops.pop(job_id, None)
        self.kick()

    async def _carry_on(self, held: Held, status: WorkloadStatus | None, stop: asyncio.Event) -> None:
        """Until its end is recorded. What fails on our side (a full disk, a lost engine) is tried again."""
        delay = _AGAIN_SECONDS
        while True:
            try:
                if status is None:
                    status = await self._begin(held, stop)
                if status is None:
                    return
                if held.job.state is JobState.STARTING and status.state != "unknown":
                    held = await self._record_running(held, status, stop)
                await self._follow(held, status, stop)
                return
            except Superseded:
                log.warning("job %d is held by another server now", held.job.id)
                return
            except Unavailable as error:
                log.warning("job %d has to wait: %s", held.job.id, error)
                await self._explain(held, error)
            except Exception:
                log.exception("job %d: trying again in %.0f s", held.job.id, delay)
            await self._pause(delay, stop)
            delay = min(delay * 2, 30.0)

    async def _pause(self, seconds: float, stop: asyncio.Event) -> None:
        """Sleep, but hear a stop that is asked for meanwhile."""
        if stop.is_set():
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stop.wait()

    async def _explain(self, held: Held, error: Unavailable) -> None:
        """Show why it does not go on; the end's reason takes its place."""
        with contextlib.suppress(Exception):
            await self._write(held, reason=f"waits: {error.message}"[:1000])

    async def _begin(self, held: Held, stop: asyncio.Event) -> WorkloadStatus | None:
        """The status of an attempt that the engine does not know; None when the job ended without one."""
        if held.job.state is JobState.STARTING:
            return await self._launch(held, stop)
        return WorkloadStatus(held.job.attempt_id, "unknown", reason="lost with its engine")

    async def _launch(self, held: Held, stop: asyncio.Event) -> WorkloadStatus | None:
        """Make everything ready and start the process; None when the job ended before it could run."""
        job = held.job
        self._logs.say(job.attempt_id, "")
        preparing = asyncio.ensure_future(self._prepare(held))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                preparing.cancel()
                await asyncio.gather(preparing, return_exceptions=True)
                await self._finish(held, JobState.STOPPED, None, "stopped before it started")
                return None
            spec = await preparing
            return await self._workloads.run(spec)
        except Invalid as error:
            code = None
            if error.reason not in {"environment_failed", "code_damaged", "bad_requirements", "bad_cwd"}:
                code = NO_SUCH_PROGRAM  # as shells say it when a command cannot be executed
            self._logs.say(job.attempt_id, str(error))
            await self._finish(held, JobState.FAILED, code, error.message)
            return None
        finally:
            stopping.cancel()
            preparing.cancel()
            await asyncio.gather(stopping, preparing, return_exceptions=True)

    async def _prepare(self, held: Held) -> WorkloadSpec:
        job = held.job
        environment = await self._environments.for_requirements(
            job.requirements,
            upgrade=job.upgrade_environment and job.environment_id is None,
            progress=lambda line: self._logs.say(job.attempt_id, line),
        )
        if job.environment_id != environment.id:
            await self._write(held, environment_id=environment.id)
        code = await self._lay_out(job)
        return self._spec(held, environment, code)

    async def _lay_out(self, job: Job) -> Path:
        """The job's code in a folder of its own. One that is whole already, from before a restart, is kept:
        the process may just be starting in it."""
        folder = self._logs.folder(job.attempt_id)
        code, scratch, marker = folder / "code", folder / "code.new", folder / "boot"
        boot = await anyio.to_thread.run_sync(_boot_id)

        def is_there() -> bool:  # of this boot: after a power cut, files may be whole in name only
            return code.is_dir() and marker.is_file() and marker.read_text() == boot

        def clear() -> None:
            remove_tree(scratch)
            remove_tree(code)
            scratch.mkdir(mode=0o700, parents=True)

        def put_in_place() -> None:
            (scratch / job.cwd).mkdir(parents=True, exist_ok=True)
            marker.write_text(boot)
            scratch.rename(code)

        if not await anyio.to_thread.run_sync(is_there):
            await anyio.to_thread.run_sync(clear)
            if job.snapshot_id is not None:
                await self._snapshots.lay_out(job.project_id, job.snapshot_id, scratch)
            try:
                await anyio.to_thread.run_sync(put_in_place)
            except (FileExistsError, NotADirectoryError) as error:
                raise Invalid(f"{job.cwd!r} is no folder of the job's code.", reason="bad_cwd") from error
        return code

    def _spec(self, held: Held, environment: Environment, code: Path) -> WorkloadSpec:
        job = held.job
        assert held.key_id is not None
        credential = Credential(held.key_id, self._keys.secret_of(held.key_id))
        platform = dict(self._client_env(credential, job.project))
        replaced = replaced_variables(job, platform)
        if replaced:
            self._logs.say(job.attempt_id, f"--env replaces the platform's own {', '.join(replaced)}")
        threads = str(max(1, math.ceil(job.cpus)))
        env = {
            "PATH": f"{environment.path / 'bin'}:{_PATH}",
            "VIRTUAL_ENV": str(environment.path),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            # Numeric libraries would start a thread per processor of the machine, not of the job.
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            **platform,
            **job.env,
            "STRATAL_JOB_ID": str(job.id),
        }
        return WorkloadSpec(
            attempt_id=job.attempt_id,
            argv=job.argv,
            env=env,
            cwd=code / job.cwd,
            python=environment.python,
            read_only=[environment.path],
            read_write=[code],
            cpus=job.cpus,
            memory_bytes=job.memory_bytes,
            wall_seconds=job.timeout_seconds,
            network=job.network,
        )

    async def _follow(self, held: Held, status: WorkloadStatus, stop: asyncio.Event) -> None:
        """Wait for the end of what runs, then record it."""
        attempt_id = held.job.attempt_id
        ending = asyncio.ensure_future(self._workloads.ended(attempt_id))
        stopping = asyncio.ensure_future(self._stop_when_asked(attempt_id, stop))
        try:
            if status.state == "running":
                status = await ending
        finally:
            ending.cancel()
            stopping.cancel()
            await asyncio.gather(ending, stopping, return_exceptions=True)
        exit_code = status.exit_code if status.state == "exited" else None
        # One that ended well before it heard of the stop was not stopped; one that the engine stopped (the
        # whole platform went down) was, without anybody's request.
        stopped = status.reason.startswith("stopped") or (stop.is_set() and exit_code != 0)
        await self._finish(held, outcome(exit_code, stopped=stopped), exit_code, status.reason, status)

    async def _record_running(self, held: Held, status: WorkloadStatus, stop: asyncio.Event) -> Held:
        job = held.job

        def work(c: Connection) -> bool:
            change = self._mine(held).where(jobs.c.state.in_(before(JobState.RUNNING)))
            change = change.values(
                state=JobState.RUNNING.value,
                started_at=status.started_at or self._clock(),
                isolation=self._isolation(job, status),
                reason="",
            )
            row = c.execute(change.returning(jobs.c.stop_requested_at)).first()
            if row is None:
                raise Superseded
            news = {"name": job.name}
            emit(c, "job.started", str(job.id), actor=job.created_by, project_id=job.project_id, **news)
            return row.stop_requested_at is not None

        if await self._database.write(work):
            stop.set()
        self.changed.ring()
        return replace(held, job=replace(job, state=JobState.RUNNING))

    async def _stop_when_asked(self, attempt_id: str, stop: asyncio.Event) -> None:
        await stop.wait()
        while True:
            try:
                await self._workloads.engine.stop(attempt_id, _STOP_GRACE_SECONDS)
                return
            except StratalError as error:
                log.warning("%s cannot be stopped right now: %s", attempt_id, error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _finish(
        self,
        held: Held,
        state: JobState,
        exit_code: int | None,
        reason: str,
        status: WorkloadStatus | None = None,
    ) -> None:
        """Store the log, then record the end, end the credential and tell of it, all in one transaction."""
        job = held.job
        blob = await self._logs.store(job.attempt_id, lambda tail: _last_words(job, state, status, tail))
        values: dict[str, Any] = {
            "state": state.value,
            "ended_at": (status.ended_at if status else None) or self._clock(),
            "exit_code": exit_code,
            "reason": reason,
            "log_blob": blob.key,
            "log_bytes": blob.size,
            "lease_until": None,
        }
        if status is not None:
            values["usage"] = records.usage_json(status.usage)
            if status.state == "exited":
                values["isolation"] = self._isolation(job, status)

        def work(c: Connection) -> None:
            change = self._mine(held).where(jobs.c.state.in_(before(state)))
            if c.execute(change.values(values).returning(jobs.c.id)).first() is None:
                raise Superseded
            self._keys.end_workload(c, job.workload)
            news = {"name": job.name, "exit_code": exit_code, "reason": reason[:500]}
            emit(c, f"job.{state}", str(job.id), actor=job.created_by, project_id=job.project_id, **news)

        await self._database.write(work)
        self.changed.ring()
        await self._workloads.forget(job.attempt_id)
        await anyio.to_thread.run_sync(remove_tree, self._logs.folder(job.attempt_id))

    # -- rows ------------------------------------------------------------------------------------

    def _mine(self, held: Held) -> Any:
        return update(jobs).where(
            jobs.c.id == held.job.id, jobs.c.owner == held.owner, jobs.c.fence == held.fence
        )

    async def _write(self, held: Held, **values: object) -> None:
        def work(c: Connection) -> None:
            if c.execute(self._mine(held).values(**values).returning(jobs.c.id)).first() is None:
                raise Superseded

        await self._database.write(work)

    def _isolation(self, job: Job, status: WorkloadStatus) -> str:
        others = list(status.isolation.other_inputs)
        if job.network == "open" and status.isolation.network == "open":
            others = [
                *(o for o in others if o != "the network"),
                "the network (asked for with --network open)",
            ]
        replaced = replaced_variables(job, self._client_env(Credential("", ""), job.project))
        if replaced:
            others.append(f"whatever {', '.join(replaced)} lead to (given with --env)")
        return records.isolation_json(replace(status.isolation, other_inputs=others))


def in_use(c: Connection) -> tuple[float, int]:
    """Processors and bytes of memory that starting and running jobs, and replicas, are counted with."""
    query = select(func.coalesce(func.sum(jobs.c.cpus), 0), func.coalesce(func.sum(jobs.c.memory_bytes), 0))
    row = c.execute(query.where(jobs.c.state.in_([state.value for state in ACTIVE]))).one()
    cpus, memory = replicas_in_use(c)
    return float(row[0]) + cpus, int(row[1]) + memory


def replaced_variables(job: Job, platform: Mapping[str, str]) -> list[str]:
    """The platform's own variables that the job's ``--env`` put something else into."""
    return sorted(set(job.env) & set(platform))


def _held(c: Connection, ids: Sequence[int]) -> Sequence[Row]:
    query = records.query().where(jobs.c.id.in_(ids)).order_by(jobs.c.id)
    return [dict(row) for row in c.execute(query).mappings()]


def _last_words(job: Job, state: JobState, status: WorkloadStatus | None, tail: bytes) -> str:
    if state is JobState.UNKNOWN:
        return "nobody saw how this job ended"
    closed = status is not None and status.isolation.network == "platform"
    if state is JobState.FAILED and closed and any(words in tail for words in _NO_NETWORK):
        return (
            "this job could reach the platform only; run it with --network open if it must reach the internet"
        )
    return ""


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
