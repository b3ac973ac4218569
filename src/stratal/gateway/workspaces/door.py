"""Workspaces behind the chain: who may come in, and what they find while it is not running."""

import asyncio
from functools import partial
from html import escape
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.collab.workspaces.model import State
from stratal.collab.workspaces.room import Studio
from stratal.collab.workspaces.upkeep import Live
from stratal.gateway.hosts import (
    COOKIE,
    SECURE_COOKIE,
    UserHosts,
    enter,
    foreign,
    is_entering,
    is_navigation,
    is_own,
    page,
    refusal,
    visitor,
)
from stratal.gateway.workspaces.proxy import Proxy
from stratal.identity.model import Principal
from stratal.kernel.errors import NotFound, StratalError, Unauthenticated

_SAFE = {"GET", "HEAD", "OPTIONS"}
_WAIT_SECONDS = 60.0
_LAYOUT = b"/lab/api/"
_ROOM = b"/api/collaboration/room/"


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
        self._proxy = Proxy((COOKIE, SECURE_COOKIE, *cookies))

    async def close(self) -> None:
        await self._proxy.close()

    # -- Door ----------------------------------------------------------------------------------

    def matches(self, scope: Scope) -> bool:
        return self._hosts.label(scope) is not None

    async def authenticate(self, request: Request) -> Principal | None:
        """Whose cookie it is, if they still may; None for a ticket that is about to be spent."""
        scope = request.scope
        live = self._live(scope)
        if is_entering(scope):
            return None
        if not is_own(scope):
            raise foreign("workspace")
        found = await visitor(scope, partial(self._studio.visits.visit, live.workspace))
        if found is not None:
            return found.who
        raise Unauthenticated(
            f"You are not in the workspace {live.workspace.name!r}.",
            hint=f"Open it from the console, or with: stratal workspace open {live.workspace.name}",
            reason="no_visit",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        live = self._live(scope)
        who = scope["state"]["who"]
        if who is None:
            request = Request(scope, receive)

            async def spend(ticket: str) -> str:
                return await self._studio.visits.enter(live.workspace, ticket)

            response = await enter(
                request, spend, front=self._studio.fronts[live.workspace.program], secure=self._secure
            )
            await response(scope, receive, send)
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
            raise foreign("workspace")
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
        return refusal(error, scope, self._console)

    # -- pages ---------------------------------------------------------------------------------

    def _waiting(self, live: Live) -> Response:
        """A page that asks again by itself until the workspace runs."""
        of = live.workspace
        if live.state is State.FAILED:
            command = f"<code>stratal workspace logs {escape(of.name)}</code>"
            text = f"<p>{escape(live.why)}</p><p>It is tried again. Its log: {command}</p>"
            return page(f"{of.name} cannot start", text, 503, refresh=5)
        text = (
            "<p>The first start builds its environment, which takes a minute or two. "
            "This page goes on by itself.</p>"
        )
        return page(f"{of.name} is starting", text, 503, refresh=2)

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
