"""The path of a call that somebody waits for: find the function, get a replica (waking one if need be), ask it.

No row of the database is read or written on this path. What came of the call is told to the `Journal` when its
answer has ended, whoever gave it up.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from stratal.ai.functions.journal import Journal
from stratal.ai.functions.live import Live
from stratal.ai.functions.model import InvocationState, Revision
from stratal.ai.functions.runtime import Call, Exchange, Failed, FunctionReplica, Start
from stratal.compute.services.port import Broken
from stratal.compute.services.service import Claim
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.errors import Invalid, StratalError, Unavailable
from stratal.kernel.ids import new_id


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller sent."""

    body: bytes
    content_type: str = "application/json"
    query: str = ""
    headers: Mapping[str, str] | None = None


class Answer:
    """A function's answer. Read `chunks` to their end, and `close` it in any case."""

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        claim: Claim[FunctionReplica],
        exchange: Exchange,
        row: dict[str, Any],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._claim = claim
        self._exchange = exchange
        self._row = row
        self._closed = False
        self._failure: StratalError | None = None
        self._whole = False
        self.invocation_id: str = row["id"]
        self.start = Start(200, {}, None)

    async def begin(self) -> None:
        """Wait for the answer's beginning. Raises what `Exchange.start` raises, but `Unavailable` for a lost replica."""
        try:
            self.start = await self._exchange.start()
        except (StratalError, Broken) as error:
            self._failure = _meaning(error)
            self._failure.details["invocation_id"] = self.invocation_id
            raise self._failure from None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The answer's bytes as they come. Raises as `begin`.

        Who was told an answer's length may hang up with its last byte, and is not one who gave up: the last bytes of
        such an answer are held until the call has ended.
        """
        held = b""
        try:
            async for chunk in self._exchange.chunks():
                if self.start.length is None:
                    yield chunk
                    continue
                if held:
                    yield held
                held = chunk
            self._whole = True
            if held:
                yield held
        except (StratalError, Broken) as error:
            self._failure = _meaning(error)
            raise self._failure from None

    async def close(self) -> None:
        """End the call if it has not ended, and write down what came of it."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._exchange.close()
        finally:
            await self._claim.__aexit__(None, None, None)
            self._journal.note(self._row | self._outcome())

    def _outcome(self) -> dict[str, Any]:
        given_up = None if self._whole or self._failure is not None else _GIVEN_UP
        failure = self._failure or given_up
        good = failure is None
        return {
            "state": (InvocationState.SUCCEEDED if good else InvocationState.FAILED).value,
            "status": self.start.status if failure is None else failure.status,
            "error": None if failure is None else error_json(failure),
            "result_type": self.start.headers.get("content-type", "") if good else "",
            "log": self._exchange.log,
            "failures": 0 if good else 1,
            "ended_at": self._clock(),
        }


_GIVEN_UP = Invalid("The caller went away before the answer was whole.", reason="given_up")


def _meaning(error: BaseException) -> StratalError:
    if isinstance(error, StratalError):
        return error
    return Unavailable(
        "The replica ended while it was at this call; whether the function did its work is not known.",
        hint="Try again if it may be done twice.",
        reason="replica_lost",
        retry_after_seconds=1,
    )


def error_json(error: StratalError) -> dict[str, str]:
    """An error as it is kept with an invocation."""
    kind = error.kind if isinstance(error, Failed) else ""
    return {"code": error.reason, "type": kind, "message": error.message}


class Calling:
    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock

    async def invoke(self, who: Principal | None, live: Live, asked: Asked) -> Answer:
        """Call the function, and return its answer once that has begun; the caller must `close` it.

        `who` None: anybody, who may only call what is public (the door looked that up). Raises what the call's
        beginning raises, and `Unavailable` or `Busy`, with ``retry_after_seconds``, when no replica can take it.
        """
        if who is not None:
            require(
                who, "functions.invoke", live.function.project_id, what=f"function {live.function.name!r}"
            )
        revision = ready(live)
        assert live.service is not None
        invocation_id = new_id("inv")
        claim = live.service.claim(len(asked.body))
        now = self._clock()
        replica = await claim.__aenter__()
        try:
            exchange = replica.call(
                Call(
                    invocation_id,
                    asked.body,
                    asked.content_type,
                    asked.query,
                    asked.headers or {},
                    None if who is None else who.actor,
                )
            )
        except Broken as error:
            await claim.__aexit__(None, None, None)
            raise _meaning(error) from None
        row = {
            "id": invocation_id,
            "function_id": live.function.id,
            "project_id": live.function.project_id,
            "revision": revision.seq,
            "trigger": "http",
            "caller": None if who is None else who.actor,
            "content_type": asked.content_type[:200],
            "attempt": 1,
            "created_at": now,
            "started_at": self._clock(),
        }
        answer = Answer(self._journal, self._clock, claim, exchange, row)
        try:
            await answer.begin()
        except BaseException:
            with contextlib.suppress(Exception):
                await asyncio.shield(answer.close())
            raise
        return answer


def ready(live: Live) -> Revision:
    """The revision that answers. Raises `Unavailable` when there is none (yet)."""
    if live.active is not None:
        return live.active
    kind = live.function.kind
    if live.deploying is not None:
        raise Unavailable(
            f"The {kind} {live.function.name!r} is being deployed for the first time.",
            hint="Try again in a moment.",
            reason=f"{kind}_starting",
            retry_after_seconds=1,
        )
    raise Unavailable(
        f"No revision of the {kind} {live.function.name!r} could be deployed: {live.failure}",
        hint="Deploy it again once that is mended.",
        reason=f"{kind}_failed",
        retry_after_seconds=30,
    )
