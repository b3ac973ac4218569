"""``/api/v1/projects/{project}/apps``: deploying, looking, rolling back, the way in. They answer at hosts of their own."""

from collections.abc import Callable
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from stratal.ai.functions.model import APP_CONCURRENCY, Deployment, FunctionView, Revision, Wishes
from stratal.ai.functions.room import Apps
from stratal.ai.functions.visiting import MOST_AT_ONCE, AppRequest
from stratal.compute.services.model import ReplicaInfo
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import SESSION_COOKIE, caller
from stratal.gateway.native.functions import (
    MAX_BODY,
    PLAIN,
    NewSource,
    replica_json,
    seconds_of,
)
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import TooLarge

Who = Annotated[Principal, Depends(caller)]
P = "/projects/{project}/apps"
_DEFAULT = Wishes(concurrency=APP_CONCURRENCY)

UrlOf = Callable[[str], str]
"""The address of a host name of users' content, by its label."""


class NewApp(Strict):
    name: str
    target: str = Field(description="The file and the ASGI application in it: app.py:app")
    snapshot: str = Field(description="The id of a code snapshot.")
    cwd: str = Field(default="", description="The folder of the snapshot that `target` lies in.")
    source: NewSource = Field(default_factory=NewSource)
    requirements: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    min: int = Field(default=_DEFAULT.least, description="So many replicas, also when nobody asks.")
    max: int | None = Field(default=None, description="At most so many replicas. Default: `min`, at least 1.")
    max_concurrency: int = Field(
        default=_DEFAULT.concurrency, description="Requests and WebSockets at once in one replica."
    )
    idle_seconds: float = Field(
        default=_DEFAULT.idle_seconds,
        description="A replica without requests is stopped after so long; 0: never.",
    )
    memory_bytes: int = Field(default=_DEFAULT.memory_bytes, description="What a replica may use.")
    gpus: int = Field(default=0, ge=0, description="So many whole GPUs for each replica.")
    gpu_type: str | None = Field(default=None, description="Their type, as h100; null: any one type.")
    public: bool = Field(default=False, description="Anybody may ask it, without a key.")


class Rollback(Strict):
    revision: int | None = Field(default=None, ge=1, description="Default: the one that answered before.")


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
        return _full(await apps.deploy(who, place, _deployment(body)), url)

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
        return {"revisions": [_revision(r) for r in await apps.revisions(who, place.id, name)]}

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
        session = None if who.key_id is not None else request.cookies.get(SESSION_COOKIE)
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


def _deployment(body: NewApp) -> Deployment:
    if len(body.env) > 1000:
        raise TooLarge("An app may be given 1000 variables.")
    return Deployment(
        name=body.name,
        target=body.target,
        snapshot_id=body.snapshot,
        cwd=body.cwd,
        source=body.source.model_dump(),
        requirements=body.requirements,
        env=body.env,
        wishes=Wishes(
            least=body.min,
            most=max(1, body.min) if body.max is None else body.max,
            concurrency=body.max_concurrency,
            idle_seconds=body.idle_seconds,
            memory_bytes=body.memory_bytes,
            gpus=body.gpus,
            gpu_type=body.gpu_type,
            public=body.public,
        ),
    )


# -- shapes --------------------------------------------------------------------------------------


def _brief(view: FunctionView, url: UrlOf) -> dict[str, object]:
    app, revision = view.function, view.active or view.latest
    return {
        "name": app.name,
        "project": app.project,
        "state": view.state,
        "failure": view.failure,
        "target": revision.target,
        "revision": revision.number,
        "public": revision.wishes.public,
        "replicas": view.replicas,
        "in_flight": view.in_flight,
        "url": url(app.label or ""),
        "created_at": iso(app.created_at),
        "created_by": app.created_by,
    }


def _full(view: FunctionView, url: UrlOf) -> dict[str, object]:
    return {
        **_brief(view, url),
        "id": view.function.id,
        "active": None if view.active is None else _revision(view.active),
        "latest": _revision(view.latest),
    }


def _revision(revision: Revision) -> dict[str, object]:
    wishes = revision.wishes
    return {
        "number": revision.number,
        "seq": revision.seq,
        "state": revision.state,
        "failure": revision.failure,
        "target": revision.target,
        "snapshot": revision.snapshot_id,
        "cwd": revision.cwd,
        "source": dict(revision.source),
        "requirements": revision.requirements.splitlines(),
        "environment": revision.environment_id,
        "env": dict.fromkeys(revision.env, "…"),
        "workload": revision.workload,
        "min": wishes.least,
        "max": wishes.most,
        "max_concurrency": wishes.concurrency,
        "idle_seconds": wishes.idle_seconds,
        "memory_bytes": wishes.memory_bytes,
        "gpus": wishes.gpus,
        "gpu_type": wishes.gpu_type,
        "public": wishes.public,
        "created_at": iso(revision.created_at),
        "created_by": revision.created_by,
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
