"""What an endpoint is: its states and its revisions. Pure.

A revision:  preparing ──▶ starting ──▶ active ──▶ superseded
                 └───────────┴──▶ failed | superseded (a newer one was deployed meanwhile)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from stratal.ai.endpoints.latency import Summary
from stratal.ai.endpoints.runtime import Plan
from stratal.ai.models.model import Form
from stratal.compute.services.model import Needs, ReplicaInfo, ReplicaState, Scaling


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
    """It answers: all requests, or its share of them."""
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
    share: int | None
    """The percentage of requests that it was deployed for; None: all."""
    state: RevisionState
    failure: str
    interface: Mapping[str, Any] | None
    loaded: Mapping[str, str]
    libraries: Mapping[str, str]
    created_at: int
    created_by: str

    @property
    def layout(self) -> str:
        """A name for exactly these files: a form's stand beside those of its version."""
        return self.form_id or self.model_version_id

    @property
    def form_id(self) -> str | None:
        """The form (`stratal.ai.models.forms`) that answers for the version; None: its own files do."""
        return self._option("form")

    @property
    def as_is(self) -> bool:
        """Was it asked for that the version's own files answer?"""
        return self.plan.options.get("as_is") is True

    @property
    def converted_by(self) -> str | None:
        """The number of the job that made the form."""
        return self._option("converted_by")

    @property
    def asked(self) -> str | None:
        """The version that was asked for, where this one answers for it: what was deployed before versions had forms."""
        return self._option("asked")

    def _option(self, name: str) -> str | None:
        value = self.plan.options.get(name)
        return value if isinstance(value, str) else None

    def answers_for(self, version: str) -> bool:
        """Is this the version of the model?"""
        return version in (self.model_version, (self.asked or "").rpartition("/")[2])

    @property
    def model_uri(self) -> str:
        return f"models:/{self.model_name}/{self.model_version}"


@dataclass(frozen=True, slots=True)
class Wishes:
    """How each revision of an endpoint is kept. `idle_ms` 0: never put to sleep.

    `cpus` and `memory_bytes` are a replica's limits, and what it is counted with; None: no limit, and
    counted with what `Needs` says. Each replica has `gpus` of its own, of `gpu_type` (None: any one type).
    """

    least: int = 0
    most: int = 1
    concurrency: int = 64
    idle_ms: int = 10 * 60 * 1000
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    gpu_type: str | None = None

    def scaling(self, request_seconds: float) -> Scaling:
        """`request_seconds`: how long a request may take."""
        return Scaling(
            least=self.least,
            most=self.most,
            concurrency=self.concurrency,
            idle_seconds=self.idle_ms / 1000,
            stuck_seconds=request_seconds,
        )

    @property
    def needs(self) -> Needs:
        counted = Needs()
        memory_bytes = self.memory_bytes or counted.memory_bytes
        return Needs(self.cpus or counted.cpus, memory_bytes, self.gpus, self.gpu_type)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a deployment says about `Wishes`; None: as it was."""

    least: int | None = None
    most: int | None = None
    concurrency: int | None = None
    idle_ms: int | None = None
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    gpu_type: str | None = None

    def of(self, wishes: Wishes) -> Wishes:
        said = {name: value for name in self.__slots__ if (value := getattr(self, name)) is not None}
        if self.gpus is not None:
            said["gpu_type"] = self.gpu_type  # a number alone is of any type, also where one was named before
        changed = replace(wishes, **said)
        if (
            self.most is None and changed.most < changed.least
        ):  # asking for three says that there may be three
            return replace(changed, most=changed.least)
        if self.least is None and changed.least > changed.most:
            return replace(changed, least=changed.most)
        return changed


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint as recorded.

    `shares` are the percentages of requests that revisions (by `seq`) besides the active one get; it gets the rest.
    """

    id: str
    project_id: str
    name: str
    wishes: Wishes
    stopped: bool
    active_revision: int | None
    shares: Mapping[int, int]
    created_at: int
    created_by: str


@dataclass(frozen=True, slots=True)
class ServedRevision:
    """A revision that gets requests: what percentage, how its replicas do and how quick they were of late."""

    revision: Revision
    percent: int
    condition: str
    failure: str
    replicas: Sequence[ReplicaState]
    waiting: int
    deaths: int
    dozes: bool
    """Asleep, with a replica that waits, without its model, for the next request."""
    recent: Summary


@dataclass(frozen=True, slots=True)
class EndpointView:
    """An endpoint as shown: what answers (`active`, None before the first is ready), the newest revision, and state."""

    endpoint: Endpoint
    state: EndpointState
    failure: str
    active: Revision | None
    latest: Revision
    served: Sequence[ServedRevision]
    """The active revision first; empty while it is stopped."""
    replicas: Sequence[ReplicaInfo]
    """Those that answer now, newest first."""
    requests: int
    """Answered since this server started."""
    refused: int
    """Shed since this server started (429 and 503)."""
    in_flight: int
    form: Form | None = None
    """One that was made after the active revision was deployed, which goes on with the version's own files."""
