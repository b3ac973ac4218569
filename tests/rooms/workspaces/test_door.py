"""The way to a workspace's own host name: who is let in, what is carried over, and what stays behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Message, Scope
from starlette.websockets import WebSocket

from stratal.collab.workspaces.model import State
from stratal.gateway.chain import Chain
from stratal.gateway.hosts import COOKIE, UserHosts, is_navigation, is_own
from stratal.gateway.workspaces.door import WorkspacesDoor
from stratal.identity.model import Role

from .room import OWNER, Room

Tell = Callable[..., Any]
Headers = list[tuple[bytes, bytes]]


# -- which requests are a host's own --------------------------------------------------------------


def asked(
    method: str = "GET", kind: str = "http", host: str = "eda-1.user.localhost:8484", **more: str
) -> Scope:
    headers = [(b"host", host.encode())]
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
    return {"type": kind, "method": method, "headers": headers, "query_string": b"", "raw_path": b"/x"}


OWN, OTHER = "http://eda-1.user.localhost:8484", "http://bad-2.user.localhost:8484"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("scope", "own"),
    [
        (asked(), True),
        (asked(sec_fetch_site="same-origin", origin=OWN), True),
        (asked(sec_fetch_site="none", sec_fetch_mode="navigate", sec_fetch_dest="document"), True),
        (asked(sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="document"), True),
        (asked(sec_fetch_site="cross-site", sec_fetch_mode="navigate", sec_fetch_dest="iframe"), False),
        (asked(sec_fetch_site="same-site", sec_fetch_mode="cors", origin=OTHER), False),
        (asked(sec_fetch_site="same-site", sec_fetch_mode="no-cors", sec_fetch_dest="script"), False),
        (asked(origin=OTHER), False),
        (asked("POST"), False),
        (asked("POST", origin=OWN), True),
        (asked("POST", origin="null"), False),
        (asked("POST", origin=OTHER, sec_fetch_site="same-origin"), False),
        (asked("POST", origin="http://eda-1.user.localhost:9999"), False),
        (asked("DELETE", sec_fetch_site="same-site"), False),
        (asked(kind="websocket"), False),
        (asked(kind="websocket", origin=OWN), True),
        (asked(kind="websocket", origin=OTHER), False),
    ],
)
def test_only_its_own_pages_ask(scope: Scope, own: bool) -> None:
    assert is_own(scope) is own


@pytest.mark.fast
@pytest.mark.parametrize(
    ("host", "label"),
    [
        ("eda-1.user.localhost", "eda-1"),
        ("EDA-1.User.Localhost:8484", "eda-1"),
        ("user.localhost", None),
        ("a.b.user.localhost", None),
        ("eda-1.user.localhost.evil.example", None),
        ("eda-1.evil-user.localhost", None),
        ("eda_1.user.localhost", None),
        ("eda-1.user.localhost:80@evil", None),
        ("localhost", None),
    ],
)
def test_a_label_is_one_name_below_the_domain(host: str, label: str | None) -> None:
    assert UserHosts("user.localhost").label(asked(host=host)) == label
    assert not is_navigation(asked(host=host))


# -- carrying over -------------------------------------------------------------------------------


async def echo(request: Request) -> Response:
    body = await request.body()
    told = {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "headers": [[name, value] for name, value in request.headers.items()],
        "body": len(body),
    }
    answer = JSONResponse(told, 207)
    answer.headers["Keep-Alive"] = "timeout=5"
    answer.headers.append("Set-Cookie", "mine=1; Path=/")
    answer.headers.append("Set-Cookie", "wide=1; Domain=user.localhost; Path=/")
    answer.headers.append("Set-Cookie", f"{COOKIE}=forged; Path=/")
    answer.headers.append("Set-Cookie", f"={COOKIE}=nameless; Path=/")
    return answer


async def slowly(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        await asyncio.sleep(3600)

    return StreamingResponse(pieces(), 200)


async def talk(socket: WebSocket) -> None:
    await socket.accept(subprotocol=(socket.scope["subprotocols"] or [None])[0])
    await socket.send_json([socket.headers.get("x-stratal-person"), socket.headers.get("cookie")])
    while True:
        said = await socket.receive()
        if said["type"] != "websocket.receive":
            return
        await socket.send_bytes((said.get("bytes") or said["text"].encode()) * 2)


class Visitor:
    """Somebody's browser at the workspace's host, as far as headers go."""

    def __init__(self, chain: Chain, host: str) -> None:
        self.chain = chain
        self.host = host
        self.cookie = ""
        self.counted: list[tuple[Any, ...]] = []

    def scope(self, kind: str, method: str, path: str, headers: Headers) -> Scope:
        raw, _, query = path.encode().partition(b"?")
        given = [(b"host", self.host.encode()), *headers]
        if self.cookie:
            given.append((b"cookie", f"a=1; {COOKIE}={self.cookie}; stratal_session=secret; b=2".encode()))
        return {
            "type": kind,
            "method": method,
            "scheme": "http",
            "http_version": "1.1",
            "path": raw.decode(),
            "raw_path": raw,
            "query_string": query,
            "headers": given,
            "subprotocols": ["v1.kernel"],
            "extensions": {"websocket.http.response": {}},
            "client": ("127.0.0.1", 4),
            "server": ("127.0.0.1", 8484),
        }

    async def ask(
        self, method: str, path: str, *headers: tuple[bytes, bytes], body: bytes = b""
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        parts = [body[i : i + 1000] for i in range(0, len(body), 1000)] or [b""]
        given = [*headers, *([(b"content-length", str(len(body)).encode())] if body else [])]
        sent: list[Message] = []

        async def receive() -> Message:
            if parts:
                part = parts.pop(0)
                return {"type": "http.request", "body": part, "more_body": bool(parts)}
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        await self.chain(self.scope("http", method, path, given), receive, send)
        told = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
        return sent[0]["status"], told, b"".join(m.get("body", b"") for m in sent[1:])

    @asynccontextmanager
    async def socket(
        self, *headers: tuple[bytes, bytes]
    ) -> AsyncIterator[tuple["asyncio.Queue[Message]", "asyncio.Queue[Message]"]]:
        """(what the client says, what it hears)"""
        says: asyncio.Queue[Message] = asyncio.Queue()
        hears: asyncio.Queue[Message] = asyncio.Queue()
        await says.put({"type": "websocket.connect"})
        scope = self.scope("websocket", "GET", "/talk", list(headers))
        del scope["method"]
        task = asyncio.create_task(self.chain(scope, says.get, hears.put))
        try:
            yield says, hears
        finally:
            await says.put({"type": "websocket.disconnect", "code": 1000})
            async with asyncio.timeout(60):
                await task


@asynccontextmanager
async def at_the_door(room: Room) -> AsyncIterator[Visitor]:
    """A workspace whose server answers for real, and a visitor who was let in."""
    app = Starlette(
        routes=[
            Route("/slowly", slowly),
            WebSocketRoute("/talk", talk),
            Route("/{path:path}", echo, methods=["GET", "POST", "DELETE"]),
        ]
    )
    path = str(room.home / "s")
    config = uvicorn.Config(app, uds=path, log_config=None, lifespan="off", ws="websockets-sansio")
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server._serve())
    seen = await room.made()
    (notebook,) = room.world.notebooks.values()
    notebook.socket = path
    while not server.started:
        await asyncio.sleep(0.005)
    counted: list[tuple[Any, ...]] = []
    hosts = UserHosts("user.localhost")
    door = WorkspacesDoor(
        room.studio, hosts, console="http://127.0.0.1:8484", secure=False, cookies=("stratal_session",)
    )
    chain = Chain([door], elsewhere=[door], count=lambda *told: counted.append(told))
    visitor = Visitor(chain, f"{seen.workspace.label}.user.localhost:8484")
    visitor.counted = counted
    try:
        key = await room.keys.create(OWNER, "prj_a", name="me", role=Role.EDITOR)
        _, ticket = await room.workspaces.open(await room.keys.principal_of(key.id), "prj_a", "eda", None)
        status, told, _ = await visitor.ask("GET", f"/.stratal/enter?ticket={ticket}")
        assert status == 303
        line = dict(told)["set-cookie"]
        assert dict(told)["location"] == "/lab"
        assert "HttpOnly" in line
        assert "SameSite=Lax" in line
        assert "omain" not in line
        visitor.cookie = line.partition(";")[0].partition("=")[2]
        visitor.key_id = key.id  # type: ignore[attr-defined]
        yield visitor
    finally:
        await door.close()
        server.should_exit = True
        await serving


def story(tell: Tell, work: Callable[[Room, Visitor], Awaitable[None]]) -> None:
    async def part(room: Room) -> None:
        async with at_the_door(room) as visitor:
            await work(room, visitor)

    tell(part)


def own(visitor: Visitor) -> tuple[bytes, bytes]:
    return (b"origin", f"http://{visitor.host}".encode())


def test_requests_are_carried_over_without_what_is_the_platforms(tell: Tell) -> None:
    async def work(room: Room, visitor: Visitor) -> None:
        status, told, body = await visitor.ask(
            "POST",
            "/a%2Fb/%2e%2e;x?q=%20&q=2",
            own(visitor),
            (b"authorization", b"Bearer key"),
            (b"x-stratal-person", b"admin"),
            (b"x-stratal-secret", b"guess"),
            (b"x-forwarded-for", b"1.2.3.4"),
            (b"connection", b"keep-alive, x-hop"),
            (b"x-hop", b"1"),
            (b"x-kept", b"yes"),
            body=b"x" * 5000,
        )
        said = orjson.loads(body)
        assert (status, said["method"], said["body"]) == (207, "POST", 5000)
        assert (said["path"], said["query"]) == ("/a%2Fb/%2e%2e;x", "q=%20&q=2")
        names = [name for name, _ in said["headers"]]
        assert not {"authorization", "x-forwarded-for", "x-hop"} & set(names)
        carried = dict(said["headers"])
        assert carried["host"] == visitor.host
        assert (carried["x-stratal-person"], carried["x-stratal-secret"]) == ("me", "secret")
        assert names.count("x-stratal-person") == 1
        assert (carried["cookie"], carried["x-kept"]) == ("a=1; b=2", "yes")
        assert [value for name, value in told if name == "set-cookie"] == ["mine=1; Path=/"]
        assert "keep-alive" not in dict(told)
        assert visitor.counted[-1][0].name == "me"

    story(tell, work)


def test_only_who_was_let_in_gets_an_answer(tell: Tell) -> None:
    async def work(room: Room, visitor: Visitor) -> None:
        assert (await visitor.ask("GET", "/x"))[0] == 207
        assert (await visitor.ask("POST", "/x"))[0] == 403
        assert (await visitor.ask("POST", "/x", (b"origin", OTHER.encode())))[0] == 403
        assert (await visitor.ask("GET", "/x", (b"sec-fetch-site", b"same-site")))[0] == 403
        cookie, visitor.cookie = visitor.cookie, ""
        status, told, _ = await visitor.ask("GET", "/x", (b"authorization", b"Bearer a.b"))
        assert (status, dict(told)["www-authenticate"]) == (401, 'Session realm="Stratal"')
        visitor.cookie = "wrong"
        assert (await visitor.ask("GET", "/x"))[0] == 401
        visitor.cookie = f"tossed; {COOKIE}={cookie}"  # a page of another host set one for all of the domain
        assert (await visitor.ask("GET", "/x"))[0] == 207
        visitor.cookie = cookie
        host, visitor.host = visitor.host, "none-1.user.localhost:8484"
        assert (await visitor.ask("GET", "/x"))[0] == 404
        visitor.host = "evil.example"
        assert (await visitor.ask("GET", "/x"))[0] == 400
        visitor.host = host
        assert (await visitor.ask("GET", "/.stratal/enter?ticket=no"))[0] == 401
        assert (await visitor.ask("POST", "/.stratal/enter?ticket=no"))[0] == 404
        await room.keys.revoke(OWNER, visitor.key_id)  # type: ignore[attr-defined]
        assert (await visitor.ask("GET", "/x"))[0] == 401

    story(tell, work)


def test_opening_a_stopped_one_starts_it_and_nothing_else_does(tell: Tell) -> None:
    async def work(room: Room, visitor: Visitor) -> None:
        await room.workspaces.halt(OWNER, "prj_a", "eda")
        status, told, _ = await visitor.ask("GET", "/api/contents")
        assert (status, room.live().state) == (503, State.STOPPED)
        opening = ((b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"document"))
        status, told, body = await visitor.ask("GET", "/lab", *opening)
        assert (status, b"is starting" in body, room.live().workspace.running) == (503, True, True)
        assert "default-src 'none'" in dict(told)["content-security-policy"]
        await room.state(State.RUNNING)

    story(tell, work)


def test_websockets_are_joined_and_end_with_the_visit(tell: Tell) -> None:
    async def work(room: Room, visitor: Visitor) -> None:
        async with visitor.socket(own(visitor)) as (says, hears), asyncio.timeout(20):
            assert (await hears.get())["type"] == "websocket.accept"
            assert orjson.loads((await hears.get())["text"]) == ["me", "a=1; b=2"]
            await says.put({"type": "websocket.receive", "bytes": b"\x00\x01"})
            assert (await hears.get())["bytes"] == b"\x00\x01\x00\x01"
            await says.put({"type": "websocket.receive", "text": "hi"})
            assert (await hears.get())["bytes"] == b"hihi"
            assert room.visits.visitors(room.live().workspace.id) == ("me",)
            await room.keys.revoke(OWNER, visitor.key_id)  # type: ignore[attr-defined]
            last = await hears.get()
            assert (last["type"], last["code"]) == ("websocket.close", 1008)
        assert room.visits.visitors(room.live().workspace.id) == ()

    story(tell, work)


def test_websockets_of_others_are_refused(tell: Tell) -> None:
    async def work(room: Room, visitor: Visitor) -> None:
        for given, status in (([(b"origin", OTHER.encode())], 403), ([], 403), ([own(visitor)], 401)):
            visitor.cookie = visitor.cookie if status == 403 else ""
            async with visitor.socket(*given) as (_, hears), asyncio.timeout(20):
                first = await hears.get()
                assert (first["type"], first["status"]) == ("websocket.http.response.start", status)

    story(tell, work)
