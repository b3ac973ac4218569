"""``/api/v1/projects/{project}/endpoints``: deploying, looking, stopping, and MLflow's scoring shapes."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from stratal.ai.endpoints.model import EndpointView, ReplicaInfo, Revision
from stratal.ai.endpoints.scoring import Inputs, read_csv, read_json, write
from stratal.ai.endpoints.service import Endpoints
from stratal.ai.endpoints.serving import Serving
from stratal.gateway.bodies import beside, read_body
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import Unsupported

Who = Annotated[Principal, Depends(caller)]
MAX_BODY = 32 << 20

_INVOCATION: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"type": "object", "required": [shape]}
                        for shape in ("dataframe_split", "dataframe_records", "instances", "inputs")
                    ]
                }
            },
            "text/csv": {"schema": {"type": "string"}},
        },
    },
    "responses": {
        "200": {
            "description": "The predictions, and the id that explains them (also in X-Stratal-Prediction-Id).",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "predictions": {"type": "array"},
                            "prediction_id": {"type": "string"},
                        },
                    }
                }
            },
        }
    },
}


class NewRevision(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    model: str = Field(description="models:/NAME/VERSION or models:/NAME@alias")
    idle_seconds: float | None = Field(
        None, description="A replica without requests is stopped after so long; 0: never. Default: 600."
    )


def router(endpoints: Endpoints, serving: Serving, projects: Projects, url: str) -> APIRouter:
    """`url` is the instance's address, shown in how to call an endpoint."""
    api = APIRouter(tags=["endpoints"])

    @api.get("/projects/{project}/endpoints")
    async def list_endpoints(who: Who, project: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return {"endpoints": [_brief(view, place.name, url) for view in await endpoints.list(who, place.id)]}

    @api.post("/projects/{project}/endpoints", status_code=202)
    async def deploy(who: Who, project: str, body: NewRevision) -> dict[str, object]:
        """Deploy a model version as a new revision. It answers when its replica is ready; until then the old one does."""
        place = await projects.get(who, project)
        idle = None if body.idle_seconds is None else round(body.idle_seconds * 1000)
        view = await endpoints.deploy(who, place.id, body.name, body.model, idle_ms=idle)
        return _full(view, place.name, url)

    @api.get("/projects/{project}/endpoints/{name}")
    async def get_endpoint(who: Who, project: str, name: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return _full(await endpoints.get(who, place.id, name), place.name, url)

    @api.get("/projects/{project}/endpoints/{name}/revisions")
    async def list_revisions(who: Who, project: str, name: str) -> dict[str, object]:
        """The endpoint's revisions, newest first."""
        place = await projects.get(who, project)
        return {"revisions": [_revision(r) for r in await endpoints.revisions(who, place.id, name)]}

    @api.get("/projects/{project}/endpoints/{name}/logs")
    async def read_logs(who: Who, project: str, name: str) -> Response:
        """What the endpoint's newest replica wrote, at most the first MiB."""
        place = await projects.get(who, project)
        replica, text = await endpoints.logs(who, place.id, name)
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        if replica is not None:
            headers["X-Stratal-Replica"] = replica.id
        return Response(text, 200, headers, "text/plain; charset=utf-8")

    @api.post("/projects/{project}/endpoints/{name}/stop")
    async def stop_endpoint(who: Who, project: str, name: str) -> dict[str, object]:
        """Refuse requests and end the replica, until it is started or deployed again."""
        place = await projects.get(who, project)
        return _full(await endpoints.stop(who, place.id, name), place.name, url)

    @api.post("/projects/{project}/endpoints/{name}/start")
    async def start_endpoint(who: Who, project: str, name: str) -> dict[str, object]:
        """Answer again after a stop."""
        place = await projects.get(who, project)
        return _full(await endpoints.start(who, place.id, name), place.name, url)

    @api.delete("/projects/{project}/endpoints/{name}", status_code=204)
    async def remove_endpoint(who: Who, project: str, name: str) -> None:
        """Remove the endpoint. Its predictions are still explained."""
        place = await projects.get(who, project)
        await endpoints.remove(who, place.id, name)

    @api.post("/projects/{project}/endpoints/{name}/invocations", openapi_extra=_INVOCATION)
    async def invoke(request: Request) -> Response:
        """Ask the endpoint in one of MLflow's scoring shapes, or CSV with a header line."""
        who = caller(request)
        project, name = request.path_params["project"], request.path_params["name"]
        project_id = who.project_id if project == who.project else (await projects.get(who, project)).id
        body = await read_body(request.scope, request.receive, MAX_BODY)
        inputs = await beside(len(body), _inputs, request, body)
        answer = await serving.infer(
            who,
            project_id,
            name,
            inputs,
            None,
            request_id=request.scope["state"]["request_id"],
            shown=True,
        )
        size = sum(len(tensor.data) for tensor in answer.outputs)
        return Response(
            await beside(size, write, answer.outputs, answer.prediction_id),
            200,
            {"X-Stratal-Prediction-Id": answer.prediction_id},
            "application/json",
        )

    return api


def _inputs(request: Request, body: bytes) -> Inputs:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "text/csv":
        return read_csv(body)
    if kind == "application/json":
        return read_json(body)
    raise _WrongType(
        f"The content type {kind[:60]!r} is not taken: send application/json or text/csv.",
        reason="unsupported_media_type",
    )


class _WrongType(Unsupported):
    code, status = "unsupported_media_type", 415


# -- shapes --------------------------------------------------------------------------------------


def _brief(view: EndpointView, project: str, url: str) -> dict[str, object]:
    revision = view.active or view.latest
    name = view.endpoint.name
    return {
        "name": name,
        "state": view.state,
        "model": revision.model_name,
        "version": revision.model_version,
        "revision": revision.number,
        "url": f"{url}/v2/models/{name}/infer",
        "invocations_url": f"{url}/api/v1/projects/{project}/endpoints/{name}/invocations",
        "project": project,
        "failure": view.failure,
        "created_at": iso(view.endpoint.created_at),
    }


def _full(view: EndpointView, project: str, url: str) -> dict[str, object]:
    return {
        **_brief(view, project, url),
        "id": view.endpoint.id,
        "idle_seconds": view.endpoint.idle_ms / 1000,
        "created_by": view.endpoint.created_by,
        "requests": view.requests,
        "in_flight": view.in_flight,
        "active": None if view.active is None else _revision(view.active),
        "latest": _revision(view.latest),
        "replica": None if view.replica is None else _replica(view.replica),
        "interface": (view.active or view.latest).interface,
    }


def _revision(revision: Revision) -> dict[str, object]:
    return {
        "number": revision.number,
        "seq": revision.seq,
        "state": revision.state,
        "failure": revision.failure,
        "model": revision.model_name,
        "version": revision.model_version,
        "model_version_id": revision.model_version_id,
        "runtime": revision.plan.runtime,
        "job": revision.job_id,
        "environment": revision.environment_id,
        "files": [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in revision.files],
        "loaded": revision.loaded,
        "libraries": revision.libraries,
        "created_at": iso(revision.created_at),
        "created_by": revision.created_by,
    }


def _replica(replica: ReplicaInfo) -> dict[str, object]:
    return {
        "id": replica.id,
        "started_at": iso(replica.started_at),
        "isolation": replica.isolation,
    }
