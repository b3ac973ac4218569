"""Answers that are more than a short body: an object's bytes, and XML that takes long to come by."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from stratal.gateway.s3.errors import error_response
from stratal.gateway.s3.xml import DECLARATION
from stratal.kernel.errors import StratalError

Headers = list[tuple[bytes, bytes]]

PATIENCE_SECONDS = 10.0
"""After this long without an answer some clients and proxies begin to doubt."""


def xml(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, headers, "application/xml")


def empty(status: int, headers: Headers | None = None) -> Response:
    """An answer without a body (200, 204, 304, or to HEAD)."""
    response = Response(None, status)
    if headers is not None:
        response.raw_headers = headers
    return response


class ObjectAnswer:
    """Sends `body`, whose first piece `first` is there already, so that nothing can be missing any more.

    Stops reading when the client goes.
    """

    def __init__(
        self, status: int, headers: Headers, first: bytes | None, body: AsyncGenerator[bytes, None]
    ) -> None:
        self._status = status
        self._headers = headers
        self._first = first
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._body) as body:
            await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
            pending = self._first or b""
            gone: asyncio.Task[None] | None = None
            try:
                async for piece in body:
                    await send({"type": "http.response.body", "body": pending, "more_body": True})
                    pending = piece
                    if gone is None:
                        gone = asyncio.create_task(_disconnected(receive))
                    elif gone.done():
                        return
                await send({"type": "http.response.body", "body": pending, "more_body": False})
            finally:
                if gone is not None:
                    gone.cancel()
                    with suppress(asyncio.CancelledError):
                        await gone


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class SlowAnswer:
    """XML that may take minutes to make. As S3 does: when it takes long, the answer begins with status 200 and
    white space, and an error that comes then stands in its body, where S3's clients look for it."""

    def __init__(self, work: Awaitable[bytes]) -> None:
        self._work = work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(self._work)
        done, _ = await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        if done:
            await xml(task.result())(scope, receive, send)
            return
        headers = [(b"content-type", b"application/xml")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": DECLARATION.encode(), "more_body": True})
        while not done:
            await send({"type": "http.response.body", "body": b" ", "more_body": True})
            done, _ = await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
        try:
            body = task.result()
        except StratalError as error:
            body = bytes(error_response(error, {**scope, "method": "POST"}).body)
        await send({"type": "http.response.body", "body": body.removeprefix(DECLARATION.encode())})


Answer = ASGIApp
