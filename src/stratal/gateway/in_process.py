"""Asking a door in this process exactly what a client would ask it over the network."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlencode

import orjson
from starlette.requests import Request
from starlette.types import Message, Scope

from stratal.gateway.door import Door
from stratal.gateway.standing import asked_again
from stratal.identity.model import Principal
from stratal.kernel.errors import StratalError
from stratal.kernel.ids import new_id

Gate = Callable[[Principal, str, Scope], None]
"""Asked of every request before its door answers: who, through which door, what. Raises to refuse it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as a client would have got it; of a text only its end when a limit was given."""

    status: int
    is_json: bool
    body: bytes

    @property
    def content(self) -> Any:
        """The JSON, decoded; None for an answer that is none."""
        return orjson.loads(self.body) if self.is_json and self.body else None


class InProcess:
    """Sends requests to `door`, which authenticates and authorises each of them itself.

    A defect (any other exception than `StratalError`) is raised, so that it is logged and answered as the
    asking door's own.
    """

    def __init__(self, door: Door, gate: Gate | None = None) -> None:
        self._door = door
        self._gate = gate

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Sequence[tuple[bytes, bytes]],
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        last: int | None = None,
    ) -> Reply:
        """Send one request with these headers and a JSON body. `path` is percent-encoded.

        Of an answer that is no JSON only the `last` bytes are kept.
        """
        sending = b"" if body is None else orjson.dumps(body)
        scope = _scope(method, path, query or {}, headers, len(sending))
        answer = _Collected(last)
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # like a client that waits for its answer
            sent = True
            return {"type": "http.request", "body": sending, "more_body": False}

        try:
            request = Request(scope, receive)
            who = scope["state"]["who"] = await self._door.authenticate(request)
            if who is not None:
                scope["state"]["still_good"] = asked_again(who, self._door.authenticate, request, None)
                if self._gate is not None:
                    self._gate(who, self._door.name, scope)
            await self._door(scope, receive, answer)
        except StratalError as error:
            refusal = self._door.error(error, scope)
            return Reply(refusal.status_code, True, bytes(refusal.body))
        return Reply(answer.status, answer.is_json, bytes(answer.body))


def _scope(
    method: str, path: str, query: Mapping[str, object], headers: Sequence[tuple[bytes, bytes]], length: int
) -> Scope:
    sent = [(b"host", b"localhost"), (b"accept", b"application/json"), *headers]
    if length:
        sent.append((b"content-type", b"application/json"))
        sent.append((b"content-length", str(length).encode()))
    asked = {name: _written(value) for name, value in query.items()}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": urlencode(asked, doseq=True).encode(),
        "root_path": "",
        "headers": sent,
        "client": ("127.0.0.1", 0),
        "server": ("localhost", 80),
        "state": {"request_id": new_id("req"), "who": None},
    }


class _Collected:
    """Receives an answer as the server would, and keeps it."""

    def __init__(self, last: int | None) -> None:
        self.status = 0
        self.body = bytearray()
        self.is_json = False
        self._last = last

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_json = any(
                name.lower() == b"content-type" and value.startswith(b"application/json")
                for name, value in message["headers"]
            )
            return
        self.body += message.get("body", b"")
        if self._last is not None and not self.is_json and len(self.body) > self._last:
            del self.body[: -self._last or None]


def _written(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return [_written(one) for one in value]
    return str(value).lower() if isinstance(value, bool) else str(value)
