"""`Apps`: how apps are run and reached; the server's end of their replicas' connections (`replica.asgi` is the other)."""

import asyncio
from collections import deque
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, cast

import orjson

from stratal.ai.functions.runtime import Command, Failed
from stratal.compute.services.port import Broken, CannotStart
from stratal.engines.functions.link import command, joined
from stratal.engines.functions.replica import frames

Message = MutableMapping[str, Any]


class AppConversation:
    """A request or a WebSocket that an app is at (`stratal.ai.functions.runtime.Conversation`)."""

    def __init__(self, link: "AppLink", number: int, *, socket: bool) -> None:
        self._link = link
        self._number = number
        self._socket = socket
        self._denied = False
        self._heard: deque[tuple[Message, int]] = deque()
        self._news = asyncio.Event()
        self._failure: BaseException | None = None
        self._over = False
        self._window = frames.WINDOW
        self._credit = asyncio.Event()

    async def receive(self) -> Message:
        while not self._heard:
            if self._failure is not None:
                raise self._failure
            self._news.clear()
            await self._news.wait()
        message, size = self._heard.popleft()
        if size and not self._over:
            self._link.send(frames.pack_credit(self._number, size))
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.request":
            await self._bytes(frames.DATA, message.get("body", b""))
            if not message.get("more_body", False):
                self._frame(frames.END)
        elif kind == "websocket.receive":
            data, text = message.get("bytes"), message.get("text")
            if data is not None:
                await self._whole(frames.DATA, data)
            else:
                await self._whole(frames.TEXT, str(text).encode())
        elif kind == "websocket.disconnect":
            said = {"code": message.get("code", 1005), "reason": message.get("reason") or ""}
            self._frame(frames.END, orjson.dumps(said))

    def close(self) -> None:
        if not self._over:
            self._frame(frames.CANCEL)
            self._end()

    # -- frames --------------------------------------------------------------------------------

    async def _bytes(self, kind: int, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._over:
            await self._room()
            piece = view[: min(frames.CHUNK, max(self._window, 1))]
            self._window -= len(piece)
            self._frame(kind, bytes(piece))
            view = view[len(piece) :]

    async def _whole(self, kind: int, data: bytes) -> None:
        await self._room()
        self._window -= len(data)
        self._frame(kind, data)

    async def _room(self) -> None:
        while self._window <= 0 and not self._over:
            self._credit.clear()
            await self._credit.wait()

    def _frame(self, kind: int, body: bytes = b"") -> None:
        if not self._over:
            self._link.send(frames.pack(self._number, kind, body))

    def hear(self, kind: int, body: bytes) -> None:
        """Take a frame. Raises `ValueError`, `TypeError` or `KeyError` for what makes no sense."""
        if kind == frames.CREDIT:
            self._window += frames.credit_of(body)
            self._credit.set()
        elif kind == frames.START:
            self._tell(self._start(orjson.loads(body)))
        elif kind == frames.DATA:
            if self._socket and not self._denied:
                self._tell({"type": "websocket.send", "bytes": body, "text": None}, len(body))
            else:
                self._tell({"type": self._body, "body": body, "more_body": True}, len(body))
        elif kind == frames.TEXT:
            self._tell({"type": "websocket.send", "text": body.decode(), "bytes": None}, len(body))
        elif kind == frames.END:
            if self._socket and not self._denied:
                said = orjson.loads(body)
                self._tell(
                    {
                        "type": "websocket.close",
                        "code": _code(said["code"]),
                        "reason": str(said["reason"])[:120],
                    }
                )
            else:
                self._tell({"type": self._body, "body": b"", "more_body": False})
            self._end()
        elif kind == frames.ERROR:
            self.fail(_failure(orjson.loads(body)))

    @property
    def _body(self) -> str:
        return "websocket.http.response.body" if self._socket else "http.response.body"

    def _start(self, said: Mapping[str, Any]) -> Message:
        headers = [(str(n).encode("latin-1"), str(v).encode("latin-1")) for n, v in said["headers"]]
        if "status" not in said:
            chosen = said["subprotocol"]
            return {
                "type": "websocket.accept",
                "subprotocol": None if chosen is None else str(chosen),
                "headers": headers,
            }
        self._denied = self._socket
        kind = "websocket.http.response.start" if self._socket else "http.response.start"
        return {"type": kind, "status": said["status"], "headers": headers}

    def fail(self, failure: BaseException) -> None:
        self._failure = failure
        self._end()

    def _end(self) -> None:
        self._over = True
        self._link.over(self._number)
        self._news.set()
        self._credit.set()
        if self._failure is None:
            self._failure = Broken()

    def _tell(self, message: Message, size: int = 0) -> None:
        self._heard.append((message, size))
        self._news.set()


class AppLink(asyncio.Protocol):
    """A connected replica of an app (`stratal.ai.functions.runtime.AppReplica`)."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._splitter = frames.Splitter()
        self._transport: asyncio.Transport | None = None
        self._next = 0
        self._talks: dict[int, AppConversation] = {}
        self.modules: Sequence[str] = ()
        self.hello: asyncio.Future[None] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()

    # -- the port ------------------------------------------------------------------------------

    @property
    def busy_since(self) -> float | None:
        """An app may be silent for as long as it likes: a stream of events is."""
        return None

    @property
    def closed(self) -> bool:
        return self._lost.done()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._lost)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def open(self, scope: Mapping[str, Any]) -> AppConversation:
        if self._transport is None or self.closed:
            raise Broken
        self._next = self._next + 1 if self._next < 0xFFFFFFFF else 1
        talk = AppConversation(self, self._next, socket=scope["type"] == "websocket")
        self._talks[self._next] = talk
        self.send(frames.pack_open(self._next, orjson.dumps(scope), b""))
        return talk

    # -- frames --------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        if self._transport is not None and not self.closed:
            self._transport.write(frame)

    def over(self, number: int) -> None:
        self._talks.pop(number, None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        try:
            for number, kind, body in self._splitter.feed(data):
                self._received(number, kind, body)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.close()  # whoever speaks otherwise is not listened to any more

    def _received(self, number: int, kind: int, body: bytes) -> None:
        if kind == frames.HELLO and not self.hello.done():
            self.modules = [str(name) for name in orjson.loads(body)["modules"]]
            self.hello.set_result(None)
        elif kind == frames.FAILED and not self.hello.done():
            self.hello.set_exception(CannotStart(str(orjson.loads(body)["message"])[:2000]))
        elif number in self._talks:
            self._talks[number].hear(kind, body)

    def connection_lost(self, _error: Exception | None) -> None:
        for talk in list(self._talks.values()):
            talk.fail(Broken())
        if not self.hello.done():
            self.hello.set_exception(Broken())
            self.hello.exception()  # looked at: nobody need wait for it
        if not self._lost.done():
            self._lost.set_result(None)


class Apps:
    """How apps are run here (`stratal.ai.functions.runtime.Program`)."""

    def command(
        self, python: Path, target: str, code: Path, folder: Path, told: Mapping[str, object]
    ) -> Command:
        return command(python, target, code, folder, told)

    async def connect(self, folder: Path) -> AppLink:
        link = await joined(folder, AppLink)
        try:
            await asyncio.shield(link.hello)
        except BaseException:
            link.close()
            raise
        return link


def _failure(said: Mapping[str, Any]) -> BaseException:
    if said["code"] in {"closing", "died"}:
        return Broken()
    kind, message = str(said["type"])[:200], str(said["message"])[:1000]
    return Failed(f"The app raised {message or kind}.", type=kind)


_CODES = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013}


def _code(code: object) -> int:
    """A code that may be said in a closing frame (RFC 6455 §7.4)."""
    return code if isinstance(code, int) and (code in _CODES or 3000 <= code < 5000) else 1011
