"""Asking a door in this process exactly what a client would ask it over the network."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlencode

import orjson
from starlette.requests import Request
from starlette.types import Message, Scope

from stratal.gateway.door import Door
from stratal.kernel.errors import StratalError
from stratal.kernel.ids import new_id


class InProcess:
    """Sends requests to `door` as a browser on a page of ours does: with the viewer's cookie and nothing else.

    The door authenticates and authorises each of them itself. A defect (any other exception) is raised,
    so that it is logged and answered as the page's own.
    """

    def __init__(self, door: Door, cookie_name: str) -> None:
        self._door = door
        self._cookie_name = cookie_name

    async def __call__(
        self, method: str, path: str, params: Mapping[str, object] | None, cookie: str | None
    ) -> tuple[int, Any]:
        body = b"" if method == "GET" or params is None else orjson.dumps(params)
        scope = self._scope(method, path, params if method == "GET" else None, cookie, len(body))
        answer = _Collected()
        sent = False

        async def receive() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # like a client that waits for its answer
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            scope["state"]["who"] = await self._door.authenticate(Request(scope, receive))
            await self._door(scope, receive, answer)
        except StratalError as error:
            refusal = self._door.error(error, scope)
            return refusal.status_code, orjson.loads(refusal.body)
        return answer.status, orjson.loads(answer.body) if answer.is_json and answer.body else None

    def _scope(
        self, method: str, path: str, query: Mapping[str, object] | None, cookie: str | None, length: int
    ) -> Scope:
        headers = [
            (b"host", b"localhost"),
            (b"accept", b"application/json"),
            (b"sec-fetch-site", b"same-origin"),
        ]
        if cookie is not None:
            headers.append((b"cookie", f"{self._cookie_name}={cookie}".encode("latin-1", "replace")))
        if length:
            headers.append((b"content-type", b"application/json"))
            headers.append((b"content-length", str(length).encode()))
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": urlencode({n: _written(v) for n, v in (query or {}).items()}).encode(),
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 0),
            "server": ("localhost", 80),
            "state": {"request_id": new_id("req"), "who": None},
        }


class _Collected:
    """Receives an answer as the server would, and keeps it."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()
        self.is_json = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.is_json = any(
                name.lower() == b"content-type" and value.startswith(b"application/json")
                for name, value in message["headers"]
            )
        else:
            self.body += message.get("body", b"")


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
