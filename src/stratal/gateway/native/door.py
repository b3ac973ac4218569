"""The native door's wiring: FastAPI behind the chain, one error dialect, cookies only from our own pages.

Routes that are asked thousands of times a second go straight to their handler, past FastAPI's routing and
validation (`Straight`); they stand in the API's description all the same.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from stratal import __version__
from stratal.gateway.chain import error_body
from stratal.gateway.credentials import Authenticator
from stratal.gateway.door import principal
from stratal.identity.model import Principal
from stratal.identity.sessions import Sessions
from stratal.kernel.errors import Denied, Internal, Invalid, NotFound, StratalError, TooLarge, Unsupported

PREFIX = "/api/v1"
MAX_MESSAGE = 32 << 20
"""The longest body that is read whole, in bytes; some routes have a lower limit of their own."""
SESSION_COOKIE = "stratal_session"
SECURE_SESSION_COOKIE = f"__Host-{SESSION_COOKIE}"
"""Its name over TLS: browsers take such a cookie from this very host alone, not from one below the same domain."""
_FOR_ANYBODY = {
    ("GET", b"/api/v1/openapi.json"),
    ("POST", b"/api/v1/device"),
    ("POST", b"/api/v1/device/token"),
}
_PROJECT = re.compile(rb"/api/v1/projects/([^/]+)")
_SAFE = {"GET", "HEAD", "OPTIONS"}


Straight = tuple[re.Pattern[bytes], Callable[..., Awaitable[Response]]]
"""POSTs to raw paths of this pattern, and who answers: ``(scope, receive, *groups as text)``."""


class NativeDoor:
    name = "native"

    def __init__(
        self,
        authenticate: Authenticator,
        sessions: Sessions,
        routers: Sequence[APIRouter],
        straight: Sequence[Straight] = (),
    ) -> None:
        self._bearer = authenticate
        self._sessions = sessions
        self._straight = straight
        self._app = _application(self, routers)

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(b"/api/v1/"))

    async def authenticate(self, request: Request) -> Principal | None:
        """A key in the Authorization header, or the console's cookie from the console's own pages."""
        if (request.method, request.scope["raw_path"]) in _FOR_ANYBODY:
            return None
        cookie = session_of(request)
        if cookie is None or "authorization" in request.headers:
            return await self._bearer(request)
        if request.method not in _SAFE and not same_origin(request):
            raise Denied(
                "A signed-in browser may change things only from the console's own pages.",
                reason="cross_site",
            )
        asked = _PROJECT.match(request.scope["raw_path"])
        project = None if asked is None else unquote_to_bytes(asked[1]).decode(errors="replace")
        return await self._sessions.principal_of(cookie, project)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            for pattern, answer in self._straight:
                match = pattern.match(scope["raw_path"])
                if match is not None:
                    try:
                        response = await answer(scope, _limited(receive), *map(_text, match.groups()))
                    except StratalError as error:
                        response = self.error(error, scope)
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive if _is_stream(scope) else _limited(receive), send)

    def error(self, error: StratalError, scope: Scope) -> Response:
        headers = {}
        if "retry_after_seconds" in error.details:
            headers["Retry-After"] = str(error.details["retry_after_seconds"])
        return JSONResponse(error_body(error, scope), error.status, headers)


def _text(part: bytes) -> str:
    return unquote_to_bytes(part).decode(errors="backslashreplace")


def _is_stream(scope: Scope) -> bool:
    """Is the body a file or a pack of code, stored as it arrives within its service's limit? All others are messages."""
    return scope["method"] == "PUT" or bool(scope["raw_path"].endswith(b"/code/packs"))


def _limited(receive: Receive) -> Receive:
    """`receive`, which raises `TooLarge` once a body is longer than what memory should be filled with."""
    size = 0

    async def limited() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_MESSAGE:
            raise TooLarge(
                f"The request's body is larger than {MAX_MESSAGE >> 20} MiB.", reason="body_too_large"
            )
        return message

    return limited


def session_of(request: Request) -> str | None:
    """The token of the console session that a browser brings."""
    secure = request.url.scheme == "https"
    return request.cookies.get(SECURE_SESSION_COOKIE if secure else SESSION_COOKIE)


def same_origin(request: Request) -> bool:
    """Was the request made by a page of this very origin? Browsers say so in headers no page can set."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is not None and origin == f"{request.url.scheme}://{request.headers.get('host', '')}"


async def caller(request: Request) -> Principal:
    """FastAPI dependency: who asks. Not a plain function: FastAPI would have a thread look at it."""
    return principal(request.scope)


def _application(door: NativeDoor, routers: Sequence[APIRouter]) -> FastAPI:
    app = FastAPI(
        title="Stratal",
        version=__version__,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in routers:
        app.include_router(router, prefix=PREFIX)

    async def on_stratal(request: Request, error: Exception) -> Response:
        assert isinstance(error, StratalError)
        return door.error(error, request.scope)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problems = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        return door.error(Invalid("The request is not valid: " + "; ".join(problems[:5])), request.scope)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        meaning: StratalError
        if isinstance(error.__cause__, StratalError):  # raised while FastAPI read the body
            meaning = error.__cause__
        elif error.status_code == 404:
            meaning = NotFound(
                f"There is no {request.method} {request.url.path[:200]}.", reason="no_such_route"
            )
        elif error.status_code == 405:
            meaning = Unsupported(f"{request.method} is not offered here.", reason="method_not_allowed")
            return JSONResponse(error_body(meaning, request.scope), 405)
        elif error.status_code < 500:
            meaning = Invalid(str(error.detail))
        else:
            meaning = Internal(str(error.detail))
        return door.error(meaning, request.scope)

    async def on_defect(request: Request, error: Exception) -> Response:
        """Answered here in our dialect; FastAPI raises it again, so the chain logs it."""
        request_id = request.scope["state"]["request_id"]
        defect = Internal(
            "Something went wrong inside Stratal; nothing you sent is to blame.",
            hint=f"The server's log has the details under request id {request_id}.",
        )
        return door.error(defect, request.scope)

    app.add_exception_handler(Exception, on_defect)
    app.add_exception_handler(StratalError, on_stratal)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    return app
