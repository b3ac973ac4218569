"""``/api/v1/projects/{project}/code`` and ``…/environments``: the code that jobs run, and what they run it in."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from stratal.compute.jobs import Jobs
from stratal.compute.manifest import CodeFile
from stratal.compute.snapshots import Snapshots
from stratal.gateway.native.bodies import Strict, body_of, chunks_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]

MAX_MANIFEST_BODY = 32 * 1024 * 1024


class NewFile(Strict):
    path: str
    mode: str
    sha256: str
    size: int


class NewSnapshot(Strict):
    files: list[NewFile]


def router(jobs: Jobs, snapshots: Snapshots, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["code"])

    @api.get("/projects/{project}/environments/{environment_id}/lock")
    async def read_lock(who: Who, project: str, environment_id: str) -> Response:
        """The lock document of an environment: its SHA-256 is the environment's id."""
        place = await projects.get(who, project)
        headers = {"X-Content-Type-Options": "nosniff"}
        data = await jobs.lock(who, place.id, environment_id)
        return Response(data, media_type="text/plain; charset=utf-8", headers=headers)

    @api.post("/projects/{project}/code/snapshots", openapi_extra=body_of(NewSnapshot))
    async def offer_snapshot(request: Request, who: Who, project: str) -> JSONResponse:
        """Commit a code snapshot (201), or learn which contents to send first (200, `missing`)."""
        place = await projects.get(who, project)
        body = await read_model(request, NewSnapshot, MAX_MANIFEST_BODY)
        files = [CodeFile(file.path, file.mode, file.sha256, file.size) for file in body.files]
        offer = await snapshots.offer(who, place.id, files)
        return JSONResponse({"id": offer.id, "missing": list(offer.missing)}, 200 if offer.missing else 201)

    @api.get("/projects/{project}/code/snapshots/{snapshot_id}")
    async def get_snapshot(who: Who, project: str, snapshot_id: str) -> dict[str, object]:
        """A code snapshot and its files."""
        place = await projects.get(who, project)
        found, files = await snapshots.show(who, place.id, snapshot_id)
        return {
            "id": found.id,
            "bytes": found.bytes,
            "created_at": iso(found.created_at),
            "created_by": found.created_by,
            "files": [{"path": f.path, "mode": f.mode, "sha256": f.sha256, "size": f.size} for f in files],
        }

    @api.post("/projects/{project}/code/packs", status_code=201)
    async def receive_pack(request: Request, who: Who, project: str) -> dict[str, object]:
        """Send contents: for each its SHA-256 (32 bytes), its length (8 bytes, big-endian), its bytes."""
        place = await projects.get(who, project)
        return {"stored": await snapshots.receive(who, place.id, chunks_of(request))}

    return api
