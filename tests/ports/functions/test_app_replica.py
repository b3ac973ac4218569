"""The program of an app's replica, run by a bare interpreter, through the server's end of its socket."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from stratal.ai.functions.runtime import Failed
from stratal.compute.services.port import Broken, CannotStart
from stratal.engines.functions.apps import AppConversation, AppLink, Apps

CODE = """
import asyncio, os, sys, time
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

@asynccontextmanager
async def lifespan(app):
    print("starts")
    yield {"number": 7}
    print("ends")

async def told(request):
    body = await request.body()
    return JSONResponse({"method": request.method, "raw": request.scope["raw_path"].decode(), "url": str(request.url),
        "headers": request.headers.items(), "body": len(body), "state": request.state.number,
        "client": request.client.host}, 207, background=BackgroundTask(print, "afterwards"))

async def echo(request):
    async def pieces():
        async for piece in request.stream():
            yield piece
    return StreamingResponse(pieces())

async def endless(request):
    async def pieces():
        try:
            while True:
                yield bytes(1 << 16)
        finally:
            print("stopped")
    return StreamingResponse(pieces())

async def slow(request):
    await asyncio.sleep(float(request.query_params["s"]))
    return PlainTextResponse("done")

async def broken(request):
    def pieces():
        yield b"first"
        raise RuntimeError("broke")
    return StreamingResponse(pieces())

async def exit(request):
    os._exit(3)

async def talk(socket):
    if "deny" in socket.query_params:
        await socket.send_denial_response(PlainTextResponse("not you", 451))
        return
    if "shut" in socket.query_params:
        await socket.close(4003)
        return
    await socket.accept(subprotocol=(socket.scope["subprotocols"] or [None])[0])
    while True:
        said = await socket.receive()
        if said["type"] == "websocket.disconnect":
            print("left with", said["code"])
            return
        if said.get("text") == "bye":
            await socket.close(4001, "bye")
            return
        if said.get("text") is not None:
            await socket.send_text(said["text"] * 2)
        else:
            await socket.send_bytes(said["bytes"])

app = Starlette(lifespan=lifespan, routes=[
    Route("/echo", echo, methods=["PUT"]), Route("/endless", endless), Route("/slow", slow), Route("/broken", broken),
    Route("/exit", exit), WebSocketRoute("/talk", talk), Route("/{p:path}", told, methods=["GET", "POST", "PATCH"]),
])

@asynccontextmanager
async def refuses(app):
    raise RuntimeError("no database")
    yield

unwilling = Starlette(lifespan=refuses)

async def bare(scope, receive, send):
    assert scope["type"] != "lifespan"
    if scope["path"] == "/raise":
        raise ValueError("no")
    if scope["path"] == "/nothing":
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
    await send({"type": "http.response.body", "body": b"bare"})

def wsgi(environ, start_response): ...
number = 3
"""
Story = Callable[[AppLink], Awaitable[None]]


class World:
    """Runs stories against replicas of apps in `CODE`, one at a time."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.running: list[subprocess.Popen[bytes]] = []

    def __call__(self, target: str, story: Story, *, code: int = 0) -> str:
        """Run a story, end the replica, and give what it wrote."""
        program, place = Apps(), self.place / f"r{len(self.running)}"
        place.mkdir()
        told = {"kind": "app", "function": "shop", "project": "p", "revision": 1}
        command = program.command(Path(sys.executable), target, self.place / "code", place, told)
        for name, content in command.files.items():
            (place / name).write_bytes(content)
        with (place / "log").open("wb") as log:
            self.running.append(subprocess.Popen(command.argv, cwd=place, stdout=log, stderr=log))

        async def main() -> None:
            async with asyncio.timeout(60):
                link = await connected(program, place)
                try:
                    await story(link)
                finally:
                    link.close()

        uvloop.run(main())
        self.running[-1].terminate()
        assert self.running[-1].wait(40) == code
        return (place / "log").read_text()


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "app.py").write_text(CODE)
    world = World(tmp_path)
    yield world
    for process in world.running:
        process.kill()
        process.wait()


async def connected(program: Apps, place: Path) -> AppLink:
    while True:
        try:
            return await program.connect(place)
        except OSError:
            await asyncio.sleep(0.01)


def begin(link: AppLink, path: str = "/", method: str = "GET", **more: Any) -> AppConversation:
    raw, _, query = path.partition("?")
    return link.open(
        {
            "type": "http",
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": raw,
            "raw_path": raw,
            "query_string": query,
            "headers": [("host", "shop-1.user.localhost:8484")],
            "client": ["192.0.2.1", 99],
            "server": ["shop-1.user.localhost", 8484],
            **more,
        }
    )


def dial(link: AppLink, path: str = "/talk") -> AppConversation:
    return begin(link, path, type="websocket", scheme="ws", subprotocols=["chat"])


