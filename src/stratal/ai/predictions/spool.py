"""The local spool: prediction rows in append-only segment files, written before the answer leaves.

A record is ``u32 length, u32 CRC-32`` (little-endian) and the row's bytes; one ``write(2)`` each, so a
killed process leaves whole records and at most one torn tail, which readers recognise and end at. A
process writes to segments of its own: the number is claimed by creating the file, and a restart begins
a new one. A write survives ``kill -9`` at once; once a second (and at the end) what was written is synced,
so that a power cut costs at most that.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread

MAGIC = b"stratal spool 1\n"
_HEAD = struct.Struct("<II")
_SYNC_SECONDS = 1.0
MAX_RECORD = 16 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """Where a row lies, and its SHA-256."""

    segment: int
    offset: int
    digest: bytes


class Torn(Exception):
    """There is no whole record at that place: the file is gone, cut off or altered. The message says which."""


class Spool:
    """The segments below `folder`. `append` is quick and called in the event loop; `segment_bytes` bounds a file."""

    def __init__(self, folder: Path, *, segment_bytes: int = 64 << 20) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._descriptor: int | None = None
        self._segment = 0
        self._end = 0
        self._dirty = asyncio.Event()
        self._syncing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._syncing = asyncio.create_task(self._sync_for_ever(), name="spool: sync")

    async def close(self) -> None:
        """Sync and close the segment being written."""
        if self._syncing is not None:
            self._syncing.cancel()
            await asyncio.gather(self._syncing, return_exceptions=True)
        self._seal()

    # -- writing -------------------------------------------------------------------------------

    def append(self, row: bytes) -> Written:
        """Write one row; when this returns, it survives a kill of this process. Raises `OSError` (a full disk)."""
        if len(row) > MAX_RECORD:
            raise ValueError(f"a row of {len(row)} bytes is over the limit of {MAX_RECORD}")
        if self._descriptor is None or self._end + len(row) > self._segment_bytes:
            self._seal()
            self._open()
        assert self._descriptor is not None
        offset = self._end
        record = _HEAD.pack(len(row), zlib.crc32(row)) + row
        try:
            written = os.write(self._descriptor, record)
            while written < len(record):
                written += os.write(self._descriptor, record[written:])
        except OSError:
            self._seal()  # a torn record in the midst would hide those behind it: go on in a new segment
            raise
        self._end += len(record)
        self._dirty.set()
        return Written(self._segment, offset, hashlib.sha256(row).digest())

    def _open(self) -> None:
        number = max(self.segments(), default=0) + 1
        while True:
            try:
                descriptor = os.open(
                    self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600
                )
                break
            except FileExistsError:
                number += 1
        try:
            if os.write(descriptor, MAGIC) != len(MAGIC):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._segment, self._end = descriptor, number, len(MAGIC)

    def _seal(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.fdatasync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    async def _sync_for_ever(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if self._descriptor is not None:
                copy = os.dup(self._descriptor)  # the segment may be sealed meanwhile
                try:
                    with contextlib.suppress(OSError):
                        await anyio.to_thread.run_sync(os.fdatasync, copy)
                finally:
                    os.close(copy)
            await asyncio.sleep(_SYNC_SECONDS)

    # -- reading (blocking: call in a thread) --------------------------------------------------

    def read(self, segment: int, offset: int) -> bytes:
        """The row at that place. Raises `Torn`."""
        try:
            with self._path(segment).open("rb") as file:
                return _record(file.fileno(), offset)
        except FileNotFoundError:
            raise Torn(f"the spool's segment {segment} is gone") from None

    def rows(self, segment: int, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Every whole row of a segment with its offset, from `start` (where a row begins) up to its end or the first that
        is not whole."""
        with contextlib.suppress(FileNotFoundError, Torn), self._path(segment).open("rb") as file:
            offset = max(start, len(MAGIC))
            while True:
                row = _record(file.fileno(), offset)
                yield offset, row
                offset += _HEAD.size + len(row)

    def blank(self, segment: int, offset: int) -> None:
        """Overwrite a row with zeros, in its place; rows behind it stay where they are. Raises `Torn`."""
        with self._path(segment).open("r+b") as file:
            zeros = bytes(len(_record(file.fileno(), offset)))
            os.pwrite(file.fileno(), _HEAD.pack(len(zeros), zlib.crc32(zeros)) + zeros, offset)
            os.fdatasync(file.fileno())

    def segments(self) -> list[int]:
        """The numbers of all segments, oldest first."""
        return sorted(int(path.stem) for path in self._folder.glob("*.seg") if path.stem.isdigit())

    def beside(self, segment: int, what: str) -> Path:
        """A file of what is known of a segment, which may be lost: it is made again from the segment."""
        return self._folder / f"{segment:010d}.{what}"

    @staticmethod
    def behind(offset: int, row: bytes) -> int:
        """Where the next row begins."""
        return offset + _HEAD.size + len(row)

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:010d}.seg"


def _record(descriptor: int, offset: int) -> bytes:
    head = os.pread(descriptor, _HEAD.size, offset)
    if offset < len(MAGIC) or len(head) < _HEAD.size:
        raise Torn("there is no record at that place")
    length, crc = _HEAD.unpack(head)
    if length > MAX_RECORD:
        raise Torn("the record's length makes no sense")
    row = os.pread(descriptor, length, offset + _HEAD.size)
    if len(row) < length:
        raise Torn("the record breaks off")
    if zlib.crc32(row) != crc:
        raise Torn("the record's checksum does not match its bytes")
    return row
