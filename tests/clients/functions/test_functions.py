"""Functions as their users meet them: the command line, plain HTTP, and what survives `kill -9`."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, wait_until

CODE = """
import json, os, socket, time, urllib.request

def handler(event, context):
    print("asked", event)
    kind = event.get("kind") if isinstance(event, dict) else None
    if kind == "fail": raise RuntimeError(event["why"])
    if kind == "slow": time.sleep(event["seconds"])
    if kind == "put":
        request = urllib.request.Request(
            os.environ["STRATAL_URL"] + "/api/v1/projects/" + os.environ["STRATAL_PROJECT"] + "/buckets/"
            + event["bucket"] + "/object?key=" + context.invocation_id, method="PUT", data=b"x",
            headers={"Authorization": "Bearer " + os.environ["STRATAL_API_KEY"]})
        return json.load(urllib.request.urlopen(request))
    if kind == "fence":
        try:
            socket.create_connection(("192.0.2.1", 80), 2).close()
            network = "open"
        except OSError:
            network = "shut"
        return {"network": network, "writes": os.access(os.getcwd(), os.W_OK), "greets": os.environ["GREETING"]}
    return {"event": event}

def lines(event):
    for n in range(event or 3):
        yield {"n": n}
        time.sleep(0.2)
"""


class Deployed:
    def __init__(self, server: PlatformServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.bucket = "functions-wrote"

    def deploy(self, *arguments: str, target: str = "app.py:handler", **options: Any) -> dict[str, Any]:
        asked = ("function", "deploy", str(self.folder / target.split(":")[0]) + ":" + target.split(":")[1])
        return self.server.json(*asked, *arguments, PWD=str(self.folder), **options)

    def call(self, event: Any, name: str = "fn", key: str | None = None, **more: Any) -> httpx.Response:
        with self.server.http(key) as http:
            return http.post(f"/f/default/{name}", json=event, **more)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    server = PlatformServer(tmp_path_factory.mktemp("functions") / "home")
    folder = tmp_path_factory.mktemp("code")
    (folder / "app.py").write_text(CODE)
    server.up()
    try:
        made = Deployed(server, folder)
        made.deploy("--name", "fn", "--env", "GREETING=hello", "--retries", "1", "--timeout", "20s")
        server.json("buckets", "create", made.bucket)
        yield made
    finally:
        server.down()


def test_a_call_and_what_is_known_of_it_afterwards(deployed: Deployed) -> None:
    server = deployed.server
    answer = deployed.call({"a": 1})
    assert (answer.status_code, answer.json()) == (200, {"event": {"a": 1}})
    assert answer.headers["content-security-policy"] == "sandbox"
    call = answer.headers["x-stratal-invocation-id"]
    assert server.cli("function", "logs", "fn", call).stdout == "asked {'a': 1}\n"
    failed = deployed.call({"kind": "fail", "why": "no reason"})
    error = failed.json()["error"]
    assert (failed.status_code, error["code"]) == (500, "function_failed")
    assert "RuntimeError: no reason" in error["message"]
    assert error["request_id"] == failed.headers["x-request-id"]
    assert deployed.call({}, "none").json()["error"]["code"] == "no_such_function"
    listed = server.json("function", "invocations", "fn")["invocations"]
    assert [one["state"] for one in listed[:2]] == ["failed", "succeeded"]
    assert listed[0]["id"] == error["details"]["invocation_id"]


def test_it_is_fenced_and_acts_as_itself(deployed: Deployed) -> None:
    server = deployed.server
    said = deployed.call({"kind": "fence"}).json()
    assert said["greets"] == "hello"
    (replica,) = server.json("function", "show", "fn")["running"]
    if replica["isolation"]["sandbox"] == "bubblewrap":
        assert (said["network"], said["writes"]) == ("shut", False)
    wrote = deployed.call({"kind": "put", "bucket": deployed.bucket})
    assert wrote.status_code == 200, wrote.text
    workload = server.json("function", "show", "fn")["active"]["workload"]
    assert wrote.json()["created_by"] == workload

    report = server.json("cost", "--by", "workload")
    assert "function:fn" in json.dumps([report["costs"], report["so_far"]])


def test_a_stream_comes_piece_by_piece_and_a_public_function_needs_no_key(deployed: Deployed) -> None:
    deployed.deploy("--name", "lines", "--public", target="app.py:lines")
    pieces: list[tuple[float, bytes]] = []
    with httpx.stream("POST", f"{deployed.server.url}/f/default/lines", json=None) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        pieces.extend((time.monotonic(), piece) for piece in answer.iter_raw())
    assert b"".join(piece for _, piece in pieces) == b'{"n":0}\n{"n":1}\n{"n":2}\n'
    assert len(pieces) >= 2
    url = deployed.server.url
    assert httpx.post(f"{url}/f/default/fn", json={}).status_code == 401
    assert httpx.post(f"{url}/f/default/lines?async=1", json={}).status_code == 401
    other = deployed.server.key(deployed.server.project(), "owner")
    assert deployed.call({}, "fn", other).status_code == 404


def test_a_deployment_that_fails_says_why_and_changes_nothing(deployed: Deployed) -> None:
    server = deployed.server
    refused = server.cli(
        "function", "deploy", str(deployed.folder / "app.py") + ":nothing", "--name", "fn", check=False
    )
    assert refused.returncode == 1
    assert "There is no 'nothing' in app.py" in refused.stderr
    assert "goes on answering" in refused.stderr
    assert deployed.call({}).status_code == 200


def test_later_calls_survive_kills_and_are_each_done(deployed: Deployed) -> None:
    server = deployed.server
    made: list[str] = []
    with server.http() as http:
        for n in range(30):
            event = {"kind": "slow", "seconds": 0.1, "n": n} if n % 3 else {"kind": "fail", "why": str(n)}
            answer = http.post("/f/default/fn?async=1", json=event)
            assert answer.status_code == 202
            made.append(answer.json()["url"])
    for _ in range(2):
        server.kill()
        server.up()
    with server.http() as http:

        def told(url: str) -> dict[str, Any]:
            return dict(http.get(url).json())

        wait_until(lambda: all(told(url)["state"] in {"succeeded", "dead"} for url in made), seconds=120)
        ends = [told(url) for url in made]
    for n, end in enumerate(ends):
        if n % 3:
            assert end["state"] == "succeeded"
            assert end["result"]["event"]["n"] == n
        else:
            assert end["state"] == "dead"
            assert end["error"]["message"] == f"The function raised RuntimeError: {n}"
    dead = [i["id"] for i in server.json("function", "invocations", "fn", "--state", "dead")["invocations"]]
    assert len(dead) == 10
    assert server.json("function", "retry", "fn", dead[0])["state"] in {"queued", "running"}


def test_a_call_under_way_is_told_when_its_replica_dies_and_the_next_is_answered(deployed: Deployed) -> None:
    server = deployed.server
    (replica,) = server.json("function", "show", "fn")["running"]
    folder = server.home / "run" / "replicas" / replica["id"]
    said: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: said.append(deployed.call({"kind": "slow", "seconds": 15})))
    asking.start()
    wait_until(lambda: server.json("function", "show", "fn")["in_flight"] == 1)
    server.kill(min(pids_of(folder)))
    asking.join(60)
    assert said[0].status_code == 503
    assert (said[0].json()["error"]["code"], said[0].headers["retry-after"]) == ("replica_lost", "1")
    assert deployed.call({"again": True}).status_code == 200


def pids_of(folder: Path) -> list[int]:
    """The processes of the replica whose folder this is; the first is no worker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                len(words) > 2
                and words[-2] == str(folder).encode()
                and words[-3].endswith(b"replica/__main__.py")
            ):
                found.append(int(entry.name))
    return found


