"""``/api/v1/projects/{project}/jobs`` and ``…/code``: jobs, their logs, and the code they run."""

import base64
import binascii
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import JSONResponse, Response, StreamingResponse

from stratal.compute.engine import Isolation, Network
from stratal.compute.jobs import MOST_AT_ONCE, Jobs
from stratal.compute.manifest import CodeFile
from stratal.compute.model import Job, JobSpec, JobState, Source
from stratal.compute.snapshots import Snapshots
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid, TooLarge

M = TypeVar("M", bound=BaseModel)
Who = Annotated[Principal, Depends(caller)]

MAX_JOB_BODY = 4 * 1024 * 1024
MAX_MANIFEST_BODY = 32 * 1024 * 1024
MOST_SECONDS_OF_WAITING = 55.0


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewSource(_Strict):
    kind: str = "none"
    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    dirty: bool = False
    untracked: list[str] = []
    submodules: dict[str, str] = {}
    diff: str = Field(default="", description="What `git diff HEAD --binary` printed, in base64.")
    diff_truncated: bool = False


class NewJob(_Strict):
    argv: list[str]
    name: str | None = None
    env: dict[str, str] = {}
    cpus: float | None = None
    memory_bytes: int | None = None
    network: Network | None = None
    timeout_seconds: float | None = None
    requirements: str = ""
    upgrade_environment: bool = False
    snapshot: str | None = Field(
        default=None, description="The id of a code snapshot; absent: an empty folder."
    )
    cwd: str = ""
    source: NewSource = Field(default_factory=NewSource)


class NewFile(_Strict):
    path: str
    mode: str
    sha256: str
    size: int


class NewSnapshot(_Strict):
    files: list[NewFile]


def router(jobs: Jobs, snapshots: Snapshots, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["jobs"])

    @api.get("/projects/{project}/jobs")
    async def list_jobs(
        who: Who,
        project: str,
        state: Annotated[list[JobState] | None, Query()] = None,
        before: int | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
    ) -> dict[str, object]:
        """The project's jobs, newest first; `next` is the `before` of the next page, null at the end."""
        place = await projects.get(who, project)
        page = await jobs.list(who, place.id, states=state or (), before=before, limit=limit)
        return {"jobs": [_brief(job) for job in page.jobs], "next": page.more_before}

    @api.post("/projects/{project}/jobs", status_code=201, openapi_extra=_body(NewJob))
    async def submit_job(request: Request, who: Who, project: str) -> dict[str, object]:
        """Queue a job. It is durable once this answers."""
        place = await projects.get(who, project)
        body = await _read(request, NewJob, MAX_JOB_BODY)
        return _full(await jobs.submit(who, place.id, _spec(body)))

    @api.get("/projects/{project}/jobs/{job_id}")
    async def get_job(
        who: Who,
        project: str,
        job_id: int,
        wait: Annotated[float, Query(ge=0, description="Wait up to so many seconds for its end.")] = 0,
    ) -> dict[str, object]:
        place = await projects.get(who, project)
        if wait:
            job = await jobs.wait(who, place.id, job_id, min(wait, MOST_SECONDS_OF_WAITING))
        else:
            job = await jobs.get(who, place.id, job_id)
        return _full(job)

    @api.post("/projects/{project}/jobs/{job_id}/stop")
    async def stop_job(who: Who, project: str, job_id: int) -> dict[str, object]:
        """Ask a job to stop; for one that has ended, nothing changes."""
        place = await projects.get(who, project)
        return _full(await jobs.stop(who, place.id, job_id))

    @api.get("/projects/{project}/jobs/{job_id}/logs")
    async def read_logs(
        who: Who,
        project: str,
        job_id: int,
        offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
        follow: bool = False,
    ) -> StreamingResponse:
        """The log as written, from byte `offset`; with `follow` until the job has ended."""
        place = await projects.get(who, project)
        chunks = await jobs.logs(who, place.id, job_id, offset=offset, follow=follow)
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return StreamingResponse(chunks, media_type="text/plain; charset=utf-8", headers=headers)

    @api.get("/projects/{project}/jobs/{job_id}/diff")
    async def read_diff(who: Who, project: str, job_id: int) -> Response:
        """The uncommitted changes of the tracked files that the job ran with, as `git diff --binary` wrote them."""
        place = await projects.get(who, project)
        headers = {"X-Content-Type-Options": "nosniff"}
        data = await jobs.diff(who, place.id, job_id)
        return Response(data, media_type="text/plain; charset=utf-8", headers=headers)

    @api.get("/projects/{project}/environments/{environment_id}/lock")
    async def read_lock(who: Who, project: str, environment_id: str) -> Response:
        """The lock document of an environment: its SHA-256 is the environment's id."""
        place = await projects.get(who, project)
        headers = {"X-Content-Type-Options": "nosniff"}
        data = await jobs.lock(who, place.id, environment_id)
        return Response(data, media_type="text/plain; charset=utf-8", headers=headers)

    @api.post("/projects/{project}/code/snapshots", openapi_extra=_body(NewSnapshot))
    async def offer_snapshot(request: Request, who: Who, project: str) -> JSONResponse:
        """Commit a code snapshot (201), or learn which contents to send first (200, `missing`)."""
        place = await projects.get(who, project)
        body = await _read(request, NewSnapshot, MAX_MANIFEST_BODY)
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
        return {"stored": await snapshots.receive(who, place.id, _chunks(request))}

    return api


