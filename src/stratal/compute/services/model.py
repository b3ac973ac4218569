"""What a service is: its name, its wishes, what its replicas need and what became of them. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stratal.compute.engine import Usage
from stratal.kernel.errors import Invalid

MOST_REPLICAS = 256
MOST_CONCURRENCY = 10_000
MOST_IDLE_SECONDS = 366 * 86_400
DEFAULT_MEMORY = 256 << 20
SURPLUS_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ServiceName:
    """`kind` of service (``endpoint``, ``function`` …), whose it is (`owner`, an id of that kind), which `version`."""

    kind: str
    owner: str
    version: str
    project_id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.owner} version {self.version}"


@dataclass(frozen=True, slots=True)
class Scaling:
    """How many replicas, and how much work for them.

    `concurrency` requests are given to one replica at once; where all have so many, more replicas are
    started, up to `most`, and requests wait: at most `queue` of them, and no more than `held_bytes` of
    input waiting and being answered. Replicas that the load of the last minute (or of `idle_seconds`,
    when that is less) did not need are stopped, down to `least`; the last one only after `idle_seconds`
    without a request, and never when that is 0. One that owes an answer and was silent for
    `stuck_seconds` is replaced.
    """

    least: int = 0
    most: int = 1
    concurrency: int = 64
    idle_seconds: float = 600.0
    queue: int = 512
    held_bytes: int = 256 << 20
    stuck_seconds: float | None = 60.0

    @property
    def floor(self) -> int:
        """How many replicas there are even when nobody asks."""
        return max(self.least, 1) if self.idle_seconds == 0 else self.least

    @property
    def surplus_seconds(self) -> float:
        """A replica beyond the first goes when it was not needed for so long."""
        return min(self.idle_seconds or SURPLUS_SECONDS, SURPLUS_SECONDS)

    def wanted(self, load: int) -> int:
        """How many replicas so many requests need, waiting ones and those in flight."""
        return max(self.floor, min(self.most, math.ceil(load / self.concurrency)))


@dataclass(frozen=True, slots=True)
class Needs:
    """What one replica is counted with: processors, bytes of memory, and whole GPUs of one type (None: of any).

    Processors are 0 unless somebody asked for some: they are shared well enough, memory is not. A GPU is one
    replica's alone, for as long as that runs.
    """

    cpus: float = 0.0
    memory_bytes: int = DEFAULT_MEMORY
    gpus: int = 0
    gpu_type: str | None = None


def check_scaling(scaling: Scaling) -> Scaling:
    """The wish itself, if it makes sense. Raises `Invalid`."""
    if not 1 <= scaling.most <= MOST_REPLICAS:
        raise Invalid(f"At most 1 to {MOST_REPLICAS} replicas can be asked for.", reason="bad_scaling")
    if not 0 <= scaling.least <= scaling.most:
        raise Invalid(
            f"The least number of replicas is 0 to {scaling.most}, the most that there may be.",
            reason="bad_scaling",
        )
    if not 1 <= scaling.concurrency <= MOST_CONCURRENCY:
        raise Invalid(f"A replica takes 1 to {MOST_CONCURRENCY} requests at once.", reason="bad_scaling")
    if not 0 <= scaling.idle_seconds <= MOST_IDLE_SECONDS:
        raise Invalid("The idle time is 0 (never stopped) to 366 days.", reason="bad_idle")
    return scaling


class Condition(StrEnum):
    ASLEEP = "asleep"
    WAKING = "waking"
    AWAKE = "awake"
    FAILING = "failing"
    """No replica can be started; requests are told why, and after a pause it is tried again."""


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """A replica that runs or ran. `id` is the engine's attempt id; `exit_code` None: runs, or nobody saw it end.

    Times are epoch milliseconds; `ready_at` None: it never was.
    """

    id: str
    service: ServiceName
    needs: Needs
    started_at: int
    ready_at: int | None
    ended_at: int | None
    exit_code: int | None
    reason: str
    isolation: Mapping[str, Any] | None
    usage: Usage
    gpu_uuids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """A replica that answers now: its requests in flight, and how many it answered for this server."""

    id: str
    in_flight: int
    answered: int
    draining: bool
