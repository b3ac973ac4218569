"""Invocations as people see them: calling later, looking at what came of calls, trying dead ones again."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection

from stratal.ai.functions import records
from stratal.ai.functions.calling import Asked, ready
from stratal.ai.functions.journal import Journal
from stratal.ai.functions.later import MAX_INPUT, Later
from stratal.ai.functions.live import Live, Registry
from stratal.ai.functions.model import Invocation, InvocationState
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Busy, Conflict, NotFound, TooLarge
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id

MOST_WAITING = 100_000
"""So many invocations of one function may wait."""
MOST_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Page:
    """Invocations, newest first; `more_before` is the id to go on from, None when these were the last."""

    invocations: Sequence[Invocation]
    more_before: str | None


class Invocations:
    def __init__(
        self, database: Database, registry: Registry, journal: Journal, later: Later, clock: Clock
    ) -> None:
        self._database = database
        self._registry = registry
        self._journal = journal
        self._later = later
        self._clock = clock

    async def submit(self, who: Principal, live: Live, asked: Asked) -> Invocation:
        """Have the function called later. When this returns the call is durable, and will be made whatever dies.

        Raises `TooLarge`, `Busy` when too many wait, `Unavailable` when nothing is deployed, `Denied`.
        """
        function = live.function
        require(who, "functions.invoke", function.project_id, what=f"function {function.name!r}")
        ready(live)
        if len(asked.body) > MAX_INPUT:
            raise TooLarge(
                f"What is called later takes {MAX_INPUT >> 20} MiB of input.",
                hint="Put it into a bucket, and send its name.",
                reason="body_too_large",
            )
        row = {
            "id": new_id("inv"),
            "function_id": function.id,
            "project_id": function.project_id,
            "trigger": "async",
            "state": InvocationState.QUEUED.value,
            "caller": who.actor,
            "content_type": asked.content_type[:200],
            "query": asked.query,
            "headers": orjson.dumps(dict(asked.headers or {})).decode(),
            "input": asked.body,
        }
        return await self.enqueue(function.id, row)

    async def enqueue(self, function_id: str, row: dict[str, Any]) -> Invocation:
        """Insert a waiting invocation and have it looked at. Raises `Busy`."""
        now = self._clock()

        def work(c: Connection) -> Invocation:
            waiting = records.counts(c, function_id).get(InvocationState.QUEUED.value, 0)
            if waiting >= MOST_WAITING:
                raise Busy(
                    f"{waiting} calls of this function wait already.",
                    hint="Try again later, or let it take more at once (--max-concurrency).",
                    reason="too_many_waiting",
                    retry_after_seconds=30,
                )
            records.insert_invocations(c, [{**row, "waits_until": now, "created_at": now}])
            found = records.invocation(c, function_id, row["id"])
            assert found is not None
            return found

        made = await self._database.write(work)
        self._later.kick()
        return made

    async def retry(self, who: Principal, project_id: str, name: str, invocation_id: str) -> Invocation:
        """Have a dead invocation run again, as if it were new. Raises `NotFound`, `Conflict` when it is not dead."""
        live = self._get(who, "functions.deploy", project_id, name)

        def work(c: Connection) -> Invocation:
            if records.invocation(c, live.function.id, invocation_id) is None:
                raise _no_such(invocation_id)
            if not records.retry(c, live.function.id, invocation_id, self._clock()):
                raise Conflict(f"The invocation {invocation_id} is not dead.", reason="not_dead")
            emit(
                c, "invocation.retried", invocation_id, actor=who.actor, project_id=project_id, function=name
            )
            found = records.invocation(c, live.function.id, invocation_id)
            assert found is not None
            return found

        made = await self._database.write(work)
        self._later.kick()
        return made

    # -- looking -------------------------------------------------------------------------------

    async def get(
        self, who: Principal, project_id: str, name: str, invocation_id: str, *, wait_seconds: float = 0
    ) -> Invocation:
        """The invocation, after up to `wait_seconds` of waiting for its end. Raises `NotFound`."""
        live = self._get(who, "functions.read", project_id, name)
        await self.flush()
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_seconds
        while True:
            found = await self._database.read(
                lambda c: records.invocation(c, live.function.id, invocation_id)
            )
            if found is None:
                raise _no_such(invocation_id)
            left = until - loop.time()
            if found.state.ended or left <= 0:
                return found
            await self._later.changed(min(left, 1.0))

    async def list(
        self,
        who: Principal,
        project_id: str,
        name: str,
        *,
        states: Collection[InvocationState] = (),
        before: str | None = None,
        limit: int = 100,
    ) -> Page:
        """The function's invocations, newest first."""
        live = self._get(who, "functions.read", project_id, name)
        await self.flush()
        limit = max(1, min(limit, MOST_AT_ONCE))
        found = await self._database.read(
            lambda c: records.invocations_of(c, live.function.id, states, before, limit + 1)
        )
        return Page(found[:limit], found[limit - 1].id if len(found) > limit else None)

    async def counts(self, who: Principal, project_id: str, name: str) -> dict[str, int]:
        """How many of the invocations that are remembered are in which state."""
        live = self._get(who, "functions.read", project_id, name)
        await self.flush()
        return await self._database.read(lambda c: records.counts(c, live.function.id))

    async def log(self, who: Principal, project_id: str, name: str, invocation_id: str) -> bytes:
        """What the call wrote, at most 64 KiB. Raises `NotFound`."""
        live = self._get(who, "functions.read", project_id, name)
        await self.flush()
        found = await self._database.read(lambda c: records.log_of(c, live.function.id, invocation_id))
        if found is None:
            raise _no_such(invocation_id)
        return found

    async def result(self, who: Principal, live: Live, invocation_id: str) -> tuple[Invocation, bytes | None]:
        """An invocation and what the function returned; None unless it was called later and has succeeded.

        Raises `NotFound`.
        """
        function = live.function
        require(who, "functions.invoke", function.project_id, what=f"function {function.name!r}")
        await self.flush()

        def read(c: Connection) -> tuple[Invocation | None, bytes | None]:
            return records.invocation(c, function.id, invocation_id), records.result_of(
                c, function.id, invocation_id
            )

        found, result = await self._database.read(read)
        if found is None:
            raise _no_such(invocation_id)
        return found, result

    async def flush(self) -> None:
        """Have every call that was answered be there to be looked at."""
        await self._journal.flush()

    def _get(self, who: Principal, action: str, project_id: str, name: str) -> Live:
        require(who, action, project_id, what=f"function {name[:100]!r}")
        return self._registry.get(project_id, name)


def _no_such(invocation_id: str) -> NotFound:
    return NotFound(
        f"There is no invocation {invocation_id[:80]!r} of this function.",
        hint="The newest 1,000 are remembered: stratal function invocations NAME",
        reason="no_such_invocation",
    )
