"""An endpoints room on a real database and disk; its engine, environments and replicas do what the test says."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select

from stratal.ai.endpoints.layout import Layouts
from stratal.ai.endpoints.model import Changes
from stratal.ai.endpoints.rollout import Rollouts
from stratal.ai.endpoints.runtime import Broken, CannotLoad, Command, Greeting, Plan
from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.service import Endpoints
from stratal.ai.endpoints.serving import Serving
from stratal.ai.endpoints.tensors import Tensor
from stratal.ai.models.model import Facts, ModelFile, ModelVersion
from stratal.ai.predictions.service import Predictions
from stratal.ai.predictions.spool import Spool
from stratal.app.tables import metadata
from stratal.compute.engine import Capacity, WorkloadSpec, WorkloadStatus
from stratal.compute.environments import Environment
from stratal.compute.queue import in_use
from stratal.compute.services.replicas import PREFIX, Replicas
from stratal.compute.services.services import Services
from stratal.compute.workloads import Workloads
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Project, insert_project
from stratal.identity.tables import projects
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.stores.local import LocalBlobs

OWNER = Principal(Kind.SERVICE, "ada", "ada", "prj_a", "alpha", Role.OWNER)
VIEWER = Principal(Kind.SERVICE, "vic", "vic", "prj_a", "alpha", Role.VIEWER)
STRANGER = Principal(Kind.SERVICE, "bob", "bob", "prj_b", "beta", Role.OWNER)


def ask(*values: float) -> Inputs:
    """One row of numbers."""
    from stratal.ai.endpoints.tensors import of_rows

    return Inputs(of_rows([list(values)], None))


@dataclass
class World:
    """What outlives the room's services, as machine and keeper outlive the server. `cannot_load`: model file's
    content → the failure its replica tells."""

    statuses: dict[str, WorkloadStatus] = field(default_factory=dict)
    replicas: dict[str, "HandReplica"] = field(default_factory=dict)
    cannot_load: dict[bytes, str] = field(default_factory=dict)
    tampered: bool = False
    hold_loading: asyncio.Event | None = None
    started: list[str] = field(default_factory=list)


class HandEngine:
    """The `Engine` port: what it starts runs until the test or a stop ends it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._news: asyncio.Queue[WorkloadStatus] = asyncio.Queue()

    async def capacity(self) -> Capacity:
        return Capacity(2, 4 << 30)

    async def start(self, spec: WorkloadSpec) -> WorkloadStatus:
        status = WorkloadStatus(spec.attempt_id, "running", pid=1, started_at=1)
        self.world.statuses[spec.attempt_id] = status
        self.world.started.append(spec.attempt_id)
        self.world.replicas[str(spec.cwd)] = HandReplica(spec, self.world)
        return status

    async def adopt(self) -> Sequence[WorkloadStatus]:
        return list(self.world.statuses.values())

    async def watch(self) -> AsyncIterator[WorkloadStatus]:
        while True:
            yield await self._news.get()

    async def stop(self, attempt_id: str, grace_seconds: float) -> None:
        self.end(attempt_id, 0, "stopped")

    def end(self, attempt_id: str, exit_code: int, reason: str = "") -> None:
        if self.world.statuses.get(attempt_id, WorkloadStatus(attempt_id, "exited")).state != "running":
            return
        status = WorkloadStatus(attempt_id, "exited", exit_code=exit_code, reason=reason)
        self.world.statuses[attempt_id] = status
        for place, replica in self.world.replicas.items():
            if place.endswith(attempt_id):
                replica.die()
        self._news.put_nowait(status)

    async def logs(self, attempt_id: str, offset: int, limit: int = 1 << 20) -> bytes:
        return f"log of {attempt_id}\n".encode()[offset:]

    async def warm(self, spec: WorkloadSpec, *, renew: bool = False) -> bool:
        return False

    async def release(self, attempt_id: str) -> None:
        self.world.statuses.pop(attempt_id, None)


