"""One replica from its start to its end: room on the machine, folder, process, greeting, log, and the row of it."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic

import anyio.to_thread
from sqlalchemy import Connection

from stratal.compute.engine import Gpu, WorkloadStatus, seeing
from stratal.compute.records import isolation_json, usage_json
from stratal.compute.services import records
from stratal.compute.services.folders import remove
from stratal.compute.services.metered import Payers
from stratal.compute.services.model import Needs, ServiceName
from stratal.compute.services.port import Blueprint, Broken, CannotStart, R
from stratal.compute.services.warmth import Dozing, Warmth
from stratal.compute.workloads import Workloads
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import NotFound, StratalError, Unavailable
from stratal.kernel.ids import random_token
from stratal.ledger import metering

log = logging.getLogger("stratal.services")

PREFIX = "rep-"
"""What attempt ids of replicas begin with."""
START_SECONDS = 300.0
GRACE_SECONDS = 30.0
_FIRST_POLL, _LONGEST_POLL = 0.001, 0.02
_LOG_BYTES = 1 << 20
_TAIL = 600

InUse = Callable[[Connection], tuple[float, int, Collection[str]]]
"""Processors and bytes of memory that jobs and replicas are counted with, and the GPUs that they hold."""


class NoRoom(Unavailable):
    """The machine's processors, memory or GPUs are given out."""


@dataclass(frozen=True, slots=True)
class Running(Generic[R]):
    """A replica that greeted. `ended` is done when its process is, `recorded` when that is written down, too."""

    attempt_id: str
    replica: R
    ended: "asyncio.Task[WorkloadStatus]"
    recorded: "asyncio.Task[None]"


