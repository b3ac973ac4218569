"""A worker of a plain ``def`` handler: one call after the other, in the main thread."""

from __future__ import annotations

import asyncio
import inspect
import json
import select
from collections import deque
from collections.abc import AsyncIterator, Iterator

from . import events, frames, output
from .failing import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

_RECEIVED = 256 << 10


class Cancelled(Exception):
    """Nobody wants the rest of the answer."""


class Serial:
    def __init__(self, channel: socket.socket, handler: Any, arguments: int, plan: dict[str, Any]) -> None:
        self._channel = channel
        self._handler = handler
        self._arguments = arguments
        self._plan = plan
        self._splitter = frames.Splitter()
        self._frames: deque[tuple[int, int, bytes]] = deque()
        self._window = 0

    def run(self) -> None:
        """Until the supervisor is gone."""
        while self._receive():
            while self._frames:
                exchange, kind, body = self._frames.popleft()
                if kind == frames.OPEN:
                    self._call(exchange, body)

    def _receive(self) -> bool:
        data = self._channel.recv(_RECEIVED)
        self._frames.extend(self._splitter.feed(data))
        return bool(data)

    # -- one call ------------------------------------------------------------------------------

    def _call(self, exchange: int, body: bytes) -> None:
        self._window = frames.WINDOW
        header, data = frames.split_open(body)
        asked = json.loads(header)
        said: tuple[int, bytes]
        try:
            context = events.Context(self._plan, asked, data)
            given = (events.event_of(asked["content_type"], data), context)[: self._arguments]
            value = self._handler(*given)
            if inspect.isawaitable(value):
                value = asyncio.run(_result(value))
            self._answer(exchange, context, value)
            said = frames.END, b"{}"
        except Cancelled:
            said = frames.END, b'{"cancelled":true}'
        except BaseException as error:
            said = frames.ERROR, failure(error)
        output.flush()
        self._channel.sendall(frames.pack(exchange, *said))

    def _answer(self, exchange: int, context: events.Context, value: Any) -> None:
        if isinstance(value, AsyncIterator):
            value = _driven(value)
        if isinstance(value, Iterator):
            self._stream(exchange, context, value)
            return
        data, content_type = events.answer_of(value)
        self._start(exchange, context, content_type, len(data))
        self._send(exchange, data)

    def _stream(self, exchange: int, context: events.Context, values: Any) -> None:
        begun = False
        try:
            for value in values:
                data, content_type = events.piece_of(value)
                if not begun:
                    self._start(exchange, context, content_type, None)
                    begun = True
                self._send(exchange, data)
            if not begun:
                self._start(exchange, context, events.BYTES, 0)
        finally:
            close = getattr(values, "close", None)
            if close is not None:
                close()

    def _start(self, exchange: int, context: events.Context, content_type: str, length: int | None) -> None:
        head = events.start_of(context, content_type, length)
        self._channel.sendall(frames.pack(exchange, frames.START, head))

    def _send(self, exchange: int, data: bytes) -> None:
        """Send bytes of the answer as the reader takes them. Raises `Cancelled`."""
        view = memoryview(data)
        while view:
            self._look(wait=self._window <= 0)
            piece = view[: min(frames.CHUNK, max(self._window, 1))]
            self._window -= len(piece)
            self._channel.sendall(frames.pack(exchange, frames.DATA, bytes(piece)))
            view = view[len(piece) :]

    def _look(self, *, wait: bool) -> None:
        """Take what the supervisor said meanwhile; wait for it when there is no credit left."""
        while wait or select.select([self._channel], [], [], 0)[0]:
            if not self._receive():
                raise ConnectionResetError
            while self._frames:
                _, kind, body = self._frames.popleft()
                if kind == frames.CANCEL:
                    raise Cancelled
                if kind == frames.CREDIT:
                    self._window += frames.credit_of(body)
                    wait = wait and self._window <= 0


async def _result(value: Any) -> Any:
    return await value


def _driven(values: Any) -> Iterator[Any]:
    """An asynchronous iterator as a plain one."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(values.__anext__())
            except StopAsyncIteration:
                return
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
