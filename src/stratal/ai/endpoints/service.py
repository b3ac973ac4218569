"""Endpoints as people see them: deploy, look, share out, stop, start, remove. `rollout` makes it so, `serving` answers."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from stratal.ai.endpoints import records
from stratal.ai.endpoints.model import (
    Changes,
    Endpoint,
    EndpointState,
    EndpointView,
    PinnedFile,
    Revision,
    RevisionState,
    ServedRevision,
    Wishes,
)
from stratal.ai.endpoints.rollout import KIND, Rollouts
from stratal.ai.endpoints.runtime import Plan, Runtime
from stratal.ai.endpoints.serving import Kept, Live, Serving, no_such_endpoint
from stratal.ai.endpoints.traffic import named, share_of, shared_out
from stratal.ai.models.model import Form, ModelVersion
from stratal.ai.predictions.service import Predictions
from stratal.compute.jobs import Jobs
from stratal.compute.services.model import Condition, ReplicaInfo, check_scaling
from stratal.compute.services.services import Services
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.shares import end_shares
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.kernel.names import check_name

Resolve = Callable[[Principal, str, str], Awaitable[ModelVersion]]
"""(who, project id, ``models:/…``) → the version it names. Raises `NotFound`, `Invalid`, `Denied`."""
FormOf = Callable[[str], Awaitable[Form | None]]
"""(a version's id) → what it was converted to and whose answers were found to be the same; None: there is none."""
Deployed = Callable[[Principal, ModelVersion], Awaitable[None]]
"""Told of each version that is deployed as it is; it must not raise."""


async def _no_form(version_id: str) -> Form | None:
    return None


async def _nothing(who: Principal, version: ModelVersion) -> None:
    return None


class Endpoints:
    """`start` and `close` are those of the `Rollouts` it is made with."""

    def __init__(
        self,
        database: Database,
        resolve: Resolve,
        jobs: Jobs,
        runtime: Runtime,
        rollouts: Rollouts,
        services: Services,
        serving: Serving,
        predictions: Predictions,
        clock: Clock,
        form_of: FormOf = _no_form,
        deployed: Deployed = _nothing,
    ) -> None:
        self.form_of = form_of
        self.on_deployed = deployed
        self._database = database
        self._resolve = resolve
        self._jobs = jobs
        self._runtime = runtime
        self._rollouts = rollouts
        self._services = services
        self._serving = serving
        self._predictions = predictions
        self._clock = clock

    # -- wishes --------------------------------------------------------------------------------

    async def deploy(
        self,
        who: Principal,
        project_id: str,
        name: str,
        model: str,
        *,
        changes: Changes | None = None,
        traffic: Mapping[str, int] | None = None,
        as_is: bool = False,
    ) -> EndpointView:
        """Deploy ``models:/NAME/VERSION`` or ``models:/NAME@alias`` as a new revision of the endpoint `name`.

        The endpoint is made when there is none. Returns when the wish is durable; the revision is rolled
        out after that, and those before answer until then. `changes` are to how it is kept. `traffic`
        (``{"v2": 10}``, v2 being this very version) gives the revision that percentage of the requests;
        without it, all. A version that has a form with the same answers is served in that form, unless `as_is`; which
        form it is is pinned with the revision. Raises `Invalid` for a name, model or wish that makes no
        sense, `NotFound` for a model that is not there, `Denied`.
        """
        check_name("endpoint", name)
        require(who, "endpoints.deploy", project_id, what=f"endpoint {name!r}")
        changes = changes or Changes()
        await self._check(changes.of(Wishes()))
        version = await self._resolve(who, project_id, model)
        form = None if as_is else await self.form_of(version.id)
        made_of = version if form is None else form
        plan = self._plan(version, form)
        if as_is:
            plan = replace(plan, options={**plan.options, "as_is": True})
        values: dict[str, object] = {
            "model_version_id": version.id,
            "model_name": version.name,
            "model_version": str(version.version),
            "files": records.values_of_files(
                [PinnedFile(f.path, f.sha256, f.size, f.blob_key) for f in made_of.files]
            ),
            "plan": records.values_of_plan(plan),
            "job_id": version.job_id,
            "requirements": version.facts.requirements if form is None else "",
            "environment_id": await self._environment_of(version, form),
        }
        values["requirements"] = values["requirements"] or plan.requirements
        view = await self._begin(who, project_id, name, changes, values, traffic or {})
        if form is None and not as_is:
            await self.on_deployed(who, version)
        return view

    def _plan(self, version: ModelVersion, form: Form | None) -> Plan:
        """How the version is loaded, or the form in its place. Raises `Invalid`."""
        if form is None:
            paths = [file.path for file in version.files]
            return self._runtime.plan(version.facts.flavors, version.facts.signature, paths)
        (file,) = form.files
        plan = self._runtime.plan({form.kind: {"data": file.path}}, version.facts.signature, [file.path])
        return replace(plan, options={**plan.options, "form": form.id, "converted_by": form.job_id})

    async def rollback(
        self, who: Principal, project_id: str, name: str, to: str | None = None
    ) -> EndpointView:
        """Let an earlier revision answer everything again, as a new revision with the same files and environment.

        `to` names it (``r2``, ``v3``); None: while requests are shared out, the active revision takes all
        again and nothing is started, else the last one that answered before it. Raises `Invalid` when there
        is none, `NotFound`, `Denied`.
        """
        live = self._get(who, "endpoints.deploy", project_id, name)
        if to is None and live.endpoint.shares and live.active is not None:
            return await self._share_out(who, live, live.active.seq, {})
        history = await self._database.read(lambda c: records.revisions_of(c, live.endpoint.id, 1000))
        worked = [r for r in history if r.interface is not None and r.state is not RevisionState.FAILED]
        earlier = [r for r in worked if live.active is None or r.seq < live.active.seq]
        if to is not None:
            earlier = [named(to, worked)]
        if not earlier:
            raise Invalid(
                f"Endpoint {name!r} has no earlier revision that worked.",
                hint=f"Its revisions: stratal endpoint show {name}",
                reason="no_earlier_revision",
            )
        again = earlier[0]
        values = await self._database.read(lambda c: records.values_of_revision(c, again.seq))
        return await self._begin(who, project_id, name, Changes(), values, {})

    async def _begin(
        self,
        who: Principal,
        project_id: str,
        name: str,
        changes: Changes,
        values: dict[str, Any],
        traffic: Mapping[str, int],
    ) -> EndpointView:
        """Record a revision and begin to roll it out."""
        values = {**values, "created_at": self._clock(), "created_by": who.actor, "person": who.name}
        endpoint, revision = await self._database.write(
            lambda c: self._record(c, who, project_id, name, changes, values, traffic)
        )
        live = self._serving.find(project_id, name)
        if live is None:
            live = Live(endpoint)
            self._serving.put(live)
        self._rollouts.rescale(live, endpoint.wishes)
        self._rollouts.begin(live, revision)
        return await self._view(live)

    async def _check(self, wishes: Wishes) -> None:
        """Raise `Invalid` for wishes that make no sense, or that could never be fulfilled here."""
        if wishes.cpus is not None and not wishes.cpus >= 0.01:
            raise Invalid("A replica that is given processors needs at least 0.01.", reason="bad_needs")
        await self._services.check(wishes.scaling(self._serving.request_seconds), wishes.needs)

    async def _environment_of(self, version: ModelVersion, form: Form | None) -> str | None:
        """The environment of the job that made the model, or the form: the replica runs in exactly that one.
        None: none is known."""
        workload = version.workload if form is None else f"job:{form.job_id}"
        if workload is None or (form is None and version.job_id is None):
            return None
        try:
            job = await self._jobs.by_workload(workload)
        except NotFound:
            return None
        return job.environment_id if job.project_id == version.project_id else None

    def _record(
        self,
        c: Connection,
        who: Principal,
        project_id: str,
        name: str,
        changes: Changes,
        values: dict[str, Any],
        traffic: Mapping[str, int],
    ) -> tuple[Endpoint, Revision]:
        endpoint = records.endpoint_named(c, project_id, name)
        if endpoint is None:
            endpoint = Endpoint(
                id=new_id("ep"),
                project_id=project_id,
                name=name,
                wishes=changes.of(Wishes()),
                stopped=False,
                active_revision=None,
                shares={},
                created_at=self._clock(),
                created_by=who.actor,
            )
            records.insert_endpoint(c, endpoint)
        else:
            endpoint = replace(endpoint, wishes=changes.of(endpoint.wishes))
            check_scaling(endpoint.wishes.scaling(self._serving.request_seconds))
            records.update_endpoint(c, endpoint.id, **records.values_of_wishes(endpoint.wishes))
        newest = records.newest(c, endpoint.id)
        share = share_of(traffic, values["model_version"], 1 + (newest.number if newest else 0))
        if share is not None and sum(endpoint.shares.values()) + share > 100:
            raise Invalid(
                f"Other revisions have {sum(endpoint.shares.values())} % already.",
                hint=f"Change that first: stratal endpoint traffic {name}",
                reason="bad_traffic",
            )
        revision = records.insert_revision(c, endpoint.id, {**values, "share": share})
        emit(
            c,
            "endpoint.requested",
            endpoint.id,
            actor=who.actor,
            project_id=project_id,
            name=name,
            revision=revision.number,
            model=revision.model_uri,
        )
        return endpoint, revision

    async def share_out(
        self, who: Principal, project_id: str, name: str, traffic: Mapping[str, int]
    ) -> EndpointView:
        """Share requests out between the revisions that answer (``{"v2": 50}``); see `traffic.shared_out`.

        One that gets 100 % is the only one left. Raises `Invalid` for names and shares that make no sense.
        """
        live = self._get(who, "endpoints.deploy", project_id, name)
        answering = [kept.revision for kept in reversed(live.kept.values())]
        if live.active is None or not answering:
            raise Invalid(f"Nothing answers for endpoint {name!r} now.", reason="bad_traffic")
        active, shares = shared_out(traffic, answering, live.active.seq, live.endpoint.shares)
        return await self._share_out(who, live, active, shares)

    async def _share_out(
        self, who: Principal, live: Live, active: int, shares: Mapping[int, int]
    ) -> EndpointView:
        if (active, dict(shares)) != (live.endpoint.active_revision, dict(live.endpoint.shares)):

            def work(c: Connection) -> None:
                records.set_traffic(c, live.endpoint.id, active, shares)
                emit(
                    c,
                    "endpoint.shared",
                    live.endpoint.id,
                    actor=who.actor,
                    project_id=live.endpoint.project_id,
                    name=live.endpoint.name,
                    active=active,
                    shares={str(seq): percent for seq, percent in shares.items()},
                )

            await self._database.write(work)
            await self._rollouts.share_out(live, active, shares)
        return await self._view(live)

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
            end_shares(c, "endpoint", live.endpoint.id, who.actor)
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
        await self._services.purge(project_id, KIND)
        await self._database.write(lambda c: records.purge(c, project_id))

    # -- looking -------------------------------------------------------------------------------

    async def list(self, who: Principal, project_id: str) -> Sequence[EndpointView]:
        """The project's endpoints, by name."""
        require(who, "endpoints.read", project_id)
        mine = [live for live in self._serving.all() if live.endpoint.project_id == project_id]
        return [await self._view(live) for live in sorted(mine, key=lambda live: live.endpoint.name)]

    async def get(self, who: Principal, project_id: str, name: str) -> EndpointView:
        """Raises `NotFound`, also for an endpoint of another project."""
        view = await self._view(self._get(who, "endpoints.read", project_id, name))
        active = view.active
        if active is None or active.form_id is not None or active.as_is:
            return view
        return replace(view, form=await self.form_of(active.model_version_id))

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

    async def replicas(self, who: Principal, project_id: str, name: str) -> Sequence[ReplicaInfo]:
        """The endpoint's replicas, running and ended, newest first; their `service.version` is the revision's seq."""
        live = self._get(who, "endpoints.read", project_id, name)
        return await self._services.replicas(KIND, live.endpoint.id)

    async def logs(
        self, who: Principal, project_id: str, name: str, replica: str | None = None
    ) -> tuple[str | None, bytes]:
        """A replica of the endpoint (the newest unless named) and what it wrote (at most the first MiB)."""
        live = self._get(who, "endpoints.read", project_id, name)
        if replica is None:
            found = await self._services.replicas(KIND, live.endpoint.id, 1)
            if not found:
                return None, b""
            replica = found[0].id
        return replica, await self._services.log(KIND, live.endpoint.id, replica)

    # -- views ---------------------------------------------------------------------------------

    def _get(self, who: Principal, action: str, project_id: str, name: str) -> Live:
        require(who, action, project_id, what=f"endpoint {name[:100]!r}")
        live = self._serving.find(project_id, name)
        if live is None:
            raise no_such_endpoint(name)
        return live

    async def _view(self, live: Live) -> EndpointView:
        endpoint = live.endpoint

        def read(c: Connection) -> tuple[list[Revision], Revision | None]:
            answering = records.revisions(c, [endpoint.active_revision, *endpoint.shares])
            return answering, records.newest(c, endpoint.id)

        answering, latest = await self._database.read(read)
        replicas = await self._services.replicas(KIND, endpoint.id)
        assert latest is not None
        if latest.state is RevisionState.ACTIVE and latest.seq not in (
            endpoint.active_revision,
            *endpoint.shares,
        ):
            # Its row is committed, requests still go to the one before: it is shown active when it answers.
            latest = replace(latest, state=RevisionState.STARTING)
        active = next((r for r in answering if r.seq == endpoint.active_revision), None)
        state, failure = _state(live, latest)
        served = [
            _served(live.kept[r.seq], r, _percent(endpoint, r.seq)) for r in answering if r.seq in live.kept
        ]
        awake = {replica.id for revision in served for replica in revision.replicas}
        return EndpointView(
            endpoint=endpoint,
            state=state,
            failure=failure,
            active=active,
            latest=latest,
            served=sorted(served, key=lambda s: s.revision.seq != endpoint.active_revision),
            replicas=[replica for replica in replicas if replica.id in awake],
            requests=live.answered,
            refused=live.refused,
            in_flight=live.asking,
        )


def _percent(endpoint: Endpoint, seq: int) -> int:
    return endpoint.shares.get(seq, 100 - sum(endpoint.shares.values()))


def _served(kept: Kept, revision: Revision, percent: int) -> ServedRevision:
    return ServedRevision(
        revision=revision,
        percent=percent,
        condition=kept.service.condition,
        failure=kept.service.failure,
        replicas=kept.service.states(),
        waiting=kept.service.waiting,
        deaths=kept.service.deaths,
        dozes=kept.service.dozes,
        recent=kept.recent.summary(time.time()),
    )


def _state(live: Live, latest: Revision) -> tuple[EndpointState, str]:
    """The endpoint's state, and why where that is not well (a newer revision that failed, a model that will not start)."""
    if live.endpoint.stopped and live.deploying is None:
        return EndpointState.STOPPED, ""
    if live.main is None:
        if live.deploying is not None:
            return EndpointState.STARTING, ""
        return EndpointState.FAILED, live.failure or latest.failure
    condition = live.main.service.condition
    if condition is Condition.FAILING:
        return EndpointState.FAILED, live.main.service.failure
    states = {
        Condition.ASLEEP: EndpointState.IDLE,
        Condition.WAKING: EndpointState.STARTING,
        Condition.AWAKE: EndpointState.READY,
    }
    return states[condition], live.failure