class Replicas:
    """Starts, adopts and stops replicas. `root` holds a folder per replica; `blobs` what ended ones wrote.

    `freed` is told whenever one has ended, and with it what it was counted with. `payers` says whose usage it is.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workloads: Workloads,
        root: Path,
        clock: Clock,
        in_use: InUse,
        freed: Callable[[], None] = lambda: None,
    ) -> None:
        self.payers = Payers()
        self._database = database
        self._blobs = blobs
        self._workloads = workloads
        self._root = root
        self._clock = clock
        self._in_use = in_use
        self._freed = freed
        self._tasks: set[asyncio.Task[Any]] = set()
        self.warmth = Warmth(workloads, root, self._new_id, self._ending)
        self._made: set[str] | None = set()
        """Ids that this server gave out, while it clears away what an earlier one had dozing."""

    # -- starting ------------------------------------------------------------------------------

    async def start(self, name: ServiceName, blueprint: Blueprint[R], needs: Needs) -> Running[R]:
        """Start a replica and wait until it is welcome.

        Raises `CannotStart` when it ends or says that it cannot, `NoRoom`, and `StratalError` when it does
        not get so far.
        """
        dozing = self.warmth.take(name)
        if dozing is not None:
            woken = await self._wake(name, blueprint, needs, dozing)
            if woken is not None:
                return woken
        attempt_id = self._new_id(name)
        folder = self._root / attempt_id
        await anyio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True))
        try:
            spec = await blueprint.spec(attempt_id, folder)
            gpus = await self._reserve(attempt_id, name, needs)
            spec = seeing(spec, [gpu.uuid for gpu in gpus])
        except BaseException:
            await asyncio.shield(anyio.to_thread.run_sync(remove, folder))
            raise
        ended: asyncio.Task[WorkloadStatus] | None = None
        try:
            status = await self._workloads.run(spec)
            ended = self._ending(attempt_id)
            replica = await self._greeting(blueprint, folder, ended)
        except BaseException as error:
            self._give_up(attempt_id, ended)
            if isinstance(error, (Broken, TimeoutError)):
                raise CannotStart(await self._last_words(attempt_id, ended)) from None
            raise
        if not needs.gpus:  # nobody dozes on a GPU
            self.warmth.started(name, blueprint, spec, replica)
        ready = {"ready_at": self._clock(), "isolation": isolation_json(status.isolation)}
        return Running(attempt_id, replica, ended, self._follow(attempt_id, ended, **ready))

    def _new_id(self, name: ServiceName) -> str:
        attempt_id = f"{PREFIX}{name.kind}-{random_token(10)}"
        if self._made is not None:
            self._made.add(attempt_id)
        return attempt_id

    async def _wake(
        self, name: ServiceName, blueprint: Blueprint[R], needs: Needs, dozing: Dozing[R]
    ) -> Running[R] | None:
        """Have the dozing replica begin; None when it is gone, so that another has to be started. Raises as `start`."""
        attempt_id = dozing.attempt_id
        reserving = asyncio.ensure_future(self._reserve(attempt_id, name, needs))
        try:
            async with asyncio.timeout(START_SECONDS):
                replica = await dozing.dozer.wake()
                await blueprint.welcome(replica)
            await reserving  # it answers nobody before its row is there
        except BaseException as error:
            dozing.dozer.close()
            await asyncio.shield(asyncio.gather(reserving, return_exceptions=True))
            self._give_up(attempt_id, dozing.ended)
            if isinstance(error, Broken):
                log.info("the dozing replica %s was gone", attempt_id)
                return None
            if isinstance(error, TimeoutError):
                raise CannotStart(await self._last_words(attempt_id, dozing.ended)) from None
            raise
        self.warmth.awake(attempt_id)
        self.warmth.woke(name, replica)
        ready = {"ready_at": self._clock(), "isolation": isolation_json(dozing.status.isolation)}
        return Running(attempt_id, replica, dozing.ended, self._follow(attempt_id, dozing.ended, **ready))

    async def adopt(self, blueprint: Blueprint[R], attempt_id: str) -> Running[R] | None:
        """Take over a replica that an earlier server started; None when it does not live or does not answer."""
        known = (await self._workloads.adopted()).get(attempt_id)
        if known is None or known.state != "running":
            await self._finish(attempt_id, known)
            return None
        ended = self._ending(attempt_id)
        try:
            replica = await self._greeting(blueprint, self._root / attempt_id, ended)
        except (Broken, CannotStart, TimeoutError, StratalError) as error:
            log.warning("replica %s is not taken over: %s", attempt_id, error)
            self._give_up(attempt_id, ended)
            return None
        return Running(attempt_id, replica, ended, self._follow(attempt_id, ended))

    async def _reserve(self, attempt_id: str, name: ServiceName, needs: Needs) -> Sequence[Gpu]:
        """Write the row, if there is room for what the replica is counted with; returns its GPUs. Raises `NoRoom`."""
        capacity = await self._workloads.engine.capacity()

        def work(c: Connection) -> Sequence[Gpu]:
            cpus, memory, held = self._in_use(c)
            if (needs.cpus and cpus + needs.cpus > capacity.cpus + 1e-9) or (
                memory + needs.memory_bytes > capacity.memory_bytes
            ):
                raise NoRoom(
                    f"There is no room for a replica: it needs {_said(needs.cpus, needs.memory_bytes)}, and "
                    f"jobs and replicas have {_said(cpus, memory)} of "
                    f"{_said(capacity.cpus, capacity.memory_bytes)}.",
                    hint="Wait for jobs to end, or stop endpoints and functions that are not needed.",
                    reason="no_room",
                    retry_after_seconds=5,
                )
            gpus = _free(capacity.gpus, held, needs)
            records.add(c, attempt_id, name, needs, gpus, self._clock())
            return gpus

        return await self._database.write(work)

    async def _greeting(
        self, blueprint: Blueprint[R], folder: Path, ended: "asyncio.Task[WorkloadStatus]"
    ) -> R:
        """Connect as soon as it listens. Raises `Broken` when it ends, `TimeoutError`, and what `Blueprint` does."""
        pause = _FIRST_POLL
        async with asyncio.timeout(START_SECONDS):
            while True:
                connecting = asyncio.ensure_future(blueprint.connect(folder))
                try:
                    await asyncio.wait([connecting, ended], return_when=asyncio.FIRST_COMPLETED)
                    if not connecting.done():
                        # Its last word may already lie in the connection: hear it out.
                        await asyncio.wait([connecting], timeout=1)
                finally:
                    connecting.cancel()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    replica = await connecting
                    break
                if ended.done():
                    raise Broken
                await asyncio.wait([ended], timeout=pause)
                pause = min(pause * 1.5, _LONGEST_POLL)
        try:
            await blueprint.welcome(replica)
        except BaseException:
            replica.close()
            raise
        return replica

    async def _last_words(self, attempt_id: str, ended: "asyncio.Task[WorkloadStatus] | None") -> str:
        if ended is not None:
            await asyncio.wait([ended], timeout=15)
        if ended is None or not ended.done():
            return f"The replica did not become ready within {START_SECONDS:.0f} s."
        status = ended.result()
        said = (await self.log(attempt_id)).decode(errors="replace").strip()[-_TAIL:]
        why = status.reason or f"exit code {status.exit_code}"
        return f"The replica ended before it was ready ({why}). {said}".strip()

    # -- ending --------------------------------------------------------------------------------

    async def stop(self, running: Running[R], grace_seconds: float) -> None:
        """SIGTERM (it answers what it has and ends), SIGKILL after the grace. Returns when its place is free."""
        with contextlib.suppress(StratalError):
            await self._workloads.engine.stop(running.attempt_id, grace_seconds)
            await asyncio.wait([running.recorded], timeout=grace_seconds + 10)
        running.replica.close()

    async def stop_strays(self, attempts: Sequence[str]) -> None:
        """Stop replicas that an earlier server left and nobody wants, and record their ends."""
        known = await self._workloads.adopted()
        for attempt_id in attempts:
            status = known.get(attempt_id)
            if status is None or status.state != "running":
                await self._finish(attempt_id, status)
                continue
            self._give_up(attempt_id, self._ending(attempt_id))

    async def clear(self, running: Collection[str]) -> None:
        """Leave nothing of what an earlier server had dozing: what the engine knows besides the `running`."""
        for attempt_id, status in (await self._workloads.adopted()).items():
            if (
                attempt_id.startswith(PREFIX)
                and attempt_id not in running
                and attempt_id not in (self._made or ())
            ):
                ended = self._ending(attempt_id)
                if status.state == "running":
                    with contextlib.suppress(StratalError):
                        await self._workloads.engine.stop(attempt_id, 0)
                        await ended
                await self._workloads.forget(attempt_id)
                await anyio.to_thread.run_sync(remove, self._root / attempt_id)
        self._made = None

    def begin_clearing(self, running: Collection[str]) -> None:
        self._background(self.clear(running))

    def _give_up(self, attempt_id: str, ended: "asyncio.Task[WorkloadStatus] | None") -> None:
        """Stop it in the background and record its end."""

        async def work() -> None:
            if ended is not None:
                with contextlib.suppress(StratalError):
                    await self._workloads.engine.stop(attempt_id, 5)
            await self._finish(attempt_id, None if ended is None else await ended)

        self._background(work())

    def _follow(
        self, attempt_id: str, ended: "asyncio.Task[WorkloadStatus]", **values: Any
    ) -> "asyncio.Task[None]":
        """Write down that it is ready, and its end when that comes; nobody waits for either."""

        async def work() -> None:
            if values:
                await self._database.write(lambda c: records.change(c, attempt_id, **values))
            await self._finish(attempt_id, await asyncio.shield(ended))

        return self._background(work())

    async def _finish(self, attempt_id: str, status: WorkloadStatus | None) -> None:
        """Keep the log, write the end down, and let the engine and the folder go. Repeatable."""
        text = await self._workloads.engine.logs(attempt_id, 0, _LOG_BYTES)
        blob = await self._blobs.put(text) if text else None
        now = self._clock()
        values = {
            "ended_at": now,
            "exit_code": None if status is None else status.exit_code,
            "reason": "It was lost track of." if status is None else status.reason,
            "usage": None if status is None else usage_json(status.usage),
            "log_blob": None if blob is None else blob.key,
        }

        def work(c: Connection) -> list[str]:
            replica = records.replica(c, attempt_id)
            if replica is not None and status is not None:
                told = self.payers.running(c, replica, status)
                metering.measure(c, told, status.ended_at or now)
            return records.end(c, attempt_id, **values)

        for key in await self._database.write(work):
            await self._blobs.delete(key)
        self._freed()
        await self._workloads.forget(attempt_id)
        await anyio.to_thread.run_sync(remove, self._root / attempt_id)

    def _ending(self, attempt_id: str) -> "asyncio.Task[WorkloadStatus]":
        ended = asyncio.create_task(self._workloads.ended(attempt_id), name=f"{attempt_id}: end")
        self._tasks.add(ended)
        ended.add_done_callback(self._tasks.discard)
        return ended

    def _background(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._recorded)
        return task

    def _recorded(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the end of a replica was not recorded", exc_info=task.exception())

    async def close(self) -> None:
        """Give up what is being recorded: the next start does it. Replicas go on, but for those that doze."""
        await self.warmth.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- logs ----------------------------------------------------------------------------------

    async def log(self, attempt_id: str) -> bytes:
        """What the replica wrote, at most the first MiB; of an ended one from storage."""
        key = await self._database.read(lambda c: records.log_blob(c, attempt_id))
        if key is None:
            try:
                return await self._workloads.engine.logs(attempt_id, 0, _LOG_BYTES)
            except Unavailable:
                return b""
        try:
            return await self._blobs.read_all(key)
        except NotFound:
            return b""


def _free(gpus: Sequence[Gpu], held: Collection[str], needs: Needs) -> Sequence[Gpu]:
    """As many GPUs as are needed, all of one type, that nobody holds. Raises `NoRoom`."""
    if not needs.gpus:
        return ()
    free = [gpu for gpu in gpus if gpu.uuid not in held and needs.gpu_type in (None, gpu.type)]
    for kind in dict.fromkeys(gpu.type for gpu in free):
        alike = [gpu for gpu in free if gpu.type == kind]
        if len(alike) >= needs.gpus:
            return alike[: needs.gpus]
    raise NoRoom(
        f"There is no GPU for a replica: it needs {gpus_said(needs)}, and {len(free)} such "
        f"{'is' if len(free) == 1 else 'are'} free.",
        hint="See who holds them with: stratal gpus",
        reason="no_room",
        retry_after_seconds=5,
    )


def gpus_said(needs: Needs) -> str:
    """So many GPUs, in words."""
    return f"{needs.gpus} GPU{'s' * (needs.gpus > 1)}" + (
        f" of type {needs.gpu_type}" if needs.gpu_type else ""
    )


def _said(cpus: float, memory_bytes: int) -> str:
    return f"{cpus:g} processors and {memory_bytes / 2**30:.2f} GiB of memory"
