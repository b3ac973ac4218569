"""The collector: removes bytes that nobody can reach, after the change that made them so is durable.

What is to go stands in the table ``blob_trash`` and leaves it only when the file is unlinked, so a
kill at any moment leaves nothing behind. A replaced version's bytes are looked at once more when
due: has a workload read or written that version, they stay for as long as its chain is to verify.

Blobs that were committed while their row was not (killed in between) are found at the next start:
every blob made since the last sweep is either in a row or removed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from sqlalchemy import Connection, delete, insert, select, update

from stratal.data.objects.tables import (
    blob_sweeps,
    blob_trash,
    object_versions,
    upload_parts,
    uploads,
)
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.ids import new_id
from stratal.ledger.tables import accesses

log = logging.getLogger("stratal.objects")

REMEMBER_UPLOADS_MS = 24 * 3600 * 1000
_STORE = "objects"
_BATCH = 200
_IDLE_SECONDS = 3600.0
_RETRY_SECONDS = 10.0
_GATHER_SECONDS = 0.25


class SweptBlobs(BlobStore, Protocol):
    """A blob store of the objects room's own, in which leftovers can be looked for."""

    def keys_after(self, key: str) -> AsyncIterator[list[str]]:
        """The keys of the blobs made since `key` was, in batches."""
        ...


class Collector:
    def __init__(self, database: Database, blobs: SweptBlobs, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin in the background: first the sweep for leftovers, then the trash for as long as we live."""
        self._task = asyncio.create_task(self._run(new_id("blob")), name="object-collector")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        """There may be something new to remove."""
        self._wake.set()

    async def _run(self, started: str) -> None:
        swept = False
        while True:
            pause = _RETRY_SECONDS
            try:
                if not swept:
                    await self.sweep(started)
                    swept = True
                await self._database.write(self._forget_uploads)
                pause = await self._collect_until_idle()
            except Exception:
                log.exception("collecting unreachable objects failed; trying again")
            await self._rest(pause)

    async def _collect_until_idle(self) -> float:
        """Collect whenever something is due, for up to an hour; returns how long to rest then."""
        until = self._clock() + int(_IDLE_SECONDS * 1000)
        while self._clock() < until:
            self._wake.clear()
            pause = await self._database.read(self._seconds_to_next)
            if pause <= 0:
                await self.collect()
                await asyncio.sleep(_GATHER_SECONDS)
            else:
                await self._rest(pause)
        return 0.0

    async def _rest(self, seconds: float) -> None:
        """Sleep, or until woken; then a moment longer, so that what comes in numbers is collected in one go."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for would lose a cancellation that meets a wake
                await self._wake.wait()
        await asyncio.sleep(_GATHER_SECONDS)

    def _seconds_to_next(self, connection: Connection) -> float:
        due = connection.execute(select(blob_trash.c.due_at).order_by(blob_trash.c.due_at).limit(1)).scalar()
        if due is None:
            return _IDLE_SECONDS
        return min(_IDLE_SECONDS, (int(due) - self._clock()) / 1000)

    # -- the trash -----------------------------------------------------------------------------

    async def collect(self) -> int:
        """Remove everything that is due; returns how many blobs."""
        removed = 0
        while batch := await self._database.write(self._condemn_due):
            for key in batch:
                await self._blobs.delete(key)
            await self._database.write(
                lambda c, gone=batch: c.execute(  # type: ignore[misc]
                    delete(blob_trash).where(blob_trash.c.blob_key.in_(gone))
                )
            )
            removed += len(batch)
        return removed

    def _condemn_due(self, connection: Connection) -> list[str]:
        """Decide about what is due; the bytes returned have no row left that refers to them."""
        due = connection.execute(
            select(blob_trash)
            .where(blob_trash.c.due_at <= self._clock())
            .order_by(blob_trash.c.due_at)
            .limit(_BATCH)
        ).all()
        gone: list[str] = []
        for row in due:
            here = blob_trash.c.blob_key == row.blob_key
            if not row.condemned:
                referred = connection.execute(
                    select(accesses.c.workload)
                    .where(accesses.c.kind == "object", accesses.c.version == row.version_id)
                    .limit(1)
                ).scalar()
                if referred is not None:
                    connection.execute(delete(blob_trash).where(here))
                    continue
                connection.execute(
                    update(object_versions)
                    .where(object_versions.c.id == row.version_id)
                    .values(blob_key=None)
                )
                connection.execute(update(blob_trash).where(here).values(condemned=1))
            gone.append(row.blob_key)
        return gone

    def _forget_uploads(self, connection: Connection) -> None:
        connection.execute(
            delete(uploads).where(uploads.c.completed_at < self._clock() - REMEMBER_UPLOADS_MS)
        )

    # -- leftovers -----------------------------------------------------------------------------

    async def sweep(self, started: str) -> int:
        """Remove blobs without a row that were made since the last sweep and before `started`; returns how many."""
        mark = await self._database.read(
            lambda c: c.execute(select(blob_sweeps.c.mark).where(blob_sweeps.c.store == _STORE)).scalar()
        )
        removed = 0
        if mark is not None:  # on the first start there is nothing to be left over from
            async for keys in self._blobs.keys_after(mark):
                removed += await self._sweep_batch([key for key in keys if key < started])
        await self._database.write(lambda c: _set_mark(c, started))
        if removed:
            log.info("removed %d leftovers of interrupted uploads", removed)
        return removed

    async def _sweep_batch(self, keys: list[str]) -> int:
        removed = 0
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            known = await self._database.read(lambda c, some=batch: _known(c, some))  # type: ignore[misc]
            for key in set(batch) - known:
                await self._blobs.delete(key)
                removed += 1
        return removed


def _known(connection: Connection, keys: list[str]) -> set[str]:
    found: set[str] = set()
    for column in (object_versions.c.blob_key, upload_parts.c.blob_key, blob_trash.c.blob_key):
        found.update(connection.execute(select(column).where(column.in_(keys))).scalars())
    return found


def _set_mark(connection: Connection, mark: str) -> None:
    connection.execute(delete(blob_sweeps).where(blob_sweeps.c.store == _STORE))
    connection.execute(insert(blob_sweeps).values(store=_STORE, mark=mark))
