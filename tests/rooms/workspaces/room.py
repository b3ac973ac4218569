"""Workspaces over a real database and disk, with an engine and notebook servers that do what the test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from rooms.compute.room import HandEngine, ReadyEnvironments
from stratal.app.tables import metadata
from stratal.collab.workspaces.model import Program, Save, State, Wishes, WorkspaceView
from stratal.collab.workspaces.room import furnish_workspaces
from stratal.collab.workspaces.runtime import Command
from stratal.collab.workspaces.upkeep import Live
from stratal.compute.environments import Environment
from stratal.compute.queue import in_use
from stratal.compute.services.port import CannotStart
from stratal.compute.services.replicas import PREFIX, Replicas
from stratal.compute.services.services import Services
from stratal.compute.workloads import Workloads
from stratal.identity.keys import Keys
from stratal.identity.master import MasterKey
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Project, insert_project
from stratal.identity.sessions import Sessions
from stratal.identity.tables import projects
from stratal.identity.visits import Visits
from stratal.kernel.database import Database
from stratal.kernel.events import Event, Events
from stratal.stores.local import LocalBlobs

PLACE = Project("prj_a", "alpha", 0)
OWNER = Principal(Kind.SERVICE, "ada", "ada", "prj_a", "alpha", Role.OWNER)
VIEWER = Principal(Kind.SERVICE, "vic", "vic", "prj_a", "alpha", Role.VIEWER)
STRANGER = Principal(Kind.SERVICE, "bob", "bob", "prj_b", "beta", Role.OWNER)


class HandNotebook:
    modules = ()

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.busy = False
        self.busy_since: float | None = None
        self.socket = "/nowhere"
        self.secret = "secret"

    @property
    def closed(self) -> bool:
        return self.gone.is_set()

    async def wait_closed(self) -> None:
        await self.gone.wait()

    def close(self) -> None:
        self.gone.set()


@dataclass
class World:
    """Outlives the services, as keeper and notebook servers outlive the server."""

    engine: HandEngine = field(default_factory=lambda: HandEngine(4, 8 << 30))
    cannot_start: str = ""
    notebooks: dict[str, HandNotebook] = field(default_factory=dict)
    now: int = 1_000_000

    def kill(self, attempt_id: str) -> None:
        self.notebooks[attempt_id].close()
        self.engine.end(attempt_id, 137, "killed")

    @property
    def running(self) -> list[str]:
        return [s.attempt_id for s in self.engine.statuses.values() if s.state == "running"]


class HandProgram:
    requirements = "notebook-server==1\n"
    front = "/lab"

    def __init__(self, world: World) -> None:
        self.world = world

    def command(self, python: Path, folder: Path, place: Path) -> Command:
        return Command(["hand", str(place)], {}, [])

    async def connect(self, folder: Path) -> HandNotebook:
        if folder.name not in self.world.running:
            raise ConnectionRefusedError
        if self.world.cannot_start:
            raise CannotStart(self.world.cannot_start)
        notebook = self.world.notebooks.setdefault(folder.name, HandNotebook())
        notebook.gone = asyncio.Event()
        return notebook


class Environments(ReadyEnvironments):
    async def get(self, environment_id: str, *, progress: object = None) -> Environment:
        return await self.for_requirements("")


class Room:
    """`close` and a new `Room` on the same home and world is a restart of the server."""

    def __init__(self, home: Path, world: World) -> None:
        self.world = world
        self.home = home
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        if self.database.read_now(lambda c: c.execute(select(projects.c.id)).first()) is None:
            self.database.write_now(lambda c: insert_project(c, PLACE, "test"))
            self.database.write_now(lambda c: insert_project(c, Project("prj_b", "beta", 0), "test"))
        self.keys = Keys(self.database, MasterKey({1: b"k" * 32}), self.clock)
        self.sessions = Sessions(self.database, self.clock)
        self.blobs = LocalBlobs(home / "blobs")
        self.logs = LocalBlobs(home / "logs")
        workloads = Workloads(world.engine, prefixes=(PREFIX,))
        replicas = Replicas(self.database, self.logs, workloads, home / "sockets", self.clock, in_use)
        self.services = Services(self.database, self.logs, workloads, replicas)
        self.environments = Environments(home)
        events = Events(self.database)
        self.visits = Visits(self.database, self.keys, self.sessions, events, self.clock)
        self.studio = furnish_workspaces(
            self.database,
            self.blobs,
            self.environments,  # type: ignore[arg-type]
            self.services,
            self.keys,
            self.visits,
            events,
            dict.fromkeys(Program, HandProgram(world)),
            lambda credential, project: {"STRATAL_API_KEY": credential.token, "STRATAL_PROJECT": project},
            self.clock,
            root=home / "workspaces",
        )
        self.workspaces = self.studio.workspaces

    def clock(self) -> int:
        return self.world.now

    async def start(self) -> None:
        await self.services.start()
        await self.studio.start()
        await self.visits.start()

    async def close(self) -> None:
        await self.visits.close()
        await self.studio.close()
        await self.services.close()
        await self.blobs.close()
        await self.logs.close()
        self.database.close()

    # -- shorthands ----------------------------------------------------------------------------

    @property
    def files(self) -> Path:
        return self.home / "workspaces" / self.live().workspace.id / "files"

    def live(self, name: str = "eda") -> Live:
        found = self.studio.upkeep.get("prj_a", name)
        assert found is not None
        return found

    async def made(self, name: str = "eda", **wishes: Any) -> WorkspaceView:
        """Make a workspace and wait until it runs."""
        await self.workspaces.create(OWNER, PLACE, name, wishes=Wishes(**wishes))
        return await self.state(State.RUNNING, name)

    async def state(self, wanted: State, name: str = "eda") -> WorkspaceView:
        """Wait until the workspace is in this state."""

        async def reached() -> WorkspaceView | None:
            seen = await self.workspaces.get(OWNER, "prj_a", name)
            return seen if seen.state is wanted else None

        found = await until(reached)
        assert isinstance(found, WorkspaceView)
        return found

    async def keep(self, path: str, content: bytes, *, who: Principal = OWNER) -> Save:
        async def chunks() -> AsyncIterator[bytes]:
            yield content[:3]
            yield content[3:]

        return await self.workspaces.keep(who, "prj_a", "eda", path, chunks(), None)

    async def content(self, seq: int) -> bytes:
        _, chunks = await self.workspaces.content(VIEWER, "prj_a", "eda", seq)
        return b"".join([chunk async for chunk in chunks])

    async def events(self, prefix: str) -> list[Event]:
        found = await Events(self.database).after(0)
        return [event for event in found if event.kind.startswith(prefix)]


async def until(condition: Callable[[], Any]) -> Any:
    """Let everything run until `condition()` (awaited, where that is needed) is true; fails when it never is."""
    async with asyncio.timeout(60):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.002)
