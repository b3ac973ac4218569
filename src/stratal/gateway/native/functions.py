"""``/api/v1/projects/{project}/functions``: deploying, looking, what came of calls. They are called at ``/f/…``."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from stratal.ai.functions.invocations import MOST_AT_ONCE, Invocations
from stratal.ai.functions.model import Deployment, FunctionView, Invocation, InvocationState, Revision, Wishes
from stratal.ai.functions.service import Functions
from stratal.gateway.native.bodies import body_of, read_model
from stratal.gateway.native.deployed import (
    MAX_BODY,
    PLAIN,
    NewRevision,
    Rollback,
    brief_json,
    replica_json,
    revision_json,
    seconds_of,
)
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
MOST_SECONDS_OF_WAITING = 55.0
_DEFAULT = Wishes()


class NewFunction(NewRevision):
    timeout_seconds: float = Field(default=_DEFAULT.timeout_seconds, description="How long a call may take.")
    retries: int = Field(default=_DEFAULT.retries, description="How often a later call is tried again.")
    schedule: str = Field(default="", description="Five fields of cron; empty: none.")
    zone: str = Field(default="UTC", description="The schedule's time zone, e.g. Europe/Berlin.")
    on: list[str] = Field(
        default_factory=list, description="s3:bucket/prefix: new objects that it is called with."
    )


def router(functions: Functions, invocations: Invocations, projects: Projects, url: str) -> APIRouter:
    """`url` is the instance's address, shown in how to call a function."""
    api = APIRouter(tags=["functions"])

    @api.get("/projects/{project}/functions")
    async def list_functions(who: Who, project: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return {"functions": [_brief(view, url) for view in await functions.list(who, place.id)]}

    @api.post("/projects/{project}/functions", status_code=202, openapi_extra=body_of(NewFunction))
    async def deploy_function(request: Request, who: Who, project: str) -> dict[str, object]:
        """Deploy code as a new revision. It answers when it has loaded; until then the one before does."""
        place = await projects.get(who, project)
        body = await read_model(request, NewFunction, MAX_BODY)
        return _full(await functions.deploy(who, place, _deployment(body)), url)

    @api.get("/projects/{project}/functions/{name}")
    async def get_function(who: Who, project: str, name: str) -> dict[str, object]:
        place = await projects.get(who, project)
        view = await functions.get(who, place.id, name)
        counts = await invocations.counts(who, place.id, name)
        replicas = await functions.replicas(who, place.id, name)
        running = [replica_json(replica) for replica in replicas if replica.ended_at is None]
        states = {state.value: counts.get(state.value, 0) for state in InvocationState}
        return {**_full(view, url), "invocations": states, "running": running}

    @api.get("/projects/{project}/functions/{name}/revisions")
    async def list_function_revisions(who: Who, project: str, name: str) -> dict[str, object]:
        """The function's revisions, newest first."""
        place = await projects.get(who, project)
        return {"revisions": [_revision(r) for r in await functions.revisions(who, place.id, name)]}

    @api.post("/projects/{project}/functions/{name}/rollback", status_code=202)
    async def roll_function_back(
        who: Who, project: str, name: str, body: Rollback | None = None
    ) -> dict[str, object]:
        """Deploy again what an earlier revision was, as a new one."""
        place = await projects.get(who, project)
        number = None if body is None else body.revision
        return _full(await functions.rollback(who, place, name, number), url)

    @api.get("/projects/{project}/functions/{name}/logs")
    async def read_function_log(who: Who, project: str, name: str) -> Response:
        """What the function's newest replica wrote outside of calls, at most the first MiB."""
        place = await projects.get(who, project)
        replica, text = await functions.logs(who, place.id, name)
        headers = dict(PLAIN)
        if replica is not None:
            headers["X-Stratal-Replica"] = replica.id
        return Response(text, 200, headers, "text/plain; charset=utf-8")

    @api.get("/projects/{project}/functions/{name}/invocations")
    async def list_invocations(
        who: Who,
        project: str,
        name: str,
        state: Annotated[list[InvocationState] | None, Query()] = None,
        before: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
    ) -> dict[str, object]:
        """What the function was asked, newest first; `next` is the `before` of the next page, null at the end."""
        place = await projects.get(who, project)
        page = await invocations.list(who, place.id, name, states=state or (), before=before, limit=limit)
        return {"invocations": [_invocation(i) for i in page.invocations], "next": page.more_before}

    @api.get("/projects/{project}/functions/{name}/invocations/{invocation_id}")
    async def get_invocation(
        who: Who,
        project: str,
        name: str,
        invocation_id: str,
        wait: Annotated[float, Query(ge=0, description="Wait up to so many seconds for its end.")] = 0,
    ) -> dict[str, object]:
        place = await projects.get(who, project)
        seconds = min(wait, MOST_SECONDS_OF_WAITING)
        return _invocation(await invocations.get(who, place.id, name, invocation_id, wait_seconds=seconds))

    @api.get("/projects/{project}/functions/{name}/invocations/{invocation_id}/log")
    async def read_invocation_log(who: Who, project: str, name: str, invocation_id: str) -> Response:
        """What the call wrote (of a later call, in its last attempt), at most 64 KiB."""
        place = await projects.get(who, project)
        text = await invocations.log(who, place.id, name, invocation_id)
        return Response(text, 200, PLAIN, "text/plain; charset=utf-8")

    @api.post("/projects/{project}/functions/{name}/invocations/{invocation_id}/retry")
    async def retry_invocation(who: Who, project: str, name: str, invocation_id: str) -> dict[str, object]:
        """Have a dead invocation run again, as if it were new."""
        place = await projects.get(who, project)
        return _invocation(await invocations.retry(who, place.id, name, invocation_id))

    @api.delete("/projects/{project}/functions/{name}", status_code=204)
    async def remove_function(who: Who, project: str, name: str) -> None:
        """Remove the function; calls that wait for it end as dead."""
        place = await projects.get(who, project)
        await functions.remove(who, place.id, name)

    return api


def _deployment(body: NewFunction) -> Deployment:
    return body.deployment(
        timeout_seconds=body.timeout_seconds,
        retries=body.retries,
        schedule=body.schedule,
        zone=body.zone,
        on=body.on,
    )


# -- shapes --------------------------------------------------------------------------------------


def _brief(view: FunctionView, url: str) -> dict[str, object]:
    return brief_json(view, f"{url}/f/{view.function.project}/{view.function.name}")


def _full(view: FunctionView, url: str) -> dict[str, object]:
    return {
        **_brief(view, url),
        "id": view.function.id,
        "active": None if view.active is None else _revision(view.active),
        "latest": _revision(view.latest),
    }


def _revision(revision: Revision) -> dict[str, object]:
    wishes = revision.wishes
    return {
        **revision_json(revision),
        "timeout_seconds": wishes.timeout_seconds,
        "retries": wishes.retries,
        "schedule": wishes.schedule,
        "zone": wishes.zone,
        "on": list(wishes.on),
    }


def _invocation(invocation: Invocation) -> dict[str, object]:
    return {
        "id": invocation.id,
        "state": invocation.state,
        "trigger": invocation.trigger,
        "caller": invocation.caller,
        "status": invocation.status,
        "error": invocation.error,
        "attempt": invocation.attempt,
        "failures": invocation.failures,
        "revision_seq": invocation.revision,
        "result_type": invocation.result_type,
        "result_bytes": invocation.result_bytes,
        "log_bytes": invocation.log_bytes,
        "waits_until": None if invocation.waits_until is None else iso(invocation.waits_until),
        "created_at": iso(invocation.created_at),
        "started_at": None if invocation.started_at is None else iso(invocation.started_at),
        "ended_at": None if invocation.ended_at is None else iso(invocation.ended_at),
        "seconds": seconds_of(invocation),
    }
