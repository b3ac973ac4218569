"""Apps: deployed, replaced, rolled back and removed as functions are; who is let in at their host names, and with what."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stratal.ai.functions.model import Deployment, FunctionView, Wishes
from stratal.compute.services.port import Broken
from stratal.gateway.apps import door as apps_door
from stratal.gateway.apps.door import AppsDoor
from stratal.gateway.chain import Chain
from stratal.gateway.credentials import Authenticator
from stratal.gateway.hosts import COOKIE, UserHosts
from stratal.identity.model import Role
from stratal.kernel.errors import Conflict, Denied, NotFound

from .room import OWNER, PLACE, STRANGER, VIEWER, Room

Tell = Callable[[Callable[[Room], Awaitable[None]]], None]
Headers = list[tuple[bytes, bytes]]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Says how long what it was sent is; does what the path says."""
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/no":
            await send({"type": "websocket.close", "code": 4003})
            return
        if scope["path"] == "/raise":
            raise ValueError("no")
        await send({"type": "websocket.accept", "subprotocol": None, "headers": [(b"set-cookie", b"mine=1")]})
        while (said := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": said["text"] * 2})
        return
    size, more = 0, scope["method"] == "POST"
    while more:
        said = await receive()
        size, more = size + len(said["body"]), said["more_body"]
    if scope["path"] == "/raise":
        raise ValueError("a secret reason")
    if scope["path"] == "/lost":
        raise Broken
    headers = [
        (b"Set-Cookie", b"mine=1"),
        (b"set-cookie", b"wide=1; Domain=user.localhost"),
        (b"set-cookie", COOKIE.encode() + b"=forged"),
        (b"x-stratal-caller", b"forged"),
        (b"connection", b"close"),
    ]
    if scope["path"] == "/split":
        headers = [(b"x-a", b"b\r\nx-c: d")]
    await send({"type": "http.response.start", "status": 207, "headers": headers})
    if scope["path"] == "/breaks":
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        raise ValueError("no")
    await send({"type": "http.response.body", "body": str(size).encode()})


async def deploy(room: Room, name: str = "shop", who: Any = OWNER, **wishes: Any) -> FunctionView:
    room.world.app = app
    asked = Deployment(name, "app.py:app", await room.code(), wishes=Wishes(**wishes))
    made = await room.apps.apps.deploy(who, PLACE, asked)
    return await settled(room, made)


async def settled(room: Room, made: FunctionView) -> FunctionView:
    number, name = made.latest.number, made.function.name
    while made.latest.number == number and made.latest.state in {"preparing", "starting"}:
        await asyncio.sleep(0.001)
        made = await room.apps.apps.get(OWNER, "prj_a", name)
    return made


def test_an_app_is_deployed_beside_a_function_of_its_name(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy("shop")
        made = await deploy(room)
        assert (made.state, made.function.kind, made.active.number) == ("ready", "app", 1)  # type: ignore[union-attr]
        assert made.function.label.startswith("shop-")  # type: ignore[union-attr]
        assert [view.function.kind for view in await room.functions.list(VIEWER, "prj_a")] == ["function"]
        assert [view.function.kind for view in await room.apps.apps.list(VIEWER, "prj_a")] == ["app"]
        assert (await room.keys.principal_of(made.active.key_id)).workload == made.active.workload  # type: ignore[union-attr]
        assert made.active.workload.startswith("app:shop:")  # type: ignore[union-attr]
        assert [event.kind for event in await room.events("app.")] == ["app.requested", "app.deployed"]
        with pytest.raises(Denied):
            await deploy(room, who=VIEWER)
        with pytest.raises(NotFound):
            await room.apps.apps.get(STRANGER, "prj_a", "shop")

        await room.apps.apps.remove(OWNER, "prj_a", "shop")
        assert (await room.call("word", "shop"))[0] == 200
        again = await deploy(room)
        assert again.function.label != made.function.label

    tell(story)


def test_a_revision_is_replaced_and_taken_back(tell: Tell) -> None:
    async def story(room: Room) -> None:
        first = await deploy(room, memory_bytes=100 << 20)
        with pytest.raises(Conflict):
            await room.apps.apps.rollback(OWNER, PLACE, "shop", None)
        second = await deploy(room, public=True)
        assert second.function.label == first.function.label
        room.world.cannot_load = "no database"
        failed = await deploy(room, least=1)
        assert (failed.state, failed.latest.state, failed.active.number) == ("ready", "failed", 2)  # type: ignore[union-attr]
        assert "no database" in failed.failure
        room.world.cannot_load = ""
        back = await settled(room, await room.apps.apps.rollback(OWNER, PLACE, "shop", None))
        assert back.active.number == 4  # type: ignore[union-attr]
        assert (back.active.wishes, back.active.snapshot_id) == (
            first.active.wishes,
            first.active.snapshot_id,
        )  # type: ignore[union-attr]
        named = await settled(room, await room.apps.apps.rollback(OWNER, PLACE, "shop", 2))
        assert named.active.wishes.public  # type: ignore[union-attr]
        with pytest.raises(NotFound):
            await room.apps.apps.rollback(OWNER, PLACE, "shop", 9)
        with pytest.raises(Denied):
            await room.apps.apps.rollback(VIEWER, PLACE, "shop", 1)

    tell(story)


# -- at the door ---------------------------------------------------------------------------------


class Client:
    def __init__(self, room: Room, host: str) -> None:
        self.counted: list[tuple[Any, ...]] = []
        door = AppsDoor(
            Authenticator(room.keys),
            room.apps,
            UserHosts("user.localhost"),
            console="http://127.0.0.1:8484",
            secure=False,
            cookies=("stratal_session",),
        )
        self.chain = Chain([door], elsewhere=[door], count=lambda *told: self.counted.append(told))
        self.host = host

    def scope(self, kind: str, method: str, path: str, headers: Headers) -> dict[str, Any]:
        raw, _, query = path.encode().partition(b"?")
        scope = {
            "type": kind,
            "method": method,
            "scheme": "http",
            "http_version": "1.1",
            "path": raw.decode(),
            "raw_path": raw,
            "query_string": query,
            "headers": [(b"host", self.host.encode()), *headers],
            "client": ("127.0.0.1", 4),
            "server": ("127.0.0.1", 8484),
        }
        if kind == "websocket":
            del scope["method"]
            scope["extensions"] = {"websocket.http.response": {}}
        return scope

    async def ask(
        self, path: str = "/", *headers: tuple[bytes, bytes], method: str = "GET", body: bytes = b""
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        parts = [body[:3], body[3:]] if body else [b""]
        sent: list[Any] = []

        async def receive() -> Any:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            return await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)

        await self.chain(self.scope("http", method, path, list(headers)), receive, send)
        return sent[0]["status"], sent[0]["headers"], b"".join(m.get("body", b"") for m in sent[1:])

    @asynccontextmanager
    async def socket(self, path: str, *headers: tuple[bytes, bytes]) -> AsyncIterator[Any]:
        says: asyncio.Queue[Any] = asyncio.Queue()
        hears: asyncio.Queue[Any] = asyncio.Queue()
        await says.put({"type": "websocket.connect"})
        task = asyncio.create_task(
            self.chain(self.scope("websocket", "GET", path, list(headers)), says.get, hears.put)
        )
        try:
            yield says, hears
        finally:
            await says.put({"type": "websocket.disconnect", "code": 1000})
            async with asyncio.timeout(60):
                await task


def told(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in headers}


async def key_of(room: Room, role: Role = Role.VIEWER, who: Any = OWNER) -> tuple[bytes, bytes]:
    made = await room.keys.create(who, who.project_id, name="k", role=role)
    token = f"{made.id}.{room.keys.secret_of(made.id)}"
    return b"authorization", f"Bearer {token}".encode()


def test_programs_come_with_a_key_that_the_app_never_sees(tell: Tell) -> None:
    async def story(room: Room) -> None:
        made = await deploy(room)
        client = Client(room, f"{made.function.label}.user.localhost:8484")
        status, headers, _ = await client.ask()
        assert (status, told(headers)["www-authenticate"]) == (401, 'Session realm="Stratal"')
        key = await key_of(room)
        cookies = (b"cookie", f"a=1; {COOKIE}=x; stratal_session=secret; b=2".encode())
        forged = (b"x-stratal-caller", b"person:admin")
        status, headers, body = await client.ask("/a?q=1", key, cookies, forged, method="POST", body=b"12345")
        assert (status, body) == (207, b"5")
        seen = told(room.world.told[-1]["headers"])
        assert seen["x-stratal-caller"] == "service:k"
        assert seen["cookie"] == "a=1; b=2"
        assert "authorization" not in seen
        set_cookies = [value for name, value in headers if name == b"set-cookie"]
        assert set_cookies == [b"mine=1"]
        assert "x-stratal-caller" not in told(headers)
        secret = base64.b64encode(key[1].removeprefix(b"Bearer ").replace(b".", b":"))
        assert (await client.ask("/", (b"authorization", b"Basic " + secret)))[0] == 207
        assert (await client.ask("/", await key_of(room, Role.OWNER, STRANGER)))[0] == 404
        assert (await client.ask("/", (b"authorization", b"Bearer nonsense")))[0] == 401
        counted = client.counted[-4]
        assert (counted[0].actor, counted[1], counted[2]["state"]["asked"]) == (
            "service:k",
            "apps",
            "app:shop",
        )
        found = await room.apps.visiting.requests(VIEWER, "prj_a", "shop")
        assert {(r.method, r.path, r.invocation.status, r.invocation.caller) for r in found.requests} == {
            ("GET", "/", 207, "service:k"),
            ("POST", "/a", 207, "service:k"),
        }
        with pytest.raises(NotFound):
            await room.apps.visiting.requests(STRANGER, "prj_a", "shop")

    tell(story)


def test_a_browser_comes_in_once_and_is_asked_anew_each_time(tell: Tell) -> None:
    async def story(room: Room) -> None:
        made = await deploy(room)
        client = Client(room, f"{made.function.label}.user.localhost:8484")
        key = await room.keys.create(OWNER, "prj_a", name="me", role=Role.VIEWER)
        me = await room.keys.principal_of(key.id)
        _, ticket = await room.apps.visiting.invite(me, "prj_a", "shop", None)
        status, headers, _ = await client.ask(f"/.stratal/enter?ticket={ticket}")
        assert status == 303
        line = told(headers)["set-cookie"]
        assert "HttpOnly" in line
        assert "Domain" not in line
        cookie = (b"cookie", line.partition(";")[0].encode())
        assert (await client.ask(f"/.stratal/enter?ticket={ticket}"))[0] == 401
        assert (await client.ask("/", cookie))[0] == 207
        assert told(room.world.told[-1]["headers"])["x-stratal-caller"] == "service:me"
        own = (b"origin", f"http://{client.host}".encode())
        other = (b"origin", b"http://bad-2.user.localhost:8484")
        assert (await client.ask("/", cookie, own, method="POST", body=b"1"))[0] == 207
        assert (await client.ask("/", cookie, other, method="POST", body=b"1"))[0] == 403
        assert (await client.ask("/", cookie, (b"sec-fetch-site", b"same-site")))[0] == 403
        async with client.socket("/talk", cookie, own) as (says, hears):
            accepted = await hears.get()
            assert (accepted["type"], accepted["headers"]) == (
                "websocket.accept",
                [(b"set-cookie", b"mine=1")],
            )
            await says.put({"type": "websocket.receive", "text": "ha"})
            assert (await hears.get())["text"] == "haha"
            await room.keys.revoke(OWNER, key.id)
            await room.visits.check()
            assert (await hears.get())["code"] == 1008
        assert (await client.ask("/", cookie))[0] == 401
        for path in ("/talk", "/.stratal/enter"):
            async with client.socket(path, own) as (_, hears):
                assert (await hears.get())["status"] in {401, 403}
        async with client.socket("/talk", cookie, other) as (_, hears):
            assert (await hears.get())["status"] == 403

    tell(story)


def test_what_stands_open_by_a_key_ends_with_the_key(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps_door, "RECHECK_SECONDS", 0.01)

    async def story(room: Room) -> None:
        made = await deploy(room)
        client = Client(room, f"{made.function.label}.user.localhost:8484")
        key = await room.keys.create(OWNER, "prj_a", name="program", role=Role.VIEWER)
        token = f"{key.id}.{room.keys.secret_of(key.id)}".encode()
        async with client.socket("/talk", (b"authorization", b"Bearer " + token)) as (says, hears):
            assert (await hears.get())["type"] == "websocket.accept"
            await says.put({"type": "websocket.receive", "text": "ha"})
            assert (await hears.get())["text"] == "haha"
            await room.keys.revoke(OWNER, key.id)
            async with asyncio.timeout(30):
                assert (await hears.get())["code"] == 1008

    tell(story)


def test_a_public_app_answers_anybody_and_may_know_its_own_people(tell: Tell) -> None:
    async def story(room: Room) -> None:
        made = await deploy(room, public=True)
        client = Client(room, f"{made.function.label}.user.localhost:8484")
        assert (await client.ask())[0] == 207
        assert client.counted[-1][2]["state"]["public_of"] == "prj_a"
        await client.ask("/", (b"authorization", b"Bearer its-own.token"))
        assert told(room.world.told[-1]["headers"])["authorization"] == "Bearer its-own.token"
        name, key = await key_of(room, who=STRANGER)
        assert (await client.ask("/", (name, key)))[0] == 207
        assert "authorization" not in told(room.world.told[-1]["headers"])
        assert "x-stratal-caller" not in told(room.world.told[-1]["headers"])
        before = len(room.world.told)
        assert (await client.ask("/", (name, key[:-1] + b"?")))[0] == 401
        assert len(room.world.told) == before
        async with client.socket("/no") as (_, hears):
            assert (await hears.get())["type"] == "websocket.close"
        async with client.socket("/raise") as (_, hears):
            assert (await hears.get())["status"] == 500
        page = await room.apps.visiting.requests(VIEWER, "prj_a", "shop")
        sockets = [r.invocation.status for r in page.requests if r.invocation.trigger == "websocket"]
        assert sorted(status or 0 for status in sockets) == [403, 500]
        first = await room.apps.visiting.requests(VIEWER, "prj_a", "shop", limit=4)
        rest = await room.apps.visiting.requests(VIEWER, "prj_a", "shop", before=first.more_before)
        assert [*first.requests, *rest.requests] == list(page.requests)
        assert rest.more_before is None

    tell(story)


def test_what_goes_wrong_is_told_without_its_reasons(tell: Tell) -> None:
    async def story(room: Room) -> None:
        made = await deploy(room, public=True)
        client = Client(room, f"{made.function.label}.user.localhost:8484")
        status, _, body = await client.ask("/raise")
        assert (status, b"app_failed" in body, b"secret" in body) == (500, True, False)
        status, headers, _ = await client.ask("/lost")
        assert (status, told(headers)["retry-after"]) == (503, "1")
        assert (await client.ask("/split"))[0] == 500
        status, _, page = await client.ask("/raise", (b"accept", b"text/html"))
        assert (status, page[:15]) == (500, b"<!doctype html>")
        found = await room.apps.visiting.requests(VIEWER, "prj_a", "shop")
        assert sorted(r.invocation.status or 0 for r in found.requests) == [500, 500, 500, 503]
        assert any("secret" in (r.invocation.error or {})["message"] for r in found.requests)
        with pytest.raises(Exception, match="failed at this request"):
            await client.ask("/breaks")
        await room.apps.apps.remove(OWNER, "prj_a", "shop")
        assert not client.chain._elsewhere[0].matches(client.scope("http", "GET", "/", []))

    tell(story)


def test_a_request_wakes_a_sleeping_app_and_waits(tell: Tell) -> None:
    async def story(room: Room) -> None:
        made = await deploy(room, public=True, idle_seconds=0.01)
        client = Client(room, f"{made.function.label}.user.localhost:8484")
        live = room.apps.registry.get("prj_a", "shop")
        async with asyncio.timeout(60):
            while live.service.awake:  # type: ignore[union-attr]
                await asyncio.sleep(0.005)
        assert (await client.ask())[0] == 207

    tell(story)
