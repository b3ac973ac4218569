"""The chain that every request passes, in order. Read it top to bottom: this is all that happens.

1. give the request an id; 2. refuse what is malformed or not for this host; 3. find the door;
4. let the door say who asks, and the gate whether they may spend; 5. let the door answer, for as long as who asks
still may; 6. turn what went wrong into the door's own dialect; 7. put a refusal on record; 8. count the bytes to
whoever asked; 9. write one log line.
"""

import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Protocol

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stratal.gateway.door import Door
from stratal.gateway.standing import RECHECK_SECONDS, Overdue, asked_again
from stratal.identity.model import Principal
from stratal.kernel.asking import ASKING, Asking
from stratal.kernel.errors import Internal, Invalid, NotFound, StratalError
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.gateway")

MAX_PATH_BYTES = 16 * 1024
MAX_HEADER_BYTES = 64 * 1024
Count = Callable[[Principal | None, str, Scope, int, int, int], None]
"""Told of every answered request: who asked (None: anybody), through which door, what, its status, bytes received
and sent."""
Gate = Callable[[Principal, str, Scope], None]
"""Asked of every request before its door answers: who, through which door, what. Raises to refuse it."""
Past = Callable[[Principal, str, Scope], Awaitable[None]]
"""The same for those who are shown the past (see `held`)."""

OfKey = Callable[[str], Awaitable[Principal]]
"""Whose key that is now; raises for one that has ended."""

Deny = Callable[[Principal | None, Asking, Scope, int], None]
"""Told of every refused request: who asked as far as known, from where, what, and the status it got."""

_LOCAL_HOST = re.compile(
    r"(localhost|127(?:\.\d{1,3}){3}|\[::1\]|[a-z0-9-]+\.localhost)(:\d{1,5})?\Z", re.IGNORECASE
)

