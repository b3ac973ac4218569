"""What a function is: its wishes, its revisions, and its invocations with their states. Pure.

An app is one whose program answers HTTP and WebSockets by itself, at a host name of its own (`Function.label`); it is
deployed, replaced and removed in the same way, and its requests are invocations that are never made later.

queued ──▶ running ──▶ succeeded
  ▲           ├──────▶ failed      (a call that somebody waited for)
  │           ├──────▶ dead        (a later one, when nothing helped)
  └───────────┘ tried again after a pause, or given back because the server died
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from stratal.compute.services.model import Needs, Scaling, ServiceName
from stratal.kernel.errors import Invalid
from stratal.kernel.schedules import check_schedule

KIND = "function"
"""The kind of service that functions are."""
APP = "app"
"""The kind that apps are."""
APP_CONCURRENCY = 100
MOST_APP_CONCURRENCY = 1000
MOST_TIMEOUT = 3600.0
MOST_CONCURRENCY = 256
MOST_RETRIES = 20
MOST_TRIGGERS = 20
MOST_DEPTH = 8
"""So long may a chain of functions be that call one another by what they write."""
_LONGEST_PAUSE_MS = 300_000
_LOAD_SECONDS = 330.0

_TARGET = re.compile(
    r"(?:[A-Za-z0-9_][A-Za-z0-9_./-]{0,400}\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*){0,20}):[A-Za-z_]\w*(?:\.[A-Za-z_]\w*){0,5}\Z",
    re.ASCII,
)


class RevisionState(StrEnum):
    PREPARING = "preparing"
    STARTING = "starting"
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    FAILED = "failed"


PENDING = (RevisionState.PREPARING, RevisionState.STARTING)


class FunctionState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    IDLE = "idle"
    """At zero: the next call wakes it."""
    FAILED = "failed"


class InvocationState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    DEAD = "dead"

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({InvocationState.SUCCEEDED, InvocationState.FAILED, InvocationState.DEAD})


@dataclass(frozen=True, slots=True)
class Wishes:
    """How a revision is run. Kept with it, unchanging."""

    least: int = 0
    most: int = 1
    concurrency: int = 8
    idle_seconds: float = 300.0
    timeout_seconds: float = 60.0
    retries: int = 3
    memory_bytes: int = 512 << 20
    gpus: int = 0
    gpu_type: str | None = None
    public: bool = False
    schedule: str = ""
    """Five fields of cron; "": none."""
    zone: str = "UTC"
    on: Sequence[str] = ()
    """``s3:bucket/prefix``: new objects that it is called with."""

    @property
    def scaling(self) -> Scaling:
        return Scaling(
            least=self.least,
            most=self.most,
            concurrency=self.concurrency,
            idle_seconds=self.idle_seconds,
            stuck_seconds=self.timeout_seconds + _LOAD_SECONDS,
        )

    @property
    def needs(self) -> Needs:
        return Needs(memory_bytes=self.memory_bytes, gpus=self.gpus, gpu_type=self.gpu_type)

    def values(self) -> dict[str, Any]:
        return asdict(self)


def check_wishes(wishes: Wishes, kind: str = KIND) -> Wishes:
    """The wishes themselves, if they make sense; what `Services.check` looks at is left to it. Raises `Invalid`."""
    most = MOST_APP_CONCURRENCY if kind == APP else MOST_CONCURRENCY
    if not 1 <= wishes.concurrency <= most:
        raise Invalid(f"A replica takes 1 to {most} calls at once.", reason="bad_scaling")
    if not 0.1 <= wishes.timeout_seconds <= MOST_TIMEOUT:
        raise Invalid("A call's time limit is 0.1 seconds to an hour.", reason="bad_timeout")
    if not 0 <= wishes.retries <= MOST_RETRIES:
        raise Invalid(f"A call may be tried again 0 to {MOST_RETRIES} times.", reason="bad_retries")
    schedule = " ".join(wishes.schedule.split())
    if schedule:
        check_schedule(schedule, wishes.zone)
    if len(wishes.on) > MOST_TRIGGERS:
        raise Invalid(f"A function may be called by {MOST_TRIGGERS} triggers.", reason="bad_trigger")
    for word in wishes.on:
        bucket_of(word)
    return replace(wishes, schedule=schedule, on=list(dict.fromkeys(wishes.on)))


def bucket_of(trigger: str) -> tuple[str, str]:
    """The bucket and the prefix that ``s3:bucket/prefix`` means. Raises `Invalid`."""
    match = re.fullmatch(
        r"s3:(?://)?([a-z0-9][a-z0-9.-]{1,62})(?:/(.{0,1024}))?", trigger, re.ASCII | re.DOTALL
    )
    if match is None:
        raise Invalid(
            f"{trigger[:100]!r} names no objects.",
            hint="Write the bucket and the beginning of the keys: s3:bucket/prefix",
            reason="bad_trigger",
        )
    return match[1], match[2] or ""


def check_target(target: str) -> str:
    """``folder/app.py:handler`` or ``package.module:handler``. Raises `Invalid`."""
    if not _TARGET.match(target) or "//" in target or ".." in target:
        raise Invalid(
            f"{target[:100]!r} names no function.",
            hint="Write the file and the function in it: app.py:handler",
            reason="bad_target",
        )
    return target


def pause_ms(failures: int) -> int:
    """How long a later call waits after its `failures`-th (1 …) failure: 1 s, 4 s, 16 s …, at most 5 min."""
    return int(min(1000 * 4 ** min(failures - 1, 10), _LONGEST_PAUSE_MS))


@dataclass(frozen=True, slots=True)
class Function:
    """Times are epoch milliseconds. `label` is the first part of an app's host name, never given to another."""

    id: str
    project_id: str
    project: str
    name: str
    active_revision: int | None
    created_at: int
    created_by: str
    kind: str = KIND
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """One deployment, unchanging but for what becomes of it. `seq` is unique in the instance, `number` in the function."""

    seq: int
    function_id: str
    number: int
    target: str
    snapshot_id: str
    cwd: str
    source: Mapping[str, Any]
    requirements: str
    environment_id: str | None
    env: Mapping[str, str]
    wishes: Wishes
    key_id: str
    workload: str
    state: RevisionState
    failure: str
    created_at: int
    created_by: str
    creator_name: str

    def service(self, of: Function) -> ServiceName:
        return ServiceName(of.kind, self.function_id, str(self.number), of.project_id)


@dataclass(frozen=True, slots=True)
class Invocation:
    """A call: who asked, what became of it. `attempt` counts how often it was begun, `failures` how often that failed."""

    id: str
    function_id: str
    project_id: str
    revision: int | None
    trigger: str
    state: InvocationState
    caller: str | None
    content_type: str
    attempt: int
    failures: int
    status: int | None
    error: Mapping[str, Any] | None
    result_type: str
    result_bytes: int | None
    log_bytes: int
    waits_until: int | None
    created_at: int
    started_at: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class FunctionView:
    function: Function
    state: FunctionState
    failure: str
    active: Revision | None
    latest: Revision
    in_flight: int
    replicas: int
    left: str = ""
    """Who deployed what answers and has left the project since: it is for anybody no more, whatever was wished."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What somebody asks to be deployed."""

    name: str
    target: str
    snapshot_id: str
    cwd: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    requirements: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)
