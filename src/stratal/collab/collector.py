"""What is left over of artifacts: bytes to unlink, and the removal of a project's runs.

Bytes that lost their last name are in `artifact_trash` until their file is gone, so a kill in between
loses nothing. Bytes that were committed while their row was not (killed in between) are found at start:
every blob made since the last sweep is named by a row, or removed. The store is the artifacts' own.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from sqlalchemy import Connection, delete, select

from stratal.collab import metrics
from stratal.collab.artifacts import remove_root
from stratal.collab.tables import (
    artifact_roots,
    artifact_sweeps,
    artifact_trash,
    artifacts,
    datasets,
    experiment_tags,
    experiments,
    model_metrics,
    run_datasets,
    run_models,
    run_params,
    run_tags,
    runs,
)
from stratal.collab.upsert import upsert
from stratal.kernel.blobs import BlobStore
from stratal.kernel.database import Database
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.collab")

_STORE = "artifacts"
_BATCH = 200


class SweptBlobs(BlobStore, Protocol):
    """A blob store of the artifacts' own, in which leftovers can be looked for."""

    def keys_after(self, key: str) -> AsyncIterator[list[str]]:
        """The keys of the blobs made since `key` was, in batches."""
        ...


class Collector:
    def __init__(self, database: Database, blobs: SweptBlobs) -> None:
        self._database = database
        self._blobs = blobs
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin removing, in the background, what an interrupted process left behind."""
        self._task = asyncio.create_task(self._run(new_id("blob")), name="artifact-collector")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self, started: str) -> None:
        try:
            await self.sweep(started)
            await self.collect()
        except Exception:
            log.exception("removing leftovers of artifacts failed; the next start tries again")

    async def collect(self) -> int:
        """Unlink what is in the trash; returns how many blobs."""
        query = select(artifact_trash.c.blob_key).limit(_BATCH)
        removed = 0
        while keys := await self._database.read(lambda c: list(c.execute(query).scalars())):
            for key in keys:
                await self._blobs.delete(key)
            await self._database.write(
                lambda c, gone=keys: c.execute(  # type: ignore[misc]
                    delete(artifact_trash).where(artifact_trash.c.blob_key.in_(gone))
                )
            )
            removed += len(keys)
        return removed

    async def sweep(self, started: str) -> int:
        """Remove blobs without a row that were made since the last sweep and before `started`."""
        mark_of = select(artifact_sweeps.c.mark).where(artifact_sweeps.c.store == _STORE)
        mark = await self._database.read(lambda c: c.execute(mark_of).scalar())
        removed = 0
        if mark is not None:
            async for found in self._blobs.keys_after(mark):
                keys = [key for key in found if key < started]
                for start in range(0, len(keys), _BATCH):
                    batch = keys[start : start + _BATCH]
                    known = await self._database.read(lambda c, some=batch: _known(c, some))  # type: ignore[misc]
                    for key in set(batch) - known:
                        await self._blobs.delete(key)
                        removed += 1
        await self._database.write(
            lambda c: upsert(c, artifact_sweeps, [{"store": _STORE, "mark": started}], ("store",))
        )
        if removed:
            log.info("removed %d leftovers of interrupted artifact uploads", removed)
        return removed

    async def purge(self, project_id: str) -> None:
        """Remove a project's runs and experiments, and every artifact of it, bytes included. Repeatable."""
        roots = select(artifact_roots.c.id).where(artifact_roots.c.project_id == project_id).limit(_BATCH)
        while ids := await self._database.read(lambda c: list(c.execute(roots).scalars())):
            await self._database.write(
                lambda c, some=ids: [remove_root(c, root_id) for root_id in some]  # type: ignore[misc]
            )
        await self.collect()
        of_project = select(runs.c.id).where(runs.c.project_id == project_id).limit(_BATCH)
        while ids := await self._database.read(lambda c: list(c.execute(of_project).scalars())):
            await self._database.write(lambda c, some=ids: _purge_runs(c, some))  # type: ignore[misc]
        await self._database.write(lambda c: _purge_experiments(c, project_id))


def _known(connection: Connection, keys: list[str]) -> set[str]:
    found: set[str] = set()
    for column in (artifacts.c.blob_key, artifact_trash.c.blob_key):
        found.update(connection.execute(select(column).where(column.in_(keys))).scalars())
    return found


def _purge_runs(connection: Connection, run_ids: list[str]) -> None:
    metrics.forget(connection, run_ids)
    for table in (run_params, run_tags, run_datasets, run_models, model_metrics):
        connection.execute(delete(table).where(table.c.run_id.in_(run_ids)))
    connection.execute(delete(runs).where(runs.c.id.in_(run_ids)))


def _purge_experiments(connection: Connection, project_id: str) -> None:
    mine = select(experiments.c.id).where(experiments.c.project_id == project_id)
    for table in (datasets, experiment_tags):
        connection.execute(delete(table).where(table.c.experiment_id.in_(mine)))
    connection.execute(delete(experiments).where(experiments.c.project_id == project_id))
