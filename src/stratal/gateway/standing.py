"""Answers that stand open for as long as somebody listens (a log that is followed, the stream of events).

A key is looked at when a request comes in; an answer that stays open for hours would outlive it. So such
an answer asks again, every few seconds while it stands, whether the credential is still good, and ends when
it is not: the client's next request says why. In quiet times it can send something small, so that proxies
keep the line open and an abandoned one is noticed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request

from stratal.kernel.errors import StratalError

RECHECK_SECONDS = 5.0
HEARTBEAT_SECONDS = 15.0


def still_good(request: Request) -> Callable[[], Awaitable[bool]]:
    """Is the request's credential still good, asked in the way of the door it came through?"""

    async def ask() -> bool:
        try:
            await request.scope["state"]["authenticate"](request)
        except StratalError:
            return False
        return True

    return ask


async def while_good(
    chunks: AsyncIterator[bytes],
    good: Callable[[], Awaitable[bool]],
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
