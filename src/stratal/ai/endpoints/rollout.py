"""Making it so: the reconciler of endpoints.

A new revision is prepared (environment, model files), its replica is started beside the old one, and
only when that greets does the endpoint switch; what fails on the way leaves the old one answering. At
the start of the server everything is found again: replicas that live are taken over, revisions that
were on their way go on, and what nobody wants any more is stopped.
"""

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import Any

from sqlalchemy import Connection

from stratal.ai.endpoints import records
from stratal.ai.endpoints.layout import Layouts
from stratal.ai.endpoints.model import PENDING, Endpoint, ReplicaInfo, Revision, RevisionState
from stratal.ai.endpoints.replicas import Replicas
from stratal.ai.endpoints.runtime import CannotLoad
from stratal.ai.endpoints.serving import Live, Serving
from stratal.ai.endpoints.upkeep import Upkeep
from stratal.compute.environments import Environments
from stratal.compute.workloads import Workloads
from stratal.kernel.blobs import BlobStore
from stratal.kernel.database import Database
from stratal.kernel.errors import StratalError
from stratal.kernel.events import emit

log = logging.getLogger("stratal.endpoints")


class Rollouts:
    """`start` before use; `close` lets go, and replicas go on alone until the next start."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        workloads: Workloads,
        environments: Environments,
        layouts: Layouts,
        replicas: Replicas,
        serving: Serving,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._workloads = workloads
        self._environments = environments
        self._layouts = layouts
        self._replicas = replicas
        self._serving = serving
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._closing = False

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find every endpoint again. Returns at once where that needs the engine: requests wait meanwhile."""
        await self._workloads.start()
        laid_out = await self._layouts.clear_scratch()

        def read(c: Connection) -> tuple[list[tuple[Endpoint, list[Revision]]], list[ReplicaInfo]]:
            found = [(e, records.revisions_of(c, e.id)) for e in records.live_endpoints(c)]
            return found, records.running_replicas(c)

        endpoints, running = await self._database.read(read)
        strays = {replica.id for replica in running}
        for endpoint, revisions in endpoints:
            live = Live(endpoint)
            self._serving.put(live)
            active = next((r for r in revisions if r.seq == endpoint.active_revision), None)
            if active is not None:
                mine = [r.id for r in running if r.revision == active.seq]
                adopt = mine[-1] if mine and not endpoint.stopped else None
                strays.discard(adopt or "")
                live.active = self._upkeep(endpoint, active)
                if not endpoint.stopped:
                    live.active.start(adopt=adopt)
            newest = revisions[0] if revisions else None
            if newest is not None and newest.state in PENDING:
                self.begin(live, newest)
            elif newest is not None and newest.state is RevisionState.FAILED:
                live.failure = newest.failure
        self._aside(self._tidy(sorted(strays), laid_out))

    async def close(self) -> None:
        self._closing = True
        tasks = [*self._tasks.values(), *self._others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for live in self._serving.all():
            if live.active is not None:
                await live.active.close(stop=False)
        await self._replicas.close()
        await self._workloads.close()

    async def _tidy(self, strays: list[str], laid_out: list[str]) -> None:
        await self._replicas.stop_strays(strays)
        for model_version_id in laid_out:
            await self._layouts.forget(model_version_id, unless=partial(self._serves, model_version_id))

    def _serves(self, model_version_id: str) -> bool:
        """Does an endpoint stand on this model version, or is about to?"""
        revisions = [live.active.revision for live in self._serving.all() if live.active is not None]
        revisions += [live.deploying for live in self._serving.all() if live.deploying is not None]
        return any(revision.model_version_id == model_version_id for revision in revisions)

    # -- wishes --------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Wait until what was begun aside (replicas that end) is done."""
        while self._others:
            await asyncio.wait(list(self._others))

    async def forget_log(self, key: str) -> None:
        """Delete a replica's stored log."""
        await self._blobs.delete(key)

    def begin(self, live: Live, revision: Revision) -> None:
        """Roll the revision out, instead of an older one that is still on its way."""
        newest = max(
            live.deploying.seq if live.deploying else 0, live.active.revision.seq if live.active else 0
        )
        if revision.seq < newest:
            return
        live.failure = ""
        old = self._tasks.pop(live.endpoint.id, None)
        if old is not None:
            old.cancel()
        live.deploying = revision
        task = asyncio.create_task(self._roll_out(live, revision), name=f"rollout of revision {revision.seq}")
        self._tasks[live.endpoint.id] = task

    async def stop(self, live: Live) -> None:
        """Stop answering; the replica's end is not waited for. Its row says so already."""
        await self._abandon(live)
        if live.active is not None:
            old = live.active
            live.active = self._upkeep(live.endpoint, old.revision)
            self._aside(old.close(stop=True))
        await live.tell()

    async def restart(self, live: Live) -> None:
        """Answer again after `stop`, asleep until the first request."""
        if live.active is not None:
            fresh = self._upkeep(live.endpoint, live.active.revision)
            await live.active.close(stop=True)
            live.active = fresh
            fresh.start()
        await live.tell()

    async def remove(self, live: Live) -> None:
        """Forget the endpoint; its replica ends in the background."""
        await self._abandon(live)
        self._serving.drop(live)
        old, live.active = live.active, None
        await live.tell()
        if old is not None:
            self._aside(self._end(live, old))

    async def _abandon(self, live: Live) -> None:
        task = self._tasks.pop(live.endpoint.id, None)
        live.deploying = None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _end(self, live: Live, old: Upkeep) -> None:
        await old.close(stop=True)
        model = old.revision.model_version_id
        await self._layouts.forget(model, unless=partial(self._serves, model))
        keep = 0 if self._serving.find(live.endpoint.project_id, live.endpoint.name) is not live else 10
        old_logs = await self._database.write(lambda c: records.prune_replicas(c, live.endpoint.id, keep))
        for key in old_logs:
            await self._blobs.delete(key)

    # -- rolling out ---------------------------------------------------------------------------

    async def _roll_out(self, live: Live, revision: Revision) -> None:
        upkeep: Upkeep | None = None
        switched = False
        try:
            revision = await self._prepare(revision)
            upkeep = self._upkeep(live.endpoint, revision)
            upkeep.start(adopt=None)
            with upkeep.claim():
                await upkeep.replica()
            switched = await self._switch(live, upkeep)
        except asyncio.CancelledError:
            raise
        except (StratalError, CannotLoad) as error:
            await self._failed(live, revision, str(error) if upkeep is None else upkeep.failure or str(error))
        except Exception as error:
            log.exception("rolling out revision %d failed", revision.seq)
            await self._failed(live, revision, f"{type(error).__name__}: {error}")
        finally:
            if upkeep is not None and not switched:
                if self._closing:
                    await upkeep.close(stop=False)
                else:
                    self._aside(upkeep.close(stop=True))
            if live.deploying is not None and live.deploying.seq == revision.seq:
                live.deploying = None
                self._tasks.pop(live.endpoint.id, None)
                self._aside(live.tell())

    async def _prepare(self, revision: Revision) -> Revision:
        """The revision with its environment built and its model's files in place."""
        environment_id = revision.environment_id
        if environment_id is None:
            environment_id = (await self._environments.for_requirements(revision.requirements)).id
        else:
            await self._environments.get(environment_id)
        await self._layouts.ensure(revision)

        def work(c: Connection) -> Revision | None:
            records.update_revision(
                c, revision.seq, environment_id=environment_id, state=RevisionState.STARTING.value
            )
            return records.revision(c, revision.seq)

        prepared = await self._database.write(work)
        assert prepared is not None
        return prepared

    async def _switch(self, live: Live, upkeep: Upkeep) -> bool:
        """From here on the new revision answers; the old one ends when it has answered what it was asked."""
        revision = upkeep.revision

        def work(c: Connection) -> bool:
            if not records.activate(c, live.endpoint.id, revision.seq):
                return False
            emit(
                c,
                "endpoint.deployed",
                live.endpoint.id,
                actor=revision.created_by,
                project_id=live.endpoint.project_id,
                name=live.endpoint.name,
                revision=revision.number,
                model=revision.model_uri,
            )
            return True

        if not await self._database.write(work):
            return False
        old, live.active = live.active, upkeep
        live.failure = ""
        self._serving.change(live, active_revision=revision.seq, stopped=False)
        live.deploying = None
        self._tasks.pop(live.endpoint.id, None)
        await live.tell()
        if old is not None:
            self._aside(self._end(live, old))
        return True

    async def _failed(self, live: Live, revision: Revision, failure: str) -> None:
        log.warning("revision %d of endpoint %s failed: %s", revision.seq, live.endpoint.name, failure)
        live.failure = failure

        def work(c: Connection) -> None:
            records.update_revision(c, revision.seq, state=RevisionState.FAILED.value, failure=failure[:4000])
            emit(
                c,
                "endpoint.failed",
                live.endpoint.id,
                actor=revision.created_by,
                project_id=live.endpoint.project_id,
                name=live.endpoint.name,
                revision=revision.number,
                model=revision.model_uri,
                failure=failure[:500],
            )

        await self._database.write(work)

    def _upkeep(self, endpoint: Endpoint, revision: Revision) -> Upkeep:
        return Upkeep(
            revision,
            self._replicas,
            idle_seconds=endpoint.idle_ms / 1000,
            stuck_seconds=self._serving.request_seconds,
        )

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: "asyncio.Task[None]") -> None:
        self._others.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("upkeep of endpoints failed", exc_info=task.exception())
