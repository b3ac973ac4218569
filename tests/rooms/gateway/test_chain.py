"""The chain: request ids, framing, hosts, doors in order, errors in the door's dialect."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from stratal.gateway.chain import MAX_PATH_BYTES, Chain
from stratal.gateway.credentials import key_of
from stratal.identity.model import Principal
from stratal.kernel.errors import Denied, NotFound, StratalError, Unauthenticated

pytestmark = pytest.mark.fast


class Door:
    name = "test"

    def __init__(self, prefix: bytes, fails: Exception | None = None) -> None:
        self.prefix = prefix
        self.fails = fails

    def matches(self, scope: Scope) -> bool:
        return bool(scope["raw_path"].startswith(self.prefix))

    async def authenticate(self, request: Request) -> Principal | None:
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.fails:
            raise self.fails
        await PlainTextResponse(self.prefix.decode())(scope, receive, send)

    def error(self, error: StratalError, scope: Scope) -> Response:
        return JSONResponse({"dialect": self.name, "code": error.reason}, error.status)


def ask(
    chain: Chain, path: bytes = b"/", *, headers: list[tuple[bytes, bytes]] | None = None
) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8484")] if headers is None else headers,
    }
    asyncio.run(chain(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:])


def test_the_first_door_that_matches_answers() -> None:
    chain = Chain([Door(b"/a"), Door(b"/")])
    assert ask(chain, b"/ab")[2] == b"/a"
    status, headers, body = ask(chain, b"/b")
    assert (status, body) == (200, b"/")
    assert headers[b"x-request-id"].startswith(b"req_")


def test_errors_speak_the_doors_dialect_and_defects_leak_nothing() -> None:
    status, _, body = ask(Chain([Door(b"/", Denied("no"))]))
    assert (status, body) == (403, b'{"dialect":"test","code":"denied"}')
    status, _, body = ask(Chain([Door(b"/", ZeroDivisionError("secret"))]))
    assert status == 500
    assert b"secret" not in body


def test_a_challenge_opens_no_password_window_over_a_page() -> None:
    chain = Chain([Door(b"/", Unauthenticated("who?"))])
    host = (b"host", b"127.0.0.1")
    status, headers, _ = ask(chain, headers=[host])
    assert (status, headers[b"www-authenticate"]) == (401, b'Basic realm="Stratal"')
    status, headers, _ = ask(chain, headers=[host, (b"sec-fetch-dest", b"empty")])
    assert (status, headers[b"www-authenticate"]) == (401, b'Session realm="Stratal"')


def test_a_defect_answered_by_its_door_is_not_answered_twice() -> None:
    class Answers(Door):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse("mine", 500)(scope, receive, send)
            raise ZeroDivisionError

    assert ask(Chain([Answers(b"/")]))[2] == b"mine"


def test_what_no_header_may_have_is_left_out_of_it() -> None:
    """``/hub/..%00/`` was named in the header of an error once, and the server broke off instead of answering."""

    class Names(Door):
        def error(self, error: StratalError, scope: Scope) -> Response:
            return Response(status_code=404, headers={"X-Error-Message": str(error)})

    status, headers, _ = ask(Chain([Names(b"/", NotFound("no ..\0/\r\nX: y\x7f\there"))]))
    assert (status, headers[b"x-error-message"]) == (404, b"no .. /  X: y \there")


def test_nobody_home_is_404() -> None:
    assert ask(Chain([Door(b"/a")]), b"/b")[0] == 404


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"host", b"evil.example")],
        [(b"host", b"127.0.0.1.evil.example")],
        [(b"host", b"localhost"), (b"host", b"localhost")],
        [(b"host", b"localhost"), (b"content-length", b"1"), (b"content-length", b"1")],
        [(b"host", b"localhost"), (b"content-length", b"1"), (b"transfer-encoding", b"chunked")],
        [(b"host", b"localhost"), (b"x", b"y" * 70_000)],
    ],
)
def test_what_no_door_should_see(headers: list[tuple[bytes, bytes]]) -> None:
    assert ask(Chain([Door(b"/")]), headers=headers)[0] == 400


def test_too_long_an_address_is_refused() -> None:
    assert ask(Chain([Door(b"/")]), b"/" + b"a" * MAX_PATH_BYTES)[0] == 400


@pytest.mark.parametrize(
    "host", [b"localhost", b"127.0.0.1:1", b"[::1]:8484", b"x.localhost:8484", b"lab.example:8484"]
)
def test_hosts_that_are_ours(host: bytes) -> None:
    assert ask(Chain([Door(b"/")], hosts=["Lab.example"]), headers=[(b"host", host)])[0] == 200


@pytest.mark.parametrize("host", [b"192.168.1.7:8484", b"10.0.0.1", b"[fe80::1]:8484"])
def test_literal_addresses_are_ours_only_when_listening_everywhere(host: bytes) -> None:
    assert ask(Chain([Door(b"/")], any_address=True), headers=[(b"host", host)])[0] == 200
    assert ask(Chain([Door(b"/")]), headers=[(b"host", host)])[0] == 400
    assert ask(Chain([Door(b"/")], any_address=True), headers=[(b"host", b"evil.example")])[0] == 400


def _request(authorization: str) -> Request:
    return Request({"type": "http", "headers": [(b"authorization", authorization.encode("latin-1"))]})


def test_keys_are_read_from_bearer_and_basic() -> None:
    assert key_of(_request("Bearer a.b")) == ("a", "b")
    assert key_of(_request("basic YTpi")) == ("a", "b")
    assert key_of(_request("Basic OmEuYg==")) == ("a", "b")  # a client that only knows a password


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer x", "Basic", "Basic %%", "Basic /w==", "Token a.b"])
def test_everything_else_is_not_a_key(header: str) -> None:
    with pytest.raises(Unauthenticated):
        key_of(_request(header))