_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""What no header's value may have (RFC 9110 §5.5): a door may name there what it was asked for, and the server would
break off instead of an answer."""

_ADDRESS = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]+\])(:\d{1,5})?\Z", re.IGNORECASE)


class Chain:
    """The ASGI application of the one address. Doors are asked in the order given; the first match answers.

    `hosts` are further host names (without port) that this instance answers to; loopback names always are.
    With `any_address` every literal address is fine too, for a server that listens on all of the machine's:
    a page that rebinds a name to us can forge names, but its browser still sends the name it was loaded from.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        *,
        hosts: Sequence[str] = (),
        any_address: bool = False,
        elsewhere: "Sequence[SocketDoor]" = (),
        lifespan: ASGIApp | None = None,
        count: Count | None = None,
        deny: Deny | None = None,
        gate: Gate | None = None,
        past: Past | None = None,
        of_key: OfKey | None = None,
        overdue_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self._doors = doors
        self._deny = deny
        self._count = count
        self._gate = gate
        self._past = past
        self._of_key = of_key
        self._overdue_seconds = overdue_seconds
        self._hosts = {host.lower() for host in hosts}
        self._any_address = any_address
        self._elsewhere = elsewhere
        self._lifespan = lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan" and self._lifespan is not None:
                await self._lifespan(scope, receive, send)
            elif scope["type"] == "websocket":
                await self._websocket({**scope, "method": "GET"}, receive, send)
            return
        request_id = new_id("req")
        scope.setdefault("state", {})["request_id"] = request_id
        scope["state"]["who"] = None
        asking = Asking("-", _address(scope))
        ASKING.set(asking)
        expects = any(name == b"expect" for name, _ in scope["headers"])
        answer = _Answer(send, request_id, expects=expects)
        receive = answer.receiving(receive)
        started = time.perf_counter()
        door: Door | None = None
        try:
            self._check(scope)
            door = self._find(scope)
            asking.door = door.name
            request = Request(scope, receive)
            scope["state"]["who"] = who = await door.authenticate(request)
            if who is not None and self._gate is not None:
                self._gate(who, door.name, scope)
            if who is not None and self._past is not None:
                await self._past(who, door.name, scope)
            if who is None:
                await door(scope, receive, answer)
                return
            state = scope["state"]
            good = state["still_good"] = asked_again(who, door.authenticate, request, self._of_key)
            stands = lambda: answer.stands() and not state.get("ends_itself")  # noqa: E731
            async with Overdue(good, stands, self._overdue_seconds) as overdue:
                await door(scope, overdue.receiving(receive, answer.close), answer)
        except StratalError as error:
            await self._refuse(error, door, scope, receive, answer)
        except Exception:
            log.exception("request %s failed", request_id)
            defect = Internal(
                "Something went wrong inside Stratal; nothing you sent is to blame.",
                hint=f"The server's log has the details under request id {request_id}.",
            )
            await self._refuse(defect, door, scope, receive, answer)
        finally:
            who = scope["state"]["who"]
            if self._deny is not None and (asking.denied or answer.status in {401, 403}):
                self._deny(who, asking, scope, answer.status)
            if door is not None and self._count is not None:
                self._count(who, door.name, scope, answer.status, answer.received, answer.sent)
            log.info(
                "%s %s %s %d %.1f ms %s %s",
                door.name if door else "-",
                scope["method"],
                _shown_path(scope),
                answer.status,
                (time.perf_counter() - started) * 1000,
                who.actor if who else "-",
                request_id,
            )

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As for a request, shorter: only users' content takes WebSockets; what is refused gets its status."""
        request_id = new_id("req")
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "who": None}
        asking = Asking("-", _address(scope))
        ASKING.set(asking)
        traffic = _Traffic(receive, send)
        started = time.perf_counter()
        status = 101
        door: SocketDoor | None = None
        try:
            self._check(scope)
            door = next((one for one in self._elsewhere if one.matches(scope)), None)
            if door is None:
                raise NotFound("No WebSocket is answered at this address.")
            asking.door = door.name
            scope["state"]["who"] = await door.authenticate(Request({**scope, "type": "http"}, receive))
            await door.websocket(scope, traffic.receive, traffic.send)
        except StratalError as error:
            status = error.status
            await traffic.refuse(status)
        except Exception:
            status = 500
            log.exception("request %s failed", request_id)
            await traffic.refuse(status)
        finally:
            who = scope["state"]["who"]
            if self._deny is not None and (asking.denied or status in {401, 403}):
                self._deny(who, asking, scope, status)
            if door is not None and self._count is not None:
                self._count(who, door.name, scope, status, traffic.received, traffic.sent)
            log.info(
                "%s WEBSOCKET %s %d %.1f ms %s %s",
                door.name if door else "-",
                _shown_path(scope),
                status,
                (time.perf_counter() - started) * 1000,
                who.actor if who else "-",
                request_id,
            )

    def _check(self, scope: Scope) -> None:
        """Refuse what no door should have to think about. Raises `Invalid`."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if (
            len(scope["raw_path"]) > MAX_PATH_BYTES
            or sum(len(n) + len(v) for n, v in headers) > MAX_HEADER_BYTES
        ):
            raise Invalid("The request's address or headers are too long.", reason="request_too_long")
        names = [name for name, _ in headers]
        if names.count(b"content-length") > 1 or (
            b"content-length" in names and b"transfer-encoding" in names
        ):
            raise Invalid("The request's framing is ambiguous.", reason="ambiguous_framing")
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise Invalid("The request needs exactly one Host header.", reason="bad_host")
        if any(door.matches(scope) for door in self._elsewhere):
            return
        if (
            _LOCAL_HOST.match(hosts[0])
            or hosts[0] in self._hosts
            or hosts[0].rsplit(":", 1)[0] in self._hosts
        ):
            return
        if self._any_address and _ADDRESS.match(hosts[0]):
            return
        raise Invalid(
            f"This server does not answer to the host name {hosts[0][:100]!r}.",
            hint="Use the address that `stratal status` prints, or start with: stratal up --hostname NAME",
            reason="bad_host",
        )

    def _find(self, scope: Scope) -> Door:
        for door in self._doors:
            if door.matches(scope):
                return door
        raise NotFound(
            "Nothing answers at this address.", hint="`stratal env` prints where each protocol is."
        )

    async def _refuse(
        self, error: StratalError, door: Door | None, scope: Scope, receive: Receive, answer: "_Answer"
    ) -> None:
        if answer.finished:  # said already, in the door's own dialect
            return
        if answer.status:  # the answer has begun: breaking off is the only honest signal left
            raise error
        response = door.error(error, scope) if door else plain_error(error, scope)
        if error.status == 401 and "www-authenticate" not in response.headers:
            response.headers["WWW-Authenticate"] = _challenge(scope)
        await response(scope, receive, answer)


def _challenge(scope: Scope) -> str:
    """How to prove who one is. To a page's script not Basic: the browser would put up its own password window."""
    from_script = (b"sec-fetch-dest", b"empty") in scope["headers"]
    return 'Session realm="Stratal"' if from_script else 'Basic realm="Stratal"'


