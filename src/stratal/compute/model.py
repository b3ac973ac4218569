"""What a job is: its values and its states. Pure; `jobs` and `reconciler` do the work.

queued ──▶ starting ──▶ running ──▶ succeeded | failed | stopped | unknown
 ▲ └─▶ stopped   └─▶ failed | stopped | unknown (it never ran, or ended before anybody wrote that it runs)
 └──── an attempt that failed, or whose end nobody saw, when the job may be tried again

Each way through ``starting`` is an *attempt*, with a log, a credential and an end of its own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from stratal.compute.engine import Isolation, Network, Usage
from stratal.identity.model import Principal

_SECRET = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE", re.IGNORECASE)


class JobState(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    UNKNOWN = "unknown"
    """It ended and nobody saw how: the machine or its keeper was killed at the wrong moment."""

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED, JobState.UNKNOWN})
ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING})

NEXT: Mapping[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.STOPPED}),
    JobState.STARTING: ENDED | {JobState.RUNNING, JobState.QUEUED},
    JobState.RUNNING: ENDED | {JobState.QUEUED},
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.STOPPED: frozenset(),
    JobState.UNKNOWN: frozenset(),
}
"""Which state may follow which. Nothing follows an end."""

BACKGROUND_PRIORITY = -36
"""From here down nobody waits for a job: it lets all work of the next six hours go first, and its failure is no news."""
DEFAULT_GRACE_SECONDS = 10.0
_LONGEST_PAUSE_MS = 300_000

NO_SUCH_PROGRAM = 127
"""The exit code of a job whose program cannot be found, as shells have it."""


def before(state: JobState) -> list[str]:
    """The states that `state` may follow, for an UPDATE's condition."""
    return sorted(s.value for s, following in NEXT.items() if state in following)


def outcome(exit_code: int | None, *, stopped: bool) -> JobState:
    """The state in which a job ends. No exit code means that nobody saw it, never that it went well."""
    if exit_code is None:
        return JobState.UNKNOWN
    if stopped:
        return JobState.STOPPED
    return JobState.SUCCEEDED if exit_code == 0 else JobState.FAILED


def pause_ms(attempt: int) -> int:
    """How long a job waits after its `attempt` (1 …) failed: 1 s, doubled each time, at most 5 min."""
    return min(1000 << min(attempt - 1, 30), _LONGEST_PAUSE_MS)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a job's code came from, as its sender's git says. `kind` is ``git``, ``folder`` or ``none``.

    `diff` is what ``git diff HEAD --binary`` printed (b"" when clean), cut at its limit when `diff_truncated`.
    The snapshot holds the files themselves, so this explains and the snapshot proves.
    """

    kind: str = "none"
    commit: str | None = None
    branch: str | None = None
    remote: str | None = None
    dirty: bool = False
    untracked: Sequence[str] = ()
    submodules: Mapping[str, str] = field(default_factory=dict)
    diff: bytes = b""
    diff_truncated: bool = False


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What somebody asks to be run. None means the default: 1 processor, a share of the memory, the platform's network."""

    argv: Sequence[str]
    name: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int = 0
    gpu_type: str | None = None
    """``h100``; None: whichever there is."""
    nodes: int | None = None
    """A gang of so many nodes, each with what is asked for; None: a single process tree."""
    procs_per_node: int | None = None
    network: Network | None = None
    timeout_seconds: float | None = None
    """How long one attempt may take."""
    grace_seconds: float | None = None
    """How long its processes have between SIGTERM and SIGKILL; None: 10 s."""
    priority: int = 0
    retries: int = 0
    """How often it is tried again when an attempt fails or ends unseen."""
    after: Sequence[str] = ()
    """Jobs (``12``) and arrays (``a3``) that must have succeeded before it starts."""
    array: str | None = None
    """The indices of an array's members: ``10`` (0 to 9), ``0-9``, ``1,4,7-9``."""
    parallel: int | None = None
    """The most members of the array at once."""
    requirements: str = ""
    upgrade_environment: bool = False
    pinned_environment: str | None = None
    """An environment by its id, whatever `requirements` would be resolved to now."""
    snapshot_id: str | None = None
    cwd: str = ""
    """The working directory inside the snapshot; "" is its top."""
    source: Source = field(default_factory=Source)


