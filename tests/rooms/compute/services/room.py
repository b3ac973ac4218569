"""Services over a real database and disk, with an engine and replicas that do what the test says."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import select

from stratal.app.tables import metadata
from stratal.compute.engine import WorkloadSpec
from stratal.compute.queue import in_use
from stratal.compute.services.model import Needs, Scaling, ServiceName
from stratal.compute.services.port import Broken, CannotStart
from stratal.compute.services.replicas import PREFIX, Replicas
from stratal.compute.services.service import Service
from stratal.compute.services.services import Services
from stratal.compute.workloads import Workloads
from stratal.identity.projects import Project, insert_project
from stratal.identity.tables import projects
from stratal.kernel.database import Database
from stratal.stores.local import LocalBlobs

from ..room import HandEngine


class Hand:
    """A replica: it answers with its own attempt's id, as soon as the test lets it."""

    modules = ("sklearn", "sklearn.linear_model")

    def __init__(self, attempt_id: str) -> None:
        self.id = attempt_id
        self.gate = asyncio.Event()
        self.gate.set()
        self.gone = asyncio.Event()
        self.at_once = self.most = 0
        self.silent_since: float | None = None

    @property
    def busy_since(self) -> float | None:
        return self.silent_since

    @property
    def closed(self) -> bool:
        return self.gone.is_set()

    async def wait_closed(self) -> None:
        await self.gone.wait()

    def close(self) -> None:
        self.gone.set()

    async def ask(self) -> str:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            gone, gate = asyncio.ensure_future(self.gone.wait()), asyncio.ensure_future(self.gate.wait())
            await asyncio.wait([gone, gate], return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            gate.cancel()
            if self.closed:
                raise Broken
            return self.id
        finally:
            self.at_once -= 1


class World:
    """Outlives the services, as keeper and replicas outlive the server."""

    def __init__(self, cpus: float = 4, memory: int = 8 << 30) -> None:
        self.engine = HandEngine(cpus, memory)
        self.replicas: dict[str, Hand] = {}
        self.dozers: dict[str, HandDozer] = {}
        self.loading = asyncio.Event()
        self.loading.set()
        self.shut = False
        """New replicas answer nothing until the test opens their gate."""
        self.failure = ""
        self.unwelcome = ""

    def kill(self, attempt_id: str) -> None:
        self.replicas[attempt_id].close()
        self.engine.end(attempt_id, 137, "killed")

    @property
    def running(self) -> list[str]:
        return [s.attempt_id for s in self.engine.statuses.values() if s.state == "running"]


class HandBlueprint:
    def __init__(self, world: World) -> None:
        self.world = world

    async def spec(self, attempt_id: str, folder: Path) -> WorkloadSpec:
        assert folder.is_dir()
        return WorkloadSpec(attempt_id, ["hand"], {}, folder)

    async def connect(self, folder: Path) -> Hand:
        attempt_id = folder.name
        if attempt_id not in self.world.running:
            raise ConnectionRefusedError
        await self.world.loading.wait()
        if self.world.failure:
            raise CannotStart(self.world.failure)
        if attempt_id not in self.world.replicas:
            self.world.replicas[attempt_id] = Hand(attempt_id)
            if self.world.shut:
                self.world.replicas[attempt_id].gate.clear()
        replica = self.world.replicas[attempt_id]
        replica.gone = asyncio.Event()
        return replica

    async def welcome(self, replica: Hand) -> None:
        if self.world.unwelcome:
            raise CannotStart(self.world.unwelcome)


class HandDozer:
    """A connected replica that dozes; its process ends when it is let go."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.gone = asyncio.Event()

    @property
    def closed(self) -> bool:
        return self.gone.is_set()

    async def wait_closed(self) -> None:
        await self.gone.wait()

    async def wake(self) -> Hand:
        if self.closed or self.folder.name not in self.world.running:
            raise Broken
        return await HandBlueprint(self.world).connect(self.folder)

    def close(self) -> None:
        self.gone.set()
        if self.folder.name in self.world.running and self.folder.name not in self.world.replicas:
            self.world.engine.end(self.folder.name, 0, "")


class DozingBlueprint(HandBlueprint):
    async def doze(self, attempt_id: str, folder: Path, modules: Sequence[str]) -> WorkloadSpec:
        assert tuple(modules) == Hand.modules
        return await self.spec(attempt_id, folder)

    async def meet(self, folder: Path) -> HandDozer:
        dozer = self.world.dozers[folder.name] = HandDozer(self.world, folder)
        return dozer


def named(owner: str = "fn_1", version: str = "1", kind: str = "function") -> ServiceName:
    return ServiceName(kind, owner, version, "prj_a")


class Room:
    """`close` and a new `Room` on the same home and world is a restart of the server."""

    def __init__(self, home: Path, world: World) -> None:
        self.world = world
        self.now = 1_000
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        if self.database.read_now(lambda c: c.execute(select(projects.c.id)).first()) is None:
            self.database.write_now(lambda c: insert_project(c, Project("prj_a", "a", 0), "test"))
        self.blobs_folder = home / "blobs"
        self.blobs = LocalBlobs(self.blobs_folder)
        self.sockets = home / "sockets"
        workloads = Workloads(world.engine, prefixes=(PREFIX,))
        replicas = Replicas(self.database, self.blobs, workloads, self.sockets, self.clock, in_use)
        self.services = Services(self.database, self.blobs, workloads, replicas)

    def clock(self) -> int:
        self.now += 1
        return self.now

    async def start(self) -> None:
        await self.services.start()

    async def close(self) -> None:
        await self.services.close()
        await self.blobs.close()
        self.database.close()

    def keep(
        self, name: ServiceName | None = None, *, needs: Needs | None = None, **scaling: object
    ) -> Service[Hand]:
        wishes = Scaling(**{"idle_seconds": 60.0, **scaling})  # type: ignore[arg-type]
        return self.services.keep(name or named(), HandBlueprint(self.world), wishes, needs)

    def ended_rows(self) -> list[tuple[str, int | None]]:
        from stratal.compute.services.records import of_owner

        found = self.database.read_now(lambda c: of_owner(c, "function", "fn_1", 100))
        return [(r.id, r.exit_code) for r in found if r.ended_at is not None]


async def ask(service: Service[Hand], size: int = 0) -> str:
    async with service.claim(size) as replica:
        return await replica.ask()


async def until(condition: Callable[[], object]) -> None:
    """Let everything run until `condition()`; fails when it never comes true."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)