class _Answer:
    """Sends on to the server, adding the request's id; remembers the status, and how many bytes went each way.

    A client that sent ``Expect: 100-continue`` and is answered before its body was asked for does not
    send that body, so the connection is closed: what comes next on it would be taken for the body.
    """

    def __init__(self, send: Send, request_id: str, *, expects: bool) -> None:
        self._send = send
        self._request_id = request_id
        self._unasked = expects
        self.status = 0
        self.received = 0
        self.sent = 0
        self.finished = False

    def receiving(self, receive: Receive) -> Receive:
        """`receive`, counted; to be called is to ask a client for the body that it holds back."""

        async def counted() -> Message:
            self._unasked = False
            message = await receive()
            self.received += len(message.get("body", b""))
            return message

        return counted

    def close(self) -> None:
        """End the connection with the answer, when it comes: what is still sent on it is no request."""
        self._unasked = True

    def stands(self) -> bool:
        """Has it begun, and not ended?"""
        return self.status != 0 and not self.finished

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if any(_CONTROLS.search(value) for _, value in message["headers"]):
                clean = [(name, _CONTROLS.sub(b" ", value)) for name, value in message["headers"]]
                message = {**message, "headers": clean}
            headers = MutableHeaders(scope=message)
            headers.setdefault("X-Request-Id", self._request_id)
            if self._unasked:
                headers["Connection"] = "close"
        await self._send(message)
        self.sent += len(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.finished = True


class SocketDoor(Door, Protocol):
    """A door that takes WebSockets too, at host names of its own."""

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class _Traffic:
    """A WebSocket's messages, counted; and its refusal, as far as it has not begun."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._begun = self._asked = False
        self.received = 0
        self.sent = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._asked = True
        self.received += len(message.get("bytes") or message.get("text") or b"")
        return message

    async def send(self, message: Message) -> None:
        self._begun = True
        await self._send(message)
        self.sent += len(message.get("bytes") or message.get("text") or b"")

    async def refuse(self, status: int) -> None:
        """An HTTP answer to the handshake; once that is over, an end without a word."""
        with suppress(RuntimeError):  # the client went first
            if self._begun:
                await self._send({"type": "websocket.close", "code": 1011})
                return
            if not self._asked:
                await self._receive()
            await self._send({"type": "websocket.http.response.start", "status": status, "headers": []})
            await self._send({"type": "websocket.http.response.body", "body": b""})


def _address(scope: Scope) -> str:
    """Where the caller is; a sandboxed workload's requests come through a socket of this machine."""
    client = scope.get("client")
    return str(client[0]) if client else "this machine"


def _shown_path(scope: Scope) -> str:
    """For the log; the address of a public link is a secret."""
    if scope["raw_path"].startswith(b"/r/"):
        return "/r/…"
    return str(scope["raw_path"][:300], "ascii", "backslashreplace")


def error_body(error: StratalError, scope: Scope) -> dict[str, object]:
    """The native dialect: what went wrong, a stable code, what to do next, and the request's id."""
    return {
        "error": {
            "code": error.reason,
            "message": error.message,
            "hint": error.hint,
            "details": error.details,
            "request_id": scope["state"]["request_id"],
        }
    }


def plain_error(error: StratalError, scope: Scope) -> Response:
    """For requests that reached no door."""
    if scope["method"] == "HEAD":
        return PlainTextResponse("", error.status)
    return JSONResponse(error_body(error, scope), error.status)
