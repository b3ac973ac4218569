from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from .room import Room, World

Story = Callable[[Room], Awaitable[None]]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def in_room(tmp_path: Path, world: World) -> Callable[..., None]:
    """Run stories one after the other, each on a server started anew on the same disk and machine."""

    def run(*stories: Story, request_seconds: float = 30.0, reboot: bool = False) -> None:
        async def one(story: Story) -> None:
            room = Room(tmp_path, world, request_seconds=request_seconds)
            await room.start()
            try:
                await story(room)
            finally:
                await room.close()

        for story in stories:
            uvloop.run(one(story))
            if reboot:  # nothing runs any more, and nobody saw how it ended
                world.statuses.clear()

    return run
