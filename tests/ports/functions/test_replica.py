"""The program of a function's replica, run by a bare interpreter, through the server's end of its socket."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from stratal.ai.functions.runtime import Call, Failed, TimedOut
from stratal.compute.services.port import Broken, CannotStart
from stratal.engines.functions.link import CallExchange, FunctionLink, Functions
from stratal.kernel.errors import Invalid

CODE = """
import asyncio, os, subprocess, sys, time

def plain(event, context):
    print("asked", event)
    if event == "raise": raise ValueError("no")
    if event == "exit": os._exit(3)
    if event == "quit": sys.exit("bye")
    if event == "sleep": time.sleep(60)
    if event == "pid": return os.getpid()
    if event == "bytes": return b"\\x00\\x01"
    if event == "shout": print("x" * 400_000)
    if event == "child": subprocess.run(["sh", "-c", "echo from a child"])
    if event == "teapot":
        context.status = 418
        context.headers_out["X-Kind"] = "teapot"
    if event == "unspeakable": return {1, 2}
    if event == "context":
        return [context.function, context.project, context.query, context.headers, context.caller, context.attempt]
    return {"got": event}

def stream(event):
    yield "first "
    if event == "break": raise RuntimeError("broke")
    while event == "endless": yield "on "
    yield "last"

def big(event):
    for _ in range(48): yield bytes(1 << 16)

async def many(event):
    print("begins", event)
    await asyncio.sleep(0.05)
    print("ends", event)
    if event == "sleep": await asyncio.sleep(60)
    if event == "stuck": time.sleep(60)
    return event

async def astream(event):
    for n in range(3):
        yield {"n": n}

