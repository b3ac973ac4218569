"""Making it so: the reconciler of endpoints.

A new revision is prepared (environment, model files), its replicas are started beside the old ones, and
only when they greet does the endpoint switch, wholly or with the share that was asked for; what fails on
the way leaves the old ones answering (`stratal.compute.services.rollouts`). At the start of the server everything
is found again: replicas that live are taken over, revisions that were on their way go on, and what nobody wants any
more is stopped.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection

from stratal.ai.endpoints import records
from stratal.ai.endpoints.blueprint import ModelBlueprint
from stratal.ai.endpoints.layout import Layouts
from stratal.ai.endpoints.model import PENDING, Endpoint, Revision, RevisionState, Wishes
from stratal.ai.endpoints.runtime import Runtime
from stratal.ai.endpoints.serving import Kept, Live, Serving
from stratal.compute.environments import Environments
from stratal.compute.services import rollouts
from stratal.compute.services.model import ServiceName
from stratal.compute.services.service import Service
from stratal.compute.services.services import Services
from stratal.kernel.database import Database
from stratal.kernel.errors import StratalError
from stratal.kernel.events import emit

log = logging.getLogger("stratal.endpoints")

KIND = "endpoint"
"""What endpoints' services are called."""


class Rollouts:
    """`start` before use, after the services; `close` lets go, and replicas go on alone until the next start."""

    def __init__(
        self,
        database: Database,
        services: Services,
        environments: Environments,
        layouts: Layouts,
        runtime: Runtime,
        serving: Serving,
        variables: Mapping[str, str],
    ) -> None:
        self._database = database
        self._services = services
        self._environments = environments
        self._layouts = layouts
        self._runtime = runtime
        self._serving = serving
        self._variables = variables
        self._rolling = rollouts.Rollouts()

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Find every endpoint again. Returns at once where that needs the engine: requests wait meanwhile."""
        laid_out = await self._layouts.clear_scratch()

        def read(c: Connection) -> list[tuple[Endpoint, list[Revision], Revision | None]]:
            return [
                (e, records.revisions(c, [e.active_revision, *e.shares]), records.newest(c, e.id))
                for e in records.live_endpoints(c)
            ]

        for endpoint, answering, newest in await self._database.read(read):
            live = Live(endpoint)
            live.active = next((r for r in answering if r.seq == endpoint.active_revision), None)
            if not endpoint.stopped:
                live.kept = {revision.seq: self._keep(endpoint, revision) for revision in answering}
            self._serving.put(live)
            if newest is not None and newest.state in PENDING:
                self.begin(live, newest)
            elif newest is not None and newest.state is RevisionState.FAILED:
                live.failure = newest.failure
        self._rolling.aside(self._tidy(laid_out))

    async def close(self) -> None:
        await self._rolling.close()

    async def _tidy(self, laid_out: list[str]) -> None:
        await self._services.settle(KIND)
        for layout in laid_out:
            await self._layouts.forget(layout, unless=partial(self._serves, layout))

    def _serves(self, layout: str) -> bool:
        """Does an endpoint stand on these files, or is it about to?"""
        revisions = [kept.revision for live in self._serving.all() for kept in live.kept.values()]
        revisions += [r for live in self._serving.all() for r in (live.deploying, live.active) if r]
        return any(revision.layout == layout for revision in revisions)

    # -- wishes --------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Wait until what was begun aside (replicas that end) is done."""
        await self._rolling.settled()

    def begin(self, live: Live, revision: Revision) -> None:
        """Roll the revision out, instead of an older one that is still on its way."""
        newest = max(live.deploying.seq if live.deploying else 0, live.active.seq if live.active else 0)
        if revision.seq < newest:
            return
        live.failure = ""
        live.deploying = revision
        self._rolling.begin(live.endpoint.id, _Step(self, live, revision))

    async def stop(self, live: Live) -> None:
        """Stop answering; the replicas' ends are not waited for. Its row says so already."""
        await self._abandon(live)
        old, live.kept = live.kept, {}
        for kept in old.values():
            self._end(kept)
        await live.tell()

    async def restart(self, live: Live) -> None:
        """Answer again after `stop`, asleep until the first request."""
        seqs = [live.endpoint.active_revision, *live.endpoint.shares]
        for revision in await self._database.read(lambda c: records.revisions(c, seqs)):
            live.kept[revision.seq] = self._keep(live.endpoint, revision)
        await live.tell()

    async def share_out(self, live: Live, active: int, shares: Mapping[int, int]) -> None:
        """Requests are shared out so from now on (the rows say so already); who gets none any more, ends."""
        self._serving.change(live, active_revision=active, shares=dict(shares))
        if active in live.kept:
            live.active = live.kept[active].revision
        gone = [kept for seq, kept in live.kept.items() if seq != active and seq not in shares]
        live.kept = {seq: kept for seq, kept in live.kept.items() if seq == active or seq in shares}
        await live.tell()
        for kept in gone:
            self._end(kept)

    def rescale(self, live: Live, wishes: Wishes) -> None:
        """Keep what answers as it is wished now; limits of replicas count from the next revision on."""
        self._serving.change(live, wishes=wishes)
        for kept in live.kept.values():
            kept.service.change(wishes.scaling(self._serving.request_seconds))

    async def remove(self, live: Live) -> None:
        """Forget the endpoint; its replicas end in the background."""
        await self._abandon(live)
        self._serving.drop(live)
        old, live.kept, live.active = live.kept, {}, None
        await live.tell()
        endings = [self._end(kept) for kept in old.values()]
        self._rolling.aside(self._forget(live, endings))

    async def _forget(self, live: Live, endings: Sequence["asyncio.Task[None]"]) -> None:
        await asyncio.gather(*endings, return_exceptions=True)
        await self._services.forget(KIND, live.endpoint.id)

    async def _abandon(self, live: Live) -> None:
        live.deploying = None
        await self._rolling.abandon(live.endpoint.id)

    def _end(self, kept: Kept) -> "asyncio.Task[None]":
        """End a revision's replicas when they have answered what they were asked; not waited for."""
        ending = self._services.end_aside(kept.service)
        self._rolling.aside(self._forget_layout(ending, kept.revision.layout))
        return ending

    async def _forget_layout(self, ending: "asyncio.Task[None]", layout: str) -> None:
        await asyncio.wait([ending])
        await self._layouts.forget(layout, unless=partial(self._serves, layout))

    # -- rolling out ---------------------------------------------------------------------------

    async def _prepare(self, revision: Revision) -> Revision | None:
        """The revision with its environment built and its model's files in place; None when it was superseded."""
        environment_id = revision.environment_id
        if environment_id is None:
            environment_id = (await self._environments.for_requirements(revision.requirements)).id
        else:
            await self._environments.get(environment_id)
        prepared = replace(revision, environment_id=environment_id)
        await self._layouts.ensure(prepared)

        starting = RevisionState.STARTING.value
        return await self._database.write(
            lambda c: records.advance(c, revision.seq, environment_id=environment_id, state=starting)
        )

    async def _switch(self, live: Live, kept: Kept) -> tuple[int, dict[int, int]] | None:
        """From here on the new revision answers, and requests are shared out so; None when it is not wanted any more."""
        revision = kept.revision

        def work(c: Connection) -> tuple[int, dict[int, int]] | None:
            traffic = records.activate(c, live.endpoint.id, revision.seq)
            if traffic is not None:
                emit(
                    c,
                    "endpoint.deployed",
                    live.endpoint.id,
                    actor=revision.created_by,
                    project_id=live.endpoint.project_id,
                    name=live.endpoint.name,
                    revision=revision.number,
                    model=revision.model_uri,
                    percent=100 if revision.share is None else revision.share,
                )
            return traffic

        traffic = await self._database.write(work)
        if traffic is None:
            return None
        live.kept[revision.seq] = kept
        active, shares = traffic
        others = [seq for seq in (active, *shares) if seq not in live.kept]  # it was stopped
        for other in await self._database.read(lambda c: records.revisions(c, others)):
            live.kept[other.seq] = self._keep(live.endpoint, other)
        live.failure = ""
        live.deploying = None
        self._serving.change(live, stopped=False)
        return active, shares

    async def _failed(self, live: Live, revision: Revision, failure: str) -> None:
        log.warning("revision %d of endpoint %s failed: %s", revision.seq, live.endpoint.name, failure)
        live.failure = failure

        def work(c: Connection) -> None:
            state = RevisionState.FAILED.value
            if records.advance(c, revision.seq, state=state, failure=failure[:4000]) is None:
                return
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

    def _keep(self, endpoint: Endpoint, revision: Revision) -> Kept:
        blueprint = ModelBlueprint(
            revision,
            endpoint.wishes,
            self._variables,
            self._database,
            self._environments,
            self._layouts,
            self._runtime,
        )
        name = ServiceName(KIND, endpoint.id, str(revision.seq), endpoint.project_id)
        scaling = endpoint.wishes.scaling(self._serving.request_seconds)
        return Kept(revision, self._services.keep(name, blueprint, scaling, endpoint.wishes.needs))


