"""What a workspace is, what is wished of it, and what of its files is kept. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from stratal.compute.engine import Network
from stratal.compute.services.model import MOST_IDLE_SECONDS, Needs, Scaling
from stratal.kernel.errors import Invalid

KIND = "workspace"


class Program(StrEnum):
    """What a workspace runs for its people."""

    JUPYTER = "jupyter"
    """JupyterLab with live co-editing."""
    MARIMO = "marimo"
    """marimo: notebooks that are Python files, with live co-editing."""
    TERMINAL = "terminal"
    """A shell in the browser; all who have it open see the same one."""


MOST_SAVE = 256 << 20
"""The largest file whose saves are kept, in bytes."""
MOST_PATH = 1024


@dataclass(frozen=True, slots=True)
class Wishes:
    """`memory_bytes` bound everything in it; it is stopped after `idle_seconds` in which nobody did anything (0: never)."""

    memory_bytes: int = 2 << 30
    cpus: float = 0.0
    idle_seconds: float = 3600.0
    network: Network = "platform"
    gpus: int = 0
    gpu_type: str | None = None

    @property
    def scaling(self) -> Scaling:
        """One, kept alive for as long as the workspace is to run: when that ends, its upkeep says."""
        return Scaling(least=1, most=1, concurrency=4096, idle_seconds=0, stuck_seconds=None)

    @property
    def needs(self) -> Needs:
        return Needs(self.cpus, self.memory_bytes, self.gpus, self.gpu_type)


def check_wishes(wishes: Wishes) -> Wishes:
    """The wishes themselves, if they make sense. Raises `Invalid`."""
    if not 0 <= wishes.idle_seconds <= MOST_IDLE_SECONDS:
        raise Invalid("The idle time is 0 (never stopped) to 366 days.", reason="bad_idle")
    if wishes.network not in {"platform", "open"}:
        raise Invalid("The network is 'platform' or 'open'.", reason="bad_network")
    if wishes.memory_bytes < 256 << 20:
        raise Invalid("A workspace needs 256 MiB of memory at least.", reason="bad_needs")
    return wishes


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    """Its environment is being built, or its server comes up."""
    RUNNING = "running"
    FAILED = "failed"
    """It should run and cannot; it is tried again with growing pauses."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """`label` is the first part of its host name, never given to another. Times are epoch milliseconds.

    `running`: it is to run; `stopped_why` says for people why not. `starts` counts its starts; `key_id` is the
    credential of the newest one.
    """

    id: str
    project_id: str
    project: str
    name: str
    label: str
    program: Program
    requirements: str
    wishes: Wishes
    environment_id: str | None
    running: bool
    stopped_why: str
    starts: int
    key_id: str | None
    used_at: int | None
    created_at: int
    created_by: str

    @property
    def kind(self) -> str:
        return KIND

    @property
    def workload(self) -> str:
        """What its reads and writes are attributed to."""
        return f"{KIND}:{self.name}:{self.label.rpartition('-')[2]}"


@dataclass(frozen=True, slots=True)
class WorkspaceView:
    workspace: Workspace
    state: State
    failure: str
    visitors: tuple[str, ...]
    """Who has it open now, by name."""


@dataclass(frozen=True, slots=True)
class Save:
    """One save of one file. `seq` orders them; `sha256` is that of its bytes."""

    seq: int
    path: str
    sha256: str
    size: int
    saved_at: int
    saved_by: str


def check_path(path: str) -> str:
    """A file's path inside the workspace: relative, with ``/``, nothing that leads out. Raises `Invalid`."""
    parts = path.split("/")
    if (
        not path
        or len(path.encode("utf-8", "replace")) > MOST_PATH
        or "\0" in path
        or any(part in {"", ".", ".."} or len(part.encode("utf-8", "replace")) > 255 for part in parts)
    ):
        raise Invalid(f"{path[:100]!r} is no path of a file in a workspace.", reason="bad_path")
    return path