def test_rolling_back_deploys_again_what_answered_before(deployed: Deployed) -> None:
    deployed.deploy("--name", "fn", "--env", "GREETING=goodbye")
    assert deployed.call({"kind": "fence"}).json()["greets"] == "goodbye"
    shown = deployed.server.cli("function", "rollback", "fn").stdout
    assert "answers at" in shown
    assert deployed.call({"kind": "fence"}).json()["greets"] == "hello"
    seen = deployed.server.json("function", "show", "fn")
    assert [r["state"] for r in seen["revisions"]] == ["active", "superseded", "failed", "superseded"]
    assert (seen["active"]["retries"], seen["active"]["timeout_seconds"]) == (1, 20)


def test_removing(deployed: Deployed) -> None:
    server = deployed.server
    assert server.json("function", "rm", "lines")["removed"]
    assert [f["name"] for f in server.json("function", "ls")["functions"]] == ["fn"]
    assert json.loads(server.cli("function", "invoke", "fn", '{"x": 1}').stdout) == {"event": {"x": 1}}


def test_what_makes_no_sense_is_refused_before_any_code_is_sent(deployed: Deployed) -> None:
    for options, words in (
        (["--env", "=x"], "no name"),
        (["--env", "A B=x"], "cannot name a variable"),
        (["--name", "a b"], "cannot name a function"),
    ):
        refused = deployed.server.cli(
            "function", "deploy", "app.py:handler", *options, PWD=str(deployed.folder), check=False
        )
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr
        assert "Code:" not in refused.stderr
    assert "is no job's number" in deployed.server.cli("job", "logs", "abc", check=False).stderr


