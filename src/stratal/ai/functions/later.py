"""Calls that nobody waits for: rows that are run, tried again with pauses, and never lost.

An invocation is a row before it is acknowledged. It is begun by one UPDATE that names this server and raises its
attempt, and ended by one that names both again: what another server began after it was thought dead is not written
over. A server that was killed leaves rows behind that the next one gives back; that is no failure of theirs. The
replica kills the calls of a server that is gone before it takes the next one's, so two attempts never overlap.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import Connection, RowMapping

from stratal.ai.functions import records
from stratal.ai.functions.calling import error_json
from stratal.ai.functions.journal import kept_log
from stratal.ai.functions.live import Live, Registry
from stratal.ai.functions.model import InvocationState, pause_ms
from stratal.ai.functions.runtime import Call, Exchange, Failed
from stratal.compute.services.port import Broken
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import OverBudget, StratalError
from stratal.kernel.events import emit
from stratal.kernel.ids import random_token

log = logging.getLogger("stratal.functions")

MAX_INPUT = 1 << 20
MAX_RESULT = 1 << 20
MOST_AGE_MS = 6 * 3_600_000
"""A call that no replica could take for so long is dead."""
_AT_ONCE = 64
_IDLE_SECONDS = 30.0
_REFUSED_PAUSE_MS = 1000
_BUDGET_PAUSE_MS = 30_000


class Later:
    """Runs waiting invocations. `start` before use; `close` gives up what is running, for the next start to begin anew."""

    def __init__(self, database: Database, registry: Registry, clock: Clock) -> None:
        self._database = database
        self._registry = registry
        self._clock = clock
        self._owner = f"srv_{random_token(12)}"
        self._running: dict[str, asyncio.Task[None]] = {}
        self._at: Counter[str] = Counter()
        self._look = asyncio.Event()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        given_back = await self._database.write(lambda c: records.give_back(c, self._owner, self._clock()))
        if given_back:
            log.info("%d invocations of an earlier server are run again", given_back)
        self._task = asyncio.create_task(self._run(), name="functions: later")

    async def close(self) -> None:
        tasks = [task for task in (self._task, *self._running.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def kick(self) -> None:
        """There is something new to be run."""
        self._look.set()

    async def changed(self, seconds: float) -> None:
        """Wait until some invocation has ended, but no longer than `seconds`."""
        ended = self._ended
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        except TimeoutError:
            pass

    # -- choosing ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._look.clear()
            try:
                pause = await self._begin_due()
            except Exception:
                log.exception("later calls could not be looked after")
                pause = 1.0
            try:
                async with asyncio.timeout(pause):
                    await self._look.wait()
            except TimeoutError:
                pass

    async def _begin_due(self) -> float:
        """Begin what may run now; returns for how many seconds nothing needs to be looked at."""
        free = {live.function.id: live for live in self._registry.all() if self._room(live) > 0}
        if len(self._running) < _AT_ONCE and free:
            now = self._clock()
            found = await self._database.read(lambda c: records.due(c, list(free), now, 4 * _AT_ONCE))
            for invocation_id, function_id in found:
                live = free[function_id]
                if len(self._running) >= _AT_ONCE:
                    break
                if invocation_id not in self._running and self._room(live) > 0:
                    self._begin(live, invocation_id)
        soonest = await self._database.read(records.next_due)
        if soonest is None:
            return _IDLE_SECONDS
        # What is due and not begun has no room: the end of what runs is the next look.
        ahead = (soonest - self._clock()) / 1000
        return min(max(ahead, 0.01), _IDLE_SECONDS) if ahead > 0 else 1.0

    def _room(self, live: Live) -> int:
        if live.active is None or live.service is None:
            return 0
        wishes = live.active.wishes
        return wishes.most * wishes.concurrency - self._at[live.function.id]

    def _begin(self, live: Live, invocation_id: str) -> None:
        self._at[live.function.id] += 1
        task = asyncio.create_task(self._attempt(live, invocation_id), name=f"invocation {invocation_id}")
        self._running[invocation_id] = task

        def done(task: "asyncio.Task[None]") -> None:
            del self._running[invocation_id]
            self._at[live.function.id] -= 1
            if not task.cancelled() and task.exception() is not None:
                log.error("invocation %s was not run well", invocation_id, exc_info=task.exception())
            self._ended.set()
            self._ended = asyncio.Event()
            self._look.set()

        task.add_done_callback(done)

    # -- one attempt ---------------------------------------------------------------------------

    async def _attempt(self, live: Live, invocation_id: str) -> None:
        service, revision = live.service, live.active
        if service is None or revision is None:
            return
        row = await self._database.write(
            lambda c: records.claim(c, invocation_id, self._owner, revision.seq, self._clock())
        )
        if row is None:
            return
        try:
            async with service.claim(len(row["input"] or b"")) as replica:
                exchange = replica.call(
                    Call(
                        invocation_id,
                        bytes(row["input"] or b""),
                        row["content_type"],
                        row["query"],
                        orjson.loads(row["headers"]),
                        row["caller"],
                        row["trigger"],
                        row["attempt"],
                    )
                )
                try:
                    outcome = await self._outcome(exchange)
                finally:
                    await asyncio.shield(exchange.close())
        except StratalError as error:
            await self._refused(row, error)
        except Broken:
            await self._refused(row, None)
        except Exception:
            log.exception("invocation %s could not be run", invocation_id)
            await self._refused(row, None)
        else:
            await self._finish(live, row, outcome)

    async def _outcome(self, exchange: Exchange) -> dict[str, Any]:
        """What came of the call, as the row's values: `error` is there when it failed."""
        result = bytearray()
        try:
            start = await exchange.start()
            async for chunk in exchange.chunks():
                result += chunk
                if len(result) > MAX_RESULT:
                    raise Failed(
                        f"The result is longer than {MAX_RESULT >> 20} MiB: write it to a bucket, and return its name.",
                        reason="result_too_large",
                    )
        except (StratalError, Broken) as error:
            told = error if isinstance(error, StratalError) else _DIED
            return {"status": told.status, "error": error_json(told), "log": kept_log(exchange.log)}
        return {
            "status": start.status,
            "error": None,
            "result": bytes(result),
            "result_type": start.headers.get("content-type", "application/octet-stream"),
            "log": kept_log(exchange.log),
        }

    async def _finish(self, live: Live, row: RowMapping, outcome: Mapping[str, Any]) -> None:
        now = self._clock()
        values: dict[str, Any] = {**outcome, "owner": None}
        if outcome["error"] is None:
            values |= {"state": InvocationState.SUCCEEDED.value, "ended_at": now}
        else:
            values |= self._failed(live, row, orjson.dumps(outcome["error"]).decode(), now)

        def work(c: Connection) -> None:
            if not records.write_held(c, row["id"], self._owner, row["attempt"], values):
                return
            if values["state"] == InvocationState.DEAD.value:
                emit(
                    c,
                    "invocation.died",
                    row["id"],
                    actor="system",
                    project_id=row["project_id"],
                    function=live.function.name,
                    error=outcome["error"]["message"][:500],
                )
            if values.get("ended_at") and row["id"][-1] in "0g":  # now and then; ids end at random
                records.prune(c, row["function_id"])

        await self._database.write(work)

    def _failed(self, live: Live, row: RowMapping, error: str, now: int) -> dict[str, Any]:
        failures = row["failures"] + 1
        values: dict[str, Any] = {"failures": failures, "error": error, "result": None}
        retries = live.active.wishes.retries if live.active is not None else 0
        if failures <= retries:
            return values | {"state": InvocationState.QUEUED.value, "waits_until": now + pause_ms(failures)}
        return values | {"state": InvocationState.DEAD.value, "ended_at": now}

    async def _refused(self, row: RowMapping, error: StratalError | None) -> None:
        """No replica took it: it waits, and that is no attempt of its own, until it has waited for too long."""
        now = self._clock()
        seconds = 1 if error is None else error.details.get("retry_after_seconds", 1)
        pause = max(_REFUSED_PAUSE_MS, int(float(str(seconds)) * 1000))
        if isinstance(error, OverBudget):
            pause = _BUDGET_PAUSE_MS
        values: dict[str, Any] = {
            "owner": None,
            "attempt": row["attempt"] - 1,
            "state": InvocationState.QUEUED.value,
            "waits_until": now + pause,
            "error": None if error is None else orjson.dumps(error_json(error)).decode(),
        }
        if now - row["created_at"] > MOST_AGE_MS:
            values |= {"state": InvocationState.DEAD.value, "waits_until": None, "ended_at": now}
        await self._database.write(
            lambda c: records.write_held(c, row["id"], self._owner, row["attempt"], values)
        )


_DIED = Failed(
    "The replica ended while it was at this call.",
    hint="Its log: stratal function logs NAME",
    reason="function_died",
)
