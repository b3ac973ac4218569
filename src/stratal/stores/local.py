"""Blobs as files on this machine's disk.

A blob is received into ``scratch/`` and, when whole, fsynced, renamed to a name never used before
and its directory fsynced. Files are grouped in directories by the time in their keys (one for about
nine hours), so that what was written since a moment is found without walking everything: that is how
leftovers of a killed process are looked for (`keys_after`).

All file I/O and hashing runs on this store's own few threads, never on the event loop.
"""

import asyncio
import errno
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TypeVar

from stratal.kernel.blobs import Blob
from stratal.kernel.errors import Internal, NotFound, Unavailable
from stratal.kernel.ids import new_id

T = TypeVar("T")

CHUNK = 1024 * 1024
_KEY = re.compile(r"blob_[0-9a-z]{26}\Z")
_THREADS = 8


class LocalBlobs:
    """A `BlobStore` below `root`, of which one process at a time is the only writer."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.scratch = root / "scratch"
        self.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._groups: set[Path] = set()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")

    # -- the port ----------------------------------------------------------------------------

    async def create(self) -> "LocalBlobWriter":
        return LocalBlobWriter(self)

    async def put(self, data: bytes) -> Blob:
        writer = await self.create()
        await writer.write(data)
        return await writer.commit()

    async def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        path = self._path(key)
        end = None if length is None else start + length
        descriptor, data = await self._run(lambda: _open_and_read(path, key, start, _step(start, end)))
        try:
            while data:
                start += len(data)
                yield data
                if start == end:
                    return
                data = await self._run(partial(os.pread, descriptor, _step(start, end), start))
        finally:
            os.close(descriptor)

    async def read_all(self, key: str) -> bytes:
        return b"".join([chunk async for chunk in self.read(key)])

    async def sha256(self, key: str) -> str:
        path = self._path(key)

        def work() -> str:
            try:
                with path.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError as error:
                raise _missing(key) from error

        return await self._run(work)

    async def delete(self, key: str) -> None:
        await self._run(partial(self.remove, key))

    def local_path(self, key: str) -> Path | None:
        return self._path(key)

    # -- beyond the port -----------------------------------------------------------------------

    def clear_scratch(self) -> int:
        """Remove what a killed process was receiving; returns how many files. Only before the first write."""
        leftovers = list(self.scratch.iterdir())
        for path in leftovers:
            path.unlink()
        return len(leftovers)

    async def keys_after(self, key: str) -> AsyncIterator[list[str]]:
        """Yield the keys of stored blobs made after `key` was (or with its millisecond), a directory at a time."""
        first = self._path(key).parent.name
        groups = await self._run(lambda: sorted(p for p in self._root.iterdir() if p.name >= first))
        for group in groups:
            if group == self.scratch:
                continue
            names = await self._run(partial(_names, group))
            found = [name for name in names if _KEY.match(name) and name[:15] >= key[:15]]
            if found:
                yield found

    async def close(self) -> None:
        """Wait for the file operations under way and release the threads."""
        await asyncio.to_thread(self._threads.shutdown)

    # -- for the writer ------------------------------------------------------------------------

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        return self._threads.submit(work)

    def store(self, scratch: Path, file: IO[bytes]) -> str:
        """Make the received file durable under a new key. Runs on a thread."""
        file.flush()
        os.fsync(file.fileno())
        file.close()
        key = new_id("blob")
        path = self._path(key)
        if path.parent not in self._groups:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _sync_directory(self._root)
            self._groups.add(path.parent)
        scratch.rename(path)
        _sync_directory(path.parent)
        return key

    def remove(self, key: str) -> None:
        """Unlink the blob durably; absent is fine. Runs on a thread."""
        path = self._path(key)
        with suppress(FileNotFoundError):
            path.unlink()
            _sync_directory(path.parent)

    def _path(self, key: str) -> Path:
        if not _KEY.match(key):
            raise Internal(f"{key[:60]!r} is not the key of a blob.")
        return self._root / key[5:10] / key

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


class LocalBlobWriter:
    """Receives one blob. Up to `CHUNK` bytes are kept in memory, so that a small blob costs one thread hop;
    beyond, each full chunk is hashed and written while the next one arrives."""

    def __init__(self, store: LocalBlobs) -> None:
        self._store = store
        self._scratch = store.scratch / new_id("part")
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._size = 0
        self._held: list[bytes] = []
        self._held_size = 0
        self._flushing: Future[None] | None = None
        self._ended = False

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        self._held.append(bytes(data))
        self._held_size += len(data)
        if self._held_size >= CHUNK:
            await self._settle()
            self._flushing = self._store.submit(self._flusher())

    async def commit(self) -> Blob:
        await self._settle()
        flush = self._flusher()
        self._ended = True

        def work() -> Blob:
            try:
                flush()
                assert self._file is not None
                key = self._store.store(self._scratch, self._file)
            except OSError as error:
                self._discard()
                raise _storage_failure(error) from error
            return Blob(key, self._size, self._digest.hexdigest())

        storing = self._store.submit(work)
        try:
            return await asyncio.shield(asyncio.wrap_future(storing))
        except asyncio.CancelledError:
            storing.add_done_callback(self._forget)
            raise

    async def abort(self) -> None:
        if self._ended:
            return
        self._ended = True
        pending = self._flushing

        def work() -> None:
            if pending is not None:
                with suppress(Exception):
                    pending.result()
            self._discard()

        # Shielded: the one who gives up is often being cancelled, and the file must go all the same.
        await asyncio.shield(asyncio.wrap_future(self._store.submit(work)))

    async def _settle(self) -> None:
        """Wait for the chunk that is being written; raises what went wrong with it."""
        if self._flushing is not None:
            try:
                await asyncio.shield(asyncio.wrap_future(self._flushing))
            except OSError as error:
                raise _storage_failure(error) from error
            self._flushing = None

    def _flusher(self) -> Callable[[], None]:
        held, self._held, self._held_size = self._held, [], 0

        def work() -> None:
            if self._file is None:
                self._file = open(self._scratch, "xb", opener=_private)  # noqa: SIM115
            for data in held:
                self._digest.update(data)
                self._size += len(data)
                self._file.write(data)

        return work

    def _forget(self, storing: "Future[Blob]") -> None:
        """Nobody waits for this blob any more: nobody will know its key."""
        if storing.exception() is None:
            self._store.remove(storing.result().key)

    def _discard(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._scratch.unlink(missing_ok=True)


def _open_and_read(path: Path, key: str, offset: int, size: int) -> tuple[int, bytes]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise _missing(key) from error
    try:
        return descriptor, os.pread(descriptor, size, offset)
    except BaseException:
        os.close(descriptor)
        raise


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _step(start: int, end: int | None) -> int:
    return CHUNK if end is None else max(0, min(CHUNK, end - start))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _missing(key: str) -> NotFound:
    return NotFound(f"The stored bytes {key} are gone.", reason="no_such_blob")


def _storage_failure(error: OSError) -> Unavailable:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return Unavailable("The disk is full.", hint="Free space, then try again.", reason="storage_full")
    return Unavailable(f"The disk refused: {error.strerror}.", reason="storage_failed")
