"""Making it so: the reconciler of functions, and of apps.

A new revision is prepared (environment, code), a replica of it is started beside the old one, and only when that
has loaded what somebody wrote does the function switch; what fails on the way leaves the old one answering
(`stratal.compute.services.rollouts`). At the start of the server everything is found again: replicas that live are
taken over, and revisions that were on their way go on.
"""

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from stratal.ai.functions import records
from stratal.ai.functions.blueprint import Foundry
from stratal.ai.functions.live import Live, Registry
from stratal.ai.functions.model import KIND, PENDING, Function, Revision, RevisionState
from stratal.ai.functions.sources import put_source
from stratal.compute.services import rollouts
from stratal.compute.services.service import Service
from stratal.compute.services.services import Services
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.events import emit

log = logging.getLogger("stratal.functions")


class Rollouts:
    """`start` before use; `close` lets go, and replicas go on alone until the next start."""

    def __init__(
        self,
        kind: str,
        database: Database,
        services: Services,
        foundry: Foundry,
        registry: Registry,
        clock: Clock,
    ) -> None:
        self._kind = kind
        self._database = database
        self._services = services
        self._foundry = foundry
        self._registry = registry
        self._clock = clock
        self.switched: Callable[[], None] = lambda: None
        """Told whenever another revision answers."""
        self._rolling = rollouts.Rollouts()

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
                for function in records.live_functions(c, self._kind)
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
        self._rolling.aside(self._services.settle(self._kind))

    def _end_workloads(self, c: Connection) -> None:
        """Revoke the credentials of revisions that were superseded when the server died."""
        for workload in records.ended_workloads(c):
            self._foundry.keys.end_workload(c, workload)

    async def close(self) -> None:
        await self._rolling.close()

    # -- wishes --------------------------------------------------------------------------------

    def begin(self, live: Live, revision: Revision) -> None:
        """Roll the revision out, instead of an older one that is still on its way."""
        newest = max(live.deploying.seq if live.deploying else 0, live.active.seq if live.active else 0)
        if revision.seq < newest:
            return
        live.failure = ""
        live.deploying = revision
        self._rolling.begin(live.function.id, _Step(self, live, revision))

    async def remove(self, live: Live) -> None:
        """Forget the function, whose row says so already. Returns when its replicas have ended."""
        live.deploying = None
        await self._rolling.abandon(live.function.id)
        self._registry.drop(live)
        service, active = live.service, live.active
        live.service = live.active = None
        if service is not None and active is not None:
            await self._end(service, active)
        await self._services.forget(self._kind, live.function.id)

    async def settled(self) -> None:
        """Wait until what was begun aside (replicas that end) is done."""
        await self._rolling.settled()

    # -- rolling out ---------------------------------------------------------------------------

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

    async def _switch(self, live: Live, revision: Revision, service: Service[Any]) -> bool:
        """From here on the new revision answers; the old one ends when it has answered what it was asked."""

        def work(c: Connection) -> bool:
            if not records.activate(c, live.function.id, revision.seq):
                return False
            if self._kind == KIND:
                put_source(c, live.function.id, revision.wishes, self._clock(), records.last_event(c))
            self._tell(c, live, revision, "deployed")
            return True

        if not await self._database.write(work):
            return False
        old, before = live.service, live.active
        live.active, live.service = revision, service
        live.failure = ""
        live.deploying = None
        self._registry.change(live, active_revision=revision.seq)
        self.switched()
        if old is not None and before is not None:
            self._rolling.aside(self._end(old, before))
        return True

    async def _failed(self, live: Live, revision: Revision, failure: str) -> None:
        log.warning(
            "revision %d of %s %s failed: %s", revision.number, self._kind, live.function.name, failure
        )
        live.failure = failure
        if live.deploying is not None and live.deploying.seq == revision.seq:
            live.deploying = None

        def work(c: Connection) -> None:
            state = RevisionState.FAILED.value
            if records.advance(c, revision.seq, state=state, failure=failure[:4000]) is None:
                return
            self._tell(c, live, revision, "failed", failure=failure[:500])

        await self._database.write(work)

    async def _end(self, service: Service[Any] | None, revision: Revision) -> None:
        """End a revision that answers no more: its replicas, then its credential and its code."""
        if service is not None:
            await self._services.end(service)
        await self._database.write(lambda c: self._foundry.keys.end_workload(c, revision.workload))
        await self._foundry.layouts.forget(revision.seq)

    def _keep(self, function: Function, revision: Revision) -> Service[Any]:
        return self._services.keep(
            revision.service(function),
            self._foundry.blueprint(function, revision),
            revision.wishes.scaling,
            revision.wishes.needs,
        )

    def _tell(self, c: Connection, live: Live, revision: Revision, what: str, **more: object) -> None:
        emit(
            c,
            f"{self._kind}.{what}",
            live.function.id,
            actor=revision.created_by,
            project_id=live.function.project_id,
            name=live.function.name,
            revision=revision.number,
            **more,
        )


class _Step:
    """A revision on its way (`stratal.compute.services.rollouts.Step`)."""

    def __init__(self, room: Rollouts, live: Live, revision: Revision) -> None:
        self.name = f"revision {revision.number} of {live.function.kind} {live.function.name}"
        self._room = room
        self._live = live
        self._revision = revision
        self._service: Service[Any] | None = None

    async def prepare(self) -> Service[Any] | None:
        prepared = await self._room._prepare(self._live.function, self._revision)
        if prepared is None:
            return None
        self._revision = prepared
        self._service = self._room._keep(self._live.function, prepared)
        return self._service

    async def ready(self) -> None:
        """As many as it replaces: the load is the same."""
        assert self._service is not None
        before = self._live.service.awake if self._live.service else 1
        await self._service.ready(max(1, min(before, self._revision.wishes.most)))

    async def switch(self) -> bool:
        assert self._service is not None
        return await self._room._switch(self._live, self._revision, self._service)

    async def switched(self) -> None:
        """All is told by `switch`."""

    async def failed(self, why: str) -> None:
        await self._room._failed(self._live, self._revision, why)

    def dropped(self) -> None:
        self._room._rolling.aside(self._room._end(self._service, self._revision))

    def over(self) -> None:
        if self._live.deploying is not None and self._live.deploying.seq == self._revision.seq:
            self._live.deploying = None
