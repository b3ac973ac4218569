"""``/api/v1/projects/{project}/endpoints``: deploying, looking, stopping, and MLflow's scoring shapes."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope

from stratal.ai.endpoints.latency import SLICE_SECONDS, Summary
from stratal.ai.endpoints.model import Changes, EndpointView, Revision, ServedRevision
from stratal.ai.endpoints.scoring import Inputs, read_csv, read_json, write
from stratal.ai.endpoints.service import Endpoints
from stratal.ai.endpoints.serving import Serving
from stratal.compute.services.model import MOST_IDLE_SECONDS, ReplicaInfo
from stratal.gateway.bodies import beside, read_body
from stratal.gateway.door import principal
from stratal.gateway.native.door import caller
from stratal.gateway.traffic_key import traffic_key
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid, Unsupported

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
            "description": "The predictions, and the id that explains them (also in X-Stratal-Prediction-Id); "
            "X-Stratal-Runtime says what answered: sklearn, onnx, pyfunc …",
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
    min: int | None = Field(None, description="At least so many replicas. Default: as it was, 0 at first.")
    max: int | None = Field(None, description="At most so many replicas. Default: as it was, 1 at first.")
    concurrency: int | None = Field(
        None,
        description="So many requests are given to one replica at once. Default: as it was, 64 at first.",
    )
    idle_seconds: float | None = Field(
        None,
        description="The last replica is stopped after so long without a request; 0: never. Default: 600.",
    )
    cpus: float | None = Field(None, description="The processors that one replica may use.")
    memory_bytes: int | None = Field(None, description="The memory that one replica may use.")
    gpus: int | None = Field(
        None, ge=0, description="So many whole GPUs for each replica. Default: as it was, 0."
    )
    gpu_type: str | None = Field(None, description="Their type, as h100. Default: any one type.")
    as_is: bool = Field(
        False,
        description="Serve the version's own files, also when it has an ONNX form with the same answers.",
    )
    traffic: int | dict[str, int] | None = Field(
        None,
        description='The percentage of requests that the new revision gets: 10 or {"v2": 10}. Default: all.',
    )


class Traffic(BaseModel):
    model_config = ConfigDict(extra="forbid")

    traffic: dict[str, int] = Field(
        description='Percentages by revision: {"v2": 50} of the model\'s version 2, or {"r3": 50}.'
    )


class Rollback(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: str | None = Field(None, description="v2 or r3. Default: the last that answered before.")


INVOCATIONS = re.compile(rb"/api/v1/projects/([^/]+)/endpoints/([^/]+)/invocations\Z")


def router(
    endpoints: Endpoints, projects: Projects, url: str, ask: Callable[..., Awaitable[Response]]
) -> APIRouter:
    """`url` is the instance's address, shown in how to call an endpoint; `ask` answers `invocations`."""
    api = APIRouter(tags=["endpoints"])

    @api.get("/projects/{project}/endpoints")
    async def list_endpoints(who: Who, project: str) -> dict[str, object]:
        place = await projects.get(who, project)
        return {"endpoints": [_brief(view, place.name, url) for view in await endpoints.list(who, place.id)]}

    @api.post("/projects/{project}/endpoints", status_code=202)
    async def deploy(who: Who, project: str, body: NewRevision) -> dict[str, object]:
        """Deploy a model version as a new revision. It answers when its replica is ready; until then the old one does."""
        place = await projects.get(who, project)
        traffic = {"": body.traffic} if isinstance(body.traffic, int) else body.traffic
        changes = Changes(
            least=body.min,
            most=body.max,
            concurrency=body.concurrency,
            idle_ms=_milliseconds(body.idle_seconds),
            cpus=body.cpus,
            memory_bytes=body.memory_bytes,
            gpus=body.gpus,
            gpu_type=body.gpu_type,
        )
        view = await endpoints.deploy(
            who, place.id, body.name, body.model, changes=changes, traffic=traffic, as_is=body.as_is
        )
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
    async def read_logs(who: Who, project: str, name: str, replica: str | None = None) -> Response:
        """What a replica of the endpoint (the newest unless named) wrote, at most the first MiB."""
        place = await projects.get(who, project)
        found, text = await endpoints.logs(who, place.id, name, replica)
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
        if found is not None:
            headers["X-Stratal-Replica"] = found
        return Response(text, 200, headers, "text/plain; charset=utf-8")

    @api.get("/projects/{project}/endpoints/{name}/replicas")
    async def list_replicas(who: Who, project: str, name: str) -> dict[str, object]:
        """The endpoint's replicas, those that run and the last that ended, newest first."""
        place = await projects.get(who, project)
        return {"replicas": [_replica(r) for r in await endpoints.replicas(who, place.id, name)]}

    @api.post("/projects/{project}/endpoints/{name}/traffic")
    async def share_out(who: Who, project: str, name: str, body: Traffic) -> dict[str, object]:
        """Share the requests out between the revisions that answer; one that gets 100 is the only one left."""
        place = await projects.get(who, project)
        return _full(await endpoints.share_out(who, place.id, name, body.traffic), place.name, url)

    @api.post("/projects/{project}/endpoints/{name}/rollback", status_code=202)
    async def roll_back(who: Who, project: str, name: str, body: Rollback) -> dict[str, object]:
        """Let an earlier revision answer everything again."""
        place = await projects.get(who, project)
        return _full(await endpoints.rollback(who, place.id, name, body.to), place.name, url)

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
        parts = request.path_params
        return await ask(request.scope, request.receive, parts["project"], parts["name"])

    return api


