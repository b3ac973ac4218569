"""What calls functions besides people: their schedules, and new objects in buckets.

Either way the call is an invocation of the queue (`later`), inserted in the transaction that notes why, so that it is
made whatever dies and never twice: for a time of a schedule, a row of `function_dues`; for an object, the place in
the outbox up to which events were seen to, and the object's version as the invocation's `dedupe`.
"""

import asyncio
import logging
import re
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, delete, func, insert, or_, select, update

from stratal.ai.functions import records
from stratal.ai.functions.later import Later
from stratal.ai.functions.live import Live, Registry
from stratal.ai.functions.model import KIND, MOST_DEPTH, InvocationState, Wishes, bucket_of
from stratal.ai.functions.tables import (
    function_cursors,
    function_dues,
    function_invocations,
    function_revisions,
)
from stratal.ai.functions.tables import function_sources as sources
from stratal.kernel.clock import Clock, iso
from stratal.kernel.database import Database
from stratal.kernel.events import Event, Events
from stratal.kernel.ids import new_id
from stratal.kernel.schedules import due_between, next_due

log = logging.getLogger("stratal.functions")

_LOOK_SECONDS = 20.0
"""The clock is looked at so often at least: somebody may set it."""
_DUES_KEPT_MS = 400 * 86_400_000
_CURSOR = "objects"
_CURSOR_EVERY = 1000
_WRITER = re.compile(rf"{KIND}:[^:]+:(\d+)\Z")


def put_source(c: Connection, function_id: str, wishes: Wishes, now: int, since: int) -> None:
    """Note what calls the function from now on, in the transaction that makes its revision the one that answers.

    A schedule that stays the same goes on where it was; a new one begins now, and so do triggers.
    """
    values: dict[str, Any] = {
        "cron": wishes.schedule,
        "zone": wishes.zone,
        "triggers": orjson.dumps(list(wishes.on)).decode(),
    }
    row = c.execute(select(sources).where(sources.c.function_id == function_id)).one_or_none()
    if row is None:
        c.execute(insert(sources).values(function_id=function_id, looked_at=now, since=since, **values))
        return
    if (row.cron, row.zone) != (wishes.schedule, wishes.zone):
        values["looked_at"] = now
    if row.triggers != values["triggers"]:
        values["since"] = since
    c.execute(update(sources).where(sources.c.function_id == function_id).values(values))


def drop_source(c: Connection, function_id: str) -> None:
    """Nothing calls the function any more."""
    c.execute(delete(sources).where(sources.c.function_id == function_id))


