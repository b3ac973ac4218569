"""Signing in through a one-time link, and out again.

Following the link signs in at once (the token is spent by the GET): it was printed in a terminal to
be clicked. What merely looks ahead (a chat's link preview, a browser's prefetch, a HEAD) gets a page
with a button instead, so that it does not spend the link; that page's form does the same by POST.
The answer redirects, so the token stays in no history entry and in no Referer.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from stratal.console.native import Native, Refused
from stratal.console.render import Templates
from stratal.console.security import is_preview, safe_next, same_origin
from stratal.console.view import theme_of

SESSION_SECONDS = 14 * 24 * 3600
_MAX_FORM_BYTES = 8 * 1024


class SignIn(Protocol):
    async def __call__(self, token: str, /) -> str | None:
        """Spend the one-time token; the session's token, or None when it was used, expired or never was."""
        ...


SignOut = Callable[[str], Awaitable[None]]


class SessionPages:
    def __init__(
        self,
        native: Callable[[Request], Native],
        templates: Templates,
        sign_in: SignIn,
        sign_out: SignOut,
        *,
        cookie: str,
        secure: bool,
    ) -> None:
        self._native = native
        self._templates = templates
        self._sign_in = sign_in
        self._sign_out = sign_out
        self._cookie = cookie
        self._secure = secure

    async def show(self, request: Request) -> Response:
        """GET /login: spend the token in the address, or say how to get one."""
        token = request.query_params.get("token")
        target = safe_next(request.query_params.get("next"))
        if token is None:
            if await self._signed_in(request):
                return RedirectResponse(target, 303)
            return self._page(request, "how", target)
        if request.method == "HEAD" or is_preview(request):
            return self._page(request, "confirm", target, token=token)
        return await self._spend(request, token, target)

    async def submit(self, request: Request) -> Response:
        """POST /login: the button of the page that a preview was shown."""
        if not same_origin(request):
            return self._page(request, "foreign", "/", status=403)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MAX_FORM_BYTES:
                return self._page(request, "spent", "/", status=413)
        form = parse_qs(body.decode("utf-8", "replace"))
        return await self._spend(request, form.get("token", [""])[-1], safe_next(form.get("next", ["/"])[-1]))

    async def leave(self, request: Request) -> Response:
        """POST /logout: end the session here and on the server."""
        if not same_origin(request):
            return self._page(request, "foreign", "/", status=403)
        token = request.cookies.get(self._cookie)
        if token:
            await self._sign_out(token)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self._cookie, path="/", secure=self._secure, httponly=True, samesite="lax")
        response.headers["Clear-Site-Data"] = '"storage"'
        return response

    async def _spend(self, request: Request, token: str, target: str) -> Response:
        session = await self._sign_in(token[:200])
        if session is None:
            if await self._signed_in(request):  # the link again, by the back button or a bookmark
                return RedirectResponse(target, 303)
            return self._page(request, "spent", target, status=401)
        response = RedirectResponse(target, 303)
        response.set_cookie(
            self._cookie,
            session,
            max_age=SESSION_SECONDS,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )
        return response

    async def _signed_in(self, request: Request) -> bool:
        if self._cookie not in request.cookies:
            return False
        try:
            await self._native(request).get("/whoami")
        except Refused:
            return False
        return True

    def _page(
        self, request: Request, what: str, target: str, *, token: str = "", status: int = 200
    ) -> Response:
        html = self._templates.render(
            "login.html", what=what, next=target, token=token, theme=theme_of(request), title="Sign in"
        )
        return HTMLResponse(html, status)


def to_sign_in(request: Request) -> Response:
    """Send somebody who is not signed in to where they learn how, and back here afterwards."""
    here = request.scope["raw_path"].decode("latin-1")
    if request.url.query:
        here += f"?{request.url.query}"
    if request.headers.get("hx-request"):
        here = request.headers.get("hx-current-url", "/")
        here = "/" + here.split("://", 1)[-1].partition("/")[2]
    target = safe_next(here)
    address = "/login" if target == "/" else f"/login?{urlencode({'next': target})}"
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Redirect": address})
    return RedirectResponse(address, 303)
