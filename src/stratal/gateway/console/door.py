"""The console behind the chain: last of the doors, so it also says what is not there."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.gateway.chain import plain_error
from stratal.identity.model import Principal
from stratal.kernel.errors import StratalError


class Pages(Protocol):
    """The console as this door needs it: an ASGI application that can also show an error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...

    def error_page(
        self, request: Request, status: int, message: str, hint: str, *, request_id: str, code: str = ""
    ) -> Response: ...


class ConsoleDoor:
    """Takes every request that no other door took. The pages ask the native API with the viewer's own cookie."""

    name = "console"

    def __init__(self, pages: Pages) -> None:
        self._pages = pages

    def matches(self, scope: Scope) -> bool:
        return scope["method"] in {"GET", "HEAD", "POST"}

    async def authenticate(self, request: Request) -> Principal | None:
        """Nobody yet: signing in is a page, and what a page shows is asked of the native API, which does ask who."""
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._pages(scope, receive, send)

    def error(self, error: StratalError, scope: Scope) -> Response:
        request = Request(scope)
        if "text/html" not in request.headers.get("accept", ""):
            return plain_error(error, scope)
        return self._pages.error_page(
            request,
            error.status,
            error.message,
            error.hint,
            request_id=scope["state"]["request_id"],
            code=error.reason,
        )
