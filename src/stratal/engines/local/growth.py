"""Being told that files grow, by inotify(7): no reader of a log has to look again and again."""

import asyncio
import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

_IN_MODIFY, _IN_MOVED_TO = 0x2, 0x80
_EVENTS = 64 << 10


class Growth:
    """Waits of one event loop for files to grow. One descriptor for all; made when first needed, gone with `close`."""

    def __init__(self) -> None:
        self._fd = -1
        self._waits: dict[int, set[asyncio.Future[None]]] = {}
        """By watch: inotify has one per file."""

    async def beyond(self, path: Path, size: int, seconds: float) -> bool:
        """Wait until the file holds more than `size` bytes, or its folder is put in its place, but no longer than `seconds`.

        False, at once: there is no such place, or this system tells of no changes.
        """
        watch = self._watch(path, _IN_MODIFY)
        if watch < 0:
            return await self._appears(path, seconds)
        return await self._told_of(watch, seconds, lambda: _size(path) > size)

    async def _appears(self, path: Path, seconds: float) -> bool:
        """Wait until something new lies beside the file's folder."""
        watch = self._watch(path.parent.parent, _IN_MOVED_TO)
        return watch >= 0 and await self._told_of(watch, seconds, path.exists)

    async def _told_of(self, watch: int, seconds: float, already: Callable[[], bool]) -> bool:
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waits.setdefault(watch, set()).add(told)
        try:
            if not already():
                await asyncio.wait([told], timeout=seconds)
        except FileNotFoundError:
            return False
        finally:
            told.cancel()
            waits = self._waits.get(watch, set())
            waits.discard(told)
            if not waits and self._waits.pop(watch, None) is not None:
                _libc().inotify_rm_watch(self._fd, watch)
        return True

    def close(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _watch(self, path: Path, what: int) -> int:
        if not sys.platform.startswith("linux"):
            return -1
        if self._fd < 0:
            self._fd = _libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if self._fd < 0:
                return -1
            asyncio.get_running_loop().add_reader(self._fd, self._told)
        return int(_libc().inotify_add_watch(self._fd, os.fsencode(path), what))

    def _told(self) -> None:
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._fd, _EVENTS)
            at = 0
            while at + 16 <= len(data):  # struct inotify_event: watch, mask, cookie, length of the name
                watch = int.from_bytes(data[at : at + 4], sys.byteorder, signed=True)
                at += 16 + int.from_bytes(data[at + 12 : at + 16], sys.byteorder)
                for told in self._waits.get(watch, ()):
                    if not told.done():
                        told.set_result(None)


def _size(path: Path) -> int:
    return path.stat().st_size


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
