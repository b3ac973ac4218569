"""What every blob store promises, run over each adapter (one so far)."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from stratal.kernel.blobs import BlobStore
from stratal.kernel.errors import Internal, NotFound
from stratal.kernel.ids import new_id
from stratal.stores.local import CHUNK, LocalBlobs

pytestmark = pytest.mark.fast

Story = Callable[[BlobStore], Awaitable[None]]


@asynccontextmanager
async def local(root: Path) -> AsyncIterator[BlobStore]:
    store = LocalBlobs(root)
    yield store
    await store.close()


@pytest.fixture(params=[local], ids=["local"])
def tell(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Story], None]:
    """Run a story on a store of this kind."""

    def teller(story: Story) -> None:
        async def main() -> None:
            async with request.param(tmp_path / "blobs") as store:
                await story(store)

        asyncio.run(main())

    return teller


@pytest.mark.parametrize("size", [0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
def test_what_is_written_is_read(tell: Callable[[Story], None], size: int) -> None:
    async def story(store: BlobStore) -> None:
        data = bytes(n % 251 for n in range(1024)) * (size // 1024 + 1)
        data = data[:size]
        writer = await store.create()
        for start in range(0, size, 70_000):
            await writer.write(memoryview(data)[start : start + 70_000])
        blob = await writer.commit()
        await writer.abort()  # after commit it does nothing
        assert (blob.size, blob.sha256) == (size, hashlib.sha256(data).hexdigest())
        assert await store.read_all(blob.key) == data
        assert await store.sha256(blob.key) == blob.sha256
        for start, length in ((0, 1), (size // 2, 10), (size, 5), (0, size), (size // 3, None)):
            got = b"".join([chunk async for chunk in store.read(blob.key, start, length)])
            assert got == data[start:][:length]

    tell(story)


def test_a_buffer_may_be_reused_after_writing(tell: Callable[[Story], None]) -> None:
    async def story(store: BlobStore) -> None:
        writer, buffer = await store.create(), bytearray(b"one")
        await writer.write(buffer)
        buffer[:] = b"two"
        await writer.write(buffer)
        assert await store.read_all((await writer.commit()).key) == b"onetwo"

    tell(story)


def test_keys_are_never_used_twice(tell: Callable[[Story], None]) -> None:
    async def story(store: BlobStore) -> None:
        blobs = await asyncio.gather(*(store.put(b"same") for _ in range(50)))
        assert len({blob.key for blob in blobs}) == 50

    tell(story)


def test_what_is_gone_is_not_found(tell: Callable[[Story], None]) -> None:
    async def story(store: BlobStore) -> None:
        blob = await store.put(b"x")
        await store.delete(blob.key)
        await store.delete(blob.key)
        with pytest.raises(NotFound):
            await store.read_all(blob.key)
        with pytest.raises(NotFound):
            await store.sha256(blob.key)

    tell(story)


@pytest.mark.parametrize(
    "key", ["", "..", "../x", "/etc/passwd", "blob_../../../../../etc/xxx", "blob_" + "x" * 27]
)
def test_what_is_no_key_reaches_no_file(tell: Callable[[Story], None], key: str) -> None:
    async def story(store: BlobStore) -> None:
        with pytest.raises(Internal):
            await store.read_all(key)
        with pytest.raises(Internal):
            await store.delete(key)

    tell(story)


def test_an_aborted_blob_leaves_no_file(tmp_path: Path) -> None:
    async def story() -> None:
        async with local(tmp_path) as store:
            for size in (0, 10, 3 * CHUNK):
                writer = await store.create()
                await writer.write(b"x" * size)
                await writer.abort()

    asyncio.run(story())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with local(tmp_path) as store:
            path = store.local_path((await store.put(b"x")).key)
            assert path is not None
            assert path.stat().st_mode & 0o077 == path.parent.stat().st_mode & 0o077 == 0

    asyncio.run(story())


def test_blobs_made_since_a_moment_are_found(tmp_path: Path) -> None:
    async def story() -> None:
        async with local(tmp_path) as store:
            assert isinstance(store, LocalBlobs)
            before = new_id("blob")
            made = {(await store.put(b"x")).key for _ in range(10)}
            assert {key async for keys in store.keys_after(before) for key in keys} == made
            later = "blob_7zzzzzzzzz" + "0" * 16
            assert [keys async for keys in store.keys_after(later)] == []

    asyncio.run(story())


def test_scratch_of_a_killed_process_is_cleared(tmp_path: Path) -> None:
    async def story() -> None:
        async with local(tmp_path) as store:
            assert isinstance(store, LocalBlobs)
            blob = await store.put(b"kept")
            (store.scratch / "part_left").write_bytes(b"x")
            assert store.clear_scratch() == 1
            assert await store.read_all(blob.key) == b"kept"

    asyncio.run(story())
