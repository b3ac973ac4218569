"""`LocalEngine`: the `Engine` port, carried out by a keeper on this machine."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stratal.compute.engine import Capacity, GpuSample, Isolation, Usage, WorkloadSpec, WorkloadStatus
from stratal.engines.local.gpus import Inventory, NvidiaGpus
from stratal.engines.local.link import Link, Status
from stratal.engines.local.probe import ControlGroup, find_cgroup, machine, try_bubblewrap
from stratal.kernel.errors import Invalid, Unavailable

_MOST_MEMBERS = 256
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")


@dataclass(frozen=True, slots=True)
class Fences:
    """What the engine may use of what the machine offers; to leave some out is for tests and for trouble."""

    bubblewrap: bool = True
    landlock: bool = True
    cgroup: ControlGroup | None = None
    """Where control groups may be made; None: wherever this machine handed a folder over."""


class LocalEngine:
    """Runs workloads on this machine. `connect` first; `close` lets go of the keeper, `shutdown` ends it.

    `run_dir` (made if need be, mode 0700) holds the keeper's and the attempts' files. `home` is the
    platform's home, hidden from isolated workloads but for the paths they are given. `platform_socket` is
    where the server listens for workloads that may reach nothing else.
    """

    def __init__(
        self,
        run_dir: Path,
        home: Path,
        platform_socket: Path | None,
        *,
        fences: Fences | None = None,
        gpus: Inventory | None = None,
    ) -> None:
        self._run_dir = Path(os.path.abspath(run_dir))
        self._home = Path(os.path.abspath(home))
        self._platform_socket = None if platform_socket is None else Path(os.path.abspath(platform_socket))
        self._fences = fences or Fences()
        self._gpus = gpus or NvidiaGpus()
        self._settings: Mapping[str, Any] = {}
        self._link = Link(self._run_dir, self._heard_all, self._heard_one)
        self._known: dict[str, WorkloadStatus] = {}
        self._watchers: set[_Watcher] = set()

    async def connect(self) -> None:
        """Find out what can be enforced here, and reach the keeper, started if none answers.

        From then on a keeper that dies is replaced, and the new one takes its workloads over. Raises `Unavailable`.
        """
        if not self._settings:
            self._settings = await asyncio.to_thread(self._find_out)
        await self._link.open()

    async def close(self) -> None:
        """Let go: the keeper and all workloads go on."""
        await self._link.close()

    async def shutdown(self, *, kill: bool, grace_seconds: float = 10.0) -> None:
        """End the keeper: after all its workloads ended (`kill`), or sparing them for the next keeper."""
        await self._link.shutdown(kill=kill, grace_seconds=grace_seconds)

    @property
    def keeper_pid(self) -> int | None:
        """The keeper's process, while connected."""
        return self._link.keeper_pid

    # -- Engine --------------------------------------------------------------------------------

    async def capacity(self) -> Capacity:
        gpus = await asyncio.to_thread(self._gpus.gpus)
        return Capacity(*machine(), gpus, self._gpus.why_none)

    async def gpu_samples(self, uuids: Sequence[str]) -> Mapping[str, GpuSample]:
        return await asyncio.to_thread(self._gpus.samples, uuids)

    async def start(self, spec: WorkloadSpec) -> WorkloadStatus:
        await asyncio.to_thread(self._check, spec)
        env = dict(spec.env)
        devices = await asyncio.to_thread(self._devices, spec, env)
        asked = {
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
            "engine": dict(self._settings),
        }
        status = _status(await self._link.ask("start", spec=asked))
        self._known.setdefault(status.attempt_id, status)
        return status

    async def adopt(self) -> Sequence[WorkloadStatus]:
        return [_status(status) for status in await self._link.ask("list")]

    async def watch(self) -> AsyncIterator[WorkloadStatus]:
        watcher = _Watcher(dict(self._known))
        self._watchers.add(watcher)
        try:
            while True:
                await watcher.news.wait()
                watcher.news.clear()
                while watcher.pending:
                    yield watcher.pending.pop(next(iter(watcher.pending)))
        finally:
            self._watchers.discard(watcher)

    async def stop(self, attempt_id: str, grace_seconds: float) -> None:
        await self._link.ask("stop", attempt_id=attempt_id, grace_seconds=grace_seconds)

    async def logs(
        self, attempt_id: str, offset: int, limit: int = 1 << 20, *, rank: int | None = None
    ) -> bytes:
        if not _ID.match(attempt_id) or offset < 0 or limit < 0:
            raise Invalid("A log is read by its attempt's id from an offset of 0 or more.")
        name = "log" if rank is None else f"log.{int(rank)}"
        path = self._run_dir / "attempts" / attempt_id / name
        return await asyncio.to_thread(_read_slice, path, offset, limit)

    async def release(self, attempt_id: str) -> None:
        await self._link.ask("release", attempt_id=attempt_id)
        self._known.pop(attempt_id, None)

    # -- what comes from the keeper --------------------------------------------------------------

    def _heard_all(self, statuses: list[Status]) -> None:
        now = {status["attempt_id"]: _status(status) for status in statuses}
        before, self._known = self._known, now
        for attempt_id, status in now.items():
            if before.get(attempt_id) != status:
                self._tell(status)

    def _heard_one(self, status: Status) -> None:
        news = _status(status)
        self._known[news.attempt_id] = news
        self._tell(news)

    def _tell(self, status: WorkloadStatus) -> None:
        for watcher in self._watchers:
            watcher.pending[status.attempt_id] = status
            watcher.news.set()

    # -- what goes to the keeper -----------------------------------------------------------------

    def _find_out(self) -> dict[str, Any]:
        box = try_bubblewrap() if self._fences.bubblewrap else None
        group = self._fences.cgroup if self._fences.cgroup is not None else find_cgroup()
        hidden = [self._home, self._home.resolve(), self._run_dir, self._run_dir.resolve()]
        boxed = (
            {"path": str(box.path), "users": box.users, "network": box.network}
            if box and box.usable
            else None
        )
        return {
            "python": getattr(sys, "_base_executable", sys.executable),
            "hidden": list(dict.fromkeys(str(path) for path in hidden)),
            "platform_socket": None if self._platform_socket is None else str(self._platform_socket),
            "bubblewrap": boxed,
            "landlock": self._fences.landlock,
            "cgroup": {"version": group.version, "path": str(group.path)} if group.version else None,
        }

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
        """Raise `Invalid` for what no keeper could carry out, before anything is written down."""
        if not _ID.match(spec.attempt_id):
            raise Invalid(f"{spec.attempt_id[:60]!r} cannot be an attempt's id.", reason="bad_attempt")
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
        if spec.isolate:
            for path in (spec.cwd, *spec.read_only, *spec.read_write):
                for hidden in (self._home.resolve(), self._run_dir.resolve()):
                    if hidden.is_relative_to(path.resolve()):
                        raise Invalid(
                            f"{path} would show the platform's home to a workload.", reason="home_shown"
                        )


class _Watcher:
    """One reader of `watch`: the newest status of each attempt that it has not seen yet, oldest first."""

    def __init__(self, known: dict[str, WorkloadStatus]) -> None:
        self.pending = known
        self.news = asyncio.Event()
        self.news.set()


def _status(wire: Status) -> WorkloadStatus:
    isolation = dict(wire["isolation"])
    isolation["other_inputs"] = tuple(isolation.get("other_inputs", ()))
    return WorkloadStatus(
        attempt_id=wire["attempt_id"],
        state=wire["state"],
        pid=wire["pid"],
        started_at=wire["started_at"],
        ended_at=wire["ended_at"],
        exit_code=wire["exit_code"],
        reason=wire["reason"],
        usage=Usage(**wire["usage"]),
        isolation=Isolation(**isolation),
    )


def _plain(path: Path) -> str:
    """Absolute and without ``..``, links left as they are: the workload sees the name that it was given."""
    return os.path.abspath(path)


def _read_slice(path: Path, offset: int, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)
    except FileNotFoundError:
        return b""
