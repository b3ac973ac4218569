"""``/api/v1``: who am I, projects, keys, sign-in links, events."""

import re
from collections.abc import AsyncIterator
from typing import Annotated

import orjson
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import StreamingResponse

from stratal.gateway.native.bodies import Strict
from stratal.gateway.native.door import caller
from stratal.gateway.standing import still_good, while_good
from stratal.identity.keys import KeyInfo, Keys
from stratal.identity.model import Principal, Role
from stratal.identity.permissions import require
from stratal.identity.projects import Project, Projects
from stratal.identity.removal import Removal
from stratal.identity.sessions import Sessions
from stratal.kernel.clock import iso
from stratal.kernel.events import Event, Events

Who = Annotated[Principal, Depends(caller)]


class NewProject(Strict):
    name: str


class NewKey(Strict):
    name: str
    role: Role = Role.EDITOR
    expires_at: int | None = Field(None, description="Epoch milliseconds; absent: does not expire.")


def router(keys: Keys, projects: Projects, removal: Removal, sessions: Sessions, events: Events) -> APIRouter:
    """Routes of the tenant boundary."""
    api = APIRouter(tags=["identity"])

    @api.get("/whoami")
    async def whoami(who: Who) -> dict[str, object]:
        """Whose credential this is, and in which project it acts."""
        return {
            "name": who.name,
            "kind": who.kind,
            "project": who.project,
            "role": who.role,
            "workload": who.workload,
            "key_id": who.key_id,
        }

    @api.get("/projects")
    async def list_projects(who: Who) -> dict[str, object]:
        return {"projects": [_project(p) for p in await projects.list(who)]}

    @api.post("/projects", status_code=201)
    async def create_project(who: Who, body: NewProject) -> dict[str, object]:
        return _project(await projects.create(who, body.name))

    @api.delete("/projects/{project}", status_code=204)
    async def remove_project(who: Who, project: str) -> None:
        """Remove the project and everything in it, bytes included. Cannot be undone."""
        await removal.remove(who, project)

    @api.get("/projects/{project}/keys")
    async def list_keys(who: Who, project: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return {"keys": [_key(k) for k in await keys.list(who, place.id)]}

    @api.post("/projects/{project}/keys", status_code=201)
    async def create_key(who: Who, project: str, body: NewKey) -> dict[str, object]:
        """Make a key. Its token is in this answer and nowhere else, ever."""
        place = await projects.get(who, project)
        made = await keys.create(who, place.id, name=body.name, role=body.role, expires_at=body.expires_at)
        return {
            "id": made.id,
            "secret": made.secret,
            "token": made.token,
            "project": place.name,
            "role": body.role,
        }

    @api.delete("/keys/{key_id}", status_code=204)
    async def revoke_key(who: Who, key_id: str) -> None:
        await keys.revoke(who, key_id)

    @api.post("/login-links", status_code=201)
    async def create_login_link(
        who: Who, person: Annotated[str, Query(max_length=100)] = "admin"
    ) -> dict[str, object]:
        """A one-time link that signs the admin, or with `person` somebody else, in to the console."""
        require(who, "instance.manage", who.project_id)
        return {"path": f"/login?token={await sessions.new_link(person)}"}

    @api.get("/projects/{project}/events")
    async def list_events(
        request: Request, who: Who, project: str, after: Annotated[int | None, Query(ge=0, lt=2**62)] = None
    ) -> StreamingResponse:
        """The project's news as server-sent events, from `after` (default: from now), for as long as you listen and may."""
        place = await projects.get(who, project)
        require(who, "events.read", place.id)
        last = request.headers.get("last-event-id", "")
        start = int(last) if re.fullmatch("[0-9]{1,18}", last) else after
        seq = await events.last_seq() if start is None else start

        async def lines() -> AsyncIterator[bytes]:
            yield b": connected\n\n"
            async for event in events.follow(seq, project_id=place.id):
                yield b"id: %d\nevent: %s\ndata: %s\n\n" % (
                    event.seq,
                    event.kind.encode(),
                    orjson.dumps(_event(event)),
                )

        stream = while_good(lines(), still_good(request), heartbeat=b": still here\n\n")
        return StreamingResponse(
            stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    return api


def _project(project: Project) -> dict[str, object]:
    return {"name": project.name, "id": project.id, "created_at": iso(project.created_at)}


def _key(key: KeyInfo) -> dict[str, object]:
    return {
        "name": key.name,
        "id": key.id,
        "project": key.project,
        "role": key.role,
        "kind": key.kind,
        "created_at": iso(key.created_at),
        "created_by": key.created_by,
        "expires_at": iso(key.expires_at) if key.expires_at is not None else None,
        "revoked_at": iso(key.revoked_at) if key.revoked_at is not None else None,
        "used_at": iso(key.used_at) if key.used_at is not None else None,
        "principal": key.principal,
    }


def _event(event: Event) -> dict[str, object]:
    return {
        "seq": event.seq,
        "at": iso(event.at),
        "kind": event.kind,
        "subject": event.subject,
        "actor": event.actor,
        **event.data,
    }