def invocations(serving: Serving, projects: Projects) -> Callable[..., Awaitable[Response]]:
    """Who answers what an endpoint is asked in MLflow's shapes: ``(scope, receive, project, name)``."""

    async def ask(scope: Scope, receive: Receive, project: str, name: str) -> Response:
        who = principal(scope)
        project_id = who.project_id if project == who.project else (await projects.get(who, project)).id
        body = await read_body(scope, receive, MAX_BODY)
        inputs = await beside(len(body), _inputs, scope, body)
        answer = await serving.infer(
            who,
            project_id,
            name,
            inputs,
            None,
            request_id=scope["state"]["request_id"],
            traffic_key=traffic_key(scope),
            shown=True,
        )
        size = sum(len(tensor.data) for tensor in answer.outputs)
        return Response(
            await beside(size, write, answer.outputs, answer.prediction_id),
            200,
            {"X-Stratal-Prediction-Id": answer.prediction_id, "X-Stratal-Runtime": answer.runtime},
            "application/json",
        )

    return ask


def _milliseconds(seconds: float | None) -> int | None:
    """Raises `Invalid` for what is no time."""
    if seconds is None:
        return None
    if not 0 <= seconds <= MOST_IDLE_SECONDS:
        raise Invalid("The idle time is 0 (never stopped) to 366 days.", reason="bad_idle")
    return round(seconds * 1000)


def _inputs(scope: Scope, body: bytes) -> Inputs:
    kind = Headers(scope=scope).get("content-type", "application/json").partition(";")[0].strip().lower()
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
        "runtime": revision.plan.runtime,
        "chats": bool((revision.interface or {}).get("chats")),
        "url": f"{url}/v2/models/{name}/infer",
        "invocations_url": f"{url}/api/v1/projects/{project}/endpoints/{name}/invocations",
        "project": project,
        "failure": view.failure,
        "awake": sum(len(served.replicas) for served in view.served),
        "max": view.endpoint.wishes.most,
        "requests": view.requests,
        "in_flight": view.in_flight,
        "recent": None if not view.served else _brief_recent(view.served[0].recent),
        "created_at": iso(view.endpoint.created_at),
    }


def _full(view: EndpointView, project: str, url: str) -> dict[str, object]:
    wishes = view.endpoint.wishes
    replicas = [_replica(replica) for replica in view.replicas]
    return {
        **_brief(view, project, url),
        "id": view.endpoint.id,
        "form_since": None if view.form is None else view.form.kind,
        "min": wishes.least,
        "concurrency": wishes.concurrency,
        "idle_seconds": wishes.idle_ms / 1000,
        "cpus": wishes.cpus,
        "memory_bytes": wishes.memory_bytes,
        "gpus": wishes.gpus,
        "gpu_type": wishes.gpu_type,
        "created_by": view.endpoint.created_by,
        "refused": view.refused,
        "active": None if view.active is None else _revision(view.active),
        "latest": _revision(view.latest),
        "traffic": [_served(served) for served in view.served],
        "replica": replicas[0] if replicas else None,
        "replicas": replicas,
        "interface": (view.active or view.latest).interface,
    }


def _served(served: ServedRevision) -> dict[str, object]:
    revision = served.revision
    return {
        "revision": revision.number,
        "version": revision.model_version,
        "model": revision.model_name,
        "percent": served.percent,
        "condition": served.condition,
        "failure": served.failure,
        "waiting": served.waiting,
        "deaths": served.deaths,
        "dozes": served.dozes,
        "replicas": [
            {"id": r.id, "in_flight": r.in_flight, "answered": r.answered, "draining": r.draining}
            for r in served.replicas
        ],
        "recent": _recent(served.recent),
    }


def _brief_recent(recent: Summary) -> dict[str, object]:
    """Of the last five minutes."""
    return {
        "answered": recent.answered,
        "failed": recent.failed,
        "p50_ms": recent.p50_ms,
        "p95_ms": recent.p95_ms,
        "p99_ms": recent.p99_ms,
    }


def _recent(recent: Summary) -> dict[str, object]:
    """As `_brief_recent`, with `slices` of ten seconds each."""
    return {
        **_brief_recent(recent),
        "slice_seconds": SLICE_SECONDS,
        "slices": [
            {"at": s.at, "answered": s.answered, "failed": s.failed, "p50_ms": s.p50_ms, "p95_ms": s.p95_ms}
            for s in recent.slices
        ],
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
        "asked": revision.asked,
        "form": revision.form_id,
        "converted_by": revision.converted_by,
        "runtime": revision.plan.runtime,
        "share": revision.share,
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
        "revision_seq": int(replica.service.version),
        "started_at": iso(replica.started_at),
        "ready_at": None if replica.ready_at is None else iso(replica.ready_at),
        "ended_at": None if replica.ended_at is None else iso(replica.ended_at),
        "exit_code": replica.exit_code,
        "reason": replica.reason,
        "isolation": replica.isolation,
    }
