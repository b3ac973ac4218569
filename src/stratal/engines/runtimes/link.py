"""The server's end of a replica's socket: many requests at once over one connection."""

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import orjson

from stratal.ai.endpoints.runtime import Broken, CannotLoad, Greeting
from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.tensors import Tensor, check_size
from stratal.engines.runtimes.replica import frames
from stratal.kernel.errors import Internal, Invalid

SOCKET = "replica.sock"
_GREETING = 4 << 20


class ReplicaLink(asyncio.Protocol):
    """A connected replica (`stratal.ai.endpoints.runtime.Replica`)."""

    greeting: Greeting

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._splitter = frames.Splitter()
        self._transport: asyncio.Transport | None = None
        self._next = 1
        self._waiting: dict[int, tuple[float, asyncio.Future[tuple[int, memoryview]]]] = {}
        self._pieces: dict[int, asyncio.Queue[Mapping[str, Any]]] = {}
        self.hello: asyncio.Future[Greeting] = self._loop.create_future()
        self.dozing: asyncio.Future[None] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._last_word = 0.0
        self.modules: Sequence[str] = ()
        self._writable = asyncio.Event()
        self._writable.set()

    async def greeted(self) -> "ReplicaLink":
        """Wait until it greets. Closed when it does not."""
        try:
            self.greeting = await self.hello
        except BaseException:
            self.close()
            raise
        return self

    async def wake(self) -> "ReplicaLink":
        """Have a replica that dozes load its model and greet."""
        if self._transport is None or self._lost.done():
            raise Broken
        self._transport.write(frames.pack(0, frames.WAKE, b""))
        return await self.greeted()

    # -- the port ------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        return len(self._waiting)

    @property
    def busy_since(self) -> float | None:
        if not self._waiting:
            return None
        return max(self._last_word, next(iter(self._waiting.values()))[0])

    @property
    def closed(self) -> bool:
        return self._lost.done()

    async def infer(self, inputs: Inputs, outputs: Sequence[str] | None) -> list[Tensor]:
        asked = {
            "inputs": [(t.name, t.datatype, t.shape, len(t.data)) for t in inputs.tensors],
            "columns": inputs.columns,
            "outputs": outputs,
            "strict": inputs.strict,
        }
        header = orjson.dumps({**asked, "params": inputs.params} if inputs.params else asked)
        kind, body = await self._ask(header, [bytes(tensor.data) for tensor in inputs.tensors])
        if kind == frames.ERROR:
            raise _failure(body)
        return _tensors(body)

    async def generate(
        self, asked: Mapping[str, Any], *, seconds: float
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        await self._writable.wait()
        if self._transport is None or self._lost.done():
            raise Broken
        number, future = self._enter()
        pieces: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._pieces[number] = pieces
        self._transport.write(frames.pack(number, frames.GENERATE, orjson.dumps(asked)))
        try:
            while True:
                ready = asyncio.ensure_future(pieces.get())
                either: set[asyncio.Future[Any]] = {ready, future}
                await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
                if ready.done():
                    yield ready.result()
                    continue
                ready.cancel()
                if not future.done():
                    raise TimeoutError
                while not pieces.empty():
                    yield pieces.get_nowait()
                kind, body = future.result()
                if kind == frames.ERROR:
                    raise _failure(body)
                yield _mapping(orjson.loads(body))
                return
        finally:
            self._pieces.pop(number, None)
            if not future.done() and not self._lost.done():
                self._transport.write(frames.pack(number, frames.CANCEL, b""))

    async def wait_closed(self) -> None:
        await asyncio.shield(self._lost)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # -- frames --------------------------------------------------------------------------------

    async def _ask(self, header: bytes, buffers: Sequence[bytes]) -> tuple[int, memoryview]:
        await self._writable.wait()
        if self._transport is None or self._lost.done():
            raise Broken
        number, future = self._enter()
        # A caller who gives up leaves its entry: the replica is still at it, and its answer falls on the floor.
        self._transport.write(frames.pack_tensors(number, frames.INFER, header, buffers))
        return await future

    def _enter(self) -> "tuple[int, asyncio.Future[tuple[int, memoryview]]]":
        """A new request's number, and where its end will be told."""
        number = self._next
        self._next = number + 1 if number < 0xFFFFFFFF else 1
        future: asyncio.Future[tuple[int, memoryview]] = self._loop.create_future()
        self._waiting[number] = (self._loop.time(), future)
        return number, future

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            for number, kind, body in self._splitter.feed(data):
                self._received(number, kind, body)
        except (ValueError, KeyError, TypeError, orjson.JSONDecodeError):
            # What runs there is somebody's model: it may say anything, and is not listened to any more.
            self.close()

    def _received(self, number: int, kind: int, body: memoryview) -> None:
        self._last_word = self._loop.time()
        if kind == frames.HELLO and not self.hello.done():
            if len(body) > _GREETING:
                raise ValueError("a greeting over the limit")
            said = orjson.loads(body)
            self.modules = [
                str(name) for name in said.get("modules", ())
            ]  # one from before an upgrade tells none
            self.hello.set_result(
                Greeting(
                    _mapping(said["interface"]),
                    {str(k): str(v) for k, v in said["files"].items()},
                    {str(k): str(v) for k, v in said["libraries"].items()},
                    float(said["seconds"]),
                )
            )
        elif kind == frames.FAILED and not self.hello.done():
            self.hello.set_exception(CannotLoad(str(orjson.loads(body)["message"])[:2000]))
        elif kind == frames.DOZING and not self.dozing.done():
            self.dozing.set_result(None)
        elif kind == frames.PIECE:
            if (pieces := self._pieces.get(number)) is not None:
                pieces.put_nowait(_mapping(orjson.loads(body)))
        elif kind in (frames.ANSWER, frames.ERROR, frames.END):
            entry = self._waiting.pop(number, None)
            if entry is not None and not entry[1].done():
                entry[1].set_result((kind, body))

    def connection_lost(self, _error: Exception | None) -> None:
        self._writable.set()
        waiting, self._waiting = self._waiting, {}
        for _, future in waiting.values():
            if not future.done():
                future.set_exception(Broken())
        if not self.hello.done():
            self.hello.set_exception(Broken())
            self.hello.exception()  # looked at: nobody need wait for it
        self.dozing.cancel()
        if not self._lost.done():
            self._lost.set_result(None)


def _failure(body: memoryview) -> Exception:
    """What the replica said went wrong."""
    error = orjson.loads(body)
    if error["code"] == "invalid":
        return Invalid(error["message"], reason="bad_input")
    return Internal(
        error["message"],
        hint="The replica's log has more: stratal endpoint logs NAME",
        reason="model_failed",
    )


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def _tensors(body: memoryview) -> list[Tensor]:
    try:
        header, data = frames.split_tensors(body)
        listed = orjson.loads(header)["outputs"]
        pieces = frames.cut(data, [int(size) for _, _, _, size in listed])
        tensors = [
            Tensor(str(name), str(datatype), tuple(map(int, shape)), piece)
            for (name, datatype, shape, _), piece in zip(listed, pieces, strict=True)
        ]
        for tensor in tensors:
            check_size(tensor.datatype, tensor.shape, tensor.data)
        return tensors
    except (ValueError, KeyError, TypeError, Invalid) as error:
        raise Internal(
            "The replica's answer cannot be read.", hint=str(error), reason="model_failed"
        ) from error


async def connect(folder: Path) -> ReplicaLink:
    """Connect to the socket in `folder`, and be greeted."""
    return await (await _dial(folder)).greeted()


async def meet(folder: Path) -> ReplicaLink:
    """Connect to the replica that dozes in `folder`, and hear that it does. Raises `Broken` when it ends instead."""
    link = await _dial(folder)
    try:
        await asyncio.wait([link.dozing])
        if link.dozing.cancelled():
            raise Broken
    except BaseException:
        link.close()
        raise
    return link


async def _dial(folder: Path) -> ReplicaLink:
    """Connect to the socket in `folder`, however long that path is (sun_path holds 107 bytes)."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        channel.setblocking(False)
        channel.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
        _, link = await asyncio.get_running_loop().create_unix_connection(ReplicaLink, sock=channel)
    except BaseException:
        channel.close()
        raise
    finally:
        os.close(descriptor)
    return link
