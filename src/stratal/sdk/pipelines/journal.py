"""The worker's own journal: what small steps came to, on this machine's disk before anything goes on from it.

The platform's journal is what counts, and is told all of this a moment later, many ends in one request. Until then it
stands here, with the calls that are not told either: in a file in the folder that outlives a job's attempts, each entry
one line with a checksum. It is written before anything goes on from it, which is what a kill asks for; and synced, which
is what a power cut asks for, before any of it is seen outside: by the pipeline function, or by what a later step connects
to. A worker that takes up after one that was killed gives the lines that are whole to the platform when it opens the
run's journal. The name of a file holds the epoch in which it was written: a worker that was replaced without knowing it
writes where nobody reads.
"""

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Json = dict[str, Any]
_NAME = "steps-{}.journal"
_WRITTEN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_MOST_BYTES = 16 * 1024 * 1024
"""Beyond this a file is emptied once all of it was told."""


class Journal:
    """The file of one epoch, made anew."""

    def __init__(self, folder: Path, epoch: int) -> None:
        self.path = folder / _NAME.format(epoch)
        self._file = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        self._bytes = 0
        self._unsynced = False
        _sync_folder(folder)

    def note(self, entries: Iterable[Json]) -> int:
        """Write them down; durable after the next `sync`, and from now on even when this process is killed. Their bytes."""
        lines = b"".join(map(_line, entries))
        written = 0
        while written < len(lines):
            written += os.write(self._file, lines[written:])
        self._bytes += len(lines)
        self._unsynced = True
        return len(lines)

    def sync(self) -> None:
        if self._unsynced:
            os.fdatasync(self._file)
            self._unsynced = False

    def told(self) -> bool:
        """The platform's journal has all ends in it. Was the file emptied?"""
        self._unsynced = False
        if self._bytes <= _MOST_BYTES:
            return False
        os.ftruncate(self._file, 0)
        self._bytes = 0
        return True

    def close(self) -> None:
        os.close(self._file)


def _line(entry: Json) -> bytes:
    text = _WRITTEN(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def left_in(folder: Path) -> list[Json]:
    """What the workers before noted, oldest first: of each file up to the first line that is not whole."""
    found: list[Json] = []
    for path in _files(folder):
        for line in path.read_bytes().split(b"\n"):
            checksum, _, text = line.partition(b" ")
            if not text or checksum != b"%08x" % zlib.crc32(text):
                break
            found.append(json.loads(text))
    return found


def forget(folder: Path) -> None:
    """Remove what `left_in` found: the platform's journal has it."""
    for path in _files(folder):
        path.unlink()


def _files(folder: Path) -> list[Path]:
    named = folder.glob(_NAME.format("*"))
    return sorted(named, key=lambda path: int(path.stem.rpartition("-")[2]))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
