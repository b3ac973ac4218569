"""A worker of an ``async def`` handler: many calls at once, interleaved in one event loop."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import AsyncIterator, Iterator

from . import events, frames, output
from .failing import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any


class Interleaved:
    def __init__(self, channel: socket.socket, handler: Any, arguments: int, plan: dict[str, Any]) -> None:
        self._channel = channel
        self._handler = handler
        self._arguments = arguments
        self._plan = plan

    def run(self) -> None:
        """Until the supervisor is gone."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: _Wire(self._call), sock=self._channel)
        await wire.gone.wait()

    async def _call(self, wire: _Wire, exchange: int, body: bytes) -> None:
        header, data = frames.split_open(body)
        asked = json.loads(header)
        said: tuple[int, bytes]
        try:
            context = events.Context(self._plan, asked, data)
            given = (events.event_of(asked["content_type"], data), context)[: self._arguments]
            value = self._handler(*given)
            if hasattr(value, "__await__"):
                value = await value
            await self._answer(wire, exchange, context, value)
            said = frames.END, b"{}"
        except asyncio.CancelledError:
            said = frames.END, b'{"cancelled":true}'
        except BaseException as error:
            said = frames.ERROR, failure(error)
        wire.write(exchange, *said)

    async def _answer(self, wire: _Wire, exchange: int, context: events.Context, value: Any) -> None:
        if isinstance(value, Iterator):
            value = _slowly(value)
        if isinstance(value, AsyncIterator):
            await self._stream(wire, exchange, context, value)
            return
        data, content_type = events.answer_of(value)
        wire.write(exchange, frames.START, events.start_of(context, content_type, len(data)))
        await wire.send(exchange, data)

    async def _stream(self, wire: _Wire, exchange: int, context: events.Context, values: Any) -> None:
        begun = False
        try:
            async for value in values:
                data, content_type = events.piece_of(value)
                if not begun:
                    wire.write(exchange, frames.START, events.start_of(context, content_type, None))
                    begun = True
                await wire.send(exchange, data)
            if not begun:
                wire.write(exchange, frames.START, events.start_of(context, events.BYTES, 0))
        finally:
            close = getattr(values, "aclose", None)
            if close is not None:
                await close()


async def _slowly(values: Iterator[Any]) -> AsyncIterator[Any]:
    """A plain iterator as an asynchronous one, with room for others between its values."""
    for value in values:
        yield value
        await asyncio.sleep(0)


class _Wire(asyncio.Protocol):
    """The channel to the supervisor, and the calls that came over it."""

    def __init__(self, call: Any) -> None:
        self._handle = call
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._splitter = frames.Splitter()
        self._transport: Any = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._windows: dict[int, int] = {}
        self._credit: dict[int, asyncio.Event] = {}
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, _error: Exception | None) -> None:
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        for exchange, kind, body in self._splitter.feed(data):
            if kind == frames.OPEN:
                self._begin(exchange, body)
            elif kind == frames.CANCEL and exchange in self._tasks:
                self._tasks[exchange].cancel()
            elif kind == frames.CREDIT and exchange in self._windows:
                self._windows[exchange] += frames.credit_of(body)
                self._credit[exchange].set()

    def _begin(self, exchange: int, body: bytes) -> None:
        self._windows[exchange] = frames.WINDOW
        self._credit[exchange] = asyncio.Event()
        context = contextvars.copy_context()
        context.run(output.CALL.set, lambda text: self._log(exchange, text))
        task = context.run(self._loop.create_task, self._handle(self, exchange, body))
        self._tasks[exchange] = task
        task.add_done_callback(lambda _: self._done(exchange))

    def _done(self, exchange: int) -> None:
        del self._tasks[exchange], self._windows[exchange], self._credit[exchange]

    def _log(self, exchange: int, text: bytes) -> None:
        if threading.get_ident() == self._thread:
            self.write(exchange, frames.LOG, text)
        else:
            self._loop.call_soon_threadsafe(self.write, exchange, frames.LOG, text)

    def write(self, exchange: int, kind: int, body: bytes) -> None:
        self._transport.write(frames.pack(exchange, kind, body))

    async def send(self, exchange: int, data: bytes) -> None:
        """Send bytes of the answer as the reader takes them."""
        view = memoryview(data)
        while view:
            while self._windows[exchange] <= 0:
                self._credit[exchange].clear()
                await self._credit[exchange].wait()
            piece = view[: min(frames.CHUNK, self._windows[exchange])]
            self._windows[exchange] -= len(piece)
            self.write(exchange, frames.DATA, bytes(piece))
            view = view[len(piece) :]
