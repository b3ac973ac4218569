"""``batches``: a file of requests, answered by a job that asks this very door, and a file of the answers.

What a batch is lies as an object beside the files; what became of it is told by its job, and by an object that
the job writes as it goes. So it goes on whatever becomes of the server.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from stratal.compute.jobs import Jobs
from stratal.compute.model import Job, JobSpec, JobState
from stratal.data.objects.model import Description
from stratal.data.objects.service import Objects
from stratal.gateway.openai import wire
from stratal.gateway.openai.files import Files, bucket_of
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.errors import NotFound
from stratal.kernel.ids import new_id

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/moderations",
    "/v1/responses",
)
_PREFIX = "batches/"
_SECONDS = 24 * 3600.0
_STATES = {
    JobState.QUEUED: "validating",
    JobState.STARTING: "validating",
    JobState.RUNNING: "in_progress",
    JobState.SUCCEEDED: "completed",
    JobState.STOPPED: "cancelled",
}


class Batches:
    """`program` is the text that the job runs: ``python -c TEXT BATCH INPUT ENDPOINT``."""

    def __init__(self, objects: Objects, files: Files, jobs: Jobs, program: str, clock: Clock) -> None:
        self._objects = objects
        self._files = files
        self._jobs = jobs
        self._program = program
        self._clock = clock

    async def create(self, who: Principal, request: Request) -> Response:
        for action in ("jobs.run", "objects.write"):
            require(who, action, who.project_id)
        body = await wire.json_object(request, 1 << 20)
        endpoint, window = body.get("endpoint"), body.get("completion_window")
        if endpoint not in ENDPOINTS:
            raise wire.bad(f"endpoint must be one of {', '.join(ENDPOINTS)}.", "endpoint")
        if window not in (None, "24h"):
            raise wire.bad("completion_window must be 24h.", "completion_window")
        input_id = body.get("input_file_id")
        if not isinstance(input_id, str):
            raise wire.bad("input_file_id must name an uploaded file.", "input_file_id")
        await self._files.find(who, input_id)
        metadata = body.get("metadata") or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise wire.bad("metadata must be texts by name.", "metadata")
        batch_id = new_id("batch")
        bucket = await self._files.bucket(who)
        spec = JobSpec(
            argv=["python", "-c", self._program, batch_id, input_id, str(endpoint), bucket],
            name="openai-batch",
            timeout_seconds=_SECONDS,
        )
        job = await self._jobs.submit(who, who.project_id, spec)
        said = {
            "id": batch_id,
            "endpoint": endpoint,
            "input_file_id": input_id,
            "metadata": metadata,
            "job": job.id,
            "created_at": self._clock() // 1000,
        }
        await self._objects.put_bytes(
            who,
            bucket,
            f"{_PREFIX}{batch_id}.json",
            orjson.dumps(said),
            description=Description("application/json"),
        )
        return _json(_batch(said, job, {}))

    async def retrieve(self, who: Principal, batch_id: str) -> Response:
        return _json(await self._shown(who, batch_id))

    async def cancel(self, who: Principal, batch_id: str) -> Response:
        require(who, "jobs.stop", who.project_id)
        said = await self._said(who, batch_id)
        await self._jobs.stop(who, who.project_id, int(said["job"]))
        return _json(await self._shown(who, batch_id))

    async def list(self, who: Principal, request: Request) -> Response:
        """Newest first."""
        limit = request.query_params.get("limit", "20")
        most = min(int(limit), 100) if limit.isascii() and limit.isdigit() and len(limit) < 5 else 20
        after = request.query_params.get("after", "")
        try:
            page = await self._objects.list(who, bucket_of(who), prefix=_PREFIX)
        except NotFound:
            return _json({"object": "list", "data": [], "has_more": False})
        names = [one.key.removeprefix(_PREFIX).removesuffix(".json") for one in page.objects]
        names = sorted((name for name in names if "." not in name), reverse=True)
        names = [name for name in names if not after or name < after]
        found = [await self._shown(who, name) for name in names[:most]]
        return _json(
            {
                "object": "list",
                "data": found,
                "first_id": found[0]["id"] if found else None,
                "last_id": found[-1]["id"] if found else None,
                "has_more": len(names) > most,
            }
        )

    async def _shown(self, who: Principal, batch_id: str) -> dict[str, Any]:
        said = await self._said(who, batch_id)
        job = await self._jobs.get(who, who.project_id, int(said["job"]))
        try:
            told = await self._read(who, f"{batch_id}.state")
        except NotFound:
            told = {}
        return _batch(said, job, told)

    async def _said(self, who: Principal, batch_id: str) -> dict[str, Any]:
        if not batch_id.replace("_", "").isalnum():
            raise _no_such_batch(batch_id)
        try:
            return await self._read(who, batch_id)
        except NotFound:
            raise _no_such_batch(batch_id) from None

    async def _read(self, who: Principal, name: str) -> dict[str, Any]:
        version = await self._objects.head(who, bucket_of(who), f"{_PREFIX}{name}.json")
        found = orjson.loads(await self._objects.read_all(who, version))
        return found if isinstance(found, dict) else {}


def _no_such_batch(batch_id: str) -> NotFound:
    return NotFound(f"There is no batch {batch_id[:100]!r}.", reason="no_such_batch")


def _batch(said: Mapping[str, Any], job: Job, told: Mapping[str, Any]) -> dict[str, Any]:
    status = _STATES.get(job.state, "failed")
    if job.stop_requested_at is not None and not job.state.ended:
        status = "cancelling"
    ended = None if job.ended_at is None else job.ended_at // 1000
    failed = [{"code": "job_failed", "message": f"Job {job.id}: {job.reason}", "line": None, "param": None}]
    return {
        "id": said["id"],
        "object": "batch",
        "endpoint": said["endpoint"],
        "input_file_id": said["input_file_id"],
        "completion_window": "24h",
        "status": status,
        "errors": {"object": "list", "data": failed} if status == "failed" else None,
        "output_file_id": told.get("output_file_id"),
        "error_file_id": told.get("error_file_id"),
        "created_at": said["created_at"],
        "completed_at": ended if status == "completed" else None,
        "failed_at": ended if status == "failed" else None,
        "cancelled_at": ended if status == "cancelled" else None,
        "request_counts": {name: int(told.get(name, 0)) for name in ("total", "completed", "failed")},
        "metadata": said["metadata"],
    }


def _json(value: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
