"""A workspace that somebody was in who leaves the project, or may open it no more, is stopped.

Everybody in it acts with its credential, and could have taken that along. So it ends: with the workspace, which
whoever opens it next starts with a new one. Files and saves stay. Who was in it is told by the events since its start,
so one that a killed server left running is found at the next start, too.
"""

import asyncio
import contextlib
import logging

import orjson
from sqlalchemy import Connection, func, select

from stratal.collab.workspaces.model import Workspace
from stratal.collab.workspaces.upkeep import Upkeep
from stratal.identity.model import Role
from stratal.identity.permissions import ACTIONS, RANK
from stratal.kernel.database import Database
from stratal.kernel.events import Events, outbox

log = logging.getLogger("stratal.workspaces")
_BEGUN = ("workspace.created", "workspace.started")
_LEFT = ("member.removed", "member.changed")


class Departures:
    def __init__(self, database: Database, events: Events, upkeep: Upkeep) -> None:
        self._database = database
        self._events = events
        self._upkeep = upkeep
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """After the upkeep's."""
        self._task = asyncio.create_task(
            self._run(await self._events.last_seq()), name="workspaces: departures"
        )

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, seq: int) -> None:
        await self._look(None)
        async for event in self._events.follow(seq):
            if event.kind in _LEFT and event.project_id is not None:
                await self._look(event.project_id)

    async def _look(self, project_id: str | None) -> None:
        """At the workspaces that run, of one project or all."""
        for live in self._upkeep.running(project_id):
            try:
                of = live.workspace
                left = await self._database.read(lambda c, of=of: who_left(c, of))  # type: ignore[misc]
                if left is not None:
                    why = f"{left}, who was in it, may open it no more. The next start has a new credential."
                    await self._upkeep.halt(live, "system", why)
            except Exception:
                log.exception("workspace %s could not be stopped for who left", live.workspace.id)


def who_left(c: Connection, of: Workspace) -> str | None:
    """Somebody who was in the workspace since its start, and then lost the right to."""
    here = (outbox.c.project_id == of.project_id) & (outbox.c.subject == of.id)
    begun = c.execute(select(func.max(outbox.c.seq)).where(here, outbox.c.kind.in_(_BEGUN))).scalar()
    told = (here & outbox.c.kind.in_((*_BEGUN, "workspace.entered"))) | (
        (outbox.c.project_id == of.project_id) & outbox.c.kind.in_(_LEFT)
    )
    inside: set[str] = set()
    for row in c.execute(select(outbox).where(told, outbox.c.seq >= (begun or 0)).order_by(outbox.c.seq)):
        data = orjson.loads(row.data)
        if row.kind in _BEGUN:
            inside.add(row.actor.partition(":")[2])
        elif row.kind == "workspace.entered":
            inside.add(str(data["person"]))
        elif gone := inside & _gone(row.kind, data):
            return min(gone)
    return None


def _gone(kind: str, data: dict[str, object]) -> set[str]:
    """Who may open no workspace any more, by name, as the event says."""
    if kind == "member.changed" and RANK[Role(str(data["role"]))] >= RANK[ACTIONS["workspaces.use"]]:
        return set()
    accounts = data.get("accounts")
    return {str(data["name"]), *(accounts if isinstance(accounts, list) else ())}
