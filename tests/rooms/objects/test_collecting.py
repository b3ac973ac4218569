"""What killed processes leave is found and removed; nothing that a row refers to ever is."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from stratal.data.objects.collector import Collector
from stratal.data.objects.model import Description
from stratal.kernel.ids import new_id

pytestmark = pytest.mark.fast


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def test_leftovers_of_a_kill_are_swept_at_the_next_start(room, run) -> None:
    async def story() -> None:
        await room.collector.sweep(new_id("blob"))  # the first start
        await room.objects.create_bucket(room.ann, "bucket")
        kept = await room.objects.put_bytes(room.ann, "bucket", "k", b"kept")
        replaced = await room.objects.put_bytes(room.job, "bucket", "r", b"old")
        await room.objects.put_bytes(room.ann, "bucket", "r", b"new")
        upload = await room.uploads.create(room.ann, "bucket", "m", description=Description())
        await room.uploads.put_part(room.ann, "bucket", "m", upload.id, 1, pieces(b"part"))
        for _ in range(3):
            await room.blobs.put(b"committed, but its row never was")
        unfinished = await room.blobs.create()
        await unfinished.write(b"x" * 3_000_000)
        await asyncio.sleep(0)

        assert await room.collector.sweep(new_id("blob_")[:-26] + "z" * 26) == 3
        assert await room.objects.read_all(room.ann, kept) == b"kept"
        assert (await room.objects.verify(replaced.id)).status == "verified"
        parts = (await room.uploads.list_parts(room.ann, "bucket", "m", upload.id))[1]
        assert [part.size for part in parts] == [4]
        await unfinished.abort()

    run(story())
    assert room.files() == 4


def test_a_database_that_was_never_swept_removes_nothing(room, run) -> None:
    """A fresh database beside old bytes is an accident, not a reason to delete them."""

    async def story() -> None:
        await room.blobs.put(b"of another life")
        assert await room.collector.sweep(new_id("blob")) == 0

    run(story())
    assert room.files() == 1


def test_a_kill_between_decision_and_unlinking_is_made_good(room, run) -> None:
    class Dying(RuntimeError):
        pass

    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        await room.objects.put_bytes(room.ann, "bucket", "k", b"1")
        await room.objects.delete(room.ann, "bucket", "k")

        async def die(_key: str) -> None:
            raise Dying

        delete, room.blobs.delete = room.blobs.delete, die
        with pytest.raises(Dying):
            await room.collector.collect()
        assert room.files() == 1
        room.blobs.delete = delete
        assert await Collector(room.database, room.blobs, lambda: room.now).collect() == 1

    run(story())
    assert room.files() == 0


def test_bytes_referred_to_while_they_waited_are_kept(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        old = await room.objects.put_bytes(room.ann, "bucket", "k", b"old")
        await room.objects.put_bytes(room.ann, "bucket", "k", b"new")
        assert await room.collector.collect() == 0  # not due: somebody may be about to read it
        assert await room.objects.read_all(room.job, old) == b"old"
        room.later()
        assert await room.collector.collect() == 0
        assert (await room.objects.verify(old.id)).status == "verified"

    run(story())


def test_the_collector_works_by_itself(room, run) -> None:
    async def story() -> None:
        await room.objects.start()
        await room.objects.create_bucket(room.ann, "bucket")
        await room.objects.put_bytes(room.ann, "bucket", "k", b"1")
        await room.objects.delete(room.ann, "bucket", "k")
        async with asyncio.timeout(30):
            while room.files():
                await asyncio.sleep(0.005)
        await room.objects.close()

    run(story())
