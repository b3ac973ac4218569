"""The server's end of a replica's socket: many calls at once over one connection, each with its own credit."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import orjson

from stratal.ai.functions.runtime import Call, Command, Failed, Greeting, Start, TimedOut
from stratal.compute.services.port import Broken, CannotStart
from stratal.engines.functions.replica import frames
from stratal.kernel.errors import Invalid, StratalError, Unavailable

_PROGRAM = Path(__file__).parent / "replica"
_SOCKET = "replica.sock"
_PLAN = "plan.json"
_LOG_LIMIT = 300 << 10
_CLOSE_SECONDS = 10.0
P = TypeVar("P", bound=asyncio.Protocol)


class CallExchange:
    """A call under way (`stratal.ai.functions.runtime.Exchange`)."""

    def __init__(self, link: "FunctionLink", number: int, opened: float) -> None:
        self._link = link
        self._number = number
        self.opened = opened
        self._log = bytearray()
        self._start: asyncio.Future[Start] = link.loop.create_future()
        self._pieces: deque[bytes] = deque()
        self._more = asyncio.Event()
        self._failure: BaseException | None = None
        self._over = asyncio.Event()

    @property
    def log(self) -> bytes:
        return bytes(self._log)

    @property
    def ended(self) -> bool:
        return self._over.is_set()

    async def start(self) -> Start:
        return await asyncio.shield(self._start)

    async def chunks(self) -> AsyncIterator[bytes]:
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                self._link.send(frames.pack_credit(self._number, len(piece)))
                yield piece
            if self.ended:
                break
            self._more.clear()
            await self._more.wait()
        if self._failure is not None:
            raise self._failure

    async def close(self) -> None:
        if self.ended:
            return
        self._link.send(frames.pack(self._number, frames.CANCEL))
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._over.wait()

    # -- told by the link ----------------------------------------------------------------------

    def hear(self, kind: int, body: bytes) -> None:
        """Take a frame. Raises `ValueError`, `TypeError` or `KeyError` for what makes no sense."""
        if kind == frames.LOG:
            self._log += body[: _LOG_LIMIT - len(self._log)]
        elif kind == frames.START:
            if not self._start.done():
                self._start.set_result(_start(body))
        elif kind == frames.DATA:
            self._pieces.append(body)
            self._more.set()
        elif kind == frames.END:
            self.finish(None)
        elif kind == frames.ERROR:
            self.finish(_error(orjson.loads(body)))

    def finish(self, failure: BaseException | None) -> None:
        self._failure = failure
        self._over.set()
        self._more.set()
        if not self._start.done():
            self._start.set_exception(failure or Broken())
            self._start.exception()  # looked at: nobody need wait for it


class FunctionLink(asyncio.Protocol):
    """A connected replica (`stratal.ai.functions.runtime.FunctionReplica`)."""

    greeting: Greeting

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._splitter = frames.Splitter()
        self._transport: asyncio.Transport | None = None
        self._next = 0
        self._calls: dict[int, CallExchange] = {}
        self._last_word = 0.0
        self.modules: Sequence[str] = ()
        self.hello: asyncio.Future[Greeting] = self.loop.create_future()
        self._lost: asyncio.Future[None] = self.loop.create_future()

    # -- the port ------------------------------------------------------------------------------

    @property
    def busy_since(self) -> float | None:
        if not self._calls:
            return None
        return max(self._last_word, next(iter(self._calls.values())).opened)

    @property
    def closed(self) -> bool:
        return self._lost.done()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._lost)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def call(self, call: Call) -> CallExchange:
        if self._transport is None or self.closed:
            raise Broken
        self._next = self._next + 1 if self._next < 0xFFFFFFFF else 1
        exchange = CallExchange(self, self._next, self.loop.time())
        self._calls[self._next] = exchange
        header = {
            "id": call.id,
            "attempt": call.attempt,
            "trigger": call.trigger,
            "caller": call.caller,
            "content_type": call.content_type,
            "headers": dict(call.headers),
            "query": call.query,
        }
        self.send(frames.pack_open(self._next, orjson.dumps(header), call.body))
        return exchange

    # -- frames --------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        if self._transport is not None and not self.closed:
            self._transport.write(frame)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        try:
            for number, kind, body in self._splitter.feed(data):
                self._received(number, kind, body)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.close()  # whoever speaks otherwise is not listened to any more

    def _received(self, number: int, kind: int, body: bytes) -> None:
        self._last_word = self.loop.time()
        if kind == frames.HELLO and not self.hello.done():
            said = orjson.loads(body)
            self.modules = [str(name) for name in said["modules"]]
            self.hello.set_result(Greeting(bool(said["async"]), float(said["seconds"])))
        elif kind == frames.FAILED and not self.hello.done():
            self.hello.set_exception(CannotStart(str(orjson.loads(body)["message"])[:2000]))
        elif number in self._calls:
            exchange = self._calls[number]
            if kind in (frames.END, frames.ERROR):
                del self._calls[number]
            exchange.hear(kind, body)

    def connection_lost(self, _error: Exception | None) -> None:
        calls, self._calls = self._calls, {}
        for exchange in calls.values():
            exchange.finish(Broken())
        if not self.hello.done():
            self.hello.set_exception(Broken())
            self.hello.exception()  # looked at: nobody need wait for it
        if not self._lost.done():
            self._lost.set_result(None)


class Functions:
    """How functions are run here (`stratal.ai.functions.runtime.Program`)."""

    def command(
        self, python: Path, target: str, code: Path, folder: Path, told: Mapping[str, object]
    ) -> Command:
        return command(python, target, code, folder, told)

    async def connect(self, folder: Path) -> FunctionLink:
        link = await joined(folder, FunctionLink)
        try:
            link.greeting = await asyncio.shield(link.hello)
        except BaseException:
            link.close()
            raise
        return link


def command(python: Path, target: str, code: Path, folder: Path, told: Mapping[str, object]) -> Command:
    """What a replica runs; `told` says of which kind it is."""
    argv = [str(python), "-I", "-B", "-u", str(_PROGRAM / "__main__.py"), str(folder)]
    plan = {"target": target, "code": str(code), **told}
    return Command(argv, {_PLAN: orjson.dumps(plan)}, [_PROGRAM, code])


async def joined(folder: Path, made: Callable[[], P]) -> P:
    """A connection to the replica that listens in `folder`. Raises `OSError` while nobody does."""
    # However long the path is: sun_path holds 107 bytes.
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.setblocking(False)
        channel.connect(f"/proc/self/fd/{descriptor}/{_SOCKET}")
        _, link = await asyncio.get_running_loop().create_unix_connection(made, sock=channel)
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(descriptor)
    return link


def _start(body: bytes) -> Start:
    said = orjson.loads(body)
    status, length = said["status"], said["length"]
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise ValueError("no status")
    if length is not None and (not isinstance(length, int) or length < 0):
        raise ValueError("no length")
    return Start(status, {str(k): str(v) for k, v in said["headers"].items()}, length)


def _error(said: Mapping[str, Any]) -> StratalError:
    code, kind, message = str(said["code"]), str(said["type"])[:200], str(said["message"])
    if code == "invalid":
        return Invalid(message, reason="bad_input")
    if code == "timeout":
        return TimedOut(
            f"The function timed out. {message}", hint="Deploy it with more --timeout.", type=kind
        )
    if code == "unloadable":
        return Unavailable(
            f"The function cannot be loaded: {message}", reason="function_failed", retry_after_seconds=5
        )
    if code == "died":
        return Failed(message, reason="function_died", type=kind)
    return Failed(
        f"The function raised {kind}: {message}" if message else f"The function raised {kind}.", type=kind
    )
