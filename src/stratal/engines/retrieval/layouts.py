"""Snapshots of indexes, laid out on this machine for ranking: a cache, made of the lake's rows when one is first searched.

A snapshot never changes, so neither does what is made of it; a newer one of the same table takes its place. It is laid out
by a process of its own and mapped here, so that the server holds neither vectors nor texts. A folder that is not whole has
another name until it is.
"""

import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import anyio.to_thread

from stratal.ai.retrieval.model import Mark, Ranked, Snapshot
from stratal.kernel.errors import Unavailable
from stratal.kernel.ids import new_id

MAX_BYTES = 8 << 30
_OPEN = 16
_DAYS = 30
_AT_ONCE = 2

Rows = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]


class Layouts:
    """`folder` is of its own. What was not searched for a month goes at `start`, and at once what is over `max_bytes`."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._ranking = anyio.CapacityLimiter(_AT_ONCE)

    async def start(self) -> None:
        await asyncio.to_thread(_tidy, self._folder)

    async def rank(self, snapshot: Snapshot, rows: Rows, mark: Mark) -> Ranked:
        """The best passages. `rows` gives those of the snapshot as an Arrow stream, where they are not laid out yet."""
        matrix = await self._matrix(snapshot, rows)
        found, most = await anyio.to_thread.run_sync(
            lambda: matrix.rank(
                mark.vector,
                mark.terms,
                limit=mark.limit,
                without=mark.without,
                about=mark.about,
                weight=mark.weight,
            ),
            limiter=self._ranking,
        )
        return Ranked(found, most)

    async def forget(self, project_id: str, table_id: str | None = None) -> None:
        """Remove what is laid out of a table, or of all of a project's."""
        for name in [name for name in self._open if _is_of(name, project_id, table_id)]:
            del self._open[name]
        await asyncio.to_thread(_remove, self._folder, project_id, table_id)

    async def _matrix(self, snapshot: Snapshot, rows: Rows) -> Any:
        name = f"{snapshot.project_id}/{snapshot.table_id}@{snapshot.snapshot_id}"
        async with self._making.setdefault(name, asyncio.Lock()):
            matrix = self._open.get(name)
            if matrix is None:
                matrix = await asyncio.to_thread(_opened, self._folder / name)
            if matrix is None:
                await self._make(name, rows)
                matrix = await asyncio.to_thread(_opened, self._folder / name)
                if matrix is None:
                    raise Unavailable(
                        "What was laid out of the index cannot be read.", reason="index_unreadable"
                    )
                await self._forget_older(snapshot)
                await asyncio.to_thread(_bound, self._folder, self._max_bytes, self._folder / name)
            self._open[name] = matrix
            self._open.move_to_end(name)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return matrix

    async def _forget_older(self, snapshot: Snapshot) -> None:
        """Other snapshots of the table are searched no more."""
        mine = f"{snapshot.table_id}@{snapshot.snapshot_id}"
        for name in [n for n in self._open if _is_of(n, snapshot.project_id, snapshot.table_id)]:
            if not name.endswith("/" + mine):
                del self._open[name]
        await asyncio.to_thread(_remove, self._folder, snapshot.project_id, snapshot.table_id, mine)

    async def _make(self, name: str, rows: Rows) -> None:
        made = self._folder / f"making-{new_id('idx')}"
        await asyncio.to_thread(made.mkdir, mode=0o700, parents=True)
        try:
            stream = made / "rows.arrow"
            async with await anyio.open_file(stream, "wb") as file, rows() as chunks:
                async for chunk in chunks:
                    await file.write(chunk)
            await _pack(stream, made)
            await asyncio.to_thread(_put, made, self._folder / name)
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, made, ignore_errors=True))


async def _pack(stream: Path, folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", "stratal.engines.retrieval.pack", str(stream), str(folder),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={"HOME": str(folder), "TMPDIR": str(folder), "LANG": "C.UTF-8"},
    )  # fmt: skip
    try:
        _, told = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        last = (
            told.decode(errors="replace").strip().splitlines() or [f"it ended with {process.returncode}"]
        )[-1]
        raise Unavailable(
            f"The index could not be laid out for searching: {last[:300]}",
            reason="index_unreadable",
            retry_after_seconds=5,
        )


def _put(made: Path, place: Path) -> None:
    (made / "rows.arrow").unlink()
    for one in made.iterdir():
        with one.open("rb") as file:
            os.fsync(file.fileno())
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.rmtree(place, ignore_errors=True)  # one that could not be read
    made.rename(place)


def _opened(folder: Path) -> Any:
    """None where there is none that is whole."""
    from stratal.engines.retrieval.matrix import Matrix

    try:
        matrix = Matrix(folder)
        os.utime(folder)
    except (OSError, ValueError, KeyError):
        return None
    return matrix


def _is_of(name: str, project_id: str, table_id: str | None) -> bool:
    return name.startswith(f"{project_id}/" + ("" if table_id is None else f"{table_id}@"))


def _remove(folder: Path, project_id: str, table_id: str | None, but: str = "") -> None:
    place = folder / project_id
    if table_id is None:
        shutil.rmtree(place, ignore_errors=True)
        return
    for one in place.glob(f"{table_id}@*"):
        if one.name != but:
            shutil.rmtree(one, ignore_errors=True)


def _tidy(folder: Path) -> None:
    for one in folder.glob("making-*"):
        shutil.rmtree(one, ignore_errors=True)
    before = time.time() - _DAYS * 86_400
    for one in folder.glob("*/*@*"):
        if one.stat().st_mtime < before:
            shutil.rmtree(one, ignore_errors=True)


def _bound(folder: Path, most: int, but: Path) -> None:
    """Remove those that were opened longest ago, until the rest is within bounds; never the newest."""
    sizes = {one: sum(f.stat().st_size for f in one.iterdir()) for one in folder.glob("*/*@*")}
    whole = sum(sizes.values())
    for one in sorted(sizes, key=lambda place: place.stat().st_mtime):
        if whole <= most:
            return
        if one != but:
            shutil.rmtree(one, ignore_errors=True)
            whole -= sizes[one]