class _Step:
    """A revision on its way (`stratal.compute.services.rollouts.Step`)."""

    def __init__(self, room: Rollouts, live: Live, revision: Revision) -> None:
        self.name = f"revision {revision.seq} of endpoint {live.endpoint.name}"
        self._room = room
        self._live = live
        self._revision = revision
        self._kept: Kept | None = None
        self._traffic: tuple[int, dict[int, int]] | None = None

    async def prepare(self) -> Service[Any] | None:
        prepared = await self._room._prepare(self._revision)
        if prepared is None:
            return None
        self._kept = self._room._keep(self._live.endpoint, prepared)
        return self._kept.service

    async def ready(self) -> None:
        """Its least; and where it takes over, as many as it replaces if there is room: the load is the same."""
        assert self._kept is not None
        await self._kept.service.ready(max(1, self._live.endpoint.wishes.least))
        if self._kept.revision.share is None and self._live.main is not None:
            with contextlib.suppress(StratalError):
                await self._kept.service.ready(self._live.main.service.awake)

    async def switch(self) -> bool:
        assert self._kept is not None
        self._traffic = await self._room._switch(self._live, self._kept)
        return self._traffic is not None

    async def switched(self) -> None:
        assert self._traffic is not None
        await self._room.share_out(self._live, *self._traffic)

    async def failed(self, why: str) -> None:
        await self._room._failed(self._live, self._revision, why)

    def dropped(self) -> None:
        if self._kept is not None:
            self._room._end(self._kept)

    def over(self) -> None:
        if self._live.deploying is not None and self._live.deploying.seq == self._revision.seq:
            self._live.deploying = None
            self._room._rolling.aside(self._live.tell())
