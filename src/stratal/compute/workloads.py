"""One watcher of the engine for the whole room: what each attempt is doing, and a way to await its end.

The engine tells of every change (`Engine.watch`), but may itself be lost and come back knowing less (its
keeper was killed). So those that are awaited are also looked up now and then; one that the engine no
longer knows ends as ``unknown``: nobody saw its exit code.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from stratal.compute.engine import Engine, WorkloadSpec, WorkloadStatus
from stratal.kernel.errors import StratalError

log = logging.getLogger("stratal.compute")
_LOOK_SECONDS = 10.0
_AGAIN_SECONDS = 0.5
_MISSED = 2


class Workloads:
    """`start` before use, `close` at the end. Attempts of other rooms (no prefix of ours) are not followed."""

    def __init__(self, engine: Engine, prefixes: Sequence[str] = ("job-", "env-")) -> None:
        self.engine = engine
        self._prefixes = tuple(prefixes)
        self._statuses: dict[str, WorkloadStatus] = {}
        self._waiting: dict[str, list[asyncio.Future[WorkloadStatus]]] = {}
        self._missed: dict[str, int] = {}
        self._adopted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._watch(), name="workloads: watch"),
            asyncio.create_task(self._look(), name="workloads: look"),
        ]

    async def close(self) -> None:
        """Stop watching; what runs goes on running."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def adopted(self) -> dict[str, WorkloadStatus]:
        """What the engine knew when it was first asked, and what was learned since. Waits for that first answer."""
        await self._adopted.wait()
        return dict(self._statuses)

    async def run(self, spec: WorkloadSpec) -> WorkloadStatus:
        """Start an attempt (once, see `Engine.start`). Raises what the engine raises."""
        status = await self.engine.start(spec)
        known = self._statuses.get(spec.attempt_id)
        if known is None or known.state == "running":  # `watch` may have told of its end already
            self._learn(status)
        return self._statuses[spec.attempt_id]

    async def ended(self, attempt_id: str) -> WorkloadStatus:
        """Wait until the attempt has ended; its last status."""
        status = self._statuses.get(attempt_id)
        if status is not None and status.state != "running":
            return status
        future: asyncio.Future[WorkloadStatus] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(attempt_id, []).append(future)
        try:
            return await future
        finally:
            waiting = self._waiting.get(attempt_id, [])
            if future in waiting:
                waiting.remove(future)
            if not waiting:
                self._waiting.pop(attempt_id, None)
                self._missed.pop(attempt_id, None)

    async def forget(self, attempt_id: str) -> None:
        """Have the engine release an ended attempt. An engine that cannot be reached is asked again at the next start."""
        self._statuses.pop(attempt_id, None)
        with suppress(StratalError):
            await self.engine.release(attempt_id)

    # -- following the engine ------------------------------------------------------------------

    def _learn(self, status: WorkloadStatus) -> None:
        self._statuses[status.attempt_id] = status
        if status.state == "running":
            return
        for future in self._waiting.get(status.attempt_id, []):
            if not future.done():
                future.set_result(status)

    def _ours(self, status: WorkloadStatus) -> bool:
        return status.attempt_id.startswith(self._prefixes)

    async def _watch(self) -> None:
        while True:
            try:
                for status in await self.engine.adopt():
                    if self._ours(status):
                        self._learn(status)
                self._adopted.set()
                async for status in self.engine.watch():
                    if self._ours(status):
                        self._learn(status)
            except StratalError as error:
                log.warning("the engine cannot be reached: %s", error)
            except Exception:
                log.exception("watching the engine failed")
            await asyncio.sleep(_AGAIN_SECONDS)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            awaited = [name for name, futures in self._waiting.items() if futures]
            if not awaited:
                continue
            try:
                listed = {status.attempt_id: status for status in await self.engine.adopt()}
            except Exception as error:
                log.warning("the engine cannot be asked: %s", error)
                continue
            for name in awaited:
                if name in listed:
                    self._missed.pop(name, None)
                    self._learn(listed[name])
                elif name in self._waiting:
                    self._missed[name] = self._missed.get(name, 0) + 1
                    if self._missed[name] >= _MISSED:
                        self._learn(WorkloadStatus(name, "unknown", reason="the engine lost track of it"))
