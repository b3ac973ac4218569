"""What is kept ready for a service's next replica: an interpreter with its modules, and while it sleeps, a dozing replica.

A replica that *dozes* is started, fenced and limited as every other, in a process that has what it imports; it
has not begun its work (it has read no model), answers nothing, and waits on its connection to be woken. There is
one for each service that went to sleep, as long as the engine keeps the interpreter warm that it is forked from: the
engine counts it as a part of that one and ends it with it. It has no row, so it takes no room of the machine's; to
be woken it needs one. Its connection is its lifeline: when this server dies, so does it.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic

import anyio.to_thread

from stratal.compute.engine import WorkloadSpec, WorkloadStatus, seeing
from stratal.compute.services.folders import remove
from stratal.compute.services.model import ServiceName
from stratal.compute.services.port import Blueprint, Broken, Dozer, Dozes, R, Replica
from stratal.compute.workloads import Workloads
from stratal.kernel.errors import StratalError

log = logging.getLogger("stratal.services")

_RENEW_SECONDS = 100.0
_SOON = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""How soon to look again for an interpreter that is still being loaded."""
_MEET_SECONDS = 30.0
_STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Dozing(Generic[R]):
    """A replica that waits to be woken. `ended` is done when its process is."""

    attempt_id: str
    status: WorkloadStatus
    dozer: Dozer[R]
    ended: "asyncio.Task[WorkloadStatus]"


class _Kept:
    """A service: what its next replica is like, and how far it is."""

    def __init__(self, blueprint: Blueprint[Any], spec: WorkloadSpec) -> None:
        self.blueprint = blueprint
        self.spec = spec
        self.fresh = True
        """One was started since it was last seen to."""
        self.asleep = False
        self.dozing: Dozing[Any] | None = None
        self.look = asyncio.Event()
        self.task: asyncio.Task[None] | None = None


