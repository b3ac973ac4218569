"""`RayEngine`: the `Engine` port, carried out by Ray, by way of the pool's bridge. Imports nothing of Ray's."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stratal.compute.engine import Capacity, GpuSample, WorkloadSpec, WorkloadStatus
from stratal.engines.local.adapter import check
from stratal.engines.local.link import Companion
from stratal.engines.local.linked import Linked
from stratal.engines.ray import bridge, wire
from stratal.engines.ray.settings import BridgeSettings
from stratal.kernel.errors import Unavailable

_FRESH_SECONDS = 1.0
_LONGEST_LOG = 256 << 20
_BRIDGE = Companion(bridge.NAME, bridge.PROTOCOL, tuple(bridge.command()))


@dataclass(frozen=True, slots=True)
class RayNode:
    """A machine of the pool, as Ray knows it. `workloads` counts those of the pool that run there."""

    name: str
    id: str
    alive: bool
    cpus: float
    memory_bytes: int
    gpus: float
    address: str
    workloads: int


class RayEngine(Linked):
    """Runs workloads on the machines of one pool. `connect` first; `close` lets go, `shutdown` ends Ray, too.

    `run_dir` (made if need be, mode 0700) holds the bridge's and the attempts' files. `ceiling` is what the
    pool may grow to: work is let through up to it, so that Ray's autoscaler sees the demand.
    """

    def __init__(self, run_dir: Path, settings: BridgeSettings, *, ceiling: Capacity | None = None) -> None:
        super().__init__(run_dir, _BRIDGE)
        self._run_dir = run_dir
        self._settings = settings
        self._ceiling = ceiling or Capacity(0, 0)
        self._nodes: tuple[float, Sequence[RayNode]] = (0.0, ())

    async def connect(self) -> None:
        """Reach the bridge, started if none answers; it goes on to bring Ray up by itself. Raises `Unavailable`."""
        await asyncio.to_thread(self._write)
        await self._link.open()

    def _write(self) -> None:
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._settings.write(self._run_dir / "pool.json")

    @property
    def bridge_pid(self) -> int | None:
        """The bridge's process, while connected."""
        return self._link.keeper_pid

    async def nodes(self) -> Sequence[RayNode]:
        """Every machine that is, or was since the pool's head came up, in the pool. Raises `Unavailable`."""
        self._nodes = time.monotonic(), [RayNode(**node) for node in await self._link.ask("nodes")]
        return self._nodes[1]

    async def demand(self) -> Sequence[tuple[float, int]]:
        """Processors and bytes of memory of each place that no machine has room for. Raises `Unavailable`."""
        return [(float(one["cpus"]), int(one["memory_bytes"])) for one in await self._link.ask("demand")]

    async def capacity(self) -> Capacity:
        """Of all machines of the pool together; of its head alone while Ray comes up."""
        least = self._least()
        try:
            fresh = time.monotonic() - self._nodes[0] < _FRESH_SECONDS
            nodes = self._nodes[1] if fresh else await self.nodes()
        except Unavailable:
            nodes = ()
        alive = [node for node in nodes if node.alive]
        return Capacity(
            max(least.cpus, sum(node.cpus for node in alive)),
            max(least.memory_bytes, sum(node.memory_bytes for node in alive)),
            why_no_gpus="the engine ray assigns none yet",
        )

    async def gpu_samples(self, uuids: Sequence[str]) -> Mapping[str, GpuSample]:
        return {}

    async def logs(
        self, attempt_id: str, offset: int, limit: int = 1 << 20, *, rank: int | None = None
    ) -> bytes:
        """A member's own lines are read off the attempt's log, where each has its rank before it: its own file lies
        on a machine that may be gone."""
        if rank is None:
            return await super().logs(attempt_id, offset, limit)
        whole = await super().logs(attempt_id, 0, _LONGEST_LOG)
        mark = b"[%d] " % rank
        lines = whole.splitlines(keepends=True)
        own = b"".join(line[len(mark) :] for line in lines if line.startswith(mark) and line.endswith(b"\n"))
        return own[offset : offset + limit]

    def _least(self) -> Capacity:
        head = self._settings.head or {}
        cpus, memory = float(head.get("cpus", 0)), int(head.get("memory_bytes", 0))
        return Capacity(max(self._ceiling.cpus, cpus), max(self._ceiling.memory_bytes, memory))

    async def warm(self, spec: WorkloadSpec, *, renew: bool = False) -> bool:
        return False

    async def grown(self, attempt_id: str, offset: int, seconds: float) -> bool:
        return False  # another machine may be writing

    async def doze(self, attempt_id: str, *, dozing: bool) -> None:
        """Nothing dozes where nothing is kept warm."""

    def _check(self, spec: WorkloadSpec) -> None:
        check(spec, (Path(self._settings.home).resolve(), self._run_dir.resolve()))

    async def start(self, spec: WorkloadSpec) -> WorkloadStatus:
        await asyncio.to_thread(self._check, spec)
        return self._started(await self._link.ask("start", spec=wire.spec_to(spec)))
