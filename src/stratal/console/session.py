"""Signing in through a one-time link or by password, joining by invitation, saying yes to a command line, and out again.

Following the link signs in at once (the token is spent by the GET): it was printed in a terminal to
be clicked. What merely looks ahead (a chat's link preview, a browser's prefetch, a HEAD) gets a page
with a button instead, so that it does not spend the link; that page's form does the same by POST. So does whoever
comes from a page of another site: it could have made their browser follow a link of its own maker's.
The answer redirects, so the token stays in no history entry and in no Referer.
"""

from collections.abc import Callable
from typing import Protocol
from urllib.parse import parse_qs, urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from stratal.console.native import Native, Refused, segment
from stratal.console.render import Templates
from stratal.console.security import is_from_elsewhere, is_preview, safe_next, same_origin
from stratal.console.view import theme_of

_PROVIDER_COOKIE = "stratal_provider"
_SECURE_PROVIDER_COOKIE = f"__Host-{_PROVIDER_COOKIE}"
_BACK = "/login/oidc/back"
SESSION_SECONDS = 14 * 24 * 3600
_MAX_FORM_BYTES = 8 * 1024


class Accounts(Protocol):
    """Who may come in. `address` and `agent` say from where and with which browser. Methods raise `Refused`."""

    async def by_link(self, token: str, address: str, agent: str) -> str | None:
        """Spend the one-time token; the session's token, or None when it was used, expired or never was."""
        ...

    async def by_password(self, name: str, password: str, code: str, address: str, agent: str) -> str:
        """The session's token. Refused with the code ``needs_code`` when only the one-time code lacks."""
        ...

    async def invitation(self, token: str) -> tuple[str, str, str]:
        """The project, the role in it, and who invites."""
        ...

    async def accept(self, token: str, name: str, password: str, address: str, agent: str) -> str:
        """Make an account by an invitation; the session's token."""
        ...

    @property
    def federated(self) -> bool:
        """Can people sign in with an identity provider?"""
        ...

    async def begin(self, redirect_uri: str, target: str) -> tuple[str, str]:
        """Where the browser goes to sign in there, and what it keeps until it is back."""
        ...

    async def finish(self, state: str, code: str, browser: str, address: str, agent: str) -> tuple[str, str]:
        """The session's token, and where the person wanted to go."""
        ...

    async def leave(self, token: str) -> None:
        """End a session."""
        ...


