"""Smart HTTP: advertise refs, fetch, push. Bodies stream both ways; a compressed one is opened on the way."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Iterator
from typing import cast

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from stratal.collab.repositories.traffic import Exchange, Service, Traffic, Transfer
from stratal.gateway.credentials import Authenticator
from stratal.gateway.door import principal
from stratal.gateway.git import lfs
from stratal.gateway.git.lfs import LfsRoutes
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.errors import Invalid, NotFound, StratalError, Unsupported

_ADDRESS = re.compile(
    rb"/git/([A-Za-z0-9][A-Za-z0-9._-]{0,99})/([A-Za-z0-9][A-Za-z0-9._-]{0,103}?)(?:\.git)?"
    rb"/(info/refs|git-upload-pack|git-receive-pack)\Z"
)
_SERVICES = ("git-upload-pack", "git-receive-pack")
_STEP = 1 << 18


class GitDoor:
    name = "git"

    def __init__(
        self, authenticate: Authenticator, projects: Projects, traffic: Traffic, large: LfsRoutes
    ) -> None:
        self._authenticate = authenticate
        self._projects = projects
        self._traffic = traffic
        self._large = large

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(b"/git/"))

    async def authenticate(self, request: Request) -> Principal | None:
        return await self._authenticate(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if lfs.ADDRESS.match(scope["raw_path"]):
            await self._large(scope, receive, send)
            return
        who = principal(scope)
        project, name, exchange = _asked(scope)
        place = await self._projects.get(who, project)
        body = _Body(receive, compressed=_is_compressed(scope))
        try:
            async with self._traffic.open(who, place.id, name, exchange, body.chunks()) as transfer:
                await _answer(transfer, body, send)
        finally:
            body.close()
        # Only now, when a push is on record: the client takes the end of the answer for the end of the push.
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def error(self, error: StratalError, scope: Scope) -> Response:
        if b"/info/lfs/" in scope["raw_path"]:  # also where no repository can be
            return lfs.error(error, scope["state"]["request_id"])
        headers = {"Cache-Control": "no-cache"}
        if "retry_after_seconds" in error.details:
            headers["Retry-After"] = str(error.details["retry_after_seconds"])
        return PlainTextResponse(f"{error}\n", error.status, headers)


def _asked(scope: Scope) -> tuple[str, str, Exchange]:
    match = _ADDRESS.match(scope["raw_path"])
    if match is None:
        raise NotFound(
            "There is no repository at this address.",
            hint="Its address is …/git/PROJECT/NAME.git, as `stratal repo show NAME` prints it.",
            reason="no_such_repository",
        )
    project, name, what = (part.decode() for part in match.groups())
    headers = dict(scope["headers"])
    protocol = headers.get(b"git-protocol", b"").decode("latin-1")
    if what == "info/refs":
        if scope["method"] != "GET":
            raise _NotAllowed(f"{scope['method']} is not offered at this address.")
        service = scope["query_string"].decode("latin-1").removeprefix("service=")
        if service not in _SERVICES:
            raise Unsupported(
                "Only git's smart protocol is spoken here.",
                hint="Use git 1.6.6 or newer.",
                reason="dumb_protocol",
            )
        return project, name, Exchange(cast("Service", service), advertise=True, protocol=protocol)
    if scope["method"] != "POST":
        raise _NotAllowed(f"{scope['method']} is not offered at this address.")
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    if content_type != f"application/x-{what}-request":
        raise Invalid(f"The body is not an application/x-{what}-request.", reason="bad_content_type")
    exchange = Exchange(cast("Service", what), advertise=False, content_type=content_type, protocol=protocol)
    return project, name, exchange


def _is_compressed(scope: Scope) -> bool:
    encoding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"identity")
    if encoding not in {b"identity", b"gzip", b"x-gzip"}:
        raise Unsupported(
            f"The Content-Encoding {encoding[:40]!r} is not taken: send gzip or none.",
            reason="unsupported_encoding",
        )
    return encoding != b"identity"


class _NotAllowed(Unsupported):
    code, status = "method_not_allowed", 405


class _Body:
    """The request's body as it comes, opened when it is compressed; then whether the client is still there."""

    def __init__(self, receive: Receive, *, compressed: bool) -> None:
        self._receive = receive
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS) if compressed else None
        self._ended = False
        self._gone: asyncio.Task[None] | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises `Invalid` when it breaks off or is not what its Content-Encoding says."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] != "http.request":
                raise Invalid("The request broke off.", reason="broken_body")
            for piece in self._opened(message.get("body", b"")):
                yield piece
            more = message.get("more_body", False)
        if self._stream is not None and not self._stream.eof:
            raise Invalid("The gzip body breaks off.", reason="broken_body")
        self._ended = True

    def _opened(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most `_STEP` bytes, however much a small body says it is."""
        if self._stream is None:
            if data:
                yield data
            return
        while data:
            try:
                piece = self._stream.decompress(data, _STEP)
            except zlib.error as error:
                raise Invalid(f"The body is not gzip: {error}.", reason="broken_body") from None
            data = self._stream.unconsumed_tail
            if piece:
                yield piece

    def has_left(self) -> bool:
        """Is the client, which has sent all that it will, gone?"""
        if self._ended and self._gone is None:
            self._gone = asyncio.create_task(self._until_gone())
        return self._gone is not None and self._gone.done()

    def close(self) -> None:
        if self._gone is not None:
            self._gone.cancel()

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _answer(transfer: Transfer, body: _Body, send: Send) -> None:
    """Send everything but the end."""
    headers = [
        (b"content-type", transfer.content_type.encode("latin-1")),
        (b"cache-control", b"no-cache, max-age=0, must-revalidate"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": transfer.status, "headers": headers})
    async for chunk in transfer.chunks:
        if body.has_left():
            break
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
