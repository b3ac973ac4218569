"""``fine_tuning/jobs``: an uploaded file of chats becomes a classifier of texts on a sentence encoder of the project,
or a transformer of it is trained itself (`stratal.ai.finetuning.service.Method` says when).

What the last user said is the text, what the assistant answered its class. The job registers the model and deploys it to
an endpoint of its name: that is the ``fine_tuned_model``, asked with ``moderations`` or at its own address.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from stratal.ai.finetuning.service import Aim, FineTunes, Wish
from stratal.compute.jobs import Jobs
from stratal.compute.model import Job, JobState
from stratal.data.objects.model import Description
from stratal.data.objects.service import Objects
from stratal.gateway.openai import wire
from stratal.gateway.openai.files import Files, bucket_of
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.errors import NotFound

_PREFIX = "fine_tuning/"
_UNOFFERED = ("validation_file", "integrations")
_STATES = {
    JobState.QUEUED: "queued",
    JobState.STARTING: "validating_files",
    JobState.RUNNING: "running",
    JobState.SUCCEEDED: "succeeded",
    JobState.STOPPED: "cancelled",
}


class FineTuning:
    def __init__(
        self,
        objects: Objects,
        files: Files,
        jobs: Jobs,
        finetunes: FineTunes,
        clock: Clock,
    ) -> None:
        self._objects = objects
        self._files = files
        self._jobs = jobs
        self._finetunes = finetunes
        self._clock = clock

    async def create(self, who: Principal, request: Request) -> Response:
        for action in ("jobs.run", "models.write", "objects.write", "endpoints.deploy"):
            require(who, action, who.project_id)
        body = await wire.json_object(request, 1 << 20)
        encoder, file_id = wire.model_name(body), body.get("training_file")
        for unoffered in _UNOFFERED:
            if body.get(unoffered):
                raise wire.bad(f"{unoffered} is not offered here.", unoffered)
        if not isinstance(file_id, str):
            raise wire.bad("training_file must name an uploaded file.", "training_file")
        suffix, seed = body.get("suffix") or "tuned", body.get("seed") or 0
        if not isinstance(suffix, str) or not isinstance(seed, int) or not 0 <= seed <= 2**31:
            raise wire.bad("suffix must be a text, and seed a number.", "suffix")
        epochs, rate = _hyperparameters(body)
        version = await self._finetunes.served_by(who, who.project_id, encoder)
        rows = await self._files.find(who, file_id)
        name = f"{encoder}-{suffix}"
        wish = Wish(
            Aim.CLASSIFY,
            name,
            f"s3://{rows.bucket}/{rows.key}",
            version,
            encoder,
            {"first": "text", "second": "label"},
            seed,
            endpoint=name,
            epochs=epochs,
            rate=rate,
        )
        job = await self._finetunes.begin(who, who.project_id, wish)
        said = {
            "training_file": file_id,
            "model": encoder,
            "name": name,
            "seed": seed,
            "n_epochs": epochs,
            "job": job.id,
            "created_at": self._clock() // 1000,
            "metadata": body.get("metadata") or {},
        }
        bucket = await self._files.bucket(who)
        await self._objects.put_bytes(
            who,
            bucket,
            f"{_PREFIX}ftjob-{job.id}.json",
            orjson.dumps(said),
            description=Description("application/json"),
        )
        return _json(_shown(said, job))

    async def retrieve(self, who: Principal, job_id: str) -> Response:
        said, job = await self._find(who, job_id)
        told = _shown(said, job)
        if told["error"] is not None and (lines := await self._lines(who, job)):
            told["error"]["message"] = f"Job {job.id}: {lines[-1][:1000]}"
        return _json(told)

    async def cancel(self, who: Principal, job_id: str) -> Response:
        require(who, "jobs.stop", who.project_id)
        said, job = await self._find(who, job_id)
        return _json(_shown(said, await self._jobs.stop(who, who.project_id, job.id)))

    async def list(self, who: Principal) -> Response:
        """Newest first."""
        try:
            page = await self._objects.list(who, bucket_of(who), prefix=_PREFIX)
        except NotFound:
            return _json({"object": "list", "data": [], "has_more": False})
        names = [one.key.removeprefix(_PREFIX).removesuffix(".json") for one in page.objects]
        names.sort(key=lambda name: int(name.removeprefix("ftjob-")), reverse=True)
        found = [_shown(*await self._find(who, name)) for name in names[:100]]
        return _json({"object": "list", "data": found, "has_more": len(names) > len(found)})

    async def events(self, who: Principal, job_id: str) -> Response:
        """What the job wrote, the last line first."""
        said, job = await self._find(who, job_id)
        lines = await self._lines(who, job)
        events = [
            {
                "object": "fine_tuning.job.event",
                "id": f"ftevent-{job.id}-{number}",
                "created_at": said["created_at"],
                "level": "info",
                "message": line,
                "type": "message",
            }
            for number, line in enumerate(lines)
        ]
        return _json({"object": "list", "data": events[::-1], "has_more": False})

    async def _lines(self, who: Principal, job: Job) -> Sequence[str]:
        """The last that the job wrote."""
        log = b"".join([chunk async for chunk in await self._jobs.logs(who, who.project_id, job.id)])
        return [line for line in log.decode(errors="replace").splitlines() if line.strip()][-100:]

    async def _find(self, who: Principal, job_id: str) -> tuple[dict[str, Any], Job]:
        number = job_id.removeprefix("ftjob-")
        if number.isascii() and number.isdigit() and len(number) < 18 and job_id.startswith("ftjob-"):
            with contextlib.suppress(NotFound):
                version = await self._objects.head(who, bucket_of(who), f"{_PREFIX}{job_id}.json")
                said = orjson.loads(await self._objects.read_all(who, version))
                return said, await self._jobs.get(who, who.project_id, int(number))
        raise NotFound(f"There is no fine-tuning job {job_id[:100]!r}.", reason="no_such_finetune")


def _hyperparameters(body: Mapping[str, Any]) -> tuple[int, float]:
    """(epochs, learning rate), where OpenAI's clients say them. Raises `Invalid` for what is not offered."""
    method = body.get("method")
    if method is not None and (not isinstance(method, dict) or method.get("type") != "supervised"):
        raise wire.bad("method must be of type supervised.", "method")
    inner = (method or {}).get("supervised")
    said = (
        (inner if isinstance(inner, dict) else {}).get("hyperparameters") or body.get("hyperparameters") or {}
    )
    if not isinstance(said, dict):
        raise wire.bad("hyperparameters must be an object.", "hyperparameters")
    if said.get("batch_size", "auto") != "auto":
        raise wire.bad("batch_size is not chosen here.", "hyperparameters")
    epochs, faster = said.get("n_epochs", "auto"), said.get("learning_rate_multiplier", "auto")
    epochs, faster = (5 if epochs == "auto" else epochs), (1.0 if faster == "auto" else faster)
    if not isinstance(epochs, int) or isinstance(epochs, bool) or not 1 <= epochs <= 1000:
        raise wire.bad("n_epochs is a whole number from 1 to 1,000, or auto.", "hyperparameters")
    if not isinstance(faster, (int, float)) or isinstance(faster, bool) or not 0 < faster <= 1000:
        raise wire.bad("learning_rate_multiplier is a number up to 1,000, or auto.", "hyperparameters")
    return epochs, 5e-4 * faster


def _shown(said: Mapping[str, Any], job: Job) -> dict[str, Any]:
    status = _STATES.get(job.state, "failed")
    failed = {"code": "job_failed", "message": f"Job {job.id}: {job.reason}", "param": None}
    return {
        "id": f"ftjob-{job.id}",
        "object": "fine_tuning.job",
        "model": said["model"],
        "created_at": said["created_at"],
        "finished_at": job.ended_at // 1000 if job.ended_at is not None else None,
        "fine_tuned_model": said["name"] if status == "succeeded" else None,
        "organization_id": "",
        "status": status,
        "training_file": said["training_file"],
        "validation_file": None,
        "result_files": [],
        "hyperparameters": {"n_epochs": said.get("n_epochs", "auto")},
        "trained_tokens": None,
        "seed": said["seed"],
        "error": failed if status == "failed" else None,
        "metadata": said["metadata"],
    }


def _json(value: Mapping[str, Any]) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
