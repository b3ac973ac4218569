"""Answers that stand open: they end with the credential, keep the line warm, and lose or alter nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from stratal.gateway.chain import Chain
from stratal.gateway.standing import while_good
from stratal.identity.model import Kind, Principal, Role
from stratal.kernel.errors import StratalError, Unauthenticated

pytestmark = pytest.mark.fast


async def _yes() -> bool:
    return True


async def _said(*words: bytes, then_quiet: bool = False) -> AsyncIterator[bytes]:
    for word in words:
        yield word
    if then_quiet:
        await asyncio.Event().wait()


def test_everything_is_passed_on_in_order_and_the_end_too() -> None:
    async def story() -> list[bytes]:
        return [chunk async for chunk in while_good(_said(b"a", b"b", b"c"), _yes)]

    assert asyncio.run(story()) == [b"a", b"b", b"c"]


def test_it_ends_once_the_credential_is_not_good_any_more() -> None:
    async def story() -> list[bytes]:
        answers = [True, True, False]

        async def good() -> bool:
            return answers.pop(0)

        stream = while_good(_said(b"a", then_quiet=True), good, recheck_seconds=0)
        return [chunk async for chunk in stream]

    assert asyncio.run(story()) == [b"a"]


def test_a_busy_stream_is_asked_about_too() -> None:
    async def story() -> int:
        asked = 0

        async def good() -> bool:
            nonlocal asked
            asked += 1
            return asked < 50

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x"

        return len([chunk async for chunk in while_good(endless(), good, recheck_seconds=0)])

    assert 0 < asyncio.run(story()) < 50


def test_quiet_times_carry_heartbeats() -> None:
    async def story() -> list[bytes]:
        heard: list[bytes] = []
        quiet = _said(b"a", then_quiet=True)
        stream = while_good(quiet, _yes, heartbeat=b"~", recheck_seconds=0, heartbeat_seconds=0)
        async for chunk in stream:
            heard.append(chunk)
            if len(heard) == 4:
                await stream.aclose()
                break
        return heard

    assert asyncio.run(story()) == [b"a", b"~", b"~", b"~"]


def test_whoever_stops_listening_closes_what_was_listened_to() -> None:
    closed = []

    async def source() -> AsyncIterator[bytes]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    async def story() -> None:
        stream = while_good(source(), _yes)
        assert await anext(stream) == b"a"
        await asyncio.sleep(0)
        await stream.aclose()

    asyncio.run(story())
    assert closed == [True]


def test_what_fails_underneath_fails_above() -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"a"
        raise OSError("the disk is gone")

    async def story() -> None:
        async for _ in while_good(source(), _yes):
            pass

    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(story())


class Place:
    """A door whose every answer says one word and then stands open, or that takes a body in pieces."""

    name = "place"

    def __init__(self, who: Principal) -> None:
        self.who: Principal | None = who
        self.taken = 0

    def matches(self, scope: Scope) -> bool:
        return True

    async def authenticate(self, request: Request) -> Principal | None:
        if self.who is None:
            raise Unauthenticated("That key was revoked.", reason="revoked_key")
        return self.who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "PUT":
            more = True
            while more:
                message = await receive()
                self.taken += len(message["body"])
                more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a word", "more_body": True})
        await asyncio.Event().wait()

    def error(self, error: StratalError, scope: Scope) -> Response:
        return JSONResponse({"code": error.reason}, error.status)


VIEWER = Principal(Kind.SERVICE, "ci", "ci", "prj_a", "a", Role.VIEWER, key_id="st1kx")
PERSON = Principal(
    Kind.PERSON, "usr_i", "ida", "prj_a", "a", Role.EDITOR, elsewhere={"prj_b": Role.EDITOR}
)  # fmt: skip


async def _ask_place(door: Place, method: str, end: Callable[[], None]) -> list[Message]:
    """What a client is told whose credential ends, by `end`, after the first word in either direction."""
    said: list[Message] = []
    asked = 0

    async def receive() -> Message:
        nonlocal asked
        asked += 1
        if asked == 2:
            end()
            await asyncio.sleep(0.05)  # long enough to be looked at, several times
        return {"type": "http.request", "body": b"x", "more_body": asked < 3}

    async def send(message: Message) -> None:
        said.append(message)
        if message.get("body") == b"a word":
            end()

    async def of_key(key_id: str) -> Principal:
        who = await door.authenticate(Request({"type": "http"}))
        assert who is not None
        return who

    scope = {
        "type": "http",
        "method": method,
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    await asyncio.wait_for(Chain([door], of_key=of_key, overdue_seconds=0)(scope, receive, send), 60)
    return said


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (VIEWER, None),
        (replace(VIEWER, role=Role.EDITOR), VIEWER),
        (PERSON, None),
        (PERSON, replace(PERSON, role=Role.VIEWER)),
        (PERSON, replace(PERSON, elsewhere={})),
        (PERSON, replace(PERSON, project_id="prj_b", elsewhere={})),
        (replace(PERSON, role=Role.ADMIN), PERSON),
    ],
    ids=["key ended", "key weaker", "signed out", "role weaker", "out of one", "out of this", "no admin"],
)
def test_an_answer_of_any_door_is_broken_off_when_who_asked_may_less(
    before: Principal, after: Principal | None
) -> None:
    door = Place(before)
    said = asyncio.run(_ask_place(door, "GET", lambda: setattr(door, "who", after)))
    assert [message.get("more_body") for message in said] == [None, True]  # begun, and never said to be whole


def test_a_body_is_read_no_further_once_the_key_ended_and_the_door_says_so_in_its_dialect() -> None:
    door = Place(VIEWER)
    said = asyncio.run(_ask_place(door, "PUT", lambda: setattr(door, "who", None)))
    assert (said[0]["status"], said[1]["body"]) == (401, b'{"code":"ended_key"}')
    assert door.taken == 1
