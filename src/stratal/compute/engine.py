"""The port to whatever runs processes: the local keeper, and Ray.

An engine is given a fully decided `WorkloadSpec` (admission, credentials, environment and code are
ours, in every engine) and answers with `WorkloadStatus`es. It holds no truth: what it reports is
written to the database by its caller. Exit codes that nobody saw are ``unknown``, never guessed.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

Network = Literal["platform", "open"]
WorkloadState = Literal["running", "exited", "unknown"]


@dataclass(frozen=True, slots=True)
class Gang:
    """`nodes` × `procs_per_node` processes of the same program that find one another by torchrun's variables.

    The engine starts all of them or none. They reach each other, also where `network` is ``platform``. When one
    fails the others are ended (SIGTERM, SIGKILL after the specification's grace), and its exit code is the
    attempt's; 0 means that all ended with 0. Each has a log of its own (`Engine.logs`); the attempt's log has all of
    theirs, each line with its rank before it.
    """

    nodes: int
    procs_per_node: int
    restart: int = 0
    """How often the gang was started before, and how often it may be at most: for its members to know."""
    most_restarts: int = 0
    run_id: str = ""
    part: tuple[int, int, str, int] | None = None
    """For an engine that spreads a gang over machines: this specification is of a part of it, whose `nodes` begin at
    the first number, out of the second; rank 0 is met at address and port. None: the whole gang."""

    @property
    def world_size(self) -> int:
        return self.nodes * self.procs_per_node


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """One attempt to run one process tree. `attempt_id` is the idempotency key: the same id never starts twice."""

    attempt_id: str
    argv: Sequence[str]
    env: Mapping[str, str]
    """The whole environment: nothing of the server's own is inherited.

    `isolate` replaces HOME by a fresh private folder (and TMPDIR, where /tmp is out of reach).
    ``STRATAL_URL`` says which loopback port must lead to the platform when `network` is ``platform``.
    """
    cwd: Path
    """The working directory; writable for the workload."""
    python: Path | None = None
    """The interpreter that runs the standard-library-only first step inside the sandbox; None: the engine's own.

    What holds the limits, outside of the sandbox, is never run by an interpreter that users' packages were
    installed with.
    """
    read_only: Sequence[Path] = ()
    """Further paths the workload may read (its environment, a model's files) inside the sandbox.

    The system's folders and the Python installation behind `python` and `argv[0]` are readable anyway.
    """
    read_write: Sequence[Path] = ()
    """Further paths it may write (a socket's folder, a checkpoint's folder)."""
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: Sequence[str] = ()
    """The UUIDs of the GPUs it is given: where the sandbox can enforce it, no others can be opened."""
    gang: Gang | None = None
    """None: one process. Processors, memory and GPUs are those of the whole gang, GPUs in the order of its nodes."""
    wall_seconds: float | None = None
    grace_seconds: float = 10.0
    """How long the tree has between SIGTERM and SIGKILL when `wall_seconds` are over."""
    network: Network = "open"
    """``platform``: where the sandbox can enforce it, only the platform's own address is reachable."""
    isolate: bool = True
    """Ask for the sandbox; `WorkloadStatus.isolation` says what was really enforced."""
    imports: Sequence[str] = ()
    """Modules that the program will import, for an engine that can have them loaded before: a hint, no request."""
    durable: bool = True
    """False: its record need not survive a power cut, which spares its start some disk flushes. For what nobody would
    start again because of that record: replicas.
    """


def seeing(spec: WorkloadSpec, gpus: Sequence[str]) -> WorkloadSpec:
    """The same with these GPUs, by UUID, as its own, and no other to be seen by what asks CUDA."""
    return replace(spec, gpus=gpus, env={**spec.env, "CUDA_VISIBLE_DEVICES": ",".join(gpus)})


@dataclass(frozen=True, slots=True)
class Usage:
    """What an attempt used: processor seconds (user+system, whole tree), peak memory in bytes, wall seconds.

    Of GPUs: the seconds that it held them, added up over them (`gpu_seconds`); of these those that they were
    busy, by samples; and the most memory taken on one. An engine leaves them at 0: `gpu_meter` counts.
    """

    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    wall_seconds: float = 0.0
    memory_byte_seconds: float = 0.0
    gpu_seconds: float = 0.0
    gpu_busy_seconds: float = 0.0
    gpu_peak_memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Isolation:
    """What really fenced a workload. `other_inputs` names what it could read besides its declared inputs."""

    sandbox: str = "none"
    """``bubblewrap`` or ``none``."""
    network: Network = "open"
    memory: str = "none"
    """How the memory limit is held: ``cgroup2``, ``cgroup1``, ``watchdog`` or ``none`` (no limit asked)."""
    landlock: bool = False
    start: Literal["cold", "forked"] = "cold"
    """``forked``: from an interpreter that had its modules loaded. The fences are the same."""
    other_inputs: Sequence[str] = ()

    @property
    def complete(self) -> bool:
        """True when nothing else was readable and no network but the platform's was reachable."""
        return self.sandbox != "none" and self.network == "platform" and not self.other_inputs


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    attempt_id: str
    state: WorkloadState
    pid: int | None = None
    """The process that guards the workload: the root of its tree."""
    started_at: int | None = None
    """Epoch milliseconds."""
    ended_at: int | None = None
    exit_code: int | None = None
    """0…255, or 128+signal as shells report it; None while running and when unknown."""
    reason: str = ""
    """Why it ended, for people, when that is more than its exit code: ``memory limit of 512 MiB``, ``stopped`` …"""
    usage: Usage = field(default_factory=Usage)
    isolation: Isolation = field(default_factory=Isolation)
    node: str = ""
    """The machine it runs on, where the engine has several."""
    lost: bool = False
    """Its machine is gone, or gave it up, and with it the end that nobody saw: it may be begun again elsewhere.

    Whatever of it may still run there is ended when that machine can be reached; it cannot report any more.
    """


@dataclass(frozen=True, slots=True)
class Gpu:
    """A whole GPU. `type` is what people ask for (``h100``), `fake` one made up for tests."""

    uuid: str
    type: str
    name: str
    memory_bytes: int
    fake: bool = False


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What a GPU is doing at a moment: the share of the last second it was busy (0…1), bytes of its memory in use."""

    busy: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the engine's machines have in all: processors, bytes of memory, GPUs.

    `why_no_gpus` says for people why there are none.
    """

    cpus: float
    memory_bytes: int
    gpus: Sequence[Gpu] = ()
    why_no_gpus: str = ""


class Engine(Protocol):
    async def capacity(self) -> Capacity: ...

    async def gpu_samples(self, uuids: Sequence[str]) -> Mapping[str, GpuSample]:
        """What these GPUs are doing now; those that cannot be asked are left out."""
        ...

    async def start(self, spec: WorkloadSpec) -> WorkloadStatus:
        """Start it, or return the present status when this `attempt_id` was started before.

        Raises `Invalid` when it could never be executed (no such program, no such folder, a folder that would
        show the platform's home), `Unavailable` when it cannot be now (the engine cannot be reached, a fence that
        was asked for cannot be built): then nothing was started and the attempt id is still unused.
        """
        ...

    async def warm(self, spec: WorkloadSpec, *, renew: bool = False) -> bool:
        """Get ready to start workloads like this one quickly, and stay so for a while; True when that is so already.

        A hint: an engine that keeps nothing warm answers False. Nothing is started. `renew`: nothing of the kind was
        started for a while, and may be again; if the engine let go of what it kept for want of memory, so be it.
        """
        ...

    async def doze(self, attempt_id: str, *, dozing: bool) -> None:
        """Say that a running attempt only waits to be needed: it counts as something kept warm. Said again now and then.

        Once it is not `dozing` any more, its usage is counted anew from that moment.
        """
        ...

    async def adopt(self) -> Sequence[WorkloadStatus]:
        """Every attempt the engine still knows of, running or ended: called after a restart of the server.

        An attempt that is not among them was never started (or was released): starting it is safe.
        """
        ...

    def watch(self) -> AsyncIterator[WorkloadStatus]:
        """Yield statuses as they change, for ever; begins with every known attempt, so nothing is missed."""
        ...

    async def stop(self, attempt_id: str, grace_seconds: float) -> None:
        """SIGTERM to the whole tree, SIGKILL after the grace. Returns at once; `watch` tells the end."""
        ...

    async def logs(
        self, attempt_id: str, offset: int, limit: int = 1 << 20, *, rank: int | None = None
    ) -> bytes:
        """Up to `limit` bytes of stdout and stderr, as written, from byte `offset`; empty when there are no more yet.

        `rank`: of this member of a gang alone.
        """
        ...

    async def grown(self, attempt_id: str, offset: int, seconds: float) -> bool:
        """Wait until an attempt's log holds more than `offset` bytes, but no longer than `seconds`.

        False, at once: it cannot be waited for (not begun, or the engine is not told); look again later.
        """
        ...

    async def release(self, attempt_id: str) -> None:
        """Forget an ended attempt and remove its files (its log was stored before). Unknown ids are fine."""
        ...
