"""Workspaces behind the chain: who may come in, and what they find while it is not running."""

import asyncio
from html import escape
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from stratal.collab.workspaces.model import State
from stratal.collab.workspaces.room import Studio
from stratal.collab.workspaces.upkeep import Live
from stratal.collab.workspaces.visits import VISIT_MS
from stratal.gateway.chain import plain_error
from stratal.gateway.workspaces.hosts import UserHosts, is_navigation, is_own
from stratal.gateway.workspaces.proxy import Proxy, cookie, visits_of
from stratal.identity.model import Principal
from stratal.kernel.errors import Denied, NotFound, StratalError, Unauthenticated

COOKIE = "stratal_visit"
ENTER = b"/.stratal/enter"
_SAFE = {"GET", "HEAD", "OPTIONS"}
_WAIT_SECONDS = 60.0
_LAYOUT = b"/lab/api/"
_ROOM = b"/api/collaboration/room/"
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class WorkspacesDoor:
    """`cookies` are names that are the platform's own, at whatever host; `console` is where people sign in."""

    name = "workspaces"

    def __init__(
        self, studio: Studio, hosts: UserHosts, *, console: str, secure: bool, cookies: tuple[str, ...]
    ) -> None:
        self._studio = studio
        self._hosts = hosts
        self._console = console
        self._secure = secure
        self._proxy = Proxy((COOKIE, *cookies))

    async def close(self) -> None:
        await self._proxy.close()

    # -- Door ----------------------------------------------------------------------------------

    def matches(self, scope: Scope) -> bool:
        return self._hosts.label(scope) is not None

    async def authenticate(self, request: Request) -> Principal | None:
        """Whose cookie it is, if they still may; None for a ticket that is about to be spent."""
        scope = request.scope
        live = self._live(scope)
        if scope["type"] == "http" and scope["raw_path"] == ENTER:
            return None
        if not is_own(scope):
            raise _foreign()
        refused: StratalError | None = None
        for value in visits_of(request.headers, COOKIE):
            try:
                visit = await self._studio.visits.visit(live.workspace, value)
            except StratalError as error:
                refused = error
                continue
            scope["state"]["visit"] = value
            return visit.who
        raise refused or Unauthenticated(
            f"You are not in the workspace {live.workspace.name!r}.",
            hint=f"Open it from the console, or with: stratal workspace open {live.workspace.name}",
            reason="no_visit",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        live = self._live(scope)
        who = scope["state"]["who"]
        if who is None:
            await (await self._enter(live, Request(scope, receive)))(scope, receive, send)
            return
        opening = is_navigation(scope)
        # Pages remember their layout by themselves: nobody need have done anything.
        if opening or not (scope["method"] in _SAFE or scope["raw_path"].startswith(_LAYOUT)):
            live.touch()
        if opening:
            await self._studio.upkeep.begin(live, who)
            if live.state is not State.RUNNING:
                await self._waiting(live)(scope, receive, send)
                return
        upstream = await self._studio.upkeep.answering(live, _WAIT_SECONDS)
        await self._proxy.http(upstream, scope, receive, send, self._said(who, upstream.secret))

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket of somebody who was let in."""
        live, who = self._live(scope), scope["state"]["who"]
        if who is None or not is_own(scope):
            raise _foreign()
        upstream = await self._studio.upkeep.answering(live, _WAIT_SECONDS)
        over = asyncio.Event()
        place = self._studio.visits.hold(live.workspace, scope["state"]["visit"], who, over.set)
        shared = scope["raw_path"].startswith(_ROOM)

        def heard(said: bytes | str) -> None:
            # Shared documents' clients tell all the time that they are there; only changes are somebody's doing.
            if not shared or (isinstance(said, bytes) and said[:2] == b"\x00\x02"):
                live.touch()

        try:
            await self._proxy.websocket(
                upstream,
                scope,
                receive,
                send,
                self._said(who, upstream.secret),
                over=over,
                heard=heard,
            )
        finally:
            self._studio.visits.let_go(place)

    def error(self, error: StratalError, scope: Scope) -> Response:
        if scope["type"] != "http" or not is_navigation(scope):
            response = plain_error(error, scope)
        else:
            home = f'<p><a href="{escape(self._console)}">To the console</a></p>'
            response = self._page(error.message, f"<p>{escape(error.hint)}</p>{home}", error.status)
        if (
            error.status == 401
        ):  # never Basic: a browser would ask for a password, at a host that is anybody's
            response.headers["WWW-Authenticate"] = 'Session realm="Stratal"'
        if "retry_after_seconds" in error.details:
            response.headers["Retry-After"] = str(error.details["retry_after_seconds"])
        return response

    # -- pages ---------------------------------------------------------------------------------

    async def _enter(self, live: Live, request: Request) -> Response:
        """Spend the ticket in the address for a cookie, and go where people begin.

        The answer redirects, so that the ticket stays in no history entry and in no Referer.
        """
        ticket = parse_qs(request.scope["query_string"].decode("latin-1")).get("ticket", [""])[0][:200]
        looking_ahead = "prefetch" in request.headers.get("sec-purpose", "")
        if request.method != "GET" or not ticket or looking_ahead:
            raise NotFound("There is nothing here.", hint="Open the workspace from the console.")
        value = await self._studio.visits.enter(live.workspace, ticket)
        response = RedirectResponse(self._studio.fronts[live.workspace.program], 303, headers=_PAGE_HEADERS)
        line = cookie(COOKIE, value, seconds=VISIT_MS // 1000, secure=self._secure)
        response.headers.append("Set-Cookie", line)
        return response

    def _waiting(self, live: Live) -> Response:
        """A page that asks again by itself until the workspace runs."""
        of = live.workspace
        if live.state is State.FAILED:
            command = f"<code>stratal workspace logs {escape(of.name)}</code>"
            text = f"<p>{escape(live.why)}</p><p>It is tried again. Its log: {command}</p>"
            return self._page(f"{of.name} cannot start", text, 503, refresh=5)
        text = (
            "<p>The first start builds its environment, which takes a minute or two. "
            "This page goes on by itself.</p>"
        )
        return self._page(f"{of.name} is starting", text, 503, refresh=2)

    def _page(self, title: str, text: str, status: int, *, refresh: int = 0) -> Response:
        again = f'<meta http-equiv="refresh" content="{refresh}">' if refresh else ""
        html = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>{again}'
            '<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}'
            "body{font:15px/1.5 Inter,system-ui,sans-serif;max-width:34rem;margin:18vh auto;padding:0 24px}"
            f"h1{{font-size:18px}}</style></head><body><h1>{escape(title)}</h1>{text}</body></html>"
        )
        return HTMLResponse(html, status, headers=_PAGE_HEADERS)

    # -- inside --------------------------------------------------------------------------------

    def _live(self, scope: Scope) -> Live:
        label = self._hosts.label(scope)
        live = None if label is None else self._studio.upkeep.labelled(label)
        if live is None:
            host = Headers(scope=scope).get("host", "")[:100]
            raise NotFound(
                f"No workspace answers at {host!r}.",
                hint="It may have been removed. The console lists those that there are.",
                reason="no_such_workspace",
            )
        return live

    def _said(self, who: Principal, secret: str) -> dict[str, str]:
        return {"X-Stratal-Secret": secret, "X-Stratal-Person": quote(who.name)}


def _foreign() -> Denied:
    return Denied(
        "A page of another host asked for this.", hint="Open the workspace itself.", reason="cross_site"
    )
