"""``/api/v1/projects/{project}/apps``: deploying, looking, rolling back, the way in. They answer at hosts of their own."""

from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from stratal.ai.functions.model import APP_CONCURRENCY, FunctionView
from stratal.ai.functions.room import Apps
from stratal.ai.functions.visiting import MOST_AT_ONCE, AppRequest
from stratal.compute.services.model import ReplicaInfo
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
from stratal.gateway.native.door import caller, session_of
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
P = "/projects/{project}/apps"

UrlOf = Callable[[str], str]
"""The address of a host name of users' content, by its label."""


class NewApp(NewRevision):
    max_concurrency: int = Field(
        default=APP_CONCURRENCY, description="Requests and WebSockets at once in one replica."
    )


def router(room: Apps, projects: Projects, url: UrlOf) -> APIRouter:
    """`url` gives the address of an app's host, by its label."""
    api = APIRouter(tags=["apps"])
    apps = room.apps

    @api.get(P)
    async def list_apps(who: Who, project: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return {"apps": [_brief(view, url) for view in await apps.list(who, place.id)]}

    @api.post(P, status_code=202, openapi_extra=body_of(NewApp))
    async def deploy_app(request: Request, who: Who, project: str) -> dict[str, object]:
        """Deploy code as a new revision. It answers when it has loaded; until then the one before does."""
        place = await projects.get(who, project)
        body = await read_model(request, NewApp, MAX_BODY)
        return _full(await apps.deploy(who, place, body.deployment()), url)

    @api.get(P + "/{name}")
    async def get_app(who: Who, project: str, name: str) -> dict[str, object]:
        place = await projects.get(who, project)
        view = await apps.get(who, place.id, name)
        replicas = await apps.replicas(who, place.id, name)
        running = [replica_json(replica) for replica in replicas if replica.ended_at is None]
        ended = [_ended(replica) for replica in replicas if replica.ended_at is not None]
        return {**_full(view, url), "running": running, "ended": ended[:10]}

    @api.get(P + "/{name}/revisions")
    async def list_app_revisions(who: Who, project: str, name: str) -> dict[str, object]:
        """The app's revisions, newest first."""
        place = await projects.get(who, project)
        return {"revisions": [revision_json(r) for r in await apps.revisions(who, place.id, name)]}

    @api.post(P + "/{name}/rollback", status_code=202)
    async def roll_app_back(
        who: Who, project: str, name: str, body: Rollback | None = None
    ) -> dict[str, object]:
        """Deploy again what an earlier revision was, as a new one."""
        place = await projects.get(who, project)
        number = None if body is None else body.revision
        return _full(await apps.rollback(who, place, name, number), url)

    @api.post(P + "/{name}/visits", status_code=201)
    async def open_app(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Get a link that lets the caller's browser in once, within a minute."""
        place = await projects.get(who, project)
        session = None if who.key_id is not None else session_of(request)
        of, ticket = await room.visiting.invite(who, place.id, name, session)
        return {"url": f"{url(of.label or '')}/.stratal/enter?ticket={quote(ticket)}"}

    @api.get(P + "/{name}/requests")
    async def list_app_requests(
        who: Who,
        project: str,
        name: str,
        before: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
    ) -> dict[str, object]:
        """What the app was asked, newest first; `next` is the `before` of the next page, null at the end."""
        place = await projects.get(who, project)
        page = await room.visiting.requests(who, place.id, name, before=before, limit=limit)
        return {"requests": [_request(one) for one in page.requests], "next": page.more_before}

    @api.get(P + "/{name}/logs")
    async def read_app_log(
        who: Who, project: str, name: str, replica: Annotated[str | None, Query(max_length=100)] = None
    ) -> Response:
        """What a replica of the app wrote (the newest, when none is named), at most the first MiB."""
        place = await projects.get(who, project)
        found, text = await apps.logs(who, place.id, name, replica)
        headers = dict(PLAIN)
        if found is not None:
            headers["X-Stratal-Replica"] = found.id
        return Response(text, 200, headers, "text/plain; charset=utf-8")

    @api.delete(P + "/{name}", status_code=204)
    async def remove_app(who: Who, project: str, name: str) -> None:
        """Remove the app. Its host name is not given to another."""
        place = await projects.get(who, project)
        await apps.remove(who, place.id, name)

    return api


# -- shapes --------------------------------------------------------------------------------------


def _brief(view: FunctionView, url: UrlOf) -> dict[str, object]:
    return brief_json(view, url(view.function.label or ""))


def _full(view: FunctionView, url: UrlOf) -> dict[str, object]:
    return {
        **_brief(view, url),
        "id": view.function.id,
        "active": None if view.active is None else revision_json(view.active),
        "latest": revision_json(view.latest),
    }


def _ended(replica: ReplicaInfo) -> dict[str, object]:
    return {
        **replica_json(replica),
        "ended_at": None if replica.ended_at is None else iso(replica.ended_at),
        "exit_code": replica.exit_code,
        "reason": replica.reason,
    }


def _request(one: AppRequest) -> dict[str, object]:
    asked = one.invocation
    return {
        "id": asked.id,
        "kind": asked.trigger,
        "method": one.method,
        "path": one.path,
        "status": asked.status,
        "caller": asked.caller,
        "error": asked.error,
        "content_type": asked.result_type,
        "revision_seq": asked.revision,
        "created_at": iso(asked.created_at),
        "seconds": seconds_of(asked),
    }