class HandReplica:
    """A replica whose model adds up each row; a row that begins with -1 kills it, with -2 makes it silent."""

    modules = ()

    def __init__(self, spec: WorkloadSpec, world: World) -> None:
        self.model = (Path(spec.argv[1]) / "model.bin").read_bytes()
        self.world = world
        self.closed_event = asyncio.Event()
        self.in_flight = 0
        self.busy_since: float | None = None
        from hashlib import sha256

        loaded = {"model.bin": "0" * 64 if world.tampered else sha256(self.model).hexdigest()}
        self.greeting = Greeting(
            {
                "inputs": [{"name": "input-0", "datatype": "FP64", "shape": [-1, -1]}],
                "outputs": [{"name": "predict", "datatype": "FP64", "shape": [-1]}],
                "columns": None,
                "classes": None,
                "answers": "predict",
            },
            loaded,
            {"hand": "1"},
            0.1,
        )

    @property
    def closed(self) -> bool:
        return self.closed_event.is_set()

    def die(self) -> None:
        self.closed_event.set()

    def close(self) -> None:
        self.closed_event.set()

    async def wait_closed(self) -> None:
        await self.closed_event.wait()

    async def infer(self, inputs: Inputs, outputs: Sequence[str] | None) -> list[Tensor]:
        from stratal.ai.endpoints.tensors import nested, pack

        rows = nested(inputs.tensors[0])
        if rows[0][0] == -1:
            self.die()
            raise Broken
        if rows[0][0] == -2:
            self.in_flight += 1
            self.busy_since = asyncio.get_running_loop().time()
            await self.closed_event.wait()
            raise Broken
        if rows[0][0] == -3:
            raise Invalid("no -3, please")
        await asyncio.sleep(0)
        sums = [float(sum(row)) for row in rows]
        return [Tensor("predict", "FP64", (len(sums),), pack("FP64", sums))]


class HandRuntime:
    """The `Runtime` port over `HandReplica`s. A dead process refuses connections, as an unbound socket does."""

    def __init__(self, world: World) -> None:
        self.world = world

    def plan(
        self, flavors: Mapping[str, Any], signature: Mapping[str, Any] | None, files: Sequence[str]
    ) -> Plan:
        for flavor in ("hand", "onnx"):
            if flavor in flavors:
                return Plan(flavor, {})
        raise Invalid("No runtime here serves that.", reason="unservable")

    def command(
        self, plan: Plan, python: Path, model: Path, folder: Path, doze: Sequence[str] | None = None
    ) -> Command:
        assert doze is None  # its replicas tell no modules
        return Command([str(python), str(model)], {"plan.json": b"{}"}, [model])

    async def connect(self, folder: Path) -> HandReplica:
        replica = self.world.replicas.get(str(folder))
        status = self.world.statuses.get(folder.name)
        if replica is None or status is None or status.state != "running":
            raise ConnectionRefusedError
        if self.world.hold_loading is not None:
            await self.world.hold_loading.wait()
        if replica.model in self.world.cannot_load:
            raise CannotLoad(self.world.cannot_load[replica.model])
        replica.closed_event = asyncio.Event()
        return replica


class HandEnvironments:
    async def for_requirements(self, text: str, **_: Any) -> Environment:
        if "impossible" in text:
            raise Invalid("nothing satisfies impossible", reason="environment_failed")
        return await self.get("env-of-requirements")

    async def get(self, environment_id: str, **_: Any) -> Environment:
        return Environment(environment_id, Path("/env"), "3.11.7", "linux", 1, "blob", 0)


class HandModels:
    """`resolve` of models that the test registers with `add`."""

    def __init__(self, blobs: LocalBlobs) -> None:
        self._blobs = blobs
        self._versions: dict[str, ModelVersion] = {}

    async def add(
        self,
        name: str,
        content: bytes,
        *,
        requirements: str = "hand",
        flavor: str = "hand",
        path: str = "model.bin",
    ) -> str:
        number = 1 + sum(uri.startswith(f"models:/{name}/") for uri in self._versions)
        blob = await self._blobs.put(content)
        version = ModelVersion(
            id=f"mv_{name}{number}",
            project_id="prj_a",
            name=name,
            version=number,
            source="",
            run_id=None,
            run_link="",
            logged_model_id=None,
            workload=None,
            description="",
            stage="None",
            created_at=0,
            updated_at=0,
            created_by="ada",
            facts=Facts(flavors={flavor: {}}, requirements=requirements),
            files=(ModelFile(path, blob.size, blob.sha256, blob.key),),
        )
        self._versions[version.uri] = version
        return version.uri

    def blob_of(self, uri: str) -> str:
        return self._versions[uri].files[0].blob_key

    async def resolve(self, who: Principal, project_id: str, uri: str) -> ModelVersion:
        if uri not in self._versions:
            raise NotFound(f"There is no {uri}.")
        return self._versions[uri]


