"""``/api/v1/projects/P/shares``: what a project lets others read, and what others let it read."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.identity.shares import Share, Shares
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
_MAX_BODY = 1 << 16


class NewShare(Strict):
    kind: str = Field(description="bucket, table, model or endpoint.")
    name: str = Field(description="What this project calls it; a table as namespace.table.")
    to: str = Field(description="The project that may read it.")


def router(projects: Projects, shares: Shares) -> APIRouter:
    api = APIRouter(tags=["sharing"])

    @api.get("/projects/{project}/shares")
    async def list_shares(who: Who, project: str) -> dict[str, object]:
        """What the project gives to others to read, and what it was given."""
        place = await projects.get(who, project)
        return {"shares": [_shown(share, place.id) for share in await shares.list(who, place.id)]}

    @api.post("/projects/{project}/shares", status_code=201, openapi_extra=body_of(NewShare))
    async def add_share(request: Request, who: Who, project: str) -> dict[str, object]:
        """Let another project read one thing of this one (owners only)."""
        place = await projects.get(who, project)
        body = await read_model(request, NewShare, _MAX_BODY)
        return _shown(await shares.add(who, place.id, body.kind, body.name, body.to), place.id)

    @api.delete("/projects/{project}/shares/{share}", status_code=204)
    async def remove_share(who: Who, project: str, share: str) -> None:
        """End a share: as an owner of the project that gives, or of the one that was given."""
        place = await projects.get(who, project)
        await shares.remove(who, place.id, share)

    return api


def _shown(share: Share, project_id: str) -> dict[str, object]:
    return {
        "id": share.id,
        "direction": "given" if share.giver_id == project_id else "received",
        "kind": share.kind,
        "name": share.name,
        "from": share.giver,
        "to": share.receiver,
        "as": share.shown,
        "created_at": iso(share.created_at),
        "created_by": share.created_by,
    }
