"""Carrying requests and WebSockets to a server that listens on a unix socket, and its answers back, as they come.

What is about one connection stays with it (RFC 9110 §7.6.1), and what proves to the platform who somebody is stays
here: neither keys nor the platform's cookies are sent on, and no answer sets a cookie for more than its own host.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from http.cookiejar import Cookie, DefaultCookiePolicy
from typing import Protocol
from urllib.request import Request

import httpx
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from stratal.gateway.hosts import back, onward
from stratal.kernel.errors import Unavailable

_HANDSHAKE = {
    "host", "origin", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions",
    "sec-websocket-protocol",
}  # fmt: skip
_CONNECT_SECONDS = 30.0
GOING_AWAY, POLICY = 1001, 1008


class Upstream(Protocol):
    """A server on a unix socket, for as long as it lives."""

    @property
    def socket(self) -> str: ...

    async def wait_closed(self) -> None: ...


class Proxy:
    """`close` when done. `cookies` are names that are the platform's own."""

    def __init__(self, cookies: Sequence[str]) -> None:
        self._cookies = frozenset(cookies)
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()

    # -- HTTP ----------------------------------------------------------------------------------

    async def http(
        self, upstream: Upstream, scope: Scope, receive: Receive, send: Send, extra: Mapping[str, str]
    ) -> None:
        """Carry one request over. Raises `Unavailable` when nothing answers; once it began, breaks off."""
        gone = asyncio.Event()
        asked = self._client(upstream).build_request(
            scope["method"],
            httpx.URL(f"http://{_host(scope)}/").copy_with(raw_path=_target(scope)),
            headers=[*onward(scope, self._cookies), *extra.items()],
            content=_body(receive, gone) if _has_body(scope) else None,
        )
        carrying = asyncio.create_task(self._carry(upstream, asked, send, head=scope["method"] == "HEAD"))
        watching = asyncio.create_task(_hung_up(receive, gone, has_body=_has_body(scope)))
        try:
            await asyncio.wait([carrying, watching], return_when=asyncio.FIRST_COMPLETED)
            if carrying.done():
                await carrying
        finally:
            for task in (carrying, watching):
                task.cancel()
            await asyncio.gather(carrying, watching, return_exceptions=True)

    async def _carry(self, upstream: Upstream, asked: httpx.Request, send: Send, *, head: bool) -> None:
        try:
            answer = await self._client(upstream).send(asked, stream=True)
        except httpx.TransportError as error:
            raise Unavailable(
                "The workspace's server went away.", hint="Try again in a moment.", retry_after_seconds=2
            ) from error
        try:
            headers = back(answer.headers.raw, self._cookies)
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            if not head:
                async for chunk in answer.aiter_raw():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()

    def _client(self, upstream: Upstream) -> httpx.AsyncClient:
        client = self._clients.get(upstream.socket)
        if client is None:
            transport = httpx.AsyncHTTPTransport(
                uds=upstream.socket, limits=httpx.Limits(max_connections=None, max_keepalive_connections=32)
            )
            timeout = httpx.Timeout(None, connect=_CONNECT_SECONDS)
            client = httpx.AsyncClient(
                transport=transport, timeout=timeout, follow_redirects=False, headers={}
            )
            client.headers.clear()
            client.cookies.jar.set_policy(_NoCookies())
            self._clients[upstream.socket] = client
            task = asyncio.create_task(self._end(upstream, client))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        return client

    async def _end(self, upstream: Upstream, client: httpx.AsyncClient) -> None:
        name = upstream.socket
        await upstream.wait_closed()
        if self._clients.get(name) is client:
            del self._clients[name]
        await client.aclose()

    # -- WebSocket -----------------------------------------------------------------------------

    async def websocket(
        self,
        upstream: Upstream,
        scope: Scope,
        receive: Receive,
        send: Send,
        extra: Mapping[str, str],
        *,
        over: asyncio.Event,
        heard: Callable[[bytes | str], None],
    ) -> None:
        """Join the client's WebSocket to one of the server's until either ends, or `over` is set.

        `heard` is told of every message of the client's. Raises `Unavailable` when the server takes none.
        """
        from websockets.asyncio.client import unix_connect
        from websockets.exceptions import InvalidHandshake, InvalidStatus
        from websockets.typing import Subprotocol

        headers = [
            (name, value) for name, value in onward(scope, self._cookies) if name.lower() not in _HANDSHAKE
        ]
        try:
            far = await unix_connect(
                upstream.socket,
                f"ws://{_host(scope)}{_target(scope).decode('latin-1')}",
                additional_headers=[*headers, *extra.items()],
                subprotocols=[Subprotocol(word) for word in scope.get("subprotocols", [])] or None,
                compression=None,
                user_agent_header=None,
                max_size=None,
                ping_interval=None,
                open_timeout=_CONNECT_SECONDS,
                close_timeout=2,
                proxy=None,
            )
        except InvalidStatus as error:
            await _refuse(scope, send, error.response.status_code)
            return
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise Unavailable(
                "The workspace's server takes no connection now.", retry_after_seconds=2
            ) from error
        tasks: list[asyncio.Task[None]] = []
        try:
            await send({"type": "websocket.accept", "subprotocol": far.subprotocol})
            tasks = [
                asyncio.create_task(_outward(receive, far, heard)),
                asyncio.create_task(_homeward(far, send)),
                asyncio.create_task(_over(over, send)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await far.close()


class _NoCookies(DefaultCookiePolicy):
    """Answers' cookies are the browser's, never the proxy's own."""

    def set_ok(self, cookie: Cookie, request: Request) -> bool:
        return False


def _target(scope: Scope) -> bytes:
    raw: bytes = scope["raw_path"]
    return raw + b"?" + scope["query_string"] if scope["query_string"] else raw


def _host(scope: Scope) -> str:
    return Headers(scope=scope).get("host", "localhost")


def _has_body(scope: Scope) -> bool:
    names = {name for name, _ in scope["headers"]}
    return b"transfer-encoding" in names or b"content-length" in names


async def _body(receive: Receive, gone: asyncio.Event) -> AsyncIterator[bytes]:
    """The request's body; `gone` is set when all of it was read."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise httpx.WriteError("the client went away")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            gone.set()
            return


async def _hung_up(receive: Receive, read: asyncio.Event, *, has_body: bool) -> None:
    """Wait until the client goes away; it is asked only once its body was read."""
    if has_body:
        await read.wait()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _outward(receive: Receive, far: "Far", heard: Callable[[bytes | str], None]) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        if message["type"] != "websocket.receive":
            continue
        said = message.get("bytes")
        said = said if said is not None else message["text"]
        heard(said)
        await far.send(said)


async def _homeward(far: "Far", send: Send) -> None:
    from websockets.exceptions import ConnectionClosed

    try:
        while True:
            said = await far.recv()
            kind = "text" if isinstance(said, str) else "bytes"
            await send({"type": "websocket.send", kind: said})
    except ConnectionClosed as error:
        code, reason = (error.rcvd.code, error.rcvd.reason) if error.rcvd else (GOING_AWAY, "")
        code = code if code in {1000, 1001, 1003} or 3000 <= code < 5000 else GOING_AWAY
        await send({"type": "websocket.close", "code": code, "reason": reason})


async def _over(over: asyncio.Event, send: Send) -> None:
    await over.wait()
    await send({"type": "websocket.close", "code": POLICY, "reason": "This visit is over."})


async def _refuse(scope: Scope, send: Send, status: int) -> None:
    """Answer a handshake with a status, where the server that we run in can say one."""
    if "websocket.http.response" in scope.get("extensions", {}):
        start: Message = {"type": "websocket.http.response.start", "status": status, "headers": []}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b""})
    else:
        with suppress(RuntimeError):
            await send({"type": "websocket.close", "code": POLICY})


class Far(Protocol):
    """The server's end of a WebSocket."""

    async def send(self, message: bytes | str) -> None: ...

    async def recv(self) -> bytes | str: ...
