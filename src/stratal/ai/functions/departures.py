"""What somebody deployed for anybody asks for a key once they have left the project.

The code is theirs and acts with the project's credential: without a key they could go on through it. It runs on for the
project's people and keys, and is for anybody again once somebody who is there deploys it.
"""

import asyncio
import contextlib
import logging

from sqlalchemy import Connection

from stratal.ai.functions.live import Live, Registry
from stratal.identity.members import is_still_here
from stratal.kernel.database import Database
from stratal.kernel.events import Events

log = logging.getLogger("stratal.functions")
_WHO = ("member.", "person.", "key.")


class Departures:
    """`start` after the rollouts', which know what there is."""

    def __init__(self, database: Database, events: Events, registry: Registry) -> None:
        self._database = database
        self._events = events
        self._registry = registry
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        seq = await self._events.last_seq()
        await self.look(None)
        self._task = asyncio.create_task(self._run(seq), name="functions: departures")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def look(self, project_id: str | None) -> None:
        """See who of those that deployed is still there, in one project or all."""
        lives = [one for one in self._registry.all() if project_id in {None, one.function.project_id}]
        found = await self._database.read(lambda c: [_left(c, one) for one in lives])
        for live, left in zip(lives, found, strict=True):
            live.left = left

    async def _run(self, seq: int) -> None:
        async for event in self._events.follow(seq):
            if event.kind.startswith(_WHO):
                try:
                    await self.look(event.project_id)
                except Exception:
                    log.exception("who has left could not be looked at")


def _left(c: Connection, live: Live) -> dict[int, str]:
    revisions = [one for one in (live.active, live.deploying) if one is not None and one.wishes.public]
    here = live.function.project_id
    return {one.seq: one.created_by for one in revisions if not is_still_here(c, here, one.created_by)}
