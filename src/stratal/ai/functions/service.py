"""Functions and apps as people see them: deploy, look, remove. `rollout` makes it so; `calling`, `later` and
`visiting` answer."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from stratal.ai.functions import records
from stratal.ai.functions.journal import Journal
from stratal.ai.functions.live import Live, Registry
from stratal.ai.functions.model import (
    APP,
    KIND,
    PENDING,
    Deployment,
    Function,
    FunctionState,
    FunctionView,
    Revision,
    RevisionState,
    check_target,
    check_wishes,
)
from stratal.ai.functions.rollout import Rollouts
from stratal.ai.functions.sources import drop_source
from stratal.compute.requirements import canonical
from stratal.compute.services.model import Condition, ReplicaInfo
from stratal.compute.services.services import Services
from stratal.compute.snapshots import Snapshots
from stratal.compute.submission import check_env, cwd_of
from stratal.identity.keys import Keys
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.projects import Project
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id, random_token
from stratal.kernel.names import check_name, label_of


class Functions:
    """All of one `kind`: functions, or apps. `start` and `close` are those of the `Rollouts` it is made with."""

    def __init__(
        self,
        kind: str,
        database: Database,
        keys: Keys,
        snapshots: Snapshots,
        services: Services,
        registry: Registry,
        rollouts: Rollouts,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._kind = kind
        self._database = database
        self._keys = keys
        self._snapshots = snapshots
        self._services = services
        self._registry = registry
        self._rollouts = rollouts
        self._journal = journal
        self._clock = clock

    # -- wishes --------------------------------------------------------------------------------

    async def deploy(self, who: Principal, place: Project, asked: Deployment) -> FunctionView:
        """Deploy code as a new revision of the function, which is made when there is none.

        Returns when the wish is durable; the revision is rolled out after that, and the one before answers until
        then. Its replicas act with a credential of their own, which has the deployer's role, editor at most.
        Raises `Invalid` for wishes that make no sense, `NotFound` for a snapshot that is not there, `Denied`.
        """
        check_name(self._kind, asked.name)
        require(who, f"{self._kind}s.deploy", place.id, what=f"{self._kind} {asked.name!r}")
        check_target(asked.target)
        check_env(asked.env)
        asked = replace(
            asked,
            wishes=check_wishes(asked.wishes, self._kind),
            requirements=canonical(asked.requirements),
            cwd=cwd_of(asked.cwd),
        )
        await self._snapshots.get(place.id, asked.snapshot_id)
        await self._services.check(asked.wishes.scaling, asked.wishes.needs)
        function, revision = await self._database.write(lambda c: self._record(c, who, place, asked))
        live = self._registry.find(place.id, asked.name)
        if live is None:
            live = Live(function)
            self._registry.put(live)
        self._rollouts.begin(live, revision)
        return await self._view(live)

    def _record(
        self, c: Connection, who: Principal, place: Project, asked: Deployment
    ) -> tuple[Function, Revision]:
        now = self._clock()
        function = records.function_named(c, self._kind, place.id, asked.name)
        if function is None:
            label = label_of(asked.name, random_token(8)) if self._kind == APP else None
            id_ = new_id(_IDS[self._kind])
            function = Function(
                id_, place.id, place.name, asked.name, None, now, who.actor, self._kind, label
            )
            records.insert_function(c, function)
        made = {"created_at": now, "created_by": who.actor, "creator_name": who.name}
        revision = records.insert_revision(c, function.id, asked, made)
        workload = f"{self._kind}:{function.name}:{revision.seq}"
        key = self._keys.insert_for_workload(c, who, place.id, workload)
        records.update_revision(c, revision.seq, key_id=key.id, workload=workload)
        emit(
            c,
            f"{self._kind}.requested",
            function.id,
            actor=who.actor,
            project_id=place.id,
            name=function.name,
            revision=revision.number,
            public=asked.wishes.public,
        )
        return function, replace(revision, key_id=key.id, workload=workload)

    async def rollback(self, who: Principal, place: Project, name: str, number: int | None) -> FunctionView:
        """Deploy again what revision `number` was: a new revision of the same code, packages, variables and wishes.

        None: the newest one that answered before the one that does now. Raises `NotFound`, `Conflict` when there is
        none such.
        """
        live = self._get(who, "deploy", place.id, name)
        known = await self._database.read(lambda c: records.revisions_of(c, live.function.id, 1000))
        active = live.active.number if live.active else 0
        if number is None:
            before = [one for one in known if one.number < active and _answered(one)]
            if not before:
                raise Conflict(
                    f"No other revision of {name!r} answered before.",
                    hint=f"Name one: stratal {self._kind} rollback {name} REVISION",
                    reason="nothing_before",
                )
            old = before[0]
        else:
            found = [one for one in known if one.number == number]
            if not found:
                raise NotFound(
                    f"There is no revision {number} of {self._kind} {name!r}.",
                    hint=f"Its revisions: stratal {self._kind} show {name}",
                    reason="no_such_revision",
                )
            old = found[0]
        return await self.deploy(
            who,
            place,
            Deployment(
                name=name,
                target=old.target,
                snapshot_id=old.snapshot_id,
                cwd=old.cwd,
                source=old.source,
                requirements=old.requirements,
                env=old.env,
                wishes=old.wishes,
            ),
        )

    async def remove(self, who: Principal, project_id: str, name: str) -> None:
        """Remove the function and its invocations. Returns when its replicas have ended."""
        live = self._get(who, "deploy", project_id, name)

        def work(c: Connection) -> None:
            now = self._clock()
            records.update_function(c, live.function.id, removed_at=now, active_revision=None)
            records.supersede_pending(c, live.function.id, f"The {self._kind} was removed.")
            for revision in records.revisions_of(c, live.function.id):
                self._keys.end_workload(c, revision.workload)
            drop_source(c, live.function.id)
            records.give_up_waiting(c, live.function.id, f"The {self._kind} was removed.", now)
            emit(
                c,
                f"{self._kind}.removed",
                live.function.id,
                actor=who.actor,
                project_id=project_id,
                name=name,
            )

        await self._database.write(work)
        await self._rollouts.remove(live)

    async def purge(self, project_id: str) -> None:
        """Remove everything of a project: its functions, their replicas, and what they were asked."""
        for live in self._registry.all():
            if live.function.project_id == project_id:
                await self._rollouts.remove(live)
        await self._rollouts.settled()
        await self._journal.flush()
        await self._services.purge(project_id, self._kind)
        await self._database.write(lambda c: records.purge(c, project_id, self._kind))

    # -- looking -------------------------------------------------------------------------------

    async def list(self, who: Principal, project_id: str) -> Sequence[FunctionView]:
        """The project's functions, by name."""
        require(who, f"{self._kind}s.read", project_id)
        mine = [live for live in self._registry.all() if live.function.project_id == project_id]
        return [await self._view(live) for live in sorted(mine, key=lambda live: live.function.name)]

    async def get(self, who: Principal, project_id: str, name: str) -> FunctionView:
        """Raises `NotFound`, also for a function of another project."""
        return await self._view(self._get(who, "read", project_id, name))

    async def revisions(self, who: Principal, project_id: str, name: str) -> Sequence[Revision]:
        """The function's revisions, newest first."""
        live = self._get(who, "read", project_id, name)
        return await self._database.read(lambda c: records.revisions_of(c, live.function.id))

    async def replicas(self, who: Principal, project_id: str, name: str) -> Sequence[ReplicaInfo]:
        """The function's replicas, running and ended, newest first."""
        live = self._get(who, "read", project_id, name)
        return await self._services.replicas(self._kind, live.function.id)

    async def logs(
        self, who: Principal, project_id: str, name: str, replica: str | None = None
    ) -> tuple[ReplicaInfo | None, bytes]:
        """A replica of the function (the newest, when none is named) and what it wrote outside of calls.

        At most the first MiB. Raises `NotFound`.
        """
        live = self._get(who, "read", project_id, name)
        if replica is not None:
            known = await self._services.replicas(self._kind, live.function.id)
            named = next((one for one in known if one.id == replica), None)
            return named, await self._services.log(self._kind, live.function.id, replica)
        found = await self._services.replicas(self._kind, live.function.id, 1)
        if not found:
            return None, b""
        try:
            return found[0], await self._services.log(self._kind, live.function.id, found[0].id)
        except NotFound:
            return found[0], b""

    # -- views ---------------------------------------------------------------------------------

    def _get(self, who: Principal, action: str, project_id: str, name: str) -> Live:
        require(who, f"{self._kind}s.{action}", project_id, what=f"{self._kind} {name[:100]!r}")
        return self._registry.get(project_id, name)

    async def _view(self, live: Live) -> FunctionView:
        latest = (await self._database.read(lambda c: records.revisions_of(c, live.function.id, 1)))[0]
        if latest.state is RevisionState.ACTIVE and (live.active is None or live.active.seq != latest.seq):
            # Its row is committed, requests still go to the one before: it is shown active when it answers.
            latest = replace(latest, state=RevisionState.STARTING)
        state, failure = _state(live, latest)
        return FunctionView(
            function=live.function,
            state=state,
            failure=failure,
            active=live.active,
            latest=latest,
            in_flight=live.service.load if live.service else 0,
            replicas=live.service.awake if live.service else 0,
            left=live.left.get(live.active.seq, "") if live.active else "",
        )


_IDS = {KIND: "fn", APP: "app"}


def _answered(revision: Revision) -> bool:
    """Did it once? One that was superseded on its way says why."""
    return revision.state is RevisionState.SUPERSEDED and not revision.failure


def _state(live: Live, latest: Revision) -> tuple[FunctionState, str]:
    """The function's state, and why where that is not well (a newer revision that failed, code that will not load)."""
    if live.service is None:
        if live.deploying is not None and latest.state in PENDING:
            return FunctionState.STARTING, ""
        return FunctionState.FAILED, live.failure or latest.failure
    condition = live.service.condition
    if condition is Condition.FAILING:
        return FunctionState.FAILED, live.service.failure
    states = {
        Condition.ASLEEP: FunctionState.IDLE,
        Condition.WAKING: FunctionState.STARTING,
        Condition.AWAKE: FunctionState.READY,
    }
    return states[condition], live.failure
