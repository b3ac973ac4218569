"""``/api/v1/projects/{project}/workspaces``: workspaces, their saves, and the way into them."""

from collections.abc import AsyncIterator, Callable
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from stratal.collab.workspaces.model import Program, Save, Wishes, WorkspaceView
from stratal.collab.workspaces.room import Studio
from stratal.compute.engine import Network
from stratal.compute.services.model import ReplicaInfo
from stratal.gateway.native.bodies import Strict
from stratal.gateway.native.door import caller, session_of
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
P = "/projects/{project}/workspaces"
_DEFAULT = Wishes()
MOST_AT_ONCE = 1000


UrlOf = Callable[[str], str]
"""The address of a host name of users' content, by its label."""


class NewWorkspace(Strict):
    name: str
    program: Program = Field(default=Program.JUPYTER, description="What it runs for its people.")
    requirements: str = Field(default="", description="What its environment has besides the notebook server.")
    memory_bytes: int = Field(default=_DEFAULT.memory_bytes, description="What all in it may use together.")
    cpus: float = Field(default=_DEFAULT.cpus, description="Processors kept for it; 0: whatever is free.")
    gpus: int = Field(default=0, ge=0, description="So many whole GPUs, its own for as long as it runs.")
    gpu_type: str | None = Field(default=None, description="Their type, as h100; null: any one type.")
    idle_seconds: float = Field(
        default=_DEFAULT.idle_seconds, description="Stopped after so long without anybody's doing; 0: never."
    )
    network: Network = Field(
        default=_DEFAULT.network, description="What it reaches: the platform alone, or all."
    )


class Restoring(Strict):
    path: str | None = Field(default=None, description="Restore it as this file instead.")


