"""Keeping one revision answering: asleep at zero, woken by a request, restarted with patience when it dies.

    asleep ──request──▶ waking ──greeting──▶ awake ──idle──▶ asleep
                          │ cannot start        └──died──▶ waking (after a pause that grows)
                          └──▶ failing: requests are told why, at once; the next try is allowed after a pause

Whoever sends a request holds a `claim`, so a replica is never stopped under one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from enum import StrEnum

from stratal.ai.endpoints.model import Revision
from stratal.ai.endpoints.replicas import Replicas, Running
from stratal.ai.endpoints.runtime import CannotLoad, Replica
from stratal.kernel.errors import StratalError, Unavailable

log = logging.getLogger("stratal.endpoints")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 60.0
_STEADY_SECONDS = 60.0
"""A replica that lived so long has proven itself: the pauses begin anew."""
GRACE_SECONDS = 30.0


class Condition(StrEnum):
    ASLEEP = "asleep"
    WAKING = "waking"
    AWAKE = "awake"
    FAILING = "failing"


class Upkeep:
    """Of one revision. `idle_seconds` 0: never put to sleep. `stuck_seconds`: silent for so long with work is dead."""

    def __init__(
        self, revision: Revision, replicas: Replicas, *, idle_seconds: float, stuck_seconds: float
    ) -> None:
        self.revision = revision
        self.interface = revision.interface
        self.condition = Condition.ASLEEP
        self.failure = ""
        self.claims = 0
        self._replicas = replicas
        self._idle_seconds = idle_seconds
        self._stuck_seconds = stuck_seconds
        self._loop = asyncio.get_running_loop()
        self._running: Running | None = None
        self._wanted = asyncio.Event()
        self._unclaimed = asyncio.Event()
        self._unclaimed.set()
        self._news = asyncio.Condition()
        self._last_used = self._loop.time()
        self._retry_at = 0.0
        self._died = 0
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    # -- for requests --------------------------------------------------------------------------

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """While held, the replica is not put to sleep."""
        self.claims += 1
        self._unclaimed.clear()
        try:
            yield
        finally:
            self.claims -= 1
            self._last_used = self._loop.time()
            if not self.claims:
                self._unclaimed.set()

    async def replica(self) -> Replica:
        """A replica that answers, woken if need be. Hold a `claim`. Raises `Unavailable` when none can be started."""
        if self._running is not None and not self._running.replica.closed:
            return self._running.replica
        async with self._news:
            while self._running is None or self._running.replica.closed:
                if self._closing:
                    raise Unavailable("The endpoint was stopped.", reason="endpoint_stopped")
                if self.condition is Condition.FAILING and self._loop.time() < self._retry_at:
                    raise Unavailable(
                        f"The model cannot be started: {self.failure}",
                        hint="Its log: stratal endpoint logs NAME",
                        reason="endpoint_failed",
                        retry_after_seconds=max(1, round(self._retry_at - self._loop.time())),
                    )
                self._wanted.set()
                await self._news.wait()
            return self._running.replica

    @property
    def attempt_id(self) -> str | None:
        return None if self._running is None else self._running.attempt_id

    # -- life ----------------------------------------------------------------------------------

    def start(self, *, adopt: str | None = None) -> None:
        """Begin, asleep; `adopt`: take over the replica with this attempt id if it still lives."""
        if adopt is not None:
            self.condition = Condition.WAKING
        if self._idle_seconds == 0:
            self._wanted.set()
        self._task = asyncio.create_task(self._run(adopt), name=f"upkeep of revision {self.revision.seq}")

    async def close(self, *, stop: bool) -> None:
        """End the upkeep. `stop`: end the replica too, after what it was asked is answered; else it goes on alone."""
        if stop:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GRACE_SECONDS):
                    await self._unclaimed.wait()
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        running, self._running = self._running, None
        await self._tell(Condition.ASLEEP)
        if running is not None:
            if stop:
                await self._replicas.stop(running, GRACE_SECONDS)
            running.replica.close()

    async def _run(self, adopt: str | None) -> None:
        if adopt is not None:
            running = await self._replicas.adopt(self.revision, adopt)
            if running is not None:
                await self._live(running)
            else:
                await self._tell(Condition.ASLEEP)
        while True:
            if self.condition is Condition.ASLEEP:
                await self._wanted.wait()
            self._wanted.clear()
            await self._tell(Condition.WAKING)
            try:
                running = await self._replicas.start(self.revision)
            except (CannotLoad, StratalError) as error:
                await self._failed(error)
                continue
            except Exception as error:
                log.exception("starting a replica of revision %d failed", self.revision.seq)
                await self._failed(error)
                continue
            self._retry_at = 0.0
            await self._live(running)

    async def _failed(self, error: Exception) -> None:
        self._died += 1
        self.failure = str(error)
        self._retry_at = self._loop.time() + self._pause()
        self._wanted.clear()
        await self._tell(Condition.FAILING)
        log.warning("revision %d cannot be started: %s", self.revision.seq, error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if self._idle_seconds else self._pause()):
                await self._wanted.wait()  # set by the first request after the pause

    async def _live(self, running: Running) -> None:
        """From the greeting to the replica's end, whatever ends it."""
        self._running = running
        self.interface = running.replica.greeting.interface
        self.failure = ""
        born = self._loop.time()
        await self._tell(Condition.AWAKE)
        lost = asyncio.create_task(running.replica.wait_closed())
        try:
            why = await self._watch(running, lost)
        finally:
            lost.cancel()
        self._running = None
        if why == "idle":
            self._died = 0
            self._wanted.clear()
            await self._tell(Condition.ASLEEP)
            await self._replicas.stop(running, GRACE_SECONDS)
            return
        self._died = 1 if self._loop.time() - born > _STEADY_SECONDS else self._died + 1
        await self._tell(Condition.WAKING)
        log.warning("a replica of revision %d is gone (%s)", self.revision.seq, why)
        await self._replicas.stop(running, 1 if why == "stuck" else GRACE_SECONDS)
        await asyncio.sleep(self._pause())
        if self._idle_seconds and not self.claims and self._unused >= self._idle_seconds:
            await self._tell(Condition.ASLEEP)

    async def _watch(self, running: Running, lost: "asyncio.Task[None]") -> str:
        """Wait for what ends a replica's life: ``idle``, ``lost`` or ``stuck``."""
        while True:
            timeout = self._stuck_seconds / 4
            if self._idle_seconds:
                timeout = min(timeout, max(self._idle_seconds - self._unused, 0.05))
            await asyncio.wait([lost], timeout=timeout)
            if lost.done():
                return "lost"
            since = running.replica.busy_since
            if since is not None and self._loop.time() - since > self._stuck_seconds:
                return "stuck"
            if (
                self._idle_seconds
                and not self.claims
                and since is None
                and self._unused >= self._idle_seconds
            ):
                return "idle"

    @property
    def _unused(self) -> float:
        return self._loop.time() - self._last_used

    def _pause(self) -> float:
        return float(min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._died - 1, 10)))

    async def _tell(self, condition: Condition) -> None:
        async with self._news:
            self.condition = condition
            self._news.notify_all()
