"""Answers that stand open for as long as somebody listens (a log that is followed, the stream of events, a chat).

A key is looked at when a request comes in; what stays open for hours would outlive it. So the chain asks again, every
few seconds while a request is in hand, whether who asked may still what they might then (`Overdue`): at every door an
answer that has begun is broken off, and a body that is still coming in is read no further. A door that can end its
answer in good order does so itself (`still_good`, `while_good`); the client's next request says why. In quiet times
such an answer can send something small, so that proxies keep the line open and an abandoned one is noticed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType

from starlette.requests import Request
from starlette.types import Message, Receive

from stratal.identity.model import Principal
from stratal.identity.permissions import RANK
from stratal.kernel.errors import StratalError, Unauthenticated

log = logging.getLogger("stratal.gateway")

RECHECK_SECONDS = 5.0
HEARTBEAT_SECONDS = 15.0

Good = Callable[[], Awaitable[bool]]
"""May who asked still what they might when they asked?"""


def still_good(request: Request) -> Good:
    """For an answer that ends itself once this says no."""
    state = request.scope["state"]
    state["ends_itself"] = True
    good: Good = state["still_good"]
    return good


def asked_again(
    before: Principal,
    authenticate: Callable[[Request], Awaitable[Principal | None]],
    request: Request,
    of_key: Callable[[str], Awaitable[Principal]] | None,
) -> Good:
    """By the key alone where there is one, since a signature is good for a moment only; else in the door's own way."""

    async def ask() -> bool:
        try:
            if before.key_id is not None and of_key is not None:
                now: Principal | None = await of_key(before.key_id)
            else:
                now = await authenticate(request)
        except StratalError:
            return False
        return now is not None and not _lost(before, now)

    return ask


def _lost(before: Principal, now: Principal) -> bool:
    """Is there a project in which they may less than they might, or nothing at all?"""
    places = {before.project_id: before.role, **before.elsewhere}
    for project_id, role in places.items():
        held = now.role_in(project_id)
        if project_id and (held is None or RANK[held] < RANK[role]):
            return True
    return False


class Overdue:
    """Around one request, `begun` being whether its answer is: ends it when its caller's credential does.

    To be entered in the request's own task. `cut` says that this is how it ended.
    """

    def __init__(self, good: Good, begun: Callable[[], bool], seconds: float = RECHECK_SECONDS) -> None:
        self._good = good
        self._begun = begun
        self._seconds = seconds
        self._task: asyncio.Task[object] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._over = self._heard = False
        self.cut = False

    async def __aenter__(self) -> "Overdue":
        self._task = asyncio.current_task()
        self._later()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if not self.cut:
            return False
        assert self._task is not None
        self._task.uncancel()
        return kind is asyncio.CancelledError

    def receiving(self, receive: Receive, close: Callable[[], None]) -> Receive:
        """`receive`, which raises `Unauthenticated` for the rest of a body that comes in after the end, and says so to
        `close`: the client goes on sending."""

        async def until_over() -> Message:
            message = await receive()
            if self._over and not self._heard:
                close()
                raise _ended()
            self._heard = self._heard or not message.get("more_body", False)
            return message

        return until_over

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def _look(self) -> None:
        self._looking = asyncio.create_task(self._asked())

    async def _asked(self) -> None:
        try:
            self._over = self._over or not await self._good()
        except Exception:
            log.exception("whether a credential is still good could not be asked")
        if self._over and self._begun():
            self.cut = True
            assert self._task is not None
            self._task.cancel()
        else:
            self._later()


def _ended() -> Unauthenticated:
    return Unauthenticated(
        "The credential ended while the request came in; nothing of it was taken.",
        hint="Get a valid key with: stratal keys create",
        reason="ended_key",
    )


async def while_good(
    chunks: AsyncIterator[bytes],
    good: Good,
    *,
    heartbeat: bytes = b"",
    recheck_seconds: float = RECHECK_SECONDS,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
) -> AsyncIterator[bytes]:
    """`chunks` until they end or the credential does; `heartbeat`, unless empty, in quiet times."""
    loop = asyncio.get_running_loop()
    checked = told = loop.time()
    coming = asyncio.ensure_future(anext(chunks, None))
    try:
        while True:
            await asyncio.wait({coming}, timeout=max(0.0, checked + recheck_seconds - loop.time()))
            now = loop.time()
            if now >= checked + recheck_seconds:
                if not await good():
                    return
                checked = loop.time()
            if coming.done():
                chunk = coming.result()
                if chunk is None:
                    return
                coming = asyncio.ensure_future(anext(chunks, None))
                told = now
                yield chunk
            elif heartbeat and now >= told + heartbeat_seconds:
                told = now
                yield heartbeat
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
