"""Endpoints as people see them: deploy, look, stop, start, remove. `rollout` makes it so, `serving` answers."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from stratal.ai.endpoints import records
from stratal.ai.endpoints.model import (
    Endpoint,
    EndpointState,
    EndpointView,
    PinnedFile,
    ReplicaInfo,
    Revision,
    RevisionState,
)
from stratal.ai.endpoints.replicas import Replicas
from stratal.ai.endpoints.rollout import Rollouts
from stratal.ai.endpoints.runtime import Runtime
from stratal.ai.endpoints.serving import Live, Serving, no_such_endpoint
from stratal.ai.endpoints.upkeep import Condition
from stratal.ai.models.model import ModelVersion
from stratal.ai.predictions.service import Predictions
from stratal.compute.jobs import Jobs
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.kernel.names import check_name

DEFAULT_IDLE_MS = 10 * 60 * 1000
MOST_IDLE_MS = 366 * 86_400_000

Resolve = Callable[[Principal, str, str], Awaitable[ModelVersion]]
"""(who, project id, ``models:/…``) → the version it names. Raises `NotFound`, `Invalid`, `Denied`."""


class Endpoints:
    """`start` and `close` are those of the `Rollouts` it is made with."""

    def __init__(
        self,
        database: Database,
        resolve: Resolve,
        jobs: Jobs,
        runtime: Runtime,
        rollouts: Rollouts,
        replicas: Replicas,
        serving: Serving,
        predictions: Predictions,
        clock: Clock,
    ) -> None:
        self._database = database
        self._resolve = resolve
        self._jobs = jobs
        self._runtime = runtime
        self._rollouts = rollouts
        self._replicas = replicas
        self._serving = serving
        self._predictions = predictions
        self._clock = clock

    # -- wishes --------------------------------------------------------------------------------

    async def deploy(
        self, who: Principal, project_id: str, name: str, model: str, *, idle_ms: int | None = None
    ) -> EndpointView:
        """Deploy ``models:/NAME/VERSION`` or ``models:/NAME@alias`` as a new revision of the endpoint `name`.

        The endpoint is made when there is none. Returns when the wish is durable; the revision is rolled
        out after that, and the one before answers until then. `idle_ms` None: as it was, 10 minutes for a
        new endpoint. Raises `Invalid` for a name, model or time that makes no sense, `NotFound` for a
        model that is not there, `Denied`.
        """
        check_name("endpoint", name)
        require(who, "endpoints.deploy", project_id, what=f"endpoint {name!r}")
        if idle_ms is not None and not 0 <= idle_ms <= MOST_IDLE_MS:
            raise Invalid("The idle time is 0 (never stopped) to 366 days.", reason="bad_idle")
        version = await self._resolve(who, project_id, model)
        plan = self._runtime.plan(
            version.facts.flavors, version.facts.signature, [file.path for file in version.files]
        )
        environment_id = await self._environment_of(version)
        values: dict[str, object] = {
            "model_version_id": version.id,
            "model_name": version.name,
            "model_version": str(version.version),
            "files": records.values_of_files(
                [PinnedFile(f.path, f.sha256, f.size, f.blob_key) for f in version.files]
            ),
            "plan": records.values_of_plan(plan),
            "job_id": version.job_id,
            "requirements": version.facts.requirements,
            "environment_id": environment_id,
            "created_at": self._clock(),
            "created_by": who.actor,
        }
        endpoint, revision = await self._database.write(
            lambda c: self._record(c, who, project_id, name, idle_ms, values, version.uri)
        )
        live = self._serving.find(project_id, name)
        if live is None:
            live = Live(endpoint)
            self._serving.put(live)
        self._serving.change(live, idle_ms=endpoint.idle_ms)
        self._rollouts.begin(live, revision)
        return await self._view(live)

    async def _environment_of(self, version: ModelVersion) -> str | None:
        """The environment of the job that made the model: the replica runs in exactly that one. None: none is known."""
        if version.workload is None or version.job_id is None:
            return None
        try:
            job = await self._jobs.by_workload(version.workload)
        except NotFound:
            return None
        return job.environment_id if job.project_id == version.project_id else None

    def _record(
        self,
        c: Connection,
        who: Principal,
        project_id: str,
        name: str,
        idle_ms: int | None,
        values: dict[str, object],
        uri: str,
    ) -> tuple[Endpoint, Revision]:
        endpoint = records.endpoint_named(c, project_id, name)
        if endpoint is None:
            endpoint = Endpoint(
                id=new_id("ep"),
                project_id=project_id,
                name=name,
                idle_ms=DEFAULT_IDLE_MS if idle_ms is None else idle_ms,
                stopped=False,
                active_revision=None,
                created_at=self._clock(),
                created_by=who.actor,
            )
            records.insert_endpoint(c, endpoint)
        elif idle_ms is not None:
            endpoint = replace(endpoint, idle_ms=idle_ms)
            records.update_endpoint(c, endpoint.id, idle_ms=idle_ms)
        revision = records.insert_revision(c, endpoint.id, values)
        emit(
            c,
            "endpoint.requested",
            endpoint.id,
            actor=who.actor,
            project_id=project_id,
            name=name,
            revision=revision.number,
            model=uri,
        )
        return endpoint, revision

    async def stop(self, who: Principal, project_id: str, name: str) -> EndpointView:
        """Stop the endpoint: requests are refused until `start` or a new deployment."""
        return await self._set_stopped(who, project_id, name, stopped=True)

    async def start(self, who: Principal, project_id: str, name: str) -> EndpointView:
        """Answer again after `stop`; the first request wakes it."""
        return await self._set_stopped(who, project_id, name, stopped=False)

    async def _set_stopped(
        self, who: Principal, project_id: str, name: str, *, stopped: bool
    ) -> EndpointView:
        live = self._get(who, "endpoints.deploy", project_id, name)
        if live.endpoint.stopped != stopped:

            def work(c: Connection) -> None:
                records.update_endpoint(c, live.endpoint.id, stopped=int(stopped))
                if stopped:
                    records.supersede_pending(c, live.endpoint.id, "The endpoint was stopped.")
                kind = "endpoint.stopped" if stopped else "endpoint.started"
                emit(c, kind, live.endpoint.id, actor=who.actor, project_id=project_id, name=name)

            await self._database.write(work)
            self._serving.change(live, stopped=stopped)
            await (self._rollouts.stop(live) if stopped else self._rollouts.restart(live))
        return await self._view(live)

    async def remove(self, who: Principal, project_id: str, name: str) -> None:
        """Remove the endpoint. Predictions that it made are still explained."""
        live = self._get(who, "endpoints.deploy", project_id, name)

        def work(c: Connection) -> None:
            records.update_endpoint(c, live.endpoint.id, removed_at=self._clock(), active_revision=None)
            records.supersede_pending(c, live.endpoint.id, "The endpoint was removed.")
            emit(c, "endpoint.removed", live.endpoint.id, actor=who.actor, project_id=project_id, name=name)

        await self._database.write(work)
        await self._rollouts.remove(live)

    async def purge(self, project_id: str) -> None:
        """Remove everything of a project: its endpoints, their replicas, and what they predicted."""
        for live in self._serving.all():
            if live.endpoint.project_id == project_id:
                await self._rollouts.remove(live)
        await self._rollouts.settled()
        await self._predictions.purge(project_id)
        for key in await self._database.write(lambda c: records.purge(c, project_id)):
            await self._rollouts.forget_log(key)

    # -- looking -------------------------------------------------------------------------------

    async def list(self, who: Principal, project_id: str) -> Sequence[EndpointView]:
        """The project's endpoints, by name."""
        require(who, "endpoints.read", project_id)
        mine = [live for live in self._serving.all() if live.endpoint.project_id == project_id]
        return [await self._view(live) for live in sorted(mine, key=lambda live: live.endpoint.name)]

    async def get(self, who: Principal, project_id: str, name: str) -> EndpointView:
        """Raises `NotFound`, also for an endpoint of another project."""
        return await self._view(self._get(who, "endpoints.read", project_id, name))

    async def revisions(self, who: Principal, project_id: str, name: str) -> Sequence[Revision]:
        """The endpoint's revisions, newest first."""
        live = self._get(who, "endpoints.read", project_id, name)
        return await self._database.read(lambda c: records.revisions_of(c, live.endpoint.id))

    async def revision(self, seq: int) -> Revision:
        """The revision that a prediction's id names, for rooms that explain it; they authorise. Raises `NotFound`."""
        found = await self._database.read(lambda c: records.revision(c, seq))
        if found is None:
            raise NotFound(f"There is no revision {seq}.", reason="no_such_revision")
        return found

    async def logs(self, who: Principal, project_id: str, name: str) -> tuple[ReplicaInfo | None, bytes]:
        """The newest replica of the endpoint and what it wrote (at most the first MiB)."""
        live = self._get(who, "endpoints.read", project_id, name)
        found = await self._database.read(lambda c: records.replicas_of(c, live.endpoint.id, 1))
        return (found[0], await self._replicas.log(found[0].id)) if found else (None, b"")

    # -- views ---------------------------------------------------------------------------------

    def _get(self, who: Principal, action: str, project_id: str, name: str) -> Live:
        require(who, action, project_id, what=f"endpoint {name[:100]!r}")
        live = self._serving.find(project_id, name)
        if live is None:
            raise no_such_endpoint(name)
        return live

    async def _view(self, live: Live) -> EndpointView:
        seq = live.endpoint.active_revision

        def read(c: Connection) -> tuple[list[Revision], Revision | None, list[ReplicaInfo]]:
            latest = records.revisions_of(c, live.endpoint.id, 1)
            return (
                latest,
                None if seq is None else records.revision(c, seq),
                records.replicas_of(c, live.endpoint.id, 3),
            )

        latest, active, replicas = await self._database.read(read)
        if latest[0].state is RevisionState.ACTIVE and latest[0].seq != seq:
            # Its row is committed, requests still go to the one before: it is shown active when it answers.
            latest[0] = replace(latest[0], state=RevisionState.STARTING)
        state, failure = _state(live, latest[0])
        attempt = live.active.attempt_id if live.active is not None else None
        return EndpointView(
            endpoint=live.endpoint,
            state=state,
            failure=failure,
            active=active,
            latest=latest[0],
            replica=next((r for r in replicas if r.id == attempt), None),
            requests=live.answered,
            in_flight=live.waiting,
        )


def _state(live: Live, latest: Revision) -> tuple[EndpointState, str]:
    """The endpoint's state, and why where that is not well (a newer revision that failed, a model that will not start)."""
    if live.endpoint.stopped and live.deploying is None:
        return EndpointState.STOPPED, ""
    if live.active is None or live.endpoint.stopped:
        if live.deploying is not None:
            return EndpointState.STARTING, ""
        return EndpointState.FAILED, live.failure or latest.failure
    condition = live.active.condition
    if condition is Condition.FAILING:
        return EndpointState.FAILED, live.active.failure
    states = {
        Condition.ASLEEP: EndpointState.IDLE,
        Condition.WAKING: EndpointState.STARTING,
        Condition.AWAKE: EndpointState.READY,
    }
    return states[condition], live.failure
