"""The door: who may come in, and from where; what is said then is the SDK's to answer."""

import asyncio
import importlib
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.gateway.chain import plain_error
from stratal.gateway.credentials import Authenticator
from stratal.gateway.in_process import InProcess
from stratal.identity.model import Principal
from stratal.kernel.errors import Denied, StratalError, Unsupported

if TYPE_CHECKING:
    from stratal.gateway.mcp.serving import Serving


class McpDoor:
    """`native` is the native API, which every tool asks. `close` ends what requests began."""

    name = "mcp"

    def __init__(self, authenticate: Authenticator, native: InProcess) -> None:
        self._authenticate = authenticate
        self._native = native
        self._serving: Serving | None = None
        self._starting = asyncio.Lock()

    def matches(self, scope: Scope) -> bool:
        return scope["raw_path"] in {b"/mcp", b"/mcp/"}

    async def authenticate(self, request: Request) -> Principal | None:
        """A key. A page of another origin is refused first: with a name rebound to us it could reach this address."""
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.url.scheme}://{request.headers['host']}":
            raise Denied(
                "A page of another origin may not use this.",
                hint="Agents send no Origin; pages of this instance may.",
                reason="cross_site",
            )
        return await self._authenticate(request)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise _NotAllowed(
                f"{scope['method']} is not offered at this address; POST is.",
                hint="There are no sessions and no stream of the server's own: every request stands for itself.",
            )
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise _NotJson(
                f"A message is JSON, not {kind or 'of no content type'}.",
                hint="Send 'Content-Type: application/json'.",
            )
        serving = self._serving or await self._start()
        await serving(scope, receive, send)

    async def close(self) -> None:
        if self._serving is not None:
            await self._serving.close()

    def error(self, error: StratalError, scope: Scope) -> Response:
        response = plain_error(error, scope)
        if error.status == 405:
            response.headers["Allow"] = "POST"
        return response

    async def _start(self) -> "Serving":
        async with self._starting:
            if self._serving is None:
                try:
                    module = await asyncio.to_thread(importlib.import_module, "stratal.gateway.mcp.serving")
                except ModuleNotFoundError as error:
                    raise Unsupported(
                        "The door for agents needs the library mcp, which is not installed.",
                        hint="Install it where Stratal is, and restart: pip install 'stratal[agents]'",
                        reason="not_installed",
                    ) from error
                serving: Serving = module.Serving(self._native)
                await serving.start()
                self._serving = serving
            return self._serving


class _NotAllowed(Unsupported):
    code, status = "method_not_allowed", 405


class _NotJson(Unsupported):
    code, status = "unsupported_media_type", 415
