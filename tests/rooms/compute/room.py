"""A compute room on a real database and disk, with an engine whose workloads end when the test says so."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from stratal.app.tables import metadata
from stratal.compute.checkpoints import Checkpoints
from stratal.compute.engine import Capacity, GpuSample, Isolation, Usage, WorkloadSpec, WorkloadStatus
from stratal.compute.environments import Environment
from stratal.compute.gpu_meter import GpuMeter
from stratal.compute.joblogs import JobLogs
from stratal.compute.jobs import Jobs
from stratal.compute.launching import Launching
from stratal.compute.model import Job, JobSpec
from stratal.compute.quotas import Quotas
from stratal.compute.reconciler import Reconciler
from stratal.compute.snapshots import Snapshots
from stratal.compute.workloads import Workloads
from stratal.identity.keys import Keys
from stratal.identity.master import MasterKey
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Project, insert_project
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, StratalError, Unavailable
from stratal.kernel.events import Event, Events
from stratal.stores.local import LocalBlobs


class HandEngine:
    """The `Engine` port by hand: it keeps every promise of the port, and ends nothing by itself.

    It outlives the services of a test, as the keeper outlives the server.
    """

    def __init__(self, cpus: float = 2, memory: int = 16 * 2**30) -> None:
        self.machine = Capacity(cpus, memory)
        self.specs: dict[str, WorkloadSpec] = {}
        self.statuses: dict[str, WorkloadStatus] = {}
        self.output: dict[str, bytes] = {}
        self.starts: list[str] = []
        self.stopped: list[str] = []
        self.doing: dict[str, GpuSample] = {}
        self.warmed: list[tuple[WorkloadSpec, bool]] = []
        self.forks = False
        """It has interpreters warm, and forks what it starts."""
        self.dozing: set[str] = set()
        self.refuse: StratalError | None = None
        self._news = asyncio.Event()

    def end(self, attempt_id: str, code: int | None = 0, reason: str = "", at: int = 2) -> None:
        before = self.statuses[attempt_id]
        state = "unknown" if code is None else "exited"
        usage = Usage(1.5, 1000, 2.0, 2000.0)
        ended = replace(before, state=state, exit_code=code, reason=reason, ended_at=at, usage=usage)
        self.statuses[attempt_id] = ended
        self._ring()

    def lose(self, attempt_id: str) -> None:
        """The engine forgets, as when its machine was reset."""
        del self.statuses[attempt_id]

    def _ring(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def capacity(self) -> Capacity:
        return self.machine

    async def warm(self, spec: WorkloadSpec, *, renew: bool = False) -> bool:
        self.warmed.append((spec, renew))
        return self.forks

    async def doze(self, attempt_id: str, *, dozing: bool) -> None:
        (self.dozing.add if dozing else self.dozing.discard)(attempt_id)

    async def gpu_samples(self, uuids: Sequence[str]) -> dict[str, GpuSample]:
        return {uuid: self.doing[uuid] for uuid in uuids if uuid in self.doing}

    async def start(self, spec: WorkloadSpec) -> WorkloadStatus:
        if self.refuse is not None:
            raise self.refuse
        if spec.attempt_id not in self.statuses:
            self.starts.append(spec.attempt_id)
            self.specs[spec.attempt_id] = spec
            fences = Isolation("bubblewrap", spec.network, start="forked" if self.forks else "cold")
            self.statuses[spec.attempt_id] = WorkloadStatus(
                spec.attempt_id, "running", 1, 1, isolation=fences
            )
            self._ring()
        return self.statuses[spec.attempt_id]

    async def adopt(self) -> Sequence[WorkloadStatus]:
        return list(self.statuses.values())

    async def watch(self) -> AsyncIterator[WorkloadStatus]:
        seen: dict[str, WorkloadStatus] = {}
        while True:
            news = self._news
            for attempt_id, status in list(self.statuses.items()):
                if seen.get(attempt_id) != status:
                    seen[attempt_id] = status
                    yield status
            await news.wait()

    async def stop(self, attempt_id: str, grace_seconds: float) -> None:
        self.stopped.append(attempt_id)
        if attempt_id in self.statuses and self.statuses[attempt_id].state == "running":
            self.end(attempt_id, 143, "stopped")

    async def logs(
        self, attempt_id: str, offset: int, limit: int = 1 << 20, *, rank: int | None = None
    ) -> bytes:
        name = attempt_id if rank is None else f"{attempt_id}/{rank}"
        return self.output.get(name, b"")[offset : offset + limit]

    async def grown(self, attempt_id: str, offset: int, seconds: float) -> bool:
        return False

    async def release(self, attempt_id: str) -> None:
        self.statuses.pop(attempt_id, None)
        self.output.pop(attempt_id, None)


class ReadyEnvironments:
    """Environments that are there at once, or whose building the test holds up or lets fail."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked = 0
        self.failure: StratalError | None = None

    async def at_hand(self, text: str) -> Environment | None:
        """The plain one, unless its building is held up."""
        if text or self.failure is not None or not self.gate.is_set():
            return None
        self.root.mkdir(exist_ok=True)
        (self.root / ".ready").touch()
        return self._made()

    def _made(self) -> Environment:
        return Environment("e" * 64, self.root, "3.11", "test", 0, "blob_x", 0)

    async def for_requirements(
        self, text: str, *, upgrade: bool = False, progress: object = None
    ) -> Environment:
        self.asked += 1
        if callable(progress) and text:
            progress(f"Building {text.strip()}")
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self._made()


