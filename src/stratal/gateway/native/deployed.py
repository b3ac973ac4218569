"""What the routes of functions and of apps have in common: the body of a deployment, and what of it is shown."""

from typing import Any

from pydantic import Field

from stratal.ai.functions.model import Deployment, FunctionView, Invocation, Revision, Wishes
from stratal.compute.services.model import ReplicaInfo
from stratal.gateway.native.bodies import Strict
from stratal.kernel.clock import iso
from stratal.kernel.errors import TooLarge

MAX_BODY = 2 << 20
PLAIN = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
_DEFAULT = Wishes()


class NewSource(Strict):
    """Where the code came from, as the deployer's git says."""

    kind: str = Field(default="none", max_length=20)
    commit: str | None = Field(default=None, max_length=200)
    branch: str | None = Field(default=None, max_length=1000)
    remote: str | None = Field(default=None, max_length=1000)
    dirty: bool = False


class NewRevision(Strict):
    """Of either; the nouns add what only they have."""

    name: str
    target: str = Field(description="The file and what is in it: app.py:handler")
    snapshot: str = Field(description="The id of a code snapshot.")
    cwd: str = Field(default="", description="The folder of the snapshot that `target` lies in.")
    source: NewSource = Field(default_factory=NewSource)
    requirements: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    min: int = Field(default=_DEFAULT.least, description="So many replicas, also when nobody asks.")
    max: int | None = Field(default=None, description="At most so many replicas. Default: `min`, at least 1.")
    max_concurrency: int = Field(default=_DEFAULT.concurrency, description="So much at once in one replica.")
    idle_seconds: float = Field(
        default=_DEFAULT.idle_seconds,
        description="A replica that nobody asks is stopped after so long; 0: never.",
    )
    memory_bytes: int = Field(default=_DEFAULT.memory_bytes, description="What a replica may use.")
    gpus: int = Field(default=0, ge=0, description="So many whole GPUs for each replica.")
    gpu_type: str | None = Field(default=None, description="Their type, as h100; null: any one type.")
    public: bool = Field(default=False, description="Nobody needs a key.")

    def deployment(self, **more: Any) -> Deployment:
        """With `more` wishes. Raises `TooLarge`."""
        if len(self.env) > 1000:
            raise TooLarge("At most 1000 variables can be given.")
        return Deployment(
            name=self.name,
            target=self.target,
            snapshot_id=self.snapshot,
            cwd=self.cwd,
            source=self.source.model_dump(),
            requirements=self.requirements,
            env=self.env,
            wishes=Wishes(
                least=self.min,
                most=max(1, self.min) if self.max is None else self.max,
                concurrency=self.max_concurrency,
                idle_seconds=self.idle_seconds,
                memory_bytes=self.memory_bytes,
                gpus=self.gpus,
                gpu_type=self.gpu_type,
                public=self.public,
                **more,
            ),
        )


class Rollback(Strict):
    revision: int | None = Field(default=None, ge=1, description="Default: the one that answered before.")


def brief_json(view: FunctionView, url: str) -> dict[str, object]:
    """`url`: where it answers."""
    function, revision = view.function, view.active or view.latest
    return {
        "name": function.name,
        "project": function.project,
        "state": view.state,
        "failure": view.failure,
        "target": revision.target,
        "revision": revision.number,
        "public": revision.wishes.public and not view.left,
        "left": view.left,
        "replicas": view.replicas,
        "in_flight": view.in_flight,
        "url": url,
        "created_at": iso(function.created_at),
        "created_by": function.created_by,
    }


def revision_json(revision: Revision) -> dict[str, object]:
    wishes = revision.wishes
    return {
        "number": revision.number,
        "seq": revision.seq,
        "state": revision.state,
        "failure": revision.failure,
        "target": revision.target,
        "snapshot": revision.snapshot_id,
        "cwd": revision.cwd,
        "source": dict(revision.source),
        "requirements": revision.requirements.splitlines(),
        "environment": revision.environment_id,
        "env": dict.fromkeys(revision.env, "…"),
        "workload": revision.workload,
        "min": wishes.least,
        "max": wishes.most,
        "max_concurrency": wishes.concurrency,
        "idle_seconds": wishes.idle_seconds,
        "memory_bytes": wishes.memory_bytes,
        "gpus": wishes.gpus,
        "gpu_type": wishes.gpu_type,
        "public": wishes.public,
        "created_at": iso(revision.created_at),
        "created_by": revision.created_by,
    }


def replica_json(replica: ReplicaInfo) -> dict[str, object]:
    return {
        "id": replica.id,
        "version": replica.service.version,
        "started_at": iso(replica.started_at),
        "ready_at": None if replica.ready_at is None else iso(replica.ready_at),
        "isolation": replica.isolation,
    }


def seconds_of(invocation: Invocation) -> float | None:
    if invocation.started_at is None or invocation.ended_at is None:
        return None
    return (invocation.ended_at - invocation.started_at) / 1000
