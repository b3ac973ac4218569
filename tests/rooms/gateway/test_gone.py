"""What is made for a client ends when the client hangs up."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest
from starlette.requests import Request

from stratal.gateway.gone import unless_gone
from stratal.gateway.openai.wire import all_of
from stratal.kernel.errors import Invalid

pytestmark = pytest.mark.fast


class Writing:
    """A model that writes one piece a turn and never ends by itself."""

    def __init__(self) -> None:
        self.written = 0
        self.ended = False

    async def pieces(self) -> AsyncGenerator[Mapping[str, Any], None]:
        try:
            while True:
                self.written += 1
                yield {"text": "x"}
                await asyncio.sleep(0)
        finally:
            self.ended = True


def asked(gone: asyncio.Event) -> Request:
    async def receive() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


def test_a_client_that_hangs_up_ends_the_writing() -> None:
    async def story() -> None:
        gone, model = asyncio.Event(), Writing()
        answer = asyncio.ensure_future(unless_gone(asked(gone), all_of(model.pieces())))
        while model.written < 10:
            await asyncio.sleep(0)
        assert not model.ended
        gone.set()
        with pytest.raises(Invalid) as refused:
            await answer
        assert refused.value.reason == "client_gone"
        assert model.ended
        written = model.written
        await asyncio.sleep(0)
        assert model.written == written

    asyncio.run(story())


def test_a_client_that_waits_gets_its_answer_and_what_went_wrong() -> None:
    async def two() -> AsyncGenerator[Mapping[str, Any], None]:
        yield {"text": "a"}
        yield {"finish": "stop"}

    async def wrong() -> AsyncGenerator[Mapping[str, Any], None]:
        yield {"text": "a"}
        raise Invalid("no", reason="bad_input")

    async def story() -> None:
        waiting = asyncio.Event()
        assert await unless_gone(asked(waiting), all_of(two())) == [{"text": "a"}, {"finish": "stop"}]
        first = two()
        assert await unless_gone(asked(waiting), anext(first)) == {"text": "a"}
        assert [piece async for piece in first] == [{"finish": "stop"}]  # goes on in another task
        with pytest.raises(Invalid, match="no"):
            await unless_gone(asked(waiting), all_of(wrong()))

    asyncio.run(story())
