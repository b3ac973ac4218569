"""Making it so: the reconciler of functions.

A new revision is prepared (environment, code), a replica of it is started beside the old one, and only when that
has loaded the handler does the function switch; what fails on the way leaves the old one answering. At the start of
the server everything is found again: replicas that live are taken over, and revisions that were on their way go on.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy import Connection

from stratal.ai.functions import records
from stratal.ai.functions.blueprint import Foundry
from stratal.ai.functions.live import FunctionService, Live, Registry
from stratal.ai.functions.model import KIND, PENDING, Function, Revision, RevisionState
from stratal.ai.functions.sources import put_source
from stratal.compute.services.services import Services
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import StratalError
from stratal.kernel.events import emit

log = logging.getLogger("stratal.functions")


class Rollouts:
    """`start` before use; `close` lets go, and replicas go on alone until the next start."""

    def __init__(
        self, database: Database, services: Services, foundry: Foundry, registry: Registry, clock: Clock
    ) -> None:
        self._database = database
        self._services = services
        self._foundry = foundry
        self._registry = registry
        self._clock = clock
        self.switched: Callable[[], None] = lambda: None
        """Told whenever another revision answers."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._closing = False

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find every function again. What needs the engine goes on in the background: calls wait meanwhile."""

        def read(c: Connection) -> list[tuple[Function, Revision | None, list[Revision]]]:
            return [
                (
                    function,
                    None
                    if function.active_revision is None
                    else records.revision(c, function.active_revision),
                    records.revisions_of(c, function.id, 1),
                )
                for function in records.live_functions(c)
            ]

        found = await self._database.read(read)
        pending = [(f, newest[0]) for f, _, newest in found if newest and newest[0].state in PENDING]
        needed = {active.seq for _, active, _ in found if active is not None}
        await self._foundry.layouts.forget_all_but(needed | {revision.seq for _, revision in pending})
        await self._database.write(self._end_workloads)
        for function, active, newest in found:
            live = Live(function)
            self._registry.put(live)
            if active is not None:
                live.active, live.service = active, self._keep(function, active)
            if newest and newest[0].state in PENDING:
                self.begin(live, newest[0])
            elif newest and newest[0].state is RevisionState.FAILED:
                live.failure = newest[0].failure
        self._aside(self._services.settle(KIND))

    def _end_workloads(self, c: Connection) -> None:
        """Revoke the credentials of revisions that were superseded when the server died."""
        for workload in records.ended_workloads(c):
            self._foundry.keys.end_workload(c, workload)

    async def close(self) -> None:
        self._closing = True
        tasks = [*self._tasks.values(), *self._others]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- wishes --------------------------------------------------------------------------------

    def begin(self, live: Live, revision: Revision) -> None:
        """Roll the revision out, instead of an older one that is still on its way."""
        newest = max(live.deploying.seq if live.deploying else 0, live.active.seq if live.active else 0)
        if revision.seq < newest:
            return
        live.failure = ""
        old = self._tasks.pop(live.function.id, None)
        if old is not None:
            old.cancel()
        live.deploying = revision
        task = asyncio.create_task(
            self._roll_out(live, revision), name=f"rollout of function revision {revision.seq}"
        )
        self._tasks[live.function.id] = task

    async def remove(self, live: Live) -> None:
        """Forget the function, whose row says so already. Returns when its replicas have ended."""
        task = self._tasks.pop(live.function.id, None)
        live.deploying = None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._registry.drop(live)
        service, active = live.service, live.active
        live.service = live.active = None
        if service is not None and active is not None:
            await self._end(service, active)
        await self._services.forget(KIND, live.function.id)

    async def settled(self) -> None:
        """Wait until what was begun aside (replicas that end) is done."""
        while self._others:
            await asyncio.wait(list(self._others))

    # -- rolling out ---------------------------------------------------------------------------

    async def _roll_out(self, live: Live, revision: Revision) -> None:
        service: FunctionService | None = None
        switched = False
        try:
            prepared = await self._prepare(live.function, revision)
            if prepared is None:
                return
            revision = prepared
            service = self._keep(live.function, revision)
            await service.ready(max(1, min(live.service.awake if live.service else 1, revision.wishes.most)))
            switched = await self._switch(live, revision, service)
        except asyncio.CancelledError:
            raise
        except StratalError as error:
            await self._failed(
                live, revision, str(error) if service is None else service.failure or str(error)
            )
        except Exception as error:
            log.exception("rolling out revision %d failed", revision.seq)
            await self._failed(live, revision, f"{type(error).__name__}: {error}")
        finally:
            if not switched and not self._closing:
                self._aside(self._end(service, revision))
            if live.deploying is not None and live.deploying.seq == revision.seq:
                live.deploying = None
                self._tasks.pop(live.function.id, None)

    async def _prepare(self, function: Function, revision: Revision) -> Revision | None:
        """The revision with its environment built and its code in place; None when it was superseded."""
        if revision.environment_id is None:
            environment = await self._foundry.environments.for_requirements(revision.requirements)
        else:
            environment = await self._foundry.environments.get(revision.environment_id)
        await self._foundry.layouts.ensure(function.project_id, revision)

        starting = RevisionState.STARTING.value
        return await self._database.write(
            lambda c: records.advance(c, revision.seq, environment_id=environment.id, state=starting)
        )

    async def _switch(self, live: Live, revision: Revision, service: FunctionService) -> bool:
        """From here on the new revision answers; the old one ends when it has answered what it was asked."""

        def work(c: Connection) -> bool:
            if not records.activate(c, live.function.id, revision.seq):
                return False
            put_source(c, live.function.id, revision.wishes, self._clock(), records.last_event(c))
            self._tell(c, live, revision, "function.deployed")
            return True

        if not await self._database.write(work):
            return False
        old, before = live.service, live.active
        live.active, live.service = revision, service
        live.failure = ""
        live.deploying = None
        self._registry.change(live, active_revision=revision.seq)
        self._tasks.pop(live.function.id, None)
        self.switched()
        if old is not None and before is not None:
            self._aside(self._end(old, before))
        return True

    async def _failed(self, live: Live, revision: Revision, failure: str) -> None:
        log.warning("revision %d of function %s failed: %s", revision.number, live.function.name, failure)
        live.failure = failure
        if live.deploying is not None and live.deploying.seq == revision.seq:
            live.deploying = None

        def work(c: Connection) -> None:
            state = RevisionState.FAILED.value
            if records.advance(c, revision.seq, state=state, failure=failure[:4000]) is None:
                return
            self._tell(c, live, revision, "function.failed", failure=failure[:500])

        await self._database.write(work)

    async def _end(self, service: FunctionService | None, revision: Revision) -> None:
        """End a revision that answers no more: its replicas, then its credential and its code."""
        if service is not None:
            await self._services.end(service)
        await self._database.write(lambda c: self._foundry.keys.end_workload(c, revision.workload))
        await self._foundry.layouts.forget(revision.seq)

    def _keep(self, function: Function, revision: Revision) -> FunctionService:
        return self._services.keep(
            revision.service(function.project_id),
            self._foundry.blueprint(function, revision),
            revision.wishes.scaling,
            revision.wishes.needs,
        )

    def _tell(self, c: Connection, live: Live, revision: Revision, kind: str, **more: object) -> None:
        emit(
            c,
            kind,
            live.function.id,
            actor=revision.created_by,
            project_id=live.function.project_id,
            name=live.function.name,
            revision=revision.number,
            **more,
        )

    def _aside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._told)

    def _told(self, task: "asyncio.Task[None]") -> None:
        self._others.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("upkeep of functions failed", exc_info=task.exception())