@dataclass(frozen=True, slots=True)
class Job:
    """A job as recorded. Times are epoch milliseconds; `source` lacks the diff's bytes (see `Jobs.diff`).

    `starting_at`, `started_at`, `ended_at`, `exit_code`, `environment_id` and `isolation` are its last
    attempt's; `usage` is that of all its attempts together, but for the highest `peak_memory_bytes`.
    """

    id: int
    project_id: str
    project: str
    name: str
    state: JobState
    argv: Sequence[str]
    env: Mapping[str, str]
    cpus: float
    memory_bytes: int
    gpus: int
    gpu_type: str | None
    gpu_uuids: Sequence[str]
    """Those that its present, or last, attempt was given."""
    nodes: int | None
    procs_per_node: int | None
    network: Network
    timeout_seconds: float | None
    grace_seconds: float
    priority: int
    retries: int
    array_id: int | None
    array_index: int | None
    requirements: str
    upgrade_environment: bool
    pinned_environment: str | None
    snapshot_id: str | None
    cwd: str
    source: Mapping[str, object]
    created_by: str
    queued_at: int
    waits_until: int | None
    """After a failed attempt: when it may be tried again."""
    starting_at: int | None
    started_at: int | None
    ended_at: int | None
    attempt: int
    environment_id: str | None
    exit_code: int | None
    reason: str
    usage: Usage
    isolation: Isolation | None
    log_bytes: int | None
    checkpoint_bytes: int | None
    """What lies in its checkpoint folder, weighed now and then; None: it has none."""
    stop_requested_at: int | None
    stop_cause: str
    """Why the platform stops it; empty: it does not, or somebody asked for it."""

    @property
    def size(self) -> int:
        """How many times it gets what was asked for: once, or for each node of its gang."""
        return self.nodes or 1

    @property
    def world_size(self) -> int:
        """The processes of its gang; 0: it is none."""
        return (self.nodes or 0) * (self.procs_per_node or 0)

    @property
    def attempt_id(self) -> str:
        """What the engine knows it by; the same id is never started twice."""
        return f"job-{self.id}-{self.attempt}"

    @property
    def shown_env(self) -> dict[str, str]:
        """The job's own variables, for people to see: what is named like a secret is not shown."""
        return {name: "***" if _SECRET.search(name) else value for name, value in self.env.items()}

    @property
    def workload(self) -> str:
        """What its credential, its lineage and its events call it."""
        return f"job:{self.id}"


@dataclass(frozen=True, slots=True)
class Held:
    """A job that this server holds, under a fence, with what is needed to run it. Never leaves the room."""

    job: Job
    owner: str
    fence: int
    creator: Principal
    key_id: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job. Times are epoch milliseconds; `log_bytes` is None while it goes on."""

    number: int
    state: JobState
    gpu_uuids: Sequence[str]
    environment_id: str | None
    starting_at: int
    started_at: int | None
    ended_at: int | None
    exit_code: int | None
    reason: str
    usage: Usage
    isolation: Isolation | None
    log_blob: str | None
    log_bytes: int | None


@dataclass(frozen=True, slots=True)
class RankLog:
    """What one member of a gang wrote in an attempt that has ended."""

    rank: int
    blob: str
    size: int


@dataclass(frozen=True, slots=True)
class Array:
    """Jobs that differ in ``$STRATAL_ARRAY_INDEX`` alone. `states` counts its members by state."""

    id: int
    name: str
    size: int
    parallel: int | None
    created_by: str
    queued_at: int
    states: Mapping[JobState, int]

    @property
    def ended(self) -> bool:
        return all(state.ended for state in self.states)
