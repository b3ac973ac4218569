"""The replica of an app: one process, one event loop, ASGI's messages as frames on the server's connection.

There is no HTTP between here and the platform's server, which has read the request already and will write the answer:
a request's scope opens an exchange, and what app and client say to each other follows as it comes, both ways at once.
An app that says nothing for long, or reads nothing, holds up its own exchange only: each direction has its own credit.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import sys
import time
from collections import deque

from . import frames, output
from .loading import LoadError, load, one_line
from .start import say_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

_STARTUP_SECONDS = 300.0
_FINISH_SECONDS = 20.0
_SHUTDOWN_SECONDS = 5.0
_RESTARTING = 1012
_GONE = 1005
_SPEC = {"version": "3.0", "spec_version": "2.4"}
"""From 2.4 on a client that left is told by failing sends, so that an app may read what comes while it answers."""
_LEFT = {"ClientDisconnect", "WebSocketDisconnect"}
"""What frameworks make of such a failure."""


def serve(listener: socket.socket, plan: dict[str, Any]) -> None:
    """Serve until SIGTERM. Ends this process: with 0 then, with 1 when the app cannot be loaded."""
    code = 1
    try:
        code = asyncio.run(_Replica(listener, plan).run())
    except LoadError as error:
        if error.__cause__ is not None:
            output.show(error.__cause__)
        print(error, flush=True)
        output.flush()
        say_failed(listener, str(error))
    output.flush()
    os._exit(code)


class _Replica:
    def __init__(self, listener: socket.socket, plan: dict[str, Any]) -> None:
        self._listener = listener
        self._target = str(plan["target"])
        self._code = str(plan["code"])
        self._wire: _Wire | None = None
        self.state: dict[str, Any] = {}
        self.facts = b""
        self.app: Any = None

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        began = time.monotonic()
        self.app = load(self._target, self._code)
        _check(self.app, self._target)
        lifespan = _Lifespan(self.app, self.state)
        await lifespan.start()
        seconds = time.monotonic() - began
        imported = [name for name in sys.modules if not name.startswith(("stratal_replica", "__"))]
        self.facts = json.dumps({"modules": imported, "seconds": seconds}).encode()
        print(f"loaded {self._target} in {seconds:.2f} s", flush=True)
        self._listener.setblocking(False)
        accepting = asyncio.create_task(self._accept())
        await stop.wait()
        accepting.cancel()
        if self._wire is not None:
            await self._wire.finish()
        await lifespan.stop()
        return 0

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            if self._wire is not None:
                self._wire.abandon()  # a server that was killed: whoever asked it is gone
            _, self._wire = await loop.create_connection(lambda: _Wire(self), sock=connection)


def _check(app: Any, target: str) -> None:
    """Raise `LoadError` for what takes no scope, receive and send."""
    if not callable(app):
        raise LoadError(f"{target} is {type(app).__name__}, which cannot be called.")
    called = app if inspect.isroutine(app) else getattr(app, "__call__", app)  # noqa: B004
    if inspect.iscoroutinefunction(called):
        return
    try:
        inspect.signature(app).bind(None, None, None)
    except (ValueError, TypeError):
        raise LoadError(
            f"{target} is no ASGI app: it does not take scope, receive and send. A WSGI app (Flask, Django) becomes one "
            "with a wrapper, such as a2wsgi's."
        ) from None


class _Lifespan:
    """The app's start and its end, where it has any."""

    def __init__(self, app: Any, state: dict[str, Any]) -> None:
        self._app = app
        self._state = state
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._started = asyncio.Event()
        self._ended = asyncio.Event()
        self._failure: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises `LoadError` when the app says that it cannot start."""
        self._said.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._run())
        waits = [asyncio.create_task(self._started.wait()), self._task]
        done, _ = await asyncio.wait(waits, timeout=_STARTUP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        waits[0].cancel()
        if not done:
            raise LoadError(f"The app's start-up did not end within {_STARTUP_SECONDS:.0f} s.")
        if self._failure is not None:
            raise LoadError(f"The app's start-up failed: {self._failure}")

    async def stop(self) -> None:
        if self._task is None or self._task.done():
            return
        self._said.put_nowait({"type": "lifespan.shutdown"})
        waits = [asyncio.create_task(self._ended.wait()), self._task]
        await asyncio.wait(waits, timeout=_SHUTDOWN_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._said.get, self._hear)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if self._started.is_set() or self._failure is not None:
                output.show(error)  # else: it knows no lifespan, which is its good right

    async def _hear(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._started.set()
        elif kind == "lifespan.startup.failed":
            told = str(message.get("message", "")).strip()
            self._failure = told.splitlines()[-1][:1000] if told else "it does not say why"
            if told:
                print(told, flush=True)
            self._started.set()
        elif kind in {"lifespan.shutdown.complete", "lifespan.shutdown.failed"}:
            self._ended.set()


class _Wire(asyncio.Protocol):
    """The connection of a server, and the exchanges that it opened."""

    def __init__(self, replica: _Replica) -> None:
        self._replica = replica
        self._splitter = frames.Splitter()
        self._transport: Any = None
        self._talks: dict[int, _Talk] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._finishing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.write(0, frames.HELLO, self._replica.facts)

    def connection_lost(self, _error: Exception | None) -> None:
        for talk in list(self._talks.values()):
            talk.leave()
        self._talks.clear()

    def abandon(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            for number, kind, body in self._splitter.feed(data):
                self._received(number, kind, body)
        except (ValueError, KeyError, TypeError):
            self._transport.abort()  # whoever speaks otherwise is not listened to any more

    def _received(self, number: int, kind: int, body: bytes) -> None:
        if kind == frames.OPEN:
            if self._finishing:
                self.write(
                    number, frames.ERROR, b'{"code":"closing","type":"","message":"The replica ends."}'
                )
                return
            header, _ = frames.split_open(body)
            talk = _Talk(self, number, json.loads(header), self._replica.state)
            self._talks[number] = talk
            task = asyncio.create_task(talk.run(self._replica.app))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif number in self._talks:
            talk = self._talks[number]
            if kind == frames.CANCEL:
                del self._talks[number]
                talk.leave()
            else:
                talk.hear(kind, body)

    def write(self, number: int, kind: int, body: bytes = b"") -> None:
        if not self._transport.is_closing():
            self._transport.write(frames.pack(number, kind, body))

    def over(self, number: int) -> None:
        self._talks.pop(number, None)

    async def finish(self) -> None:
        """Take nothing more, let what is running come to its end, and end what does not."""
        self._finishing = True
        for talk in list(self._talks.values()):
            talk.part()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_FINISH_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=1)


class _Talk:
    """A request, or a WebSocket: what ASGI calls `receive` and `send`."""

    def __init__(self, wire: _Wire, number: int, told: dict[str, Any], state: dict[str, Any]) -> None:
        self._wire = wire
        self._number = number
        self._socket = told["type"] == "websocket"
        self._heard: deque[dict[str, Any]] = deque()
        if self._socket:
            self._heard.append({"type": "websocket.connect"})
        self._news = asyncio.Event()
        self._gone: dict[str, Any] | None = None
        """What a client that left is told of as, from then on."""
        self._window = frames.WINDOW
        self._credit = asyncio.Event()
        self._started = self._denied = self._whole = False
        self._scope = _scope(told, state)

    async def run(self, app: Any) -> None:
        try:
            await app(self._scope, self._receive, self._send)
            if not self._whole and self._gone is None:
                raise RuntimeError("The app returned before its answer was whole.")
        except asyncio.CancelledError:
            self._fail("died", "Ended", "The replica ended before the app's answer did.")
        except BaseException as error:
            left = isinstance(error, OSError) or type(error).__name__ in _LEFT
            if self._gone is None or not left:
                output.show(error)
            self._fail("failed", type(error).__name__, one_line(error))
        finally:
            self._wire.over(self._number)

    def _fail(self, code: str, kind: str, message: str) -> None:
        if self._whole or self._gone is not None:
            return
        self._whole = True
        body = json.dumps({"code": code, "type": kind, "message": message}).encode()
        self._wire.write(self._number, frames.ERROR, body)

    # -- heard from the server -----------------------------------------------------------------

    def hear(self, kind: int, body: bytes) -> None:
        if kind == frames.CREDIT:
            self._window += frames.credit_of(body)
            self._credit.set()
            return
        if self._socket:
            if kind == frames.DATA:
                self._heard.append({"type": "websocket.receive", "bytes": body, "text": None})
            elif kind == frames.TEXT:
                self._heard.append({"type": "websocket.receive", "text": body.decode(), "bytes": None})
            elif kind == frames.END:
                said = json.loads(body)
                self._depart(said["code"], said.get("reason") or "")
        elif kind == frames.DATA:
            self._heard.append({"type": "http.request", "body": body, "more_body": True})
        elif kind == frames.END:
            self._heard.append({"type": "http.request", "body": b"", "more_body": False})
        self._news.set()

    def leave(self) -> None:
        """The client is gone."""
        self._depart(_GONE if self._socket else 0, "")

    def part(self) -> None:
        """This replica ends: requests may come to their end, WebSockets have none of their own."""
        if self._socket and self._gone is None:
            if not self._whole:
                self._whole = True
                self._wire.write(
                    self._number, frames.END, json.dumps({"code": _RESTARTING, "reason": ""}).encode()
                )
            self._depart(_RESTARTING, "")

    def _depart(self, code: int, reason: str) -> None:
        if self._gone is None:
            self._gone = (
                {"type": "websocket.disconnect", "code": code, "reason": reason}
                if self._socket
                else {"type": "http.disconnect"}
            )
        self._news.set()
        self._credit.set()

    # -- ASGI ----------------------------------------------------------------------------------

    async def _receive(self) -> dict[str, Any]:
        while True:
            if self._heard:
                message = self._heard.popleft()
                size = _size(message)
                if size:
                    self._wire.write(self._number, frames.CREDIT, frames.count_of(size))
                return message
            if self._gone is not None:
                return dict(self._gone)
            if self._whole and not self._socket:
                return {"type": "http.disconnect"}
            self._news.clear()
            await self._news.wait()

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._gone is not None:
            raise OSError("The client is gone.")
        if self._whole:
            raise RuntimeError(f"The app sent {kind!r} after its answer was whole.")
        if kind in {"http.response.start", "websocket.http.response.start"}:
            self._once(kind)
            self._denied = self._socket
            self._say(
                frames.START, {"status": message["status"], "headers": _texts(message.get("headers", []))}
            )
        elif kind in {"http.response.body", "websocket.http.response.body"}:
            if not self._started:
                raise RuntimeError("The app sent a body before its answer's start.")
            await self._bytes(frames.DATA, message.get("body", b""), whole=False)
            if not message.get("more_body", False):
                self._whole = True
                self._news.set()
                self._wire.write(self._number, frames.END, b"{}")
        elif kind == "websocket.accept":
            self._once(kind)
            told = {"subprotocol": message.get("subprotocol"), "headers": _texts(message.get("headers", []))}
            self._say(frames.START, told)
        elif kind == "websocket.send":
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                await self._bytes(frames.DATA, data, whole=True)
            else:
                await self._bytes(frames.TEXT, str(text).encode(), whole=True)
        elif kind == "websocket.close":
            self._whole = True
            self._say(frames.END, {"code": message.get("code", 1000), "reason": message.get("reason") or ""})
        else:
            raise RuntimeError(f"{kind!r} is no message that is known here.")

    def _once(self, kind: str) -> None:
        if self._started:
            raise RuntimeError(f"The app sent {kind!r} twice.")
        self._started = True

    def _say(self, kind: int, told: dict[str, Any]) -> None:
        self._wire.write(self._number, kind, json.dumps(told).encode())

    async def _bytes(self, kind: int, data: bytes, *, whole: bool) -> None:
        """Send as the client takes it; a WebSocket's message is one frame."""
        view = memoryview(bytes(data))
        if whole:
            await self._room()
            self._window -= len(view)
            self._wire.write(self._number, kind, bytes(view))
            return
        while view:
            await self._room()
            piece = view[: min(frames.CHUNK, max(self._window, 1))]
            self._window -= len(piece)
            self._wire.write(self._number, kind, bytes(piece))
            view = view[len(piece) :]

    async def _room(self) -> None:
        while self._window <= 0 and self._gone is None:
            self._credit.clear()
            await self._credit.wait()
        if self._gone is not None:
            raise OSError("The client is gone.")


def _scope(told: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    return {
        **told,
        "asgi": dict(_SPEC),
        "root_path": "",
        "raw_path": told["raw_path"].encode("latin-1"),
        "query_string": told["query_string"].encode("latin-1"),
        "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in told["headers"]],
        "client": tuple(told["client"]) if told["client"] else None,
        "server": tuple(told["server"]),
        "extensions": {"websocket.http.response": {}} if told["type"] == "websocket" else {},
        "state": dict(state),
    }


def _texts(headers: Any) -> list[list[str]]:
    return [[bytes(name).decode("latin-1"), bytes(value).decode("latin-1")] for name, value in headers]


def _size(message: dict[str, Any]) -> int:
    if message["type"] == "http.request":
        return len(message["body"])
    if message["type"] == "websocket.receive":
        return len(message["bytes"]) if message["bytes"] is not None else len(message["text"].encode())
    return 0
