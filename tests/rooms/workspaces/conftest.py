"""Stories told in a room of workspaces: one part per life of the server."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from .room import Room, World

Part = Callable[[Room], Awaitable[None]]


@pytest.fixture
def tell(tmp_path: Path) -> Callable[..., World]:
    """Run each part in a room of its own on the same home and world: between two of them the server restarts."""

    def run(*parts: Part) -> World:
        async def main() -> World:
            world = World()
            for part in parts:
                room = Room(tmp_path, world)
                await room.start()
                try:
                    async with asyncio.timeout(30):
                        await part(room)
                finally:
                    await room.close()
                for notebook in world.notebooks.values():
                    notebook.gone = asyncio.Event()
            return world

        return asyncio.run(main())

    return run
