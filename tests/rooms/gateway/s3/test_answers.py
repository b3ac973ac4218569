"""Answers that take long begin in time; answers nobody waits for any more are not made to the end."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from stratal.gateway.s3 import answers
from stratal.gateway.s3.answers import ObjectAnswer, SlowAnswer
from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.xml import document, element

pytestmark = pytest.mark.fast

SCOPE = {"type": "http", "method": "POST", "raw_path": b"/b/k", "state": {"request_id": "req_1"}}


class Client:
    """Takes down what is sent; `when` is called with each message."""

    def __init__(self, when: Callable[[dict[str, Any]], None] = lambda _message: None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.gone = asyncio.Event()
        self._when = when

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self._when(message)
        await asyncio.sleep(0)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


@pytest.mark.parametrize("fails", [False, True])
def test_a_long_wait_is_filled_and_ends_in_one_xml_document(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(answers, "PATIENCE_SECONDS", 0.001)

    async def story() -> Client:
        filled = asyncio.Event()

        async def work() -> bytes:
            await filled.wait()
            if fails:
                raise refusal("BadDigest", "damaged")
            return document("Done", element("Key", "k"))

        def seen(message: dict[str, Any]) -> None:
            if message.get("body") == b" ":
                filled.set()

        client = Client(seen)
        await SlowAnswer(work())(dict(SCOPE), client.receive, client.send)
        return client

    client = asyncio.run(story())
    assert client.status == 200
    assert client.messages[-1].get("more_body", False) is False
    tree = ElementTree.fromstring(client.body)
    assert tree.tag.rpartition("}")[2] == ("Error" if fails else "Done")
    if fails:
        assert tree.findtext("Code") == "BadDigest"


def test_a_short_wait_is_an_ordinary_answer() -> None:
    async def story() -> Client:
        async def work() -> bytes:
            return document("Done")

        client = Client()
        await SlowAnswer(work())(dict(SCOPE), client.receive, client.send)
        return client

    client = asyncio.run(story())
    assert (client.status, client.body) == (200, document("Done"))


def test_reading_stops_when_the_client_is_gone() -> None:
    async def story() -> tuple[Client, int, bool]:
        read, closed = 0, False

        async def pieces() -> AsyncGenerator[bytes, None]:
            nonlocal read, closed
            try:
                for _ in range(1000):
                    read += 1
                    yield b"x"
            finally:
                closed = True

        def seen(_message: dict[str, Any]) -> None:
            if len(client.messages) == 5:
                client.gone.set()

        client = Client(seen)
        body = pieces()
        first = await anext(body)
        await ObjectAnswer(200, [], first, body)(dict(SCOPE), client.receive, client.send)
        return client, read, closed

    client, read, closed = asyncio.run(story())
    assert read < 20
    assert closed
    assert client.messages[-1]["more_body"] is True


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_all_pieces_are_sent_and_the_last_ends_the_answer(count: int) -> None:
    async def story() -> Client:
        async def pieces() -> AsyncGenerator[bytes, None]:
            for number in range(count):
                yield b"%d" % number

        client, body = Client(), pieces()
        first = await anext(body, None)
        await ObjectAnswer(206, [(b"a", b"b")], first, body)(dict(SCOPE), client.receive, client.send)
        return client

    client = asyncio.run(story())
    assert (client.status, client.body) == (206, b"01234"[:count])
    assert [message.get("more_body") for message in client.messages[1:]][-1] is False