def three(a, b, c): ...
number = 3
"""
World = Callable[..., None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Deeper than the 107 bytes that a socket's address can hold."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    (deep / "code").mkdir()
    (deep / "code" / "app.py").write_text(CODE)
    return deep


@pytest.fixture
def replica(folder: Path) -> Iterator[World]:
    """Run a story against a replica of a function in `CODE`."""
    running: list[subprocess.Popen[bytes]] = []

    def run(target: str, story: Callable[[FunctionLink], Awaitable[None]], *, timeout: float = 30) -> None:
        program, place = Functions(), folder / f"r{len(running)}"
        place.mkdir()
        told = {"function": "fn", "project": "p", "revision": 1, "timeout": timeout, "concurrency": 4}
        command = program.command(Path(sys.executable), target, folder / "code", place, told)
        for name, content in command.files.items():
            (place / name).write_bytes(content)
        with (place / "log").open("wb") as log:
            running.append(subprocess.Popen(command.argv, cwd=place, stdout=log, stderr=log))

        async def main() -> None:
            async with asyncio.timeout(60):
                link = await connected(program, place)
                await story(link)
                link.close()

        uvloop.run(main())
        running[-1].terminate()
        assert running[-1].wait(30) == 0

    yield run
    for process in running:
        process.kill()
        process.wait()


async def connected(program: Functions, place: Path) -> FunctionLink:
    while True:
        try:
            return await program.connect(place)
        except OSError:
            await asyncio.sleep(0.01)


def begin(link: FunctionLink, event: Any = None, **more: Any) -> CallExchange:
    body = more.pop("body", json.dumps(event).encode())
    return link.call(Call("inv_1", body, **{"content_type": "application/json", **more}))


async def ask(link: FunctionLink, event: Any = None, **more: Any) -> tuple[int, str, bytes, bytes]:
    """Status, content type, body and log."""
    exchange = begin(link, event, **more)
    start = await exchange.start()
    body = b"".join([chunk async for chunk in exchange.chunks()])
    return start.status, start.headers["content-type"], body, exchange.log


def test_a_plain_function(replica: World) -> None:
    async def story(link: FunctionLink) -> None:
        assert link.greeting.interleaves is False
        assert await ask(link, {"a": 1}) == (200, "application/json", b'{"got":{"a":1}}', b"asked {'a': 1}\n")
        assert (await ask(link, body=b""))[2] == b'{"got":null}'
        assert (await ask(link, body=b"text", content_type="text/plain"))[2] == b'{"got":"text"}'
        assert (await ask(link, body=b"a=1&b=2", content_type="application/x-www-form-urlencoded"))[2] == (
            b'{"got":{"a":"1","b":"2"}}'
        )
        assert (await ask(link, "bytes"))[1:3] == ("application/octet-stream", b"\x00\x01")
        said = await ask(link, "context", query="q=1", headers={"x-a": "b"}, caller="person:ada", attempt=2)
        assert json.loads(said[2]) == ["fn", "p", {"q": "1"}, {"x-a": "b"}, "person:ada", 2]
        exchange = begin(link, "teapot")
        start = await exchange.start()
        assert (start.status, start.headers["x-kind"]) == (418, "teapot")
        assert b"from a child\n" in (await ask(link, "child"))[3]
        assert len((await ask(link, "shout"))[3]) < 300_000

    replica("app.py:plain", story)


def test_what_fails_is_told_and_the_next_call_is_answered(replica: World) -> None:
    async def story(link: FunctionLink) -> None:
        with pytest.raises(Invalid, match="not JSON"):
            await ask(link, body=b"{")
        failing = begin(link, "raise")
        with pytest.raises(Failed, match="ValueError: no") as raised:
            await failing.start()
        assert raised.value.kind == "ValueError"
        assert b"Traceback" in failing.log
        assert b"stratal_replica" not in failing.log
        for event, words in (
            ("exit", "exit code 3"),
            ("quit", "SystemExit: bye"),
            ("unspeakable", "TypeError"),
        ):
            with pytest.raises(Failed, match=words):
                await ask(link, event)
        with pytest.raises(TimedOut):
            await ask(link, "sleep")
        assert (await ask(link, 1))[0] == 200

    replica("app.py:plain", story, timeout=1)


def test_calls_at_once_have_a_process_each_and_no_more_than_allowed(replica: World) -> None:
    async def story(link: FunctionLink) -> None:
        slow = [begin(link, "sleep") for _ in range(3)]
        assert (await ask(link, "quick"))[0] == 200
        pids = {(await ask(link, "pid"))[2] for _ in range(3)}
        assert len(pids) == 1
        for exchange in slow:
            await exchange.close()
            assert exchange.ended

    replica("app.py:plain", story)


def test_streams(replica: World) -> None:
    async def story(link: FunctionLink) -> None:
        assert (await ask(link, "x"))[1:3] == ("text/plain; charset=utf-8", b"first last")
        broken = begin(link, "break")
        assert (await broken.start()).length is None
        with pytest.raises(Failed, match="broke"):
            [chunk async for chunk in broken.chunks()]
        endless = begin(link, "endless")
        await endless.start()
        await endless.close()
        assert endless.ended
        assert (await ask(link, "x"))[0] == 200

    async def big(link: FunctionLink) -> None:
        assert len((await ask(link))[2]) == 48 << 16

    async def asynchronous(link: FunctionLink) -> None:
        assert (await ask(link))[1:3] == ("application/x-ndjson", b'{"n":0}\n{"n":1}\n{"n":2}\n')

    replica("app.py:stream", story)
    replica("app.py:big", big)
    replica("app.py:astream", asynchronous)


def test_an_async_function_interleaves_and_each_call_has_its_own_log(replica: World) -> None:
    async def story(link: FunctionLink) -> None:
        assert link.greeting.interleaves is True
        answers = await asyncio.gather(*(ask(link, n) for n in range(8)))
        assert [(a[2], a[3]) for a in answers] == [
            (str(n).encode(), f"begins {n}\nends {n}\n".encode()) for n in range(8)
        ]
        for event in ("sleep", "stuck"):
            with pytest.raises(TimedOut):
                await ask(link, event)
        assert (await ask(link, 1))[0] == 200

    replica("app.py:many", story, timeout=2)


def test_a_server_that_is_gone_takes_its_calls_along(replica: World, folder: Path) -> None:
    async def story(link: FunctionLink) -> None:
        left = begin(link, "sleep")
        pid = int((await ask(link, "pid"))[2])
        link.close()
        with pytest.raises(Broken):
            await left.start()
        again = await connected(Functions(), folder / "r0")
        # Greeted: what the other was at is dead, and whoever did nothing lives on.
        assert int((await ask(again, "pid"))[2]) == pid
        again.close()

    replica("app.py:plain", story)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("app.py:none", "no 'none' in app.py"),
        ("none.py:f", "no file 'none.py'"),
        ("app.py:three", "def handler"),
        ("app.py:number", "int"),
        ("nothing_of_that_name.mod:f", "among the requirements"),
        ("broken.py:f", "ZeroDivisionError"),
        ("dies.py:f", "exit code 7"),
    ],
)
def test_what_cannot_be_loaded_says_so(replica: World, folder: Path, target: str, words: str) -> None:
    (folder / "code" / "broken.py").write_text("1 / 0")
    (folder / "code" / "dies.py").write_text("import os; os._exit(7)")

    async def story(link: FunctionLink) -> None:
        raise AssertionError("it greeted")

    with pytest.raises(CannotStart, match=words):
        replica(target, story)