APP = """
import asyncio, os
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

async def told(request):
    print("asked", request.url.path)
    return JSONResponse({"caller": request.headers.get("x-stratal-caller"), "cookies": request.cookies,
                         "auth": request.headers.get("authorization"), "acts": os.environ["STRATAL_APP"], "version": 1})

async def echo(request):
    async def pieces():
        async for piece in request.stream():
            yield piece
    return StreamingResponse(pieces())

async def forever(request):
    async def ticks():
        while True:
            yield b"tick"
            await asyncio.sleep(0.2)
    return StreamingResponse(ticks())

async def talk(socket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text * 2)

app = Starlette(routes=[Route("/echo", echo, methods=["PUT"]), Route("/forever", forever),
                        WebSocketRoute("/talk", talk), Route("/{p:path}", told)])
"""


def test_an_app_answers_at_a_host_name_of_its_own(deployed: Deployed) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    server, target = deployed.server, deployed.folder / "main.py"
    target.write_text(APP)
    asked = ("app", "deploy", f"{target}:app", "--name", "shop", "--with", "starlette")
    made = server.json(*asked, PWD=str(deployed.folder))
    host = made["url"].removeprefix("http://")
    assert host.startswith("shop-")
    bearer = {"Authorization": f"Bearer {server.admin_key}"}

    with server.http() as http:
        headers = {"Host": host, "Cookie": "stratal_session=secret; mine=1"}
        said = http.get("/a?q=1", headers=headers).json()
        assert said == {
            "caller": "service:admin",
            "cookies": {"mine": "1"},
            "auth": None,
            "acts": "shop",
            "version": 1,
        }
        sent = iter([b"a" * 500_000] * 4)
        echoed = http.put("/echo", headers={"Host": host}, content=sent)
        assert echoed.content == b"a" * 2_000_000
    assert httpx.get(f"{server.url}/", headers={"Host": host}).status_code == 401
    with connect(f"ws://{host}/talk", additional_headers=bearer, sock=_wired(server)) as talk:
        talk.send("ha")
        assert talk.recv() == "haha"
    with pytest.raises(InvalidStatus):
        connect(f"ws://{host}/talk", sock=_wired(server))
    _what_stands_open_ends_with_its_key(deployed, host)

    link = server.json("app", "open", "shop")["url"]
    with httpx.Client(base_url=server.url, headers={"Host": host}) as browser:
        entered = browser.get(f"/.stratal/enter?{link.partition('?')[2]}")
        cookie = {"Cookie": entered.headers["set-cookie"].partition(";")[0]}
        assert browser.get("/", headers=cookie).json()["cookies"] == {}

    target.write_text(APP.replace('"version": 1', '"version": 2'))
    server.json(*asked, PWD=str(deployed.folder))
    with server.http() as http:
        assert http.get("/", headers={"Host": host}).json()["version"] == 2
        server.json("app", "rollback", "shop")
        assert http.get("/", headers={"Host": host}).json()["version"] == 1
        assert "asked /" in server.cli("app", "logs", "shop").stdout
        server.kill()
        server.up()
        assert http.get("/", headers={"Host": host}).json()["version"] == 1
    assert {one["path"] for one in server.json("app", "requests", "shop")["requests"]} >= {"/", "/a", "/echo"}
    report = server.json("cost", "--by", "app")
    assert "app:shop" in json.dumps([report["costs"], report["so_far"]])
    target.write_text("app = 3\n")
    failed = server.cli(*asked, PWD=str(deployed.folder), check=False)
    assert (failed.returncode, "cannot be called" in failed.stderr) == (1, True)
    server.json("app", "rm", "shop")
    with server.http() as http:
        assert http.get("/", headers={"Host": host}).status_code in {401, 404}