async def ask(link: AppLink, path: str = "/", method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    talk = begin(link, path, method)
    await talk.send({"type": "http.request", "body": body, "more_body": False})
    start = await talk.receive()
    return start["status"], await whole(talk)


async def whole(talk: AppConversation) -> bytes:
    body = b""
    while True:
        said = await talk.receive()
        body += said["body"]
        if not said["more_body"]:
            return body


def test_requests_as_the_app_sees_them(replica: World) -> None:
    async def story(link: AppLink) -> None:
        status, body = await ask(link, "/a%2Fb?q=1", "PATCH", b"x" * 3_000_000)
        assert status == 207
        for said in (b'"raw":"/a%2Fb"', b'"method":"PATCH"', b'"body":3000000', b'"state":7', b'"192.0.2.1"'):
            assert said in body
        assert b"http://shop-1.user.localhost:8484/a%2Fb?q=1" in body

    log = replica("app.py:app", story)
    assert "starts\n" in log
    assert "afterwards\nends\n" in log


def test_both_ways_at_once_and_no_more_than_somebody_reads(replica: World) -> None:
    async def story(link: AppLink) -> None:
        talk = begin(link, "/echo", "PUT")
        await talk.send({"type": "http.request", "body": b"one", "more_body": True})
        assert (await talk.receive())["status"] == 200
        assert (await talk.receive())["body"] == b"one"
        await talk.send({"type": "http.request", "body": b"two", "more_body": False})
        assert await whole(talk) == b"two"

        unread = begin(link, "/endless")
        await unread.receive()
        await asyncio.sleep(0.2)
        held = sum(len(message.get("body", b"")) for message, _ in unread._heard)
        assert held <= 1 << 20
        assert (await ask(link, "/slow?s=0"))[1] == b"done"  # it holds nobody else up
        unread.close()

        stuck = begin(link, "/slow?s=1", "GET")  # reads no body: what is sent to it waits
        sending = asyncio.create_task(
            stuck.send({"type": "http.request", "body": bytes(4 << 20), "more_body": False})
        )
        assert (await ask(link, "/slow?s=0"))[1] == b"done"
        assert not sending.done()
        assert (await stuck.receive())["status"] == 200
        assert await whole(stuck) == b"done"
        await sending

    assert "stopped\n" in replica("app.py:app", story)


def test_websockets(replica: World) -> None:
    async def story(link: AppLink) -> None:
        talk = dial(link)
        accepted = await talk.receive()
        assert (accepted["type"], accepted["subprotocol"]) == ("websocket.accept", "chat")
        await talk.send({"type": "websocket.receive", "text": "hö"})
        assert (await talk.receive())["text"] == "höhö"
        await talk.send({"type": "websocket.receive", "bytes": bytes(2_000_000), "text": None})
        assert len((await talk.receive())["bytes"]) == 2_000_000
        await talk.send({"type": "websocket.receive", "text": "bye"})
        closed = await talk.receive()
        assert (closed["type"], closed["code"], closed["reason"]) == ("websocket.close", 4001, "bye")

        left = dial(link)
        await left.receive()
        await left.send({"type": "websocket.disconnect", "code": 1001})
        denied = dial(link, "/talk?deny=1")
        assert (await denied.receive())["status"] == 451
        assert await whole(denied) == b"not you"
        shut = dial(link, "/talk?shut=1")
        assert (await shut.receive())["type"] == "websocket.close"

    log = replica("app.py:app", story)
    assert "left with 1001\n" in log


def test_a_replica_that_is_told_to_end_finishes_what_it_is_at(replica: World) -> None:
    async def story(link: AppLink) -> None:
        talk, socket = begin(link, "/slow?s=0.5"), dial(link)
        await talk.send({"type": "http.request", "body": b"", "more_body": False})
        await socket.receive()
        replica.running[-1].terminate()
        closed = await socket.receive()
        assert closed["code"] == 1012
        assert (await talk.receive())["status"] == 200
        assert await whole(talk) == b"done"
        await link.wait_closed()

    assert "left with 1012\n" in replica("app.py:app", story)


def test_failures(replica: World) -> None:
    async def story(link: AppLink) -> None:
        broken = begin(link, "/broken")
        assert (await broken.receive())["status"] == 200
        assert (await broken.receive())["body"] == b"first"
        with pytest.raises(Failed, match="broke"):
            await broken.receive()
        with pytest.raises(Broken):
            await ask(link, "/exit")
        await link.wait_closed()

    assert "RuntimeError: broke" in replica("app.py:app", story, code=3)

    async def bare(link: AppLink) -> None:
        assert await ask(link) == (200, b"bare")
        with pytest.raises(Failed, match="ValueError: no"):
            await ask(link, "/raise")
        with pytest.raises(Failed, match="before its answer was whole"):
            await ask(link, "/nothing")

    assert "ValueError: no" in replica("app.py:bare", bare)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("app.py:wsgi", "is no ASGI app"),
        ("app.py:number", "cannot be called"),
        ("app.py:none", "There is no 'none' in app.py"),
        ("app.py:unwilling", "start-up failed: RuntimeError: no database"),
    ],
)
def test_what_cannot_start_says_why(replica: World, target: str, words: str) -> None:
    async def never(_: AppLink) -> None:
        raise AssertionError

    with pytest.raises(CannotStart, match=words):
        replica(target, never)