def _spec(body: NewJob) -> JobSpec:
    try:
        diff = base64.b64decode(body.source.diff, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("The source's diff is not base64.", reason="bad_source") from error
    source = Source(**{**body.source.model_dump(), "diff": diff})
    asked = body.model_dump(exclude={"source", "snapshot"})
    return JobSpec(**asked, snapshot_id=body.snapshot, source=source)


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body that is read by `_read`, for OpenAPI."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _read(request: Request, model: type[M], limit: int) -> M:
    """The body as a `model`, never reading more than `limit` bytes of it."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"The request's body is larger than {limit // 2**20} MiB.")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        problems = [f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors()]
        raise Invalid("The request is not valid: " + "; ".join(problems[:5])) from error


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


def _brief(job: Job) -> dict[str, object]:
    return {
        "id": job.id,
        "name": job.name,
        "state": job.state,
        "exit_code": job.exit_code,
        "reason": job.reason,
        "argv": list(job.argv),
        "project": job.project,
        "created_by": job.created_by,
        "queued_at": iso(job.queued_at),
        "started_at": None if job.started_at is None else iso(job.started_at),
        "ended_at": None if job.ended_at is None else iso(job.ended_at),
    }


def _full(job: Job) -> dict[str, object]:
    return {
        **_brief(job),
        "env": job.shown_env,
        "cpus": job.cpus,
        "memory_bytes": job.memory_bytes,
        "network": job.network,
        "timeout_seconds": job.timeout_seconds,
        "requirements": job.requirements.splitlines(),
        "environment": job.environment_id,
        "snapshot": job.snapshot_id,
        "cwd": job.cwd,
        "source": dict(job.source),
        "attempt": job.attempt,
        "workload": job.workload,
        "stop_requested_at": None if job.stop_requested_at is None else iso(job.stop_requested_at),
        "log_bytes": job.log_bytes,
        "usage": {
            "cpu_seconds": round(job.usage.cpu_seconds, 3),
            "peak_memory_bytes": job.usage.peak_memory_bytes,
            "wall_seconds": round(job.usage.wall_seconds, 3),
            "memory_byte_seconds": job.usage.memory_byte_seconds,
        },
        "isolation": None if job.isolation is None else _isolation(job.isolation),
    }


def _isolation(isolation: Isolation) -> dict[str, object]:
    return {
        "state": "not isolated" if isolation.sandbox == "none" else "isolated",
        "complete": isolation.complete,
        "sandbox": isolation.sandbox,
        "network": isolation.network,
        "memory": isolation.memory,
        "landlock": isolation.landlock,
        "other_inputs": list(isolation.other_inputs),
    }
