"""Functions over a real database and disk, with an engine and replicas that do what the test says."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import select

from rooms.compute.room import HandEngine, ReadyEnvironments
from stratal.ai.functions.calling import Asked
from stratal.ai.functions.model import Deployment, FunctionView, Invocation, InvocationState, Wishes
from stratal.ai.functions.room import furnish, furnish_apps
from stratal.ai.functions.runtime import Call, Command, Failed, Greeting, Start
from stratal.app.tables import metadata
from stratal.compute.environments import Environment
from stratal.compute.manifest import CodeFile
from stratal.compute.queue import in_use
from stratal.compute.services.port import Broken, CannotStart
from stratal.compute.services.replicas import PREFIX, Replicas
from stratal.compute.services.services import Services
from stratal.compute.snapshots import Snapshots
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
CODE = b"def handler(event): ...\n"


class HandExchange:
    """A call that ends as the test's word in its body says."""

    def __init__(self, replica: "HandReplica", call: Call) -> None:
        self._replica = replica
        self._call = call
        self.log = b""
        self.ended = False

    async def start(self) -> Start:
        world = self._replica.world
        word = orjson.loads(self._call.body)
        world.calls.append(self._call)
        world.at_once += 1
        world.most_at_once = max(world.most_at_once, world.at_once)
        try:
            gone = asyncio.ensure_future(self._replica.wait_closed())
            gate = asyncio.ensure_future(world.gate.wait())
            await asyncio.wait([gone, gate], return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            gate.cancel()
        finally:
            world.at_once -= 1
        if self._replica.closed:
            self.ended = True
            raise Broken
        self.log = f"wrote {word}".encode()
        if word == "die":
            world.kill(self._replica.id)
            self.ended = True
            raise Broken
        if isinstance(word, str) and word in world.failing:
            self.ended = True
            raise Failed(f"The function raised ValueError: {word}", type="ValueError")
        length = 40 if word == "of known length" else None
        return Start(201 if word == "created" else 200, {"content-type": "application/json"}, length)

    async def chunks(self) -> AsyncIterator[bytes]:
        word = orjson.loads(self._call.body)
        if word == "of known length":
            for _ in range(4):
                yield bytes(10)
            self.ended = True
            return
        if word == "long":
            for _ in range(40):
                yield bytes(1 << 16)
        yield orjson.dumps({"by": self._replica.id, "word": word})
        if word == "breaks off":
            raise Failed("The function raised ValueError: breaks off", type="ValueError")
        self.ended = True

    async def close(self) -> None:
        self.ended = True


class HandReplica:
    modules = ()

    def __init__(self, attempt_id: str, world: "World") -> None:
        self.id = attempt_id
        self.world = world
        self.greeting = Greeting(False, 0.1)
        self.gone = asyncio.Event()
        self.busy_since: float | None = None

    @property
    def closed(self) -> bool:
        return self.gone.is_set()

    async def wait_closed(self) -> None:
        await self.gone.wait()

    def close(self) -> None:
        self.gone.set()

    def call(self, call: Call) -> HandExchange:
        if self.closed:
            raise Broken
        return HandExchange(self, call)


@dataclass
class World:
    """Outlives the services, as keeper and replicas outlive the server."""

    engine: HandEngine = field(default_factory=lambda: HandEngine(4, 8 << 30))
    failing: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    cannot_load: str = ""
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    loading: asyncio.Event = field(default_factory=asyncio.Event)
    replicas: dict[str, HandReplica] = field(default_factory=dict)
    app: Any = None
    told: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    now: int = 1_000_000

    def __post_init__(self) -> None:
        self.gate.set()
        self.loading.set()

    def kill(self, attempt_id: str) -> None:
        self.replicas[attempt_id].close()
        self.engine.end(attempt_id, 137, "killed")

    @property
    def running(self) -> list[str]:
        return [s.attempt_id for s in self.engine.statuses.values() if s.state == "running"]


class HandProgram:
    def __init__(self, world: World) -> None:
        self.world = world

    def command(
        self, python: Path, target: str, code: Path, folder: Path, told: Mapping[str, object]
    ) -> Command:
        assert (code / "app.py").read_bytes() == CODE
        return Command(["hand", target], {"plan.json": b"{}"}, [code])

    async def connect(self, folder: Path) -> HandReplica:
        if folder.name not in self.world.running:
            raise ConnectionRefusedError
        await self.world.loading.wait()
        if self.world.cannot_load:
            raise CannotStart(self.world.cannot_load)
        replica = self.world.replicas.setdefault(folder.name, HandReplica(folder.name, self.world))
        replica.gone = asyncio.Event()
        return replica


class HandConversation:
    """A request to an app that is a coroutine of the test's."""

    def __init__(self, replica: "HandAppReplica", scope: Mapping[str, Any]) -> None:
        self._heard: asyncio.Queue[Any] = asyncio.Queue()
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        told = {
            **scope,
            "raw_path": scope["raw_path"].encode(),
            "query_string": scope["query_string"].encode(),
            "headers": [(n.encode(), v.encode()) for n, v in scope["headers"]],
        }
        replica.told.append(told)
        self._task = asyncio.create_task(self._run(replica, told))

    async def _run(self, replica: "HandAppReplica", told: dict[str, Any]) -> None:
        async def say(message: Any) -> None:
            self._said.put_nowait(message)

        try:
            await replica.app(told, self._heard.get, say)
        except ValueError as error:
            self._said.put_nowait(Failed(f"The app raised {error}.", type="ValueError"))
        except Broken as error:
            self._said.put_nowait(error)

    async def send(self, message: Any) -> None:
        self._heard.put_nowait(message)

    async def receive(self) -> Any:
        said = await self._said.get()
        if isinstance(said, BaseException):
            raise said
        return said

    def close(self) -> None:
        self._heard.put_nowait({"type": "http.disconnect"})


class HandAppReplica(HandReplica):
    def __init__(self, attempt_id: str, world: "World") -> None:
        super().__init__(attempt_id, world)
        self.app = world.app
        self.told = world.told

    def open(self, scope: Mapping[str, Any]) -> HandConversation:
        if self.closed:
            raise Broken
        return HandConversation(self, scope)


class HandAppProgram(HandProgram):
    async def connect(self, folder: Path) -> HandAppReplica:
        replica = await super().connect(folder)
        if not isinstance(replica, HandAppReplica):
            replica = HandAppReplica(folder.name, self.world)
            self.world.replicas[folder.name] = replica
        return replica


class Environments(ReadyEnvironments):
    async def get(self, environment_id: str, *, progress: object = None) -> Environment:
        return await self.for_requirements("")


class Room:
    """`close` and a new `Room` on the same home and world is a restart of the server."""

    def __init__(self, home: Path, world: World) -> None:
        self.world = world
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        if self.database.read_now(lambda c: c.execute(select(projects.c.id)).first()) is None:
            self.database.write_now(lambda c: insert_project(c, PLACE, "test"))
            self.database.write_now(lambda c: insert_project(c, Project("prj_b", "beta", 0), "test"))
        self.keys = Keys(self.database, MasterKey({1: b"k" * 32}), self.clock)
        self.blobs = LocalBlobs(home / "blobs")
        self.snapshots = Snapshots(self.database, self.blobs, self.clock)
        workloads = Workloads(world.engine, prefixes=(PREFIX,))
        replicas = Replicas(self.database, self.blobs, workloads, home / "sockets", self.clock, in_use)
        self.services = Services(self.database, self.blobs, workloads, replicas)
        self.environments = Environments(home)
        made = furnish(
            self.database,
            self.keys,
            self.environments,  # type: ignore[arg-type]
            self.snapshots,
            self.services,
            HandProgram(world),
            Events(self.database),
            lambda credential, project: {"STRATAL_API_KEY": credential.token, "STRATAL_PROJECT": project},
            self.clock,
            layouts=home / "functions",
        )
        self.room = made
        self.functions, self.calling, self.invocations = made.functions, made.calling, made.invocations
        sessions = Sessions(self.database, self.clock)
        self.visits = Visits(self.database, self.keys, sessions, Events(self.database), self.clock)
        self.apps = furnish_apps(
            self.database,
            self.keys,
            self.environments,  # type: ignore[arg-type]
            self.snapshots,
            self.services,
            self.visits,
            HandAppProgram(world),
            Events(self.database),
            lambda credential, project: {"STRATAL_API_KEY": credential.token, "STRATAL_PROJECT": project},
            self.clock,
            layouts=home / "apps",
        )

    def clock(self) -> int:
        return self.world.now

    def later(self, milliseconds: int) -> None:
        """Let time pass."""
        self.world.now += milliseconds
        self.room.sources.kick()
        self.room.later.kick()

    async def start(self) -> None:
        await self.services.start()
        await self.room.start()
        await self.apps.start()

    async def close(self) -> None:
        await self.apps.close()
        await self.room.close()
        await self.services.close()
        await self.blobs.close()
        self.database.close()

    # -- shorthands ----------------------------------------------------------------------------

    async def code(self) -> str:
        digest = hashlib.sha256(CODE).digest()

        async def pack() -> AsyncIterator[bytes]:
            yield digest + len(CODE).to_bytes(8, "big") + CODE

        await self.snapshots.receive(OWNER, "prj_a", pack())
        offer = await self.snapshots.offer(
            OWNER, "prj_a", [CodeFile("app.py", "100644", digest.hex(), len(CODE))]
        )
        return offer.id

    async def deploy(self, name: str = "fn", *, who: Principal = OWNER, **wishes: Any) -> FunctionView:
        """Deploy and wait until the revision answers or has failed."""
        asked = Deployment(name, "app.py:handler", await self.code(), wishes=Wishes(**wishes))
        made = await self.functions.deploy(who, PLACE, asked)
        number = made.latest.number
        while made.latest.number == number and made.latest.state in {"preparing", "starting"}:
            await asyncio.sleep(0.001)
            made = await self.functions.get(OWNER, "prj_a", name)
        return made

    async def call(self, word: str, name: str = "fn", *, who: Principal | None = VIEWER) -> tuple[int, Any]:
        """The status and the JSON that the function answers."""
        answer = await self.calling.invoke(
            who, self.room.registry.get("prj_a", name), Asked(orjson.dumps(word))
        )
        try:
            data = b"".join([chunk async for chunk in answer.chunks()])
            return answer.start.status, orjson.loads(data)
        finally:
            await answer.close()

    async def submit(self, word: str, name: str = "fn") -> Invocation:
        live = self.room.registry.get("prj_a", name)
        return await self.invocations.submit(VIEWER, live, Asked(orjson.dumps(word)))

    async def told(self, invocation_id: str, name: str = "fn") -> Invocation:
        return await self.invocations.get(VIEWER, "prj_a", name, invocation_id)

    async def result(self, invocation_id: str, name: str = "fn") -> bytes | None:
        live = self.room.registry.get("prj_a", name)
        return (await self.invocations.result(VIEWER, live, invocation_id))[1]

    async def all(self, *states: InvocationState, name: str = "fn") -> list[Invocation]:
        return list((await self.invocations.list(VIEWER, "prj_a", name, states=states)).invocations)

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