class Sources:
    """`start` before use; `close` lets go, and the next start goes on where this one was."""

    def __init__(
        self, database: Database, events: Events, registry: Registry, later: Later, clock: Clock
    ) -> None:
        self._database = database
        self._events = events
        self._registry = registry
        self._later = later
        self._clock = clock
        self._look = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._keep_time(), name="functions: schedules"),
            asyncio.create_task(self._keep_following(), name="functions: triggers"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def kick(self) -> None:
        """A function's schedule may have changed, or the clock."""
        self._look.set()

    # -- schedules -----------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            self._look.clear()
            try:
                pause = await self.look()
            except Exception:
                log.exception("schedules of functions could not be looked after")
                pause = 1.0
            try:
                async with asyncio.timeout(pause):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def look(self) -> float:
        """Call what is due; returns for how many seconds nothing is."""
        now = self._clock()
        query = select(sources).where(sources.c.cron != "")
        rows = await self._database.read(lambda c: c.execute(query).all())
        soonest = now + int(_LOOK_SECONDS * 1000)
        for row in rows:
            live = self._registry.by_id(row.function_id)
            if live is None:
                continue
            due = due_between(row.cron, row.zone, row.looked_at, now)
            if due is not None or now < row.looked_at:
                await self._database.write(lambda c, r=row, d=due, f=live: self._ran(c, f, r, d, now))  # type: ignore[misc]
                self._later.kick()
            soonest = min(soonest, next_due(row.cron, row.zone, now))
        return max((soonest - self._clock()) / 1000, 0.01)

    def _ran(self, c: Connection, live: Live, row: Any, due: int | None, now: int) -> None:
        """Insert the call of a time that came, unless it was made before, and note the look."""
        function_id = live.function.id
        c.execute(update(sources).where(sources.c.function_id == function_id).values(looked_at=now))
        if due is None:  # the clock went back
            return
        mine = (function_dues.c.function_id == function_id) & (function_dues.c.due == due)
        if c.execute(select(function_dues.c.due).where(mine)).first() is not None:
            return
        c.execute(insert(function_dues).values(function_id=function_id, due=due))
        old = (function_dues.c.function_id == function_id) & (function_dues.c.due < now - _DUES_KEPT_MS)
        c.execute(delete(function_dues).where(old))
        event = {"type": "schedule", "scheduled_at": iso(due), "cron": row.cron, "zone": row.zone}
        self._insert(c, live, "schedule", f"schedule:{due}", event, 0)

    # -- triggers ------------------------------------------------------------------------------

    async def _keep_following(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception:
                log.exception("new objects could not be followed")
            await asyncio.sleep(1)

    async def _follow(self) -> None:
        seq = await self._database.write(self._begin)
        behind = 0
        async for event in self._events.follow(seq):
            behind += 1
            called = self._called(event) if event.kind == "object.created" else []
            if called or behind >= _CURSOR_EVERY:
                await self._database.write(lambda c, e=event, f=called: self._seen(c, e, f))  # type: ignore[misc]
                behind = 0
            if called:
                self._later.kick()

    def _begin(self, c: Connection) -> int:
        """Where to go on; in a new home, behind what happened so far."""
        known = c.execute(select(function_cursors.c.seq).where(function_cursors.c.name == _CURSOR)).scalar()
        if known is not None:
            return int(known)
        seq = records.last_event(c)
        c.execute(insert(function_cursors).values(name=_CURSOR, seq=seq))
        return seq

    def _called(self, event: Event) -> list[Live]:
        """The functions that a new object calls: of its project, by their triggers, never by what they wrote themselves."""
        found = []
        for live in self._registry.all():
            function, active = live.function, live.active
            if active is None or function.project_id != event.project_id:
                continue
            if event.actor.startswith(f"{KIND}:{function.name}:"):
                continue
            for trigger in active.wishes.on:
                bucket, prefix = bucket_of(trigger)
                if event.data.get("bucket") == bucket and str(event.data.get("key", "")).startswith(prefix):
                    found.append(live)
                    break
        return found

    def _seen(self, c: Connection, event: Event, called: list[Live]) -> None:
        c.execute(update(function_cursors).where(function_cursors.c.name == _CURSOR).values(seq=event.seq))
        for live in called:
            since = c.execute(
                select(sources.c.since).where(sources.c.function_id == live.function.id)
            ).scalar()
            if since is None or event.seq <= since:
                continue
            told = {
                "type": "object.created",
                "bucket": event.data["bucket"],
                "key": event.data["key"],
                "version": event.subject,
                "size": event.data.get("size"),
                "by": event.actor,
                "at": iso(event.at),
            }
            self._insert(c, live, "object", f"object:{event.subject}", told, _depth(c, event))

    def _insert(
        self, c: Connection, live: Live, trigger: str, dedupe: str, event: Mapping[str, object], depth: int
    ) -> None:
        """Have the function called once for `dedupe`. At the end of too long a chain, the call is dead from the start."""
        mine = function_invocations.c.function_id == live.function.id
        if c.execute(
            select(function_invocations.c.id).where(mine, function_invocations.c.dedupe == dedupe)
        ).first():
            return
        now = self._clock()
        row: dict[str, Any] = {
            "id": new_id("inv"),
            "function_id": live.function.id,
            "project_id": live.function.project_id,
            "trigger": trigger,
            "dedupe": dedupe,
            "state": InvocationState.QUEUED.value,
            "caller": "system",
            "content_type": "application/json",
            "input": orjson.dumps(event),
            "depth": depth,
            "waits_until": now,
            "created_at": now,
        }
        if depth > MOST_DEPTH:
            said = f"{MOST_DEPTH} functions called one another by what they wrote; the chain is cut here."
            error = {"code": "chain_too_long", "type": "", "message": said}
            row |= {"state": InvocationState.DEAD.value, "waits_until": None, "ended_at": now}
            row["error"] = orjson.dumps(error).decode()
        records.insert_invocations(c, [row])


def _depth(c: Connection, event: Event) -> int:
    """How long the chain of functions is that led to this object: one more than the deepest call of its writer then."""
    writer = _WRITER.match(event.actor)
    if writer is None:
        return 0
    calls = function_invocations
    function_id = (
        select(function_revisions.c.function_id)
        .where(function_revisions.c.seq == int(writer[1]))
        .scalar_subquery()
    )
    deepest = select(func.max(calls.c.depth)).where(
        calls.c.function_id == function_id,
        calls.c.started_at <= event.at,
        or_(calls.c.ended_at.is_(None), calls.c.ended_at >= event.at),
    )
    return 1 + (c.execute(deepest).scalar() or 0)
