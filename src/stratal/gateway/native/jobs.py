"""``/api/v1/projects/{project}/jobs`` and ``…/arrays``: jobs, what they wait for, their attempts and logs."""

import base64
import binascii
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from stratal.compute.engine import Isolation, Network, Usage
from stratal.compute.jobs import MOST_AT_ONCE, Jobs
from stratal.compute.model import Array, Attempt, Job, JobSpec, JobState, Source
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.gateway.standing import still_good, while_good
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso
from stratal.kernel.errors import Invalid

Who = Annotated[Principal, Depends(caller)]

MAX_JOB_BODY = 4 * 1024 * 1024
MOST_SECONDS_OF_WAITING = 55.0


class NewSource(Strict):
    kind: str = "none"
    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    dirty: bool = False
    untracked: list[str] = Field(default_factory=list)
    submodules: dict[str, str] = Field(default_factory=dict)
    diff: str = Field(default="", description="What `git diff HEAD --binary` printed, in base64.")
    diff_truncated: bool = False


class NewJob(Strict):
    argv: list[str]
    name: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    gpu_type: str | None = Field(default=None, description="As `…/nodes` names them; absent: any one type.")
    nodes: int | None = Field(
        default=None, description="A gang of so many nodes, each with what is asked for."
    )
    procs_per_node: int | None = None
    network: Network | None = None
    timeout_seconds: float | None = Field(default=None, description="How long an attempt may take.")
    grace_seconds: float | None = Field(default=None, description="From SIGTERM to SIGKILL; absent: 10.")
    priority: int = Field(default=0, description="Each point moves it ahead by ten minutes of waiting.")
    retries: int = 0
    after: list[int | str] = Field(
        default_factory=list, description="Jobs (12) and arrays (a3) that must succeed first."
    )
    array: str | None = Field(default=None, description="The members' indices: 10 (0 to 9), 5-9, or 1,4,7-9.")
    parallel: int | None = Field(default=None, description="At most so many of the array's members at once.")
    requirements: str = ""
    upgrade_environment: bool = False
    snapshot: str | None = Field(
        default=None, description="The id of a code snapshot; absent: an empty folder."
    )
    cwd: str = ""
    source: NewSource = Field(default_factory=NewSource)


def router(jobs: Jobs, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["jobs"])

    @api.get("/projects/{project}/jobs")
    async def list_jobs(
        who: Who,
        project: str,
        state: Annotated[list[JobState] | None, Query()] = None,
        array: Annotated[int | None, Query(ge=1, le=2**62, description="Only this array's members.")] = None,
        before: int | None = None,
        limit: Annotated[int, Query(ge=1, le=MOST_AT_ONCE)] = 100,
    ) -> dict[str, object]:
        """The project's jobs, newest first; `next` is the `before` of the next page, null at the end."""
        place = await projects.get(who, project)
        page = await jobs.list(who, place.id, states=state or (), array_id=array, before=before, limit=limit)
        return {"jobs": [_brief(job) for job in page.jobs], "next": page.more_before}

    @api.post("/projects/{project}/jobs", status_code=201, openapi_extra=body_of(NewJob))
    async def submit_job(request: Request, who: Who, project: str) -> dict[str, object]:
        """Queue a job, or with `array` its jobs, of which the first is answered. Durable once this answers."""
        place = await projects.get(who, project)
        body = await read_model(request, NewJob, MAX_JOB_BODY)
        return _full(await jobs.submit(who, place.id, spec_of(body)))

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
        return {**_full(job), "after": await jobs.after(who, place.id, job_id)}

    @api.get("/projects/{project}/jobs/{job_id}/why")
    async def why_job(who: Who, project: str, job_id: int) -> dict[str, object]:
        """What the job waits for right now; `waits_for` is empty once it runs or has ended."""
        place = await projects.get(who, project)
        job, waits = await jobs.why(who, place.id, job_id)
        told = [{"what": wait.what, "words": wait.words, **wait.details} for wait in waits]
        return {"id": job.id, "state": job.state, "reason": job.reason, "waits_for": told}

    @api.get("/projects/{project}/jobs/{job_id}/attempts")
    async def list_attempts(who: Who, project: str, job_id: int) -> dict[str, object]:
        """The job's attempts, first to last."""
        place = await projects.get(who, project)
        found = await jobs.attempts(who, place.id, job_id)
        return {"attempts": [_attempt(attempt) for attempt in found]}

    @api.post("/projects/{project}/jobs/{job_id}/stop")
    async def stop_job(who: Who, project: str, job_id: int) -> dict[str, object]:
        """Ask a job to stop; for one that has ended, nothing changes."""
        place = await projects.get(who, project)
        return _full(await jobs.stop(who, place.id, job_id))

    @api.get("/projects/{project}/jobs/{job_id}/logs")
    async def read_logs(
        request: Request,
        who: Who,
        project: str,
        job_id: int,
        attempt: Annotated[int | None, Query(description="One attempt's alone; absent: of all.")] = None,
        rank: Annotated[
            int | None, Query(description="One member's of a gang, in `attempt` or the last.")
        ] = None,
        offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
        follow: bool = False,
    ) -> StreamingResponse:
        """The log as written, from byte `offset`; with `follow` until the job has ended."""
        place = await projects.get(who, project)
        chunks = await jobs.logs(
            who, place.id, job_id, attempt=attempt, rank=rank, offset=offset, follow=follow
        )
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if follow:
            chunks = while_good(chunks, still_good(request))
        return StreamingResponse(chunks, media_type="text/plain; charset=utf-8", headers=headers)

    @api.get("/projects/{project}/jobs/{job_id}/diff")
    async def read_diff(who: Who, project: str, job_id: int) -> Response:
        """The uncommitted changes of the tracked files that the job ran with, as `git diff --binary` wrote them."""
        place = await projects.get(who, project)
        headers = {"X-Content-Type-Options": "nosniff"}
        data = await jobs.diff(who, place.id, job_id)
        return Response(data, media_type="text/plain; charset=utf-8", headers=headers)

    @api.get("/projects/{project}/arrays/{array_id}")
    async def get_array(who: Who, project: str, array_id: int) -> dict[str, object]:
        """An array, its members counted by state; they are listed by `…/jobs?array=`."""
        place = await projects.get(who, project)
        return _array(await jobs.array(who, place.id, array_id))

    @api.post("/projects/{project}/arrays/{array_id}/stop")
    async def stop_array(who: Who, project: str, array_id: int) -> dict[str, object]:
        """Ask every member that has not ended to stop."""
        place = await projects.get(who, project)
        return _array(await jobs.stop_array(who, place.id, array_id))

    return api