def _what_stands_open_ends_with_its_key(deployed: Deployed, host: str) -> None:
    """A WebSocket and an answer of an app, a function's, a log that is followed, news, an upload: all by one key."""
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    server = deployed.server
    deployed.deploy("--name", "endless", target="app.py:lines")
    key = server.json("keys", "create", "passing", "--role", "editor")
    with server.http() as http:
        job = http.post("/api/v1/projects/default/jobs", json={"argv": ["sleep", "600"]}).json()["id"]
    bearer = {"Authorization": f"Bearer {key['token']}"}
    ended: dict[str, str] = {}
    began: set[str] = set()

    def streamed(name: str, method: str, path: str, **more: Any) -> None:
        headers = {**bearer, **more.pop("headers", {})}
        try:
            with httpx.stream(method, f"{server.url}{path}", headers=headers, timeout=90, **more) as answer:
                began.add(name)
                for _ in answer.iter_raw():
                    pass
                ended[name] = f"after {answer.status_code}"
        except httpx.TransportError as error:
            ended[name] = type(error).__name__

    def talked() -> None:
        with connect(f"ws://{host}/talk", additional_headers=bearer, sock=_wired(server)) as talk:
            began.add("websocket")
            with pytest.raises(ConnectionClosed):
                talk.recv(timeout=90)
            ended["websocket"] = "closed"

    def drip() -> Iterator[bytes]:
        began.add("upload")
        while "upload" not in ended:
            yield b"x" * 1000
            time.sleep(0.2)

    put = "/api/v1/projects/default/buckets/functions-wrote/object?key=never"
    calls: list[tuple[Any, ...]] = [
        (talked,),
        (streamed, "app", "GET", "/forever", {"headers": {"Host": host}}),
        (streamed, "function", "POST", "/f/default/endless", {"json": 1_000_000}),
        (streamed, "log", "GET", f"/api/v1/projects/default/jobs/{job}/logs?follow=true"),
        (streamed, "news", "GET", "/api/v1/projects/default/events"),
        (streamed, "upload", "PUT", put, {"content": drip()}),
    ]
    threads = []
    for call, *given in calls:
        more = given.pop() if given and isinstance(given[-1], dict) else {}
        threads.append(threading.Thread(target=call, args=given, kwargs=more, daemon=True))
    for thread in threads:
        thread.start()
    wanted = {"websocket", "app", "function", "news", "upload"}
    wait_until(lambda: began >= wanted or (ended and pytest.fail(str(ended))))
    assert not ended
    server.cli("keys", "revoke", key["id"])
    deadline = time.monotonic() + 60
    while len(ended) < len(calls):
        assert time.monotonic() < deadline, ended
        time.sleep(0.05)
    assert ended["upload"] == "after 401"
    for thread in threads:
        thread.join(30)
    with server.http() as http:
        assert http.get(put).status_code == 404
        http.post(f"/api/v1/projects/default/jobs/{job}/stop")


def _wired(server: PlatformServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), 30)