def router(studio: Studio, projects: Projects, url: UrlOf) -> APIRouter:
    """`url` gives the address of a workspace's host, by its label."""
    api = APIRouter(tags=["workspaces"])
    workspaces = studio.workspaces

    @api.get(P)
    async def list_workspaces(who: Who, project: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return {"workspaces": [_workspace(view, url) for view in await workspaces.list(who, place.id)]}

    @api.post(P, status_code=201)
    async def create_workspace(who: Who, project: str, body: NewWorkspace) -> dict[str, object]:
        """Make a workspace and start it."""
        place = await projects.get(who, project)
        wishes = Wishes(
            body.memory_bytes, body.cpus, body.idle_seconds, body.network, body.gpus, body.gpu_type
        )
        made = await workspaces.create(
            who, place, body.name, program=body.program, requirements=body.requirements, wishes=wishes
        )
        return _workspace(made, url)

    @api.get(P + "/{name}")
    async def get_workspace(who: Who, project: str, name: str) -> dict[str, object]:
        place = await projects.get(who, project)
        view = await workspaces.get(who, place.id, name)
        replicas = await workspaces.replicas(who, place.id, name)
        return {**_workspace(view, url), "servers": [_server(replica) for replica in replicas]}

    @api.post(P + "/{name}/visits", status_code=201)
    async def open_workspace(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Start it if need be, and get a link that lets the caller's browser in once, within a minute."""
        place = await projects.get(who, project)
        session = None if who.key_id is not None else session_of(request)
        of, ticket = await workspaces.open(who, place.id, name, session)
        return {"url": f"{url(of.label)}/.stratal/enter?ticket={quote(ticket)}"}

    @api.post(P + "/{name}/start")
    async def start_workspace(who: Who, project: str, name: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return _workspace(await workspaces.begin(who, place.id, name), url)

    @api.post(P + "/{name}/stop")
    async def stop_workspace(who: Who, project: str, name: str) -> dict[str, object]:
        """Save what is open in it and stop it; its files stay."""
        place = await projects.get(who, project)
        return _workspace(await workspaces.halt(who, place.id, name), url)

    @api.delete(P + "/{name}", status_code=204)
    async def remove_workspace(who: Who, project: str, name: str) -> None:
        """Remove it with its files and all their saves."""
        place = await projects.get(who, project)
        await workspaces.remove(who, place.id, name)

    @api.get(P + "/{name}/logs")
    async def read_workspace_log(who: Who, project: str, name: str) -> Response:
        """What its newest server wrote, at most the first MiB."""
        place = await projects.get(who, project)
        text = await workspaces.logs(who, place.id, name)
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        return Response(text, 200, headers, "text/plain; charset=utf-8")

    # -- saves ---------------------------------------------------------------------------------

    @api.get(P + "/{name}/saves")
    async def list_saves(
        who: Who,
        project: str,
        name: str,
        path: Annotated[str | None, Query(max_length=4096)] = None,
        before: Annotated[int | None, Query(ge=0)] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
    ) -> dict[str, object]:
        """The saves of its files, newest first; `next` is the `before` of the next page, null at the end."""
        place = await projects.get(who, project)
        found = await workspaces.saves(who, place.id, name, path=path, before=before, limit=limit)
        more = found[-1].seq if len(found) == limit else None
        return {"saves": [_save(save) for save in found], "next": more}

    @api.put(P + "/{name}/saves")
    async def keep_save(
        request: Request,
        who: Who,
        project: str,
        name: str,
        path: Annotated[str, Query(max_length=4096)],
        saved_at: Annotated[int | None, Query(ge=0, description="When it was saved, epoch ms.")] = None,
    ) -> dict[str, object]:
        """Keep a version of a file: the body's bytes. The same as the newest one of the path is that one."""
        place = await projects.get(who, project)
        kept = await workspaces.keep(who, place.id, name, path, _chunks(request), saved_at)
        return _save(kept)

    @api.get(P + "/{name}/saves/{save}/content")
    async def read_save(who: Who, project: str, name: str, save: int) -> Response:
        """The bytes of a save."""
        place = await projects.get(who, project)
        found, chunks = await workspaces.content(who, place.id, name, save)
        filename = quote(found.path.rpartition("/")[2])
        headers = {
            "Content-Length": str(found.size),
            "Content-Disposition": f"attachment; filename*=UTF-8''{filename}",
            "X-Content-Type-Options": "nosniff",
            "X-Stratal-Sha256": found.sha256,
        }
        return StreamingResponse(chunks, 200, headers, "application/octet-stream")

    @api.post(P + "/{name}/saves/{save}/restore")
    async def restore_save(
        who: Who, project: str, name: str, save: int, body: Restoring | None = None
    ) -> dict[str, object]:
        """Put a save back as the file. What the file is now is kept as a save first."""
        place = await projects.get(who, project)
        path = None if body is None else body.path
        kept, target = await workspaces.restore(who, place.id, name, save, path)
        return {**_save(kept), "path": target}

    return api


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _workspace(view: WorkspaceView, url: UrlOf) -> dict[str, object]:
    of, wishes = view.workspace, view.workspace.wishes
    return {
        "id": of.id,
        "name": of.name,
        "project": of.project,
        "state": view.state,
        "failure": view.failure,
        "stopped_why": of.stopped_why,
        "url": url(of.label),
        "program": of.program,
        "workload": of.workload,
        "requirements": of.requirements.splitlines(),
        "environment": of.environment_id,
        "memory_bytes": wishes.memory_bytes,
        "cpus": wishes.cpus,
        "gpus": wishes.gpus,
        "gpu_type": wishes.gpu_type,
        "idle_seconds": wishes.idle_seconds,
        "network": wishes.network,
        "visitors": list(view.visitors),
        "used_at": None if of.used_at is None else iso(of.used_at),
        "created_at": iso(of.created_at),
        "created_by": of.created_by,
    }


def _server(replica: ReplicaInfo) -> dict[str, object]:
    return {
        "id": replica.id,
        "started_at": iso(replica.started_at),
        "ready_at": None if replica.ready_at is None else iso(replica.ready_at),
        "ended_at": None if replica.ended_at is None else iso(replica.ended_at),
        "exit_code": replica.exit_code,
        "reason": replica.reason,
        "isolation": replica.isolation,
    }


def _save(save: Save) -> dict[str, object]:
    return {
        "id": save.seq,
        "path": save.path,
        "sha256": save.sha256,
        "size": save.size,
        "saved_at": iso(save.saved_at),
        "saved_by": save.saved_by,
    }
