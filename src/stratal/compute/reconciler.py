"""Makes jobs happen: claims whose turn it is, carries each attempt from its claim to its recorded end.

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
from collections.abc import Mapping, Sequence
from dataclasses import replace

import anyio.to_thread
from sqlalchemy import Connection, bindparam, or_, select, update

from stratal.compute import claims, metered, queue, records
from stratal.compute.checkpoints import Checkpoints, expired
from stratal.compute.claims import End, Row, Superseded, held_rows, mine
from stratal.compute.engine import Capacity, Usage, WorkloadStatus
from stratal.compute.environments import Environment, remove_tree
from stratal.compute.gpu_meter import GpuMeter
from stratal.compute.joblogs import JobLogs
from stratal.compute.launching import Launching
from stratal.compute.model import ACTIVE, NO_SUCH_PROGRAM, Held, Job, JobSpec, JobState, outcome, pause_ms
from stratal.compute.tables import jobs
from stratal.compute.workloads import Workloads
from stratal.identity.keys import Keys
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, StratalError, Unavailable
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.compute")

LEASE_MS = 60_000
_TICK_SECONDS = 15.0
_AGAIN_SECONDS = 1.0
_CLEAR_SECONDS = 10.0
_EXPIRE_TICKS = 240
_NO_NETWORK = (
    *(b"Name or service not known", b"Temporary failure in name resolution", b"Network is unreachable"),
    *(b"Could not resolve host", b"getaddrinfo failed", b"NameResolutionError", b"No address associated"),
)
_ACTIVE = [state.value for state in ACTIVE]
_OTHERS = (
    select(jobs.c.id).where(jobs.c.state == JobState.QUEUED.value, jobs.c.id != bindparam("job_id")).limit(1)
)
_WAITING = select(jobs.c.id).where(jobs.c.state == JobState.QUEUED.value).limit(1)


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


class Stop(asyncio.Event):
    """Set when a job is to end; `cause` when that is the platform's doing, so that the job failed by it."""

    cause = ""

    def because(self, cause: str) -> None:
        self.cause = self.cause or cause
        self.set()


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
        launching: Launching,
        checkpoints: Checkpoints,
        logs: JobLogs,
        gpus: GpuMeter,
        clock: Clock,
        *,
        exclusive: bool = True,
    ) -> None:
        self.changed = Bell()
        self._database = database
        self._keys = keys
        self._workloads = workloads
        self._launching = launching
        self._checkpoints = checkpoints
        self._logs = logs
        self._gpus = gpus
        self._clock = clock
        self._exclusive = exclusive
        self._owner = new_id("srv")
        self._carried: set[asyncio.Task[None]] = set()
        self._held: dict[int, Held] = {}
        self._stops: dict[int, Stop] = {}
        self._kicked = asyncio.Event()
        self._claims = False
        """What an earlier server held was taken over, so that there may be more."""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._run(), name="jobs: reconcile"),
            asyncio.create_task(self._watch_over(), name="jobs: checkpoints"),
            asyncio.create_task(self._gpus.run(), name="jobs: GPUs"),
        ]

    async def close(self) -> None:
        self._claims = False
        tasks = [*self._tasks, *self._carried]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- without a wait --------------------------------------------------------------------------

    async def at_hand(self, spec: JobSpec) -> Environment | None:
        """The environment of a job that could be claimed as it is queued (`claim_at_once`); None: it cannot be."""
        return await self._launching.at_hand(spec) if self._claims else None

    def claim_at_once(
        self, c: Connection, capacity: Capacity, job_id: int, environment: Environment
    ) -> Held | None:
        """In the write that queued the job: claim it, when its turn is now because no other job waits. To be `carry`-ed
        after that write; None: it waits for its turn like any other.
        """
        if not self._claims or c.execute(_OTHERS, {"job_id": job_id}).first() is not None:
            return None
        return next(iter(self._claim_now(c, capacity, [job_id], environment.id)), None)

    def carry(self, held: Held, environment: Environment) -> None:
        """Go on with what was claimed at once."""
        self._carry(held, None, environment)

    def kick(self) -> None:
        """Something may be started: look now."""
        self._kicked.set()
        self.changed.ring()

    def stop(self, job_id: int, cause: str = "") -> None:
        """A stop was recorded for a job: carry it out. `cause`: it is the platform's doing."""
        if job_id in self._stops:
            self._stops[job_id].because(cause)
        self.kick()

    # -- the loop ------------------------------------------------------------------------------

    async def _run(self) -> None:
        fresh = True
        while True:
            self._kicked.clear()
            pause = _TICK_SECONDS
            try:
                if fresh or not self._exclusive:
                    await self._take_over(await self._workloads.adopted())
                if fresh:
                    await self._clear_away(await self._workloads.adopted())
                    fresh, self._claims = False, True
                await self._renew()
                pause = await self._claim()
            except StratalError as error:
                log.warning("jobs cannot be started right now: %s", error)
            except Exception:
                log.exception("reconciling jobs failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._kicked.wait()

    async def _take_over(self, known: Mapping[str, WorkloadStatus]) -> None:
        """Hold every job that an earlier server left starting or running."""
        free = or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < self._clock())

        def work(c: Connection) -> Sequence[Row]:
            change = update(jobs).where(jobs.c.state.in_(_ACTIVE)).where(jobs.c.owner != self._owner)
            if not self._exclusive:
                change = change.where(free)
            return held_rows(c, list(c.execute(change.values(self._lease()).returning(jobs.c.id)).scalars()))

        for row in await self._database.write(work):
            held = records.held_of(row)
            log.info("taking over job %d (%s)", held.job.id, held.job.state)
            self._carry(held, known.get(held.job.attempt_id))

    def _lease(self) -> Row:
        until = self._clock() + LEASE_MS
        return {"owner": self._owner, "fence": jobs.c.fence + 1, "lease_until": until}

    async def _clear_away(self, known: Mapping[str, WorkloadStatus]) -> None:
        """Remove what ended attempts left: those that the engine still remembers, folders."""
        held = {one.job.attempt_id for one in self._held.values()}
        for attempt_id, status in known.items():
            if attempt_id.startswith("job-") and attempt_id not in held:
                if status.state == "running":  # its job's row is gone, or somebody else wrote its end
                    with contextlib.suppress(StratalError, TimeoutError):
                        await self._workloads.engine.stop(attempt_id, 0)
                        async with asyncio.timeout(_CLEAR_SECONDS):
                            await self._workloads.ended(attempt_id)
                await self._workloads.forget(attempt_id)
        await anyio.to_thread.run_sync(self._logs.clear_all_but, held)

    async def _renew(self) -> None:
        if not self._held:
            return
        ours = update(jobs).where(jobs.c.owner == self._owner, jobs.c.state.in_(_ACTIVE))
        until = self._clock() + LEASE_MS
        await self._database.write(lambda c: c.execute(ours.values(lease_until=until)))

    async def _claim(self) -> float:
        """Claim those whose turn it is (see `admission`); returns after how many seconds to look again."""
        if await self._database.read(lambda c: c.execute(_WAITING).first()) is None:
            return _TICK_SECONDS
        capacity = await self._workloads.engine.capacity()
        now = self._clock()

        def look(c: Connection) -> tuple[Sequence[int], int | None]:
            return queue.choose(c, capacity, now), queue.next_moment(c, now)

        chosen, moment = await self._database.read(look)
        claimed: Sequence[Held] = ()
        if chosen:
            claimed = await self._database.write(
                lambda c: self._claim_now(c, capacity, claims.at_hand(c, chosen))
            )
        for held in claimed:
            self._carry(held, None)
        if len(chosen) == queue.MOST_STARTS:
            return 0.0
        if len(claimed) < len(chosen):  # somebody was changing one of them, or room was taken meanwhile
            return _AGAIN_SECONDS
        if moment is None:
            return _TICK_SECONDS
        return min(_TICK_SECONDS, max(0.0, (moment - self._clock()) / 1000) + 0.001)

    def _claim_now(
        self, c: Connection, capacity: Capacity, chosen: Sequence[int], environment_id: str | None = None
    ) -> Sequence[Held]:
        now = self._clock()
        claimed = [
            claims.claim(c, self._keys, id_, gpus, self._owner, now + LEASE_MS, now, environment_id)
            for id_, gpus in queue.confirm(c, capacity, chosen, now).items()
        ]
        return [held for held in claimed if held is not None]

    # -- checkpoints ----------------------------------------------------------------------------

    async def _watch_over(self) -> None:
        """Weigh the checkpoints of what runs, and remove those whose time is over."""
        ticks = 0
        while True:
            try:
                if ticks % _EXPIRE_TICKS == 0:
                    await self._expire()
                for job_id in list(self._held):
                    await self._weigh(job_id)
            except Exception:
                log.exception("looking after checkpoints failed")
            ticks += 1
            await asyncio.sleep(_TICK_SECONDS)

    async def _weigh(self, job_id: int) -> None:
        size = await anyio.to_thread.run_sync(self._checkpoints.weigh, job_id)
        held = self._held.get(job_id)
        if held is None:
            return
        if size is not None and size > self._checkpoints.limit:
            self._stops[job_id].because(_too_heavy(size, self._checkpoints.limit))
        change = mine(held).where(jobs.c.checkpoint_bytes.is_distinct_from(size))
        await self._database.write(lambda c: c.execute(change.values(checkpoint_bytes=size)))

    async def _expire(self) -> None:
        stored = await anyio.to_thread.run_sync(self._checkpoints.stored)

        def read(c: Connection) -> dict[int, int | None]:
            found: dict[int, int | None] = {}
            for job_id in stored:
                row = c.execute(select(jobs.c.state, jobs.c.ended_at).where(jobs.c.id == job_id)).first()
                if row is not None:
                    found[job_id] = row.ended_at if JobState(row.state).ended else None
            return found

        for job_id in expired(await self._database.read(read), stored, self._clock()):
            await anyio.to_thread.run_sync(self._checkpoints.remove, job_id)
            gone = update(jobs).where(jobs.c.id == job_id).values(checkpoint_bytes=None)
            await self._database.write(lambda c, gone=gone: c.execute(gone))  # type: ignore[misc]

    # -- one attempt, from its claim to its end --------------------------------------------------

    def _carry(
        self, held: Held, status: WorkloadStatus | None, environment: Environment | None = None
    ) -> None:
        stop = Stop()
        if held.job.stop_requested_at is not None:
            stop.because(held.job.stop_cause)
        self._stops[held.job.id] = stop
        self._held[held.job.id] = held
        task = asyncio.create_task(self._carry_on(held, status, stop, environment), name=f"job {held.job.id}")
        self._carried.add(task)
        task.add_done_callback(lambda done: self._let_go(held, done))
        self.changed.ring()

    def _let_go(self, held: Held, done: asyncio.Task[None]) -> None:
        self._carried.discard(done)
        self._forget(held)
        self.kick()

    def _forget(self, held: Held) -> None:
        """The attempt has ended; the job's next one may be held already."""
        now = self._held.get(held.job.id)
        if now is not None and now.job.attempt == held.job.attempt:
            del self._held[held.job.id], self._stops[held.job.id]

    async def _carry_on(
        self, held: Held, status: WorkloadStatus | None, stop: Stop, environment: Environment | None
    ) -> None:
        """Until its end is recorded. What fails on our side (a full disk, a lost engine) is tried again."""
        delay = _AGAIN_SECONDS
        while True:
            try:
                if status is None:
                    status = await self._begin(held, stop, environment)
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
            environment = None  # looked up again
            await self._pause(delay, stop)
            delay = min(delay * 2, 30.0)

    async def _pause(self, seconds: float, stop: Stop) -> None:
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
            reason = f"waits: {error.message}"[:1000]
            await self._database.write(lambda c: claims.write(c, held, reason=reason))

    async def _begin(self, held: Held, stop: Stop, environment: Environment | None) -> WorkloadStatus | None:
        """The status of an attempt that the engine does not know; None when the attempt ended without one."""
        if held.job.state is JobState.STARTING:
            return await self._launch(held, stop, environment)
        return WorkloadStatus(held.job.attempt_id, "unknown", reason="lost with its engine")

    async def _launch(self, held: Held, stop: Stop, environment: Environment | None) -> WorkloadStatus | None:
        """Make everything ready and start the process; None when the attempt ended before it could run."""
        job = held.job
        self._logs.say(job.attempt_id, "")
        preparing = asyncio.ensure_future(self._launching.prepare(held, environment))
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({preparing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if stop.is_set():
                preparing.cancel()
                await asyncio.gather(preparing, return_exceptions=True)
                state = JobState.FAILED if stop.cause else JobState.STOPPED
                await self._finish(held, state, None, stop.cause or "stopped before it started")
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

    async def _record_running(self, held: Held, status: WorkloadStatus, stop: Stop) -> Held:
        job = held.job
        started_at = status.started_at or self._clock()
        isolation = self._launching.isolation(job, status)
        if await self._database.write(lambda c: claims.start(c, held, started_at, isolation)):
            stop.set()
        self.changed.ring()
        return replace(held, job=replace(job, state=JobState.RUNNING))

    async def _follow(self, held: Held, status: WorkloadStatus, stop: Stop) -> None:
        """Wait for the end of what runs, then record it."""
        attempt_id = held.job.attempt_id
        ending = asyncio.ensure_future(self._workloads.ended(attempt_id))
        stopping = asyncio.ensure_future(self._stop_when_asked(held.job, stop))
        try:
            if status.state == "running":
                await self._gpus.begin(held.job)
                status = await ending
        finally:
            ending.cancel()
            stopping.cancel()
            await asyncio.gather(ending, stopping, return_exceptions=True)
        exit_code = status.exit_code if status.state == "exited" else None
        # One that ended well before it heard of the stop was not stopped; one that the engine stopped (the
        # whole platform went down) was, without anybody's request.
        stopped = status.reason.startswith("stopped") or (stop.is_set() and exit_code != 0)
        state, reason = outcome(exit_code, stopped=stopped), status.reason
        if stop.cause and state is JobState.STOPPED:
            state, reason = JobState.FAILED, stop.cause
        again = not stop.is_set() and state is not JobState.SUCCEEDED
        await self._finish(held, state, exit_code, reason, status, again=again)

    async def _stop_when_asked(self, job: Job, stop: Stop) -> None:
        await stop.wait()
        while True:
            try:
                await self._workloads.engine.stop(job.attempt_id, job.grace_seconds)
                return
            except StratalError as error:
                log.warning("%s cannot be stopped right now: %s", job.attempt_id, error)
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _finish(
        self,
        held: Held,
        state: JobState,
        exit_code: int | None,
        reason: str,
        status: WorkloadStatus | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Store the log, then record the end, end the credential and tell of it, all in one transaction."""
        job = held.job
        size = await anyio.to_thread.run_sync(self._checkpoints.weigh, job.id)
        if size is not None and size > self._checkpoints.limit and state is not JobState.SUCCEEDED:
            again, reason = False, _too_heavy(size, self._checkpoints.limit)
        if state is JobState.SUCCEEDED:
            size = None
        again = again and job.attempt <= job.retries

        def epilogue(tail: bytes) -> str:
            return _last_words(job, state, exit_code, reason, status, tail, again=again)

        usage, gpu_type = Usage(), ""
        if status is not None:
            usage = await self._gpus.end(job, status.usage)
            gpu_type = metered.gpu_type_of(job, await self._workloads.engine.capacity())
        ran = job.world_size if status is not None else 0
        ranks = [await self._logs.store_rank(job.attempt_id, rank) for rank in range(ran)]
        blob = await self._logs.store(job.attempt_id, epilogue)
        how = End(
            state=state,
            exit_code=exit_code,
            reason=reason,
            ended_at=(status.ended_at if status else None) or self._clock(),
            again=again,
            usage=usage,
            isolation=self._launching.isolation(job, status) if status and status.state == "exited" else None,
            log_blob=blob.key,
            log_bytes=blob.size,
            checkpoint_bytes=size,
            gpu_type=gpu_type,
            ranks=ranks,
        )
        await self._database.write(lambda c: claims.end(c, self._keys, held, how, self._clock()))
        self._forget(held)
        self.kick()
        await self._workloads.forget(job.attempt_id)
        await anyio.to_thread.run_sync(remove_tree, self._logs.folder(job.attempt_id))
        if state is JobState.SUCCEEDED:
            await anyio.to_thread.run_sync(self._checkpoints.remove, job.id)


def _last_words(
    job: Job,
    state: JobState,
    exit_code: int | None,
    reason: str,
    status: WorkloadStatus | None,
    tail: bytes,
    *,
    again: bool,
) -> str:
    lines = []
    closed = status is not None and status.isolation.network == "platform"
    if state is JobState.UNKNOWN:
        lines.append("nobody saw how this job ended")
    elif state is JobState.FAILED and closed and any(words in tail for words in _NO_NETWORK):
        lines.append(
            "this job could reach the platform only; run it with --network open if it must reach the internet"
        )
    if again:
        how = claims.in_words(state, exit_code, reason)
        seconds = pause_ms(job.attempt) / 1000
        lines.append(
            f"attempt {job.attempt} {how}; attempt {job.attempt + 1} of {job.retries + 1} begins in {seconds:.0f} s"
        )
    return "\n".join(lines)


def _too_heavy(size: int, limit: int) -> str:
    return f"its checkpoint folder holds {size / 2**30:.1f} GiB, more than {limit / 2**30:.1f} GiB"
