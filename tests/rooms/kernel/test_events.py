"""Those who follow what happens see all of it, once and in order, and look together."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from stratal.kernel.database import Database, metadata
from stratal.kernel.events import Event, Events, emit

pytestmark = pytest.mark.fast

MANY = 12
FOLLOWERS = 6


@pytest.mark.parametrize("failing", [False, True])
def test_followers_share_their_looks_and_miss_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    database = Database(tmp_path / "db")
    database.write_now(lambda c: metadata.tables["outbox"].create(c, checkfirst=True))
    events = Events(database)
    looks = 0
    after: Callable[..., Awaitable[list[Event]]] = events.after

    async def counted(seq: int, **more: Any) -> list[Event]:
        nonlocal looks
        looks += 1
        if failing and looks == 1:
            raise OSError("the disk is elsewhere")
        return await after(seq, **more)

    monkeypatch.setattr(events, "after", counted)

    async def follow() -> list[str]:
        seen: list[str] = []
        seq = 0
        while True:
            try:
                async for event in events.follow(seq):
                    seq = event.seq
                    seen.append(event.subject)
                    if len(seen) == MANY:
                        return seen
            except OSError:
                continue

    async def whole() -> list[list[str]]:
        followers = [asyncio.create_task(follow()) for _ in range(FOLLOWERS)]
        for number in range(MANY):
            await database.write(lambda c, n=number: emit(c, "thing.made", str(n), actor="system"))
        async with asyncio.timeout(60):
            return await asyncio.gather(*followers)

    try:
        assert asyncio.run(whole()) == [[str(number) for number in range(MANY)]] * FOLLOWERS
    finally:
        database.close()
    assert looks < MANY * FOLLOWERS
