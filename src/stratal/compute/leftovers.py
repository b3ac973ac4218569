"""Bytes that a killed server stored and never wrote a row for: found at the next start, and removed.

A log, a lock or a pack is stored before the row that refers to it is written. Whoever dies in between
leaves a blob that nobody knows. So each start looks at every blob made since the last look and before
this start: one without a row is such a leftover.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from sqlalchemy import Connection, delete, insert, select

from stratal.compute.tables import attempts, code_files, environments, jobs, rank_logs, snapshots, work_sweep
from stratal.kernel.blobs import BlobStore
from stratal.kernel.database import Database
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.compute")

_BATCH = 200
_REFERENCES = (
    attempts.c.log_blob,
    rank_logs.c.blob,
    jobs.c.diff_blob,
    code_files.c.blob,
    snapshots.c.manifest_blob,
    environments.c.lock_blob,
)


class SweptBlobs(BlobStore, Protocol):
    """A blob store of this room's own, in which leftovers can be looked for."""

    def keys_after(self, key: str) -> AsyncIterator[list[str]]:
        """The keys of the blobs made since `key` was, in batches."""
        ...


class Leftovers:
    """`start` before anything is stored; the look itself goes on in the background."""

    def __init__(self, database: Database, blobs: SweptBlobs) -> None:
        self._database = database
        self._blobs = blobs
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(new_id("blob")), name="leftovers of compute")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, started: str) -> None:
        try:
            await self.sweep(started)
        except Exception:
            log.exception("looking for leftovers failed; the next start looks again")

    async def sweep(self, started: str) -> int:
        """Remove the blobs without a row that were made since the last sweep and before `started`; returns how many."""
        mark = await self._database.read(lambda c: c.execute(select(work_sweep.c.mark)).scalar())
        removed = 0
        if mark is not None:  # on the first start there is nothing to be left over from
            async for keys in self._blobs.keys_after(mark):
                earlier = [key for key in keys if key < started]
                for start in range(0, len(earlier), _BATCH):
                    removed += await self._sweep_batch(earlier[start : start + _BATCH])

        def remember(c: Connection) -> None:
            c.execute(delete(work_sweep))
            c.execute(insert(work_sweep).values(mark=started))

        await self._database.write(remember)
        if removed:
            log.info("removed %d leftovers of a killed server", removed)
        return removed

    async def _sweep_batch(self, keys: Sequence[str]) -> int:
        def known(c: Connection) -> set[str]:
            found: set[str] = set()
            for column in _REFERENCES:
                found.update(c.execute(select(column).where(column.in_(keys))).scalars())
            return found

        gone = set(keys) - await self._database.read(known)
        for key in gone:
            await self._blobs.delete(key)
        return len(gone)
