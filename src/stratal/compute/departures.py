"""Whoever leaves a project leaves no job running there that they started.

Its credential ends with their membership, in one transaction (`identity.members.take_out`); here the job itself
is stopped, which is theirs to program. A job is known by that credential, so one that runs on is found after
a restart, too; one that waits has none yet, and is known by who queued it.
"""

import asyncio
import contextlib
import logging

from stratal.compute.jobs import Jobs
from stratal.kernel.events import Events

log = logging.getLogger("stratal.compute")


class Departures:
    def __init__(self, events: Events, jobs: Jobs) -> None:
        self._events = events
        self._jobs = jobs
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        seq = await self._events.last_seq()
        await self._jobs.stop_without_credential()
        self._task = asyncio.create_task(self._run(seq), name="compute: departures")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, seq: int) -> None:
        async for event in self._events.follow(seq):
            if event.kind != "member.removed" or event.project_id is None:
                continue
            try:
                await self._jobs.stop_waiting_of(event.project_id, event.data.get("accounts", []))
                await self._jobs.stop_without_credential()
            except Exception:
                log.exception("jobs of somebody who left could not be stopped")