def spec_of(body: NewJob) -> JobSpec:
    """What a body asks to be run. Raises `Invalid`."""
    try:
        diff = base64.b64decode(body.source.diff, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("The source's diff is not base64.", reason="bad_source") from error
    source = Source(**{**body.source.model_dump(), "diff": diff})
    asked = body.model_dump(exclude={"source", "snapshot", "after"})
    after = [str(word) for word in body.after]
    return JobSpec(**asked, after=after, snapshot_id=body.snapshot, source=source)


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
        "priority": job.priority,
        "attempt": job.attempt,
        "array": None if job.array_id is None else f"a{job.array_id}",
        "array_index": job.array_index,
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
        "gpus": job.gpus,
        "gpu_type": job.gpu_type,
        "gpu_uuids": list(job.gpu_uuids),
        "nodes": job.nodes,
        "procs_per_node": job.procs_per_node,
        "network": job.network,
        "timeout_seconds": job.timeout_seconds,
        "requirements": job.requirements.splitlines(),
        "environment": job.environment_id,
        "snapshot": job.snapshot_id,
        "cwd": job.cwd,
        "source": dict(job.source),
        "grace_seconds": job.grace_seconds,
        "retries": job.retries,
        "waits_until": None if job.waits_until is None else iso(job.waits_until),
        "checkpoint_bytes": job.checkpoint_bytes,
        "workload": job.workload,
        "stop_requested_at": None if job.stop_requested_at is None else iso(job.stop_requested_at),
        "log_bytes": job.log_bytes,
        "usage": _usage(job.usage),
        "isolation": None if job.isolation is None else _isolation(job.isolation),
    }


def _attempt(attempt: Attempt) -> dict[str, object]:
    return {
        "number": attempt.number,
        "state": attempt.state,
        "exit_code": attempt.exit_code,
        "reason": attempt.reason,
        "starting_at": iso(attempt.starting_at),
        "started_at": None if attempt.started_at is None else iso(attempt.started_at),
        "ended_at": None if attempt.ended_at is None else iso(attempt.ended_at),
        "environment": attempt.environment_id,
        "gpu_uuids": list(attempt.gpu_uuids),
        "log_bytes": attempt.log_bytes,
        "usage": _usage(attempt.usage),
        "isolation": None if attempt.isolation is None else _isolation(attempt.isolation),
    }


def _array(array: Array) -> dict[str, object]:
    return {
        "id": f"a{array.id}",
        "name": array.name,
        "size": array.size,
        "parallel": array.parallel,
        "created_by": array.created_by,
        "queued_at": iso(array.queued_at),
        "ended": array.ended,
        "states": {state.value: array.states.get(state, 0) for state in JobState},
    }


def _usage(usage: Usage) -> dict[str, object]:
    return {
        "cpu_seconds": round(usage.cpu_seconds, 3),
        "peak_memory_bytes": usage.peak_memory_bytes,
        "wall_seconds": round(usage.wall_seconds, 3),
        "memory_byte_seconds": usage.memory_byte_seconds,
        "gpu_seconds": round(usage.gpu_seconds, 3),
        "gpu_busy_seconds": round(usage.gpu_busy_seconds, 3),
        "gpu_peak_memory_bytes": usage.gpu_peak_memory_bytes,
    }


def _isolation(isolation: Isolation) -> dict[str, object]:
    return {
        "state": "not isolated" if isolation.sandbox == "none" else "isolated",
        "complete": isolation.complete,
        "sandbox": isolation.sandbox,
        "network": isolation.network,
        "memory": isolation.memory,
        "landlock": isolation.landlock,
        "start": isolation.start,
        "other_inputs": list(isolation.other_inputs),
    }
