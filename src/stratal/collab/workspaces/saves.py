"""Saves: every version of a workspace's files that was saved there, kept as content that never changes.

A save is on the platform's own storage and in its database before it is acknowledged, so that whatever becomes of
the workspace's folder, its server or its people, each of them can be had back. Bytes that a project has already are
not kept twice.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Protocol

from sqlalchemy import Connection, select

from stratal.collab.tables import artifact_sweeps
from stratal.collab.upsert import upsert
from stratal.collab.workspaces import records
from stratal.collab.workspaces.files import Folders
from stratal.collab.workspaces.model import MOST_SAVE, Save, Workspace, check_path
from stratal.identity.model import Principal
from stratal.kernel.blobs import Blob, BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import NotFound, TooLarge
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.workspaces")
_STORE = "workspaces"
_BATCH = 500
_DAY_MS = 24 * 3600 * 1000
KEPT_WHOLE_MS = 7 * _DAY_MS
"""For so long every save is kept; then each file's last of each day."""


class SweptBlobs(BlobStore, Protocol):
    def keys_after(self, key: str) -> AsyncIterator[list[str]]: ...


class Saves:
    """`start` sweeps what interrupted uploads left, in the background; `close` gives that up."""

    def __init__(self, database: Database, blobs: SweptBlobs, folders: Folders, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._folders = folders
        self._clock = clock
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self._tasks = [
            asyncio.create_task(self._sweep(new_id("blob")), name="workspaces: sweep"),
            asyncio.create_task(self._thin_daily(), name="workspaces: thinning"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    # -- keeping -------------------------------------------------------------------------------

    async def keep(
        self,
        who: Principal,
        of: Workspace,
        path: str,
        chunks: AsyncIterator[bytes],
        saved_at: int | None = None,
    ) -> Save:
        """Keep a version of a file. Repeatable: the same bytes as the newest save of the path are that save.

        Raises `TooLarge` beyond `MOST_SAVE`, `Invalid` for a path that leads elsewhere.
        """
        check_path(path)
        blob = await self._receive(chunks)
        at = min(saved_at or self._clock(), self._clock())

        def work(c: Connection) -> tuple[Save, bool]:
            now = records.workspace(c, of.id)
            if now is None:
                raise no_such_workspace(of.name)
            latest = records.newest(c, of.id, path)
            if latest is not None and latest.sha256 == blob.sha256:
                return latest, False
            new = records.content(c, of.project_id, blob.sha256) is None
            if new:
                records.add_content(c, of.project_id, blob.sha256, blob.size, blob.key)
            seq = records.add_save(c, of, path, blob.sha256, at, who.actor)
            return Save(seq, path, blob.sha256, blob.size, at, who.actor), new

        kept = False
        try:
            saved, kept = await self._database.write(work)
        finally:
            if not kept:
                await asyncio.shield(self._blobs.delete(blob.key))
        return saved

    async def _receive(self, chunks: AsyncIterator[bytes]) -> Blob:
        writer = await self._blobs.create()
        size = 0
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > MOST_SAVE:
                    raise TooLarge(
                        f"Saves of files larger than {MOST_SAVE >> 20} MiB are not kept.",
                        hint="Put large files into a bucket.",
                        reason="save_too_large",
                    )
                await writer.write(chunk)
            return await writer.commit()
        finally:
            await writer.abort()

    # -- looking -------------------------------------------------------------------------------

    async def list(
        self, of: Workspace, *, path: str | None = None, before: int | None = None, limit: int = 100
    ) -> Sequence[Save]:
        """The workspace's saves, newest first."""
        return await self._database.read(lambda c: records.saves_of(c, of.id, path, before, limit))

    async def content(self, of: Workspace, seq: int) -> tuple[Save, AsyncIterator[bytes]]:
        """A save and its bytes. Raises `NotFound`."""
        saved, key = await self._find(of, seq)
        return saved, self._blobs.read(key)

    async def restore(self, who: Principal, of: Workspace, seq: int, path: str | None) -> tuple[Save, str]:
        """Put a save's bytes back as the file at `path` (its own, unless said otherwise), which is kept as it is first.

        A notebook that people have open shows the restored one a moment later. Returns the save that now is the
        file's newest, and the path. Raises `NotFound`, `Invalid`, and `Conflict` for a path that is no plain file's.
        """
        saved, key = await self._find(of, seq)
        target = check_path(saved.path if path is None else path)
        present = await self._folders.read(of.id, target, MOST_SAVE)
        if present is not None:
            await self.keep(who, of, target, _once(present))
        content = await self._blobs.read_all(key)
        await self._folders.write(of.id, target, content)
        newest = await self.keep(who, of, target, _once(content))

        def work(c: Connection) -> None:
            emit(
                c,
                "workspace.restored",
                of.id,
                actor=who.actor,
                project_id=of.project_id,
                name=of.name,
                path=target,
                save=seq,
                sha256=saved.sha256,
            )

        await self._database.write(work)
        return newest, target

    async def _find(self, of: Workspace, seq: int) -> tuple[Save, str]:
        found = await self._database.read(lambda c: records.save(c, of.id, seq))
        if found is None:
            raise NotFound(
                f"Workspace {of.name!r} has no save {seq}.",
                hint=f"List them with: stratal workspace saves {of.name}",
                reason="no_such_save",
            )
        return found

    # -- bytes that nobody needs -------------------------------------------------------------------

    async def drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._blobs.delete(key)

    async def thin(self) -> int:
        """Of saves older than a week leave each file's last of each day, and what is its newest; how many went.

        A restore finds what is left: with the day's last state, never a part of one.
        """
        gone = 0
        until = self._clock() - KEPT_WHOLE_MS
        while True:
            count, keys = await self._database.write(lambda c: records.thin(c, until, _DAY_MS, _BATCH))
            await self.drop(keys)
            gone += count
            if count < _BATCH:
                return gone

    async def _thin_daily(self) -> None:
        while True:
            try:
                gone = await self.thin()
                if gone:
                    log.info("thinned out %d saves of workspaces that are older than a week", gone)
            except Exception:
                log.exception("saves could not be thinned out; it is tried again tomorrow")
            await asyncio.sleep(_DAY_MS / 1000)

    async def weighed(self) -> dict[str, int]:
        """The bytes stored, by project id: for the meter."""
        return await self._database.read(records.stored)

    async def _sweep(self, started: str) -> None:
        """Remove blobs without a row that were made since the last sweep and before `started`."""
        mark_of = select(artifact_sweeps.c.mark).where(artifact_sweeps.c.store == _STORE)
        try:
            mark = await self._database.read(lambda c: c.execute(mark_of).scalar())
            if mark is not None:
                async for found in self._blobs.keys_after(mark):
                    keys = [key for key in found if key < started]
                    for first in range(0, len(keys), _BATCH):
                        batch = keys[first : first + _BATCH]
                        known = await self._database.read(lambda c, some=batch: records.known_blobs(c, some))  # type: ignore[misc]
                        await self.drop([key for key in batch if key not in known])
            await self._database.write(
                lambda c: upsert(c, artifact_sweeps, [{"store": _STORE, "mark": started}], ("store",))
            )
        except Exception:
            log.exception("removing leftovers of interrupted saves failed; the next start tries again")


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def no_such_workspace(name: str) -> NotFound:
    return NotFound(
        f"There is no workspace {name[:100]!r} in this project.",
        hint="List them with: stratal workspace ls",
        reason="no_such_workspace",
    )