class NoJobs:
    async def by_workload(self, workload: str) -> None:
        raise NotFound("no jobs here")


class Room:
    """The room's services; `stop` and a new `Room` on the same folder and world is a restart of the server."""

    def __init__(self, folder: Path, world: World, *, request_seconds: float = 30.0) -> None:
        self.folder = folder
        (folder / "db").mkdir(exist_ok=True)
        for name in ("models", "spool", "sockets"):
            (folder / name).mkdir(exist_ok=True)
        self.database = Database(folder / "db" / "test.db")
        self._make_tables()
        self.world = world
        self.engine = HandEngine(world)
        self.blobs = LocalBlobs(folder / "blobs")
        self.models = HandModels(self.blobs)
        self.spool = Spool(folder / "spool")
        self.predictions = Predictions(self.spool, self.database)
        self.workloads = Workloads(self.engine, prefixes=(PREFIX,))
        layouts = Layouts(folder / "models", self.blobs)
        environments: Any = HandEnvironments()
        self.services = Services(
            self.database,
            self.blobs,
            self.workloads,
            Replicas(self.database, self.blobs, self.workloads, folder / "sockets", lambda: 1_000, in_use),
        )
        self.serving = Serving(self.predictions, lambda: 1_000, request_seconds=request_seconds)
        self.rollouts = Rollouts(
            self.database, self.services, environments, layouts, HandRuntime(world), self.serving, {}
        )
        jobs: Any = NoJobs()
        self.endpoints = Endpoints(
            self.database,
            self.models.resolve,
            jobs,
            HandRuntime(world),
            self.rollouts,
            self.services,
            self.serving,
            self.predictions,
            lambda: 1_000,
        )

    def _make_tables(self) -> None:
        def work(c: Any) -> None:
            metadata.create_all(c)
            if c.execute(select(projects.c.id)).first() is None:
                insert_project(c, Project("prj_a", "alpha", 0), "test")
                insert_project(c, Project("prj_b", "beta", 0), "test")

        self.database.write_now(work)

    async def start(self) -> None:
        await self.spool.start()
        await self.services.start()
        await self.rollouts.start()

    async def close(self) -> None:
        await self.rollouts.close()
        await self.services.close()
        await self.spool.close()
        await self.blobs.close()
        self.database.close()

    # -- shorthands ----------------------------------------------------------------------------

    async def deployed(
        self,
        name: str,
        uri: str,
        *,
        traffic: Mapping[str, int] | None = None,
        as_is: bool = False,
        **changes: Any,
    ) -> None:
        """Deploy, and wait until it answers or failed."""
        made = await self.endpoints.deploy(
            OWNER, "prj_a", name, uri, changes=Changes(**changes), traffic=traffic, as_is=as_is
        )
        await until(lambda: self._settled(name, made.latest.number))

    def _settled(self, name: str, number: int) -> bool:
        live = self.serving.find("prj_a", name)
        return live is not None and live.deploying is None

    async def ask(self, name: str, *values: float, who: Principal = OWNER) -> tuple[float, str]:
        """The model's answer to one row, and the prediction's id."""
        from stratal.ai.endpoints.tensors import values as unpacked

        answer = await self.serving.infer(who, "prj_a", name, ask(*values), None, request_id="req_1")
        return unpacked(answer.outputs[0])[0], answer.prediction_id

    async def state(self, name: str) -> str:
        return (await self.endpoints.get(OWNER, "prj_a", name)).state


async def until(condition: Any) -> None:
    """Let everything run until `condition()`; fails when it never comes true."""
    async with asyncio.timeout(60):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.001)