class Warmth:
    """`new_id` names a replica of a service; `root` holds a folder per replica; `follow` awaits the end of an attempt."""

    def __init__(
        self,
        workloads: Workloads,
        root: Path,
        new_id: Callable[[ServiceName], str],
        follow: Callable[[str], "asyncio.Task[WorkloadStatus]"],
    ) -> None:
        self._workloads = workloads
        self._root = root
        self._new_id = new_id
        self._follow = follow
        self._kept: dict[ServiceName, _Kept] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def started(self, name: ServiceName, blueprint: Blueprint[R], spec: WorkloadSpec, replica: R) -> None:
        """A replica greeted: be ready for the service's next one, for as long as it is kept."""
        if not replica.modules:
            return
        spec = replace(spec, imports=replica.modules)
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = _Kept(blueprint, spec)
            kept.task = self._background(self._keep(name, kept), f"what {name} starts from")
        kept.spec, kept.asleep, kept.fresh = spec, False, True
        kept.look.set()

    def woke(self, name: ServiceName, replica: Replica) -> None:
        """The one that dozed greeted: what it had imported by then is what the next one needs."""
        kept = self._kept.get(name)
        if kept is not None and replica.modules:
            kept.spec = replace(kept.spec, imports=replica.modules)
            kept.look.set()

    def sleeps(self, name: ServiceName) -> None:
        """Nothing of the service runs now: have a replica doze."""
        kept = self._kept.get(name)
        if kept is not None:
            kept.asleep = True
            kept.look.set()

    def take(self, name: ServiceName) -> Dozing[Any] | None:
        """The replica that dozes, to be woken by the caller, whose it is from now on; None: there is none."""
        kept = self._kept.get(name)
        if kept is None:
            return None
        kept.asleep = False
        dozing, kept.dozing = kept.dozing, None
        if dozing is None or (not dozing.ended.done() and not dozing.dozer.closed):
            return dozing
        self._give_up(dozing)
        return None

    def dozes(self, name: ServiceName) -> bool:
        """Whether a replica waits to be woken."""
        kept = self._kept.get(name)
        return kept is not None and kept.dozing is not None and not kept.dozing.dozer.closed

    def awake(self, attempt_id: str) -> None:
        """It dozes no more: what it uses is the service's from now on."""
        self._background(self._tell(attempt_id, dozing=False), f"{attempt_id}: woken")

    def cool(self, name: ServiceName) -> None:
        """Nothing more will be started for this service."""
        kept = self._kept.pop(name, None)
        if kept is None:
            return
        if kept.task is not None:
            kept.task.cancel()
        if kept.dozing is not None:
            self._give_up(kept.dozing)

    async def close(self) -> None:
        """End what dozes; the next server has its own."""
        for name in list(self._kept):
            self.cool(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                await asyncio.gather(*self._tasks, return_exceptions=True)
        for task in self._tasks:
            task.cancel()

    # -- one service -----------------------------------------------------------------------------

    async def _keep(self, name: ServiceName, kept: _Kept) -> None:
        """Until the engine keeps nothing warm for it; then until one is started again."""
        misses = 0
        while misses <= len(_SOON):
            kept.look.clear()
            renew, kept.fresh = not kept.fresh, False
            warm = await self._warm_up(kept, renew=renew)
            misses = 0 if warm else misses + 1
            dozing = kept.dozing
            if dozing is not None and (not warm or dozing.dozer.closed):
                kept.dozing = None
                self._give_up(dozing)
            if warm and kept.asleep and kept.dozing is None:
                kept.dozing = await self._one_dozes(name, kept)
            if kept.dozing is not None:
                await self._tell(kept.dozing.attempt_id, dozing=True)
            await self._wait(kept, _RENEW_SECONDS if warm else _SOON[min(misses, len(_SOON)) - 1])
        if self._kept.get(name) is kept:
            del self._kept[name]

    async def _wait(self, kept: _Kept, seconds: float) -> None:
        """For a reason to look again, also that the dozing one ended, or until it is time."""
        waits: list[asyncio.Task[Any]] = [asyncio.create_task(kept.look.wait())]
        if kept.dozing is not None:
            waits.append(asyncio.create_task(kept.dozing.dozer.wait_closed()))
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _warm_up(self, kept: _Kept, *, renew: bool) -> bool:
        try:
            return await self._workloads.engine.warm(kept.spec, renew=renew)
        except StratalError:  # it is a service's convenience: what starts cold is as good
            return False

    async def _tell(self, attempt_id: str, *, dozing: bool) -> None:
        with suppress(StratalError):
            await self._workloads.engine.doze(attempt_id, dozing=dozing)

    # -- one that dozes --------------------------------------------------------------------------

    async def _one_dozes(self, name: ServiceName, kept: _Kept) -> Dozing[Any] | None:
        blueprint = kept.blueprint
        if not isinstance(blueprint, Dozes):
            return None
        attempt_id = self._new_id(name)
        folder = self._root / attempt_id
        dozing: Dozing[Any] | None = None
        try:
            await anyio.to_thread.run_sync(partial(folder.mkdir, mode=0o700, parents=True))
            spec = await blueprint.doze(attempt_id, folder, kept.spec.imports)
            status = await self._workloads.run(seeing(replace(spec, imports=kept.spec.imports), ()))
            dozing = await self._met(blueprint, attempt_id, status)
        except (StratalError, Broken, OSError, TimeoutError) as error:
            log.warning("no replica of %s dozes: %s", name, error or type(error).__name__)
        finally:
            if dozing is None:
                self._clear(attempt_id)
        if dozing is not None and kept.asleep and self._kept.get(name) is kept:
            return dozing
        if dozing is not None:
            self._give_up(dozing)  # it was woken otherwise, or is not kept any more
        return None

    async def _met(self, blueprint: Dozes[R], attempt_id: str, status: WorkloadStatus) -> Dozing[R] | None:
        """Connect to it; None when it is none of the engine's forks, which alone cost next to nothing."""
        if status.state != "running" or status.isolation.start != "forked":
            return None
        ended = self._follow(attempt_id)
        pause = 0.002
        async with asyncio.timeout(_MEET_SECONDS):
            while not ended.done():
                with suppress(OSError):
                    return Dozing(attempt_id, status, await blueprint.meet(self._root / attempt_id), ended)
                await asyncio.wait([ended], timeout=pause)
                pause = min(pause * 2, 0.1)
        return None

    def _give_up(self, dozing: Dozing[Any]) -> None:
        dozing.dozer.close()
        self._clear(dozing.attempt_id)

    def _clear(self, attempt_id: str) -> None:
        """Leave nothing of it, in the background."""

        async def work() -> None:
            with suppress(StratalError):
                known = {status.attempt_id for status in await self._workloads.engine.adopt()}
                if attempt_id in known:
                    await self._workloads.engine.stop(attempt_id, 0)
                    await self._workloads.ended(attempt_id)
            await self._workloads.forget(attempt_id)
            await anyio.to_thread.run_sync(remove, self._root / attempt_id)

        self._background(work(), f"{attempt_id}: given up")

    def _background(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())
