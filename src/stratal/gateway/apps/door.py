"""Requests and WebSockets to apps: whose they are, and carrying ASGI's messages to the app and back as they come."""

import asyncio
import re
from collections.abc import MutableMapping
from functools import partial
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from stratal.ai.functions.live import Live
from stratal.ai.functions.room import Apps
from stratal.ai.functions.runtime import Failed
from stratal.ai.functions.visiting import Asked, lost
from stratal.compute.services.port import Broken
from stratal.gateway.credentials import Authenticator, key_of
from stratal.gateway.hosts import (
    COOKIE,
    SECURE_COOKIE,
    UserHosts,
    back,
    enter,
    foreign,
    is_entering,
    is_own,
    onward,
    refusal,
    visitor,
    visits_of,
)
from stratal.gateway.standing import RECHECK_SECONDS
from stratal.identity.keys import is_key_id
from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid, StratalError, Unauthenticated

_NAME = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]{1,200}\Z")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_POLICY = 1008


class AppsDoor:
    """`cookies` are names that are the platform's own, at whatever host; `console` is where people sign in."""

    name = "apps"

    def __init__(
        self,
        authenticate: Authenticator,
        apps: Apps,
        hosts: UserHosts,
        *,
        console: str,
        secure: bool,
        cookies: tuple[str, ...],
    ) -> None:
        self._authenticate = authenticate
        self._apps = apps
        self._hosts = hosts
        self._console = console
        self._secure = secure
        self._cookies = frozenset((COOKIE, SECURE_COOKIE, *cookies))

    # -- Door ----------------------------------------------------------------------------------

    def matches(self, scope: Scope) -> bool:
        label = self._hosts.label(scope)
        return label is not None and self._apps.registry.labelled(label) is not None

    async def authenticate(self, request: Request) -> Principal | None:
        """Whose key or cookie it is, if they may; None for a ticket that is about to be spent, and at a public app."""
        scope = request.scope
        live = self._live(scope)
        if is_entering(scope):
            return None
        public = live.is_public
        if "authorization" in request.headers and not (public and _is_the_apps(request)):
            who = await self._authenticate(request)
            if public and not who.is_admin and who.project_id != live.function.project_id:
                return None  # anybody may
            return who
        refused: StratalError | None = None
        if visits_of(scope) and not is_own(scope):
            refused = foreign("app")
        else:
            try:
                found = await visitor(scope, partial(self._apps.visiting.visits.visit, live.function))
            except StratalError as error:
                refused = error
            else:
                if found is not None:
                    return found.who
        if public:
            return None
        raise refused or Unauthenticated(
            f"You are not in the app {live.function.name!r}.",
            hint=f"Open it from the console, or with: stratal app open {live.function.name}. "
            "Programs send 'Authorization: Bearer <key>'.",
            reason="no_visit",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        live, who = self._live(scope), scope["state"]["who"]
        self._note(scope, live, who)
        if is_entering(scope):
            request = Request(scope, receive)

            async def spend(ticket: str) -> str:
                return await self._apps.visiting.visits.enter(live.function, ticket)

            response = await enter(request, spend, front="/", secure=self._secure)
            await response(scope, receive, send)
            return
        asked = await self._ask(scope, live, who)
        outward = asyncio.create_task(self._answer(asked, send))
        inward = asyncio.create_task(_hear(asked, receive))
        ended = asyncio.create_task(self._until_refused(scope, receive))
        try:
            await asyncio.wait([outward, inward, ended], return_when=asyncio.FIRST_COMPLETED)
            if inward.done() and not outward.done():
                inward.result()  # the client is gone, or sent nonsense
            if outward.done():
                outward.result()
        finally:
            await _end(asked, outward, inward, ended)

    async def websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        live, who = self._live(scope), scope["state"]["who"]
        if (who is None and not live.is_public) or ("visit" in scope["state"] and not is_own(scope)):
            raise foreign("app")
        self._note(scope, live, who)
        asked = await self._ask(scope, live, who)
        over = asyncio.Event()
        place = None
        if who is not None and "visit" in scope["state"]:
            place = self._apps.visiting.visits.hold(live.function, scope["state"]["visit"], who, over.set)
        tasks = [
            asyncio.create_task(self._talk(asked, send)),
            asyncio.create_task(_listen(asked, receive)),
            asyncio.create_task(_over(over, send)),
        ]
        ended = asyncio.create_task(self._until_refused(scope, receive))
        ended.add_done_callback(lambda task: None if task.cancelled() else over.set())
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                tasks[0].result()
        finally:
            if place is not None:
                self._apps.visiting.visits.let_go(place)
            await _end(asked, *tasks, ended)

    async def _until_refused(self, scope: Scope, receive: Receive) -> None:
        """Wait until the caller's key or visit is not good any more: what stands open ends with it."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                await self.authenticate(Request({**scope, "type": "http"}, receive))
            except StratalError:
                return

    def error(self, error: StratalError, scope: Scope) -> Response:
        return refusal(error, scope, self._console)

    # -- asking --------------------------------------------------------------------------------

    def _live(self, scope: Scope) -> Live:
        label = self._hosts.label(scope)
        live = None if label is None else self._apps.registry.labelled(label)
        if live is None:  # removed a moment ago
            raise Unauthenticated("No app answers at this host name.", reason="no_such_app")
        return live

    def _note(self, scope: Scope, live: Live, who: Principal | None) -> None:
        """Whose traffic it is: the app's, put down to who asked, or to its project where anybody may."""
        scope["state"]["asked"] = f"app:{live.function.name}"
        if who is None and not is_entering(scope):
            scope["state"]["public_of"] = live.function.project_id

    async def _ask(self, scope: Scope, live: Live, who: Principal | None) -> Asked:
        return await self._apps.visiting.ask(who, live, self._told(scope, who))

    def _told(self, scope: Scope, who: Principal | None) -> dict[str, Any]:
        """The scope that the app is called with."""
        headers = onward(scope, self._cookies)
        request = Request({**scope, "type": "http"})
        if who is None and "authorization" in request.headers:
            try:
                key_id, _ = key_of(request)
            except Unauthenticated:
                key_id = ""
            if not is_key_id(key_id):  # the app's own: it lets in whom it likes
                headers.append(("authorization", request.headers["authorization"]))
        if who is not None:
            headers += [("x-stratal-caller", who.actor), ("x-stratal-person", quote(who.name))]
        secure = scope["scheme"] in {"https", "wss"}
        client = scope.get("client")
        headers.append(("x-forwarded-proto", "https" if secure else "http"))
        if client:
            headers.append(("x-forwarded-for", str(client[0])))
        name, _, port = request.headers["host"].partition(":")
        told: dict[str, Any] = {
            "type": scope["type"],
            "http_version": scope.get("http_version", "1.1"),
            "scheme": scope["scheme"],
            "path": scope["path"],
            "raw_path": scope["raw_path"].decode("latin-1"),
            "query_string": scope["query_string"].decode("latin-1"),
            "headers": headers,
            "client": None if client is None else [str(client[0]), int(client[1])],
            "server": [name, int(port) if port else (443 if secure else 80)],
        }
        if scope["type"] == "http":
            told["method"] = scope["method"]
        else:
            told["subprotocols"] = list(scope.get("subprotocols", []))
        return told

    # -- answering -----------------------------------------------------------------------------

    async def _answer(self, asked: Asked, send: Send) -> None:
        while True:
            message = await _said(asked)
            if message["type"] == "http.response.start":
                message = self._start(asked, message)
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                return

    async def _talk(self, asked: Asked, send: Send) -> None:
        denied = False
        while True:
            message = await _said(asked)
            match message["type"]:
                case "websocket.accept":
                    asked.status = 101
                    message["headers"] = self._checked(asked, message.get("headers", []))
                case "websocket.http.response.start":
                    message = self._start(asked, message)
                    denied = True
                case "websocket.close":
                    if asked.status is None:  # closed before it was taken: refused
                        asked.status = 403
            await send(message)
            if message["type"] == "websocket.close" or (denied and _is_last(message)):
                return

    def _start(self, asked: Asked, message: MutableMapping[str, Any]) -> dict[str, Any]:
        status = message.get("status")
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise _nonsense(asked, f"the status {str(status)[:20]!r}")
        headers = self._checked(asked, message.get("headers", []))
        asked.status = status
        asked.content_type = next((v.decode("latin-1") for n, v in headers if n == b"content-type"), "")
        headers.append((b"x-stratal-request", asked.id.encode()))
        return {"type": message["type"], "status": status, "headers": headers}

    def _checked(self, asked: Asked, headers: Any) -> list[tuple[bytes, bytes]]:
        """The headers that may go back: written as HTTP has them, or what a header holds would become an answer."""
        kept = back([(bytes(n).lower(), bytes(v)) for n, v in headers], self._cookies)
        for name, value in kept:
            if not _NAME.match(name) or _BAD_VALUE.search(value):
                raise _nonsense(asked, f"a header that is none: {name[:60]!s}")
        return kept


def _nonsense(asked: Asked, what: str) -> Failed:
    failure = Failed(f"The app answered with {what}.", type="BadAnswer")
    asked.failure = failure
    return Failed(
        "The app failed at this request.", hint="Its log: stratal app logs NAME", reason="app_failed"
    )


def _is_the_apps(request: Request) -> bool:
    """Is what proves who one is the app's own business? Whatever looks like a key of ours never is."""
    try:
        key_id, _ = key_of(request)
    except Unauthenticated:
        return True
    return not is_key_id(key_id)


def _is_last(message: MutableMapping[str, Any]) -> bool:
    kind = message["type"]
    return kind == "websocket.http.response.body" and not message.get("more_body", False)


async def _said(asked: Asked) -> MutableMapping[str, Any]:
    """What the app says next. What it failed with is for its people, who find it in its log and its requests."""
    try:
        return await asked.conversation.receive()
    except Failed as error:
        asked.failure = error
        hint = "Its log says why: stratal app logs NAME"
        raise Failed("The app failed at this request.", hint=hint, reason="app_failed") from None
    except Broken:
        asked.failure = lost()
        raise asked.failure from None


async def _hear(asked: Asked, receive: Receive) -> None:
    """Tell the app what the client sends, until that is gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            if asked.status is None:
                asked.failure = Invalid("The caller went away before the answer began.", reason="given_up")
            asked.conversation.close()
            return
        await asked.conversation.send(message)


async def _listen(asked: Asked, receive: Receive) -> None:
    while True:
        message = await receive()
        await asked.conversation.send(message)
        if message["type"] == "websocket.disconnect":
            return


async def _over(over: asyncio.Event, send: Send) -> None:
    await over.wait()
    await send({"type": "websocket.close", "code": _POLICY, "reason": "This visit is over."})


async def _end(asked: Asked, *tasks: "asyncio.Task[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.shield(asked.close())
