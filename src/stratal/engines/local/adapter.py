"""`LocalEngine`: the `Engine` port, carried out by a keeper on this machine."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stratal.compute.engine import Capacity, GpuSample, WorkloadSpec, WorkloadStatus
from stratal.engines.local.gpus import Inventory, NvidiaGpus
from stratal.engines.local.growth import Growth
from stratal.engines.local.link import KEEPER
from stratal.engines.local.linked import Linked, check_id
from stratal.engines.local.probe import ControlGroup, find_cgroup, machine, try_bubblewrap
from stratal.kernel.errors import Invalid, Unavailable

_MOST_MEMBERS = 256
_CAPACITY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Fences:
    """What the engine may use of what the machine offers; to leave some out is for tests and for trouble."""

    bubblewrap: bool = True
    landlock: bool = True
    zygotes: bool = True
    """Start workloads by forking where that is possible; else each one starts cold."""
    cgroup: ControlGroup | None = None
    """Where control groups may be made; None: wherever this machine handed a folder over."""


@dataclass(frozen=True, slots=True)
class Zygotes:
    """Seconds that zygotes may be unused, bytes of memory (PSS) that all may hold, and those unused for so long."""

    idle_seconds: float = 300.0
    memory_bytes: int = 512 << 20
    resting_bytes: int = 128 << 20


class LocalEngine(Linked):
    """Runs workloads on this machine. `connect` first; `close` lets go of the keeper, `shutdown` ends it.

    `run_dir` (made if need be, mode 0700) holds the keeper's and the attempts' files. `home` is the
    platform's home, hidden (as is `also_hidden`) from isolated workloads but for the paths they are given.
    `platform_socket` is where the server listens for workloads that may reach nothing else; where that is another
    machine, `platform_address` is its ``host:port``.
    """

    def __init__(
        self,
        run_dir: Path,
        home: Path,
        platform_socket: Path | None,
        *,
        fences: Fences | None = None,
        gpus: Inventory | None = None,
        platform_address: str | None = None,
        also_hidden: Sequence[Path] = (),
        zygotes: Zygotes | None = None,
    ) -> None:
        self._run_dir = Path(os.path.abspath(run_dir))
        self._home = Path(os.path.abspath(home))
        self._platform_socket = None if platform_socket is None else Path(os.path.abspath(platform_socket))
        self._fences = fences or Fences()
        self._gpus = gpus or NvidiaGpus()
        self._platform_address = platform_address
        self._also_hidden = tuple(Path(os.path.abspath(path)) for path in also_hidden)
        self._zygotes = zygotes or Zygotes()
        self._own = [path.resolve() for path in (self._home, self._run_dir)]
        self._settings: Mapping[str, Any] = {}
        self._growth = Growth()
        self._capacity: tuple[float, Capacity] | None = None
        super().__init__(self._run_dir, KEEPER)

    async def connect(self) -> None:
        """Find out what can be enforced here, and reach the keeper, started if none answers.

        From then on a keeper that dies is replaced, and the new one takes its workloads over. Raises `Unavailable`.
        """
        if not self._settings:
            self._settings = await asyncio.to_thread(self._find_out)
        await self._link.open()

    @property
    def keeper_pid(self) -> int | None:
        """The keeper's process, while connected."""
        return self._link.keeper_pid

    # -- Engine --------------------------------------------------------------------------------

    async def capacity(self) -> Capacity:
        now = time.monotonic()
        if self._capacity is None or now > self._capacity[0] + _CAPACITY_SECONDS:
            gpus = await asyncio.to_thread(self._gpus.gpus)
            self._capacity = now, Capacity(*machine(), gpus, self._gpus.why_none)
        return self._capacity[1]

    async def gpu_samples(self, uuids: Sequence[str]) -> Mapping[str, GpuSample]:
        return await asyncio.to_thread(self._gpus.samples, uuids)

    async def start(self, spec: WorkloadSpec) -> WorkloadStatus:
        if spec.gpus:  # the driver is asked
            asked = await asyncio.to_thread(self._checked, spec)
        else:
            asked = self._checked(spec)
        return self._started(await self._link.ask("start", spec=asked))

    async def warm(self, spec: WorkloadSpec, *, renew: bool = False) -> bool:
        answer = await self._link.ask("warm", spec=await asyncio.to_thread(self._asked, spec), renew=renew)
        return bool(answer["warm"])

    async def close(self) -> None:
        self._growth.close()
        await super().close()

    async def grown(self, attempt_id: str, offset: int, seconds: float) -> bool:
        check_id(attempt_id)
        return await self._growth.beyond(self._attempts / attempt_id / "log", offset, seconds)

    async def doze(self, attempt_id: str, *, dozing: bool) -> None:
        await self._link.ask("doze", attempt_id=attempt_id, dozing=dozing)

    # -- what goes to the keeper -----------------------------------------------------------------

    def _checked(self, spec: WorkloadSpec) -> dict[str, Any]:
        self._check(spec)
        return self._asked(spec)

    def _asked(self, spec: WorkloadSpec) -> dict[str, Any]:
        env = dict(spec.env)
        devices = self._devices(spec, env)
        return {
            "attempt_id": spec.attempt_id,
            "argv": list(spec.argv),
            "env": env,
            "devices": devices,
            "gang": None if spec.gang is None else asdict(spec.gang),
            "cwd": _plain(spec.cwd),
            "python": None if spec.python is None else _plain(spec.python),
            "read_only": [_plain(path) for path in spec.read_only],
            "read_write": [_plain(path) for path in spec.read_write],
            "cpus": spec.cpus,
            "memory_bytes": spec.memory_bytes,
            "wall_seconds": spec.wall_seconds,
            "grace_seconds": spec.grace_seconds,
            "network": spec.network,
            "isolate": spec.isolate,
            "imports": list(spec.imports),
            "durable": spec.durable,
            "engine": dict(self._settings),
        }

    def _find_out(self) -> dict[str, Any]:
        box = try_bubblewrap() if self._fences.bubblewrap else None
        group = self._fences.cgroup if self._fences.cgroup is not None else find_cgroup()
        hidden = [
            name
            for path in (self._home, self._run_dir, *self._also_hidden)
            for name in (path, path.resolve())
        ]
        boxed = (
            {"path": str(box.path), "users": box.users, "network": box.network}
            if box and box.usable
            else None
        )
        upstream = None if self._platform_socket is None else str(self._platform_socket)
        if self._platform_address is not None:
            upstream = f"tcp:{self._platform_address}"
        return {
            "python": getattr(sys, "_base_executable", sys.executable),
            "hidden": list(dict.fromkeys(str(path) for path in hidden)),
            "platform_socket": upstream,
            "bubblewrap": boxed,
            "landlock": self._fences.landlock,
            "zygotes": self._limits() if self._fences.zygotes and self._zygotes.memory_bytes else None,
            "cgroup": {"version": group.version, "path": str(group.path)} if group.version else None,
        }

    def _limits(self) -> dict[str, Any]:
        return asdict(self._zygotes)

    def _devices(self, spec: WorkloadSpec, env: dict[str, str]) -> list[str]:
        """The device nodes of the workload's GPUs; `env` is told where the driver's libraries are."""
        if not spec.gpus:
            return []
        self._gpus.gpus()  # after a restart nobody may have asked yet
        try:
            devices = list(self._gpus.devices(spec.gpus))
        except KeyError as error:
            raise Unavailable(f"The GPU {error.args[0]} is not here (any more).") from error
        libraries = self._gpus.libraries()
        if libraries is not None:
            env["LD_LIBRARY_PATH"] = ":".join(filter(None, [env.get("LD_LIBRARY_PATH"), libraries]))
        return devices

    def _check(self, spec: WorkloadSpec) -> None:
        check(spec, self._own)


