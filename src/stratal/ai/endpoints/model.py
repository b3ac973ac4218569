"""What an endpoint is: its states and its revisions. Pure.

A revision:  preparing ──▶ starting ──▶ active ──▶ superseded
                 └───────────┴──▶ failed | superseded (a newer one was deployed meanwhile)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stratal.ai.endpoints.runtime import Plan


class EndpointState(StrEnum):
    """The words that ``--json`` uses; they do not change."""

    STARTING = "starting"
    """Its first revision is being prepared, or its replica is waking."""
    READY = "ready"
    IDLE = "idle"
    """At zero: no replica holds memory; the next request wakes one and is answered."""
    FAILED = "failed"
    """Its replica cannot be started, or its only revision failed; `failure` says why."""
    STOPPED = "stopped"
    """Somebody stopped it; requests are refused until it is started or deployed again."""


class RevisionState(StrEnum):
    PREPARING = "preparing"
    STARTING = "starting"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    FAILED = "failed"


PENDING = (RevisionState.PREPARING, RevisionState.STARTING)


@dataclass(frozen=True, slots=True)
class PinnedFile:
    """A model's file: its path in the model's folder, SHA-256, length in bytes, and the blob that holds it."""

    path: str
    sha256: str
    size: int
    blob: str


@dataclass(frozen=True, slots=True)
class Revision:
    """One immutable deployment of a model version to an endpoint. Times are epoch milliseconds.

    `seq` is unique in the instance and part of prediction ids; `number` counts within the endpoint.
    `interface`, `loaded` and `libraries` are what its replica told when it last started
    (see `Greeting`); None and empty before.
    """

    seq: int
    endpoint_id: str
    number: int
    model_version_id: str
    model_name: str
    model_version: str
    files: Sequence[PinnedFile]
    plan: Plan
    job_id: str | None
    requirements: str
    environment_id: str | None
    state: RevisionState
    failure: str
    interface: Mapping[str, Any] | None
    loaded: Mapping[str, str]
    libraries: Mapping[str, str]
    created_at: int
    created_by: str

    @property
    def model_uri(self) -> str:
        return f"models:/{self.model_name}/{self.model_version}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as recorded. `idle_ms`: a replica without requests is stopped after this long; 0: never."""

    id: str
    project_id: str
    name: str
    idle_ms: int
    stopped: bool
    active_revision: int | None
    created_at: int
    created_by: str


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """A replica that runs or ran. `id` is the engine's attempt id; `exit_code` None: runs, or nobody saw it end."""

    id: str
    revision: int
    started_at: int
    ended_at: int | None
    exit_code: int | None
    reason: str
    isolation: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as shown: what answers (`active`, None before the first is ready), the newest revision, and state."""

    endpoint: Endpoint
    state: EndpointState
    failure: str
    active: Revision | None
    latest: Revision
    replica: ReplicaInfo | None
    requests: int
    """Answered since this server started."""
    in_flight: int
