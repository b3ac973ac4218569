"""The console as an ASGI application: its addresses, and what becomes of what goes wrong."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stratal.console.assets import Assets
from stratal.console.native import Call, Native, Refused
from stratal.console.pages import PAGES
from stratal.console.render import Templates
from stratal.console.security import harden, same_origin
from stratal.console.session import Accounts, SessionPages, to_sign_in
from stratal.console.view import Page, look, theme_of


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Console:
    """`call` reaches the native API; `accounts` says who may come in.

    `cookie` is the name of the session's cookie, `secure` whether it is kept to TLS.
    """

    def __init__(
        self,
        call: Call,
        accounts: Accounts,
        *,
        cookie: str,
        secure: bool,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        self._call = call
        self._cookie = cookie
        assets = Assets()
        self._templates = Templates(assets, now)
        session = SessionPages(self._native, self._templates, accounts, cookie=cookie, secure=secure)
        routes = [
            Route("/static/{version}/{name:path}", assets.serve, methods=["GET"]),
            Route("/favicon.ico", lambda _: RedirectResponse(assets.url("icon.svg")), methods=["GET"]),
            Route("/login", session.show, methods=["GET"]),
            Route("/login", session.submit, methods=["POST"]),
            Route("/login/oidc", session.leave_to_provider, methods=["GET"]),
            Route("/login/oidc/back", session.back_from_provider, methods=["GET"]),
            Route("/invite", session.invited, methods=["GET"]),
            Route("/invite", session.accept, methods=["POST"]),
            Route("/device", session.device, methods=["GET"]),
            Route("/device", session.approve, methods=["POST"]),
            Route("/logout", session.leave, methods=["POST"]),
            *(Route(path, self._endpoint(page), methods=["GET"]) for path, page in PAGES.items()),
        ]
        # Last, so that they get what none of the others takes: a page's address, asked in another way.
        routes += [
            Route(path, self._other_method, methods=["GET", "POST"])
            for path in dict.fromkeys(route.path for route in routes)
        ]
        router = Router(routes, redirect_slashes=False, default=self._unknown)
        self._app: ASGIApp = GZipMiddleware(router, minimum_size=1024, compresslevel=5)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                harden(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, hardened)

    def error_page(
        self, request: Request, status: int, message: str, hint: str, *, request_id: str, code: str = ""
    ) -> Response:
        """A page that says what failed, why, what to do next, and the request's id."""
        response = HTMLResponse(
            self._templates.render(
                "error.html",
                status=status,
                message=message,
                hint=hint,
                code=code,
                request_id=request_id,
                path=request.url.path,
                theme=theme_of(request),
                title="Not found" if status == 404 else "That did not work",
            ),
            status,
        )
        harden(response.headers)
        return response

    def _native(self, request: Request) -> Native:
        return Native(self._call, request.cookies.get(self._cookie))

    def _endpoint(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                view = await look(
                    request, self._native(request), self._templates, request.path_params.get("project")
                )
                return await page(view)
            except Refused as refused:
                return self._refused(request, refused)

        return endpoint

    def _refused(self, request: Request, refused: Refused) -> Response:
        if refused.status == 401:
            return to_sign_in(request)
        request_id = str(request.scope.get("state", {}).get("request_id", refused.request_id))
        if wants_json(request):
            body = {"code": refused.code, "message": refused.message, "hint": refused.hint}
            return JSONResponse({"error": {**body, "request_id": request_id}}, refused.status)
        return self.error_page(
            request,
            refused.status,
            refused.message,
            refused.hint,
            request_id=request_id,
            code=refused.code,
        )

    async def _other_method(self, request: Request) -> Response:
        message = f"{request.method} is nothing that {request.url.path[:200]!r} answers to."
        hint = "Pages are looked at with GET, and forms sent from them."
        return self._refused(request, Refused(405, "method_not_allowed", message, hint))

    async def _unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if scope["method"] not in {"GET", "HEAD"} and not same_origin(request):
            status, message = 403, "A form of another site may not act here."
        else:
            status, message = 404, f"There is no page {request.url.path[:200]!r}."
        hint = "Go to the overview and find it from there, or search with Ctrl K."
        refused = Refused(status, "no_such_page" if status == 404 else "cross_site", message, hint)
        await self._refused(request, refused)(scope, receive, send)


def wants_json(request: Request) -> bool:
    """Does the client rather read JSON than a page? Browsers say that they accept HTML; curl and scripts do not."""
    return "text/html" not in request.headers.get("accept", "") and "hx-request" not in request.headers