class Room:
    """Services over one home. `kill` drops them as a dying server would; `start` is the next server."""

    def __init__(self, home: Path, engine: HandEngine) -> None:
        self.home = home
        self.engine = engine
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        for name in ("a", "b"):
            self.database.write_now(lambda c, n=name: insert_project(c, Project(f"prj_{n}", n, 0), "test"))
        self.now = 1_800_000_000_000
        self.blobs = LocalBlobs(home / "blobs")
        self.keys = Keys(self.database, MasterKey({1: b"m" * 32}), lambda: self.now)
        self.events = Events(self.database)
        self.snapshots = Snapshots(self.database, self.blobs, lambda: self.now)
        self.quotas = Quotas(self.database, lambda: self.now)
        self.checkpoint_limit = 2**20
        self.environments = ReadyEnvironments(home / "env")
        self.ann = Principal(Kind.SERVICE, "ann", "ann", "prj_a", "a", Role.EDITOR)
        self.bob = Principal(Kind.SERVICE, "bob", "bob", "prj_b", "b", Role.EDITOR)
        self.admin = Principal(Kind.SERVICE, "root", "root", "prj_a", "a", Role.ADMIN)
        self.viewer = Principal(Kind.SERVICE, "vic", "vic", "prj_a", "a", Role.VIEWER)

    async def start(self) -> None:
        self.workloads = Workloads(self.engine)
        work = self.home / "work"
        logs = JobLogs(self.blobs, self.workloads, work)
        self.checkpoints = Checkpoints(self.home / "checkpoints", self.checkpoint_limit)
        launching = Launching(
            self.database,
            self.keys,
            self.environments,  # type: ignore[arg-type]
            self.snapshots,
            self.checkpoints,
            logs,
            lambda credential, project: {"STRATAL_API_KEY": credential.token, "STRATAL_PROJECT": project},
        )
        self.gpu_meter = GpuMeter(self.database, self.engine)
        self.reconciler = Reconciler(
            self.database,
            self.keys,
            self.workloads,
            launching,
            self.checkpoints,
            logs,
            self.gpu_meter,
            lambda: self.now,
        )
        self.jobs = Jobs(
            self.database,
            self.blobs,
            self.workloads,
            self.snapshots,
            logs,
            self.checkpoints,
            self.reconciler,
            lambda: self.now,
        )
        await self.workloads.start()
        await self.jobs.start()

    async def kill(self) -> None:
        await self.jobs.close()
        await self.workloads.close()

    async def close(self) -> None:
        await self.kill()
        await self.blobs.close()
        self.database.close()

    # -- shorthands ------------------------------------------------------------------------------

    async def submit(self, *argv: str, **asked: object) -> Job:
        return await self.jobs.submit(self.ann, "prj_a", JobSpec(argv or ("python", "t.py"), **asked))  # type: ignore[arg-type]

    async def until(self, job: Job, *states: str) -> Job:
        """The job once it is in one of the states; fails when it never is."""
        async with asyncio.timeout(20):
            while True:
                found = await self.jobs.get(self.ann, "prj_a", job.id)
                if found.state in states:
                    return found
                await self.reconciler.changed.wait(0.01)

    async def later(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += round(seconds * 1000)
        self.reconciler.kick()

    async def log(self, job: Job, **options: object) -> bytes:
        stream = await self.jobs.logs(self.ann, "prj_a", job.id, **options)  # type: ignore[arg-type]
        return b"".join([chunk async for chunk in stream])

    async def news(self) -> list[Event]:
        return [event for event in await self.events.after(0) if event.kind.startswith("job.")]


__all__ = ["HandEngine", "Invalid", "ReadyEnvironments", "Room", "Unavailable"]
