"""A killed server's half-done work costs no disk for ever."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stratal.compute.leftovers import Leftovers
from stratal.kernel.ids import new_id

from .room import Room
from .test_snapshots import FILES, stored

pytestmark = pytest.mark.fast
InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


def test_bytes_without_a_row_go_and_all_others_stay(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        leftovers = Leftovers(room.database, room.blobs)
        assert await leftovers.sweep(new_id("blob")) == 0
        id_ = await stored(room, FILES)
        job = await room.submit(snapshot_id=id_)
        await room.until(job, "running")
        room.engine.output["job-1-1"] = b"kept\n"
        room.engine.end("job-1-1")
        await room.until(job, "succeeded")
        orphan = await room.blobs.put(b"stored, and then the server died")
        await asyncio.sleep(0.002)  # ids sort by the millisecond in which they were made
        started = new_id("blob")
        await asyncio.sleep(0.002)
        newer = await room.blobs.put(b"of this server, its row comes in a moment")
        assert await leftovers.sweep(started) == 1
        names = {path.name for path in (room.home / "blobs").glob("*/blob_*")}
        assert orphan.key not in names
        assert newer.key in names
        assert await room.log(job) == b"kept\n"
        assert (await room.snapshots.prove("prj_a", id_)).ok

    in_room(story)