def check(spec: WorkloadSpec, hidden: Sequence[Path]) -> None:
    """Raise `Invalid` for what could never be carried out, before anything is written down.

    A path that would show one of `hidden` (resolved) to an isolated workload is refused.
    """
    check_id(spec.attempt_id)
    words = [*spec.argv, *spec.env, *spec.env.values()]
    if not spec.argv or not spec.argv[0] or any("\0" in word for word in words):
        raise Invalid("A workload needs a program, and no NUL in its arguments and variables.")
    if any("=" in name or not name for name in spec.env):
        raise Invalid("A variable's name is not empty and has no '='.")
    limits = (spec.cpus, spec.memory_bytes, spec.wall_seconds)
    if any(limit is not None and not 0 < limit < float("inf") for limit in limits):
        raise Invalid("Limits of processors, memory and time are above zero.")
    if spec.gang is not None and not 1 <= spec.gang.world_size <= _MOST_MEMBERS:
        raise Invalid(f"A gang has 1 to {_MOST_MEMBERS} members.", reason="bad_gang")
    if not spec.cwd.is_dir():
        raise Invalid(f"The working directory {spec.cwd} is no directory.", reason="no_cwd")
    for path in (*spec.read_only, *spec.read_write):
        if not path.exists():
            raise Invalid(f"{path} does not exist, so a workload cannot be given it.", reason="no_path")
    if not spec.isolate:
        return
    for path in (spec.cwd, *spec.read_only, *spec.read_write):
        shown = path.resolve()
        for place in hidden:
            if place.is_relative_to(shown):
                raise Invalid(f"{path} would show the platform's home to a workload.", reason="home_shown")


def _plain(path: Path) -> str:
    """Absolute and without ``..``, links left as they are: the workload sees the name that it was given."""
    return os.path.abspath(path)
