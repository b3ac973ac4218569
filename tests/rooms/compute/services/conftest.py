"""Stories told in a room of services: one part per life of the server."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from .room import Room, World

Part = Callable[[Room], Awaitable[None]]


@pytest.fixture
def tell(tmp_path: Path) -> Callable[..., None]:
    """Run each part in a room of its own on the same home and world: between two of them the server restarts."""

    def run(*parts: Part, cpus: float = 4, memory: int = 8 << 30) -> None:
        async def main() -> None:
            world = World(cpus, memory)
            for part in parts:
                room = Room(tmp_path, world)
                await room.start()
                try:
                    async with asyncio.timeout(20):
                        await part(room)
                finally:
                    await room.close()
                for replica in world.replicas.values():
                    replica.gone = asyncio.Event()

        asyncio.run(main())

    return run
