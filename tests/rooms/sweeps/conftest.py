from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from .room import Room


@pytest.fixture
def in_room(tmp_path: Path) -> Callable[[Callable[[Room], Awaitable[None]]], None]:
    """Run a coroutine function with a started room."""

    def run(story: Callable[[Room], Awaitable[None]]) -> None:
        async def main() -> None:
            room = Room(tmp_path)
            await room.start()
            try:
                await story(room)
            finally:
                await room.close()

        uvloop.run(main())

    return run
