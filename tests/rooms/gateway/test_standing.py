"""Answers that stand open: they end with the credential, keep the line warm, and lose or alter nothing."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from stratal.gateway.standing import while_good

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