class SessionPages:
    def __init__(
        self,
        native: Callable[[Request], Native],
        templates: Templates,
        accounts: Accounts,
        *,
        cookie: str,
        secure: bool,
    ) -> None:
        self._native = native
        self._templates = templates
        self._accounts = accounts
        self._cookie = cookie
        self._secure = secure
        self._provider_cookie = _SECURE_PROVIDER_COOKIE if secure else _PROVIDER_COOKIE

    async def show(self, request: Request) -> Response:
        """GET /login: spend the token in the address, or say how to get one."""
        token = request.query_params.get("token")
        target = safe_next(request.query_params.get("next"))
        if token is None:
            if await self._who(request):
                return RedirectResponse(target, 303)
            return self._page(request, "how", target)
        if request.method == "HEAD" or is_preview(request) or is_from_elsewhere(request):
            return self._page(request, "confirm", target, token=token)
        return await self._spend(request, token, target)

    async def submit(self, request: Request) -> Response:
        """POST /login: name and password, or the button of the page that a preview was shown."""
        form = await self._form(request)
        if isinstance(form, Response):
            return form
        target = safe_next(form.get("next", "/"))
        if "token" in form:
            return await self._spend(request, form["token"], target)
        name = form.get("name", "")[:100]
        try:
            session = await self._accounts.by_password(
                name, form.get("password", "")[:1000], form.get("code", "")[:20], *_from(request)
            )
        except Refused as refused:
            what = "code" if refused.code in {"needs_code", "wrong_code"} else "how"
            return self._page(
                request,
                what,
                target,
                status=refused.status,
                said=refused,
                called=name,
                password=form.get("password", ""),
            )
        return self._signed(session, target)

    async def leave_to_provider(self, request: Request) -> Response:
        """GET /login/oidc: to the identity provider, and back."""
        target = safe_next(request.query_params.get("next"))
        back = f"{request.url.scheme}://{request.headers['host']}{_BACK}"
        try:
            address, browser = await self._accounts.begin(back, target)
        except Refused as refused:
            return self._page(request, "how", target, status=refused.status, said=refused)
        response = RedirectResponse(address, 303)
        response.set_cookie(
            self._provider_cookie,
            browser,
            max_age=600,
            path="/" if self._secure else _BACK,
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )
        return response

    async def back_from_provider(self, request: Request) -> Response:
        """GET /login/oidc/back: what the provider says of whoever was sent there from this browser."""
        told = request.query_params
        if "error" in told:
            said = Refused(
                401, "provider_refused", f"The provider said: {told['error'][:100]}.", "Try again."
            )
            return self._page(request, "how", "/", status=401, said=said)
        browser = request.cookies.get(self._provider_cookie, "")[:100]
        try:
            session, target = await self._accounts.finish(
                told.get("state", "")[:100], told.get("code", "")[:4000], browser, *_from(request)
            )
        except Refused as refused:
            return self._page(request, "how", "/", status=refused.status, said=refused)
        response = self._signed(session, safe_next(target))
        response.delete_cookie(
            self._provider_cookie,
            path="/" if self._secure else _BACK,
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )
        return response

    async def invited(self, request: Request) -> Response:
        """GET /invite: what the link invites to, and a form that takes it up."""
        token = request.query_params.get("token", "")[:200]
        try:
            return await self._invitation(request, token)
        except Refused as refused:
            return self._page(request, "spent-invitation", "/", status=refused.status, said=refused)

    async def accept(self, request: Request) -> Response:
        """POST /invite: a new account, or with ``join`` the one that is signed in."""
        form = await self._form(request)
        if isinstance(form, Response):
            return form
        token = form.get("token", "")[:200]
        try:
            if "join" in form:
                joined = await self._native(request).post("/invitations/join", {"token": token})
                return RedirectResponse(f"/projects/{segment(str(joined['project']))}", 303)
            session = await self._accounts.accept(
                token, form.get("name", "")[:100], form.get("password", "")[:1000], *_from(request)
            )
        except Refused as refused:
            if refused.code == "spent_invitation":
                return self._page(request, "spent-invitation", "/", status=refused.status, said=refused)
            return await self._invitation(request, token, said=refused, name=form.get("name", "")[:100])
        return self._signed(session, "/")

    async def _invitation(
        self, request: Request, token: str, *, said: Refused | None = None, name: str = ""
    ) -> Response:
        project, role, by = await self._accounts.invitation(token)
        status = 200 if said is None else said.status
        return self._page(
            request,
            "invited",
            "/",
            token=token,
            status=status,
            said=said,
            called=name,
            to=project,
            role=role,
            by=by,
            me=await self._who(request),
        )

    async def device(self, request: Request) -> Response:
        """GET /device: say yes to a command line that shows this code."""
        me = await self._who(request)
        if me is None:
            return to_sign_in(request)
        code = request.query_params.get("code", "")[:20]
        if not code:
            return self._page(request, "device", "/", me=me)
        return await self._device(request, code, me)

    async def approve(self, request: Request) -> Response:
        """POST /device: yes."""
        form = await self._form(request)
        if isinstance(form, Response):
            return form
        me = await self._who(request)
        if me is None:
            return to_sign_in(request)
        code, project = form.get("code", "")[:20], form.get("project", "")[:100]
        try:
            await self._native(request).post(f"/projects/{segment(project)}/device", {"user_code": code})
        except Refused as refused:
            return await self._device(request, code, me, said=refused)
        return self._page(request, "approved", "/", me=me, to=project)

    async def _device(self, request: Request, code: str, me: str, said: Refused | None = None) -> Response:
        native = self._native(request)
        try:
            asked = await native.get(f"/device/{segment(code)}")
            seen = await native.get("/projects")
        except Refused as refused:
            return self._page(request, "device", "/", status=refused.status, said=refused, me=me)
        names = [str(project["name"]) for project in seen["projects"]]
        return self._page(
            request,
            "device-yes",
            "/",
            said=said,
            me=me,
            user_code=code,
            machine=asked["machine"],
            names=names,
        )

    async def _form(self, request: Request) -> dict[str, str] | Response:
        """The fields of one of our own forms; the page that says what is wrong with any other."""
        if not same_origin(request):
            return self._page(request, "foreign", "/", status=403)
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _MAX_FORM_BYTES:
                return self._page(request, "spent", "/", status=413)
        return {name: values[-1] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}

    async def leave(self, request: Request) -> Response:
        """POST /logout: end the session here and on the server."""
        if not same_origin(request):
            return self._page(request, "foreign", "/", status=403)
        token = request.cookies.get(self._cookie)
        if token:
            await self._accounts.leave(token)
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self._cookie, path="/", secure=self._secure, httponly=True, samesite="lax")
        response.headers["Clear-Site-Data"] = '"storage"'
        return response

    async def _spend(self, request: Request, token: str, target: str) -> Response:
        session = await self._accounts.by_link(token[:200], *_from(request))
        if session is None:
            if await self._who(request):  # the link again, by the back button or a bookmark
                return RedirectResponse(target, 303)
            return self._page(request, "spent", target, status=401)
        return self._signed(session, target)

    def _signed(self, session: str, target: str) -> Response:
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

    async def _who(self, request: Request) -> str | None:
        """The name of whoever is signed in."""
        if self._cookie not in request.cookies:
            return None
        try:
            return str((await self._native(request).get("/whoami"))["name"])
        except Refused:
            return None

    def _page(
        self, request: Request, what: str, target: str, *, token: str = "", status: int = 200, **told: object
    ) -> Response:
        html = self._templates.render(
            "login.html",
            what=what,
            next=target,
            token=token,
            theme=theme_of(request),
            title="Sign in",
            federated=self._accounts.federated,
            **told,
        )
        return HTMLResponse(html, status)


def _from(request: Request) -> tuple[str, str]:
    """The caller's address and browser, as sessions remember them."""
    host = request.client.host if request.client else ""
    return host, request.headers.get("user-agent", "")[:200]


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
