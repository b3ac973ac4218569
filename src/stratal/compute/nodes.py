"""The machines that work runs on: what they have, what of it is held, what their GPUs are doing."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import Connection, select

from stratal.compute.admission import Amount
from stratal.compute.engine import Capacity, Engine, Gpu, GpuSample
from stratal.compute.model import ACTIVE
from stratal.compute.queue import in_use
from stratal.compute.services.records import with_gpus as replicas_with_gpus
from stratal.compute.tables import jobs
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.tables import projects
from stratal.kernel.database import Database


@dataclass(frozen=True, slots=True)
class Holder:
    """The job or replica that holds a GPU; all are None where they are not the asker's to know."""

    job_id: int | None = None
    replica: str | None = None
    """What kind of service it is one of, and its id: ``endpoint rep-endpoint-…``."""
    project: str | None = None


@dataclass(frozen=True, slots=True)
class GpuState:
    gpu: Gpu
    holder: Holder | None
    sample: GpuSample | None


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. `used` is what jobs and replicas were given of it, which they need not be using."""

    name: str
    capacity: Capacity
    used: Amount
    jobs: int
    gpus: Sequence[GpuState]


class Nodes:
    """`name`: what the engine's machines are called together; "": it has this one."""

    def __init__(self, database: Database, engine: Engine, name: str = "") -> None:
        self._database = database
        self._name = name
        self._engine = engine

    async def list(self, who: Principal, project_id: str) -> Sequence[Node]:
        """Every machine, for whoever may look at the project's jobs. Raises `NotFound`."""
        require(who, "jobs.read", project_id)
        capacity = await self._engine.capacity()
        samples = await self._engine.gpu_samples([gpu.uuid for gpu in capacity.gpus])

        def work(c: Connection) -> tuple[Amount, int, dict[str, Holder]]:
            query = select(jobs.c.id, jobs.c.project_id, projects.c.name, jobs.c.gpu_uuids).join(
                projects, projects.c.id == jobs.c.project_id
            )
            rows = c.execute(query.where(jobs.c.state.in_([state.value for state in ACTIVE]))).all()
            holders = {}
            for row in rows:
                seen = who.is_admin or row.project_id == project_id
                holder = Holder(job_id=row.id, project=row.name) if seen else Holder()
                holders.update(dict.fromkeys(orjson.loads(row.gpu_uuids), holder))
            for row in c.execute(replicas_with_gpus()):
                seen = who.is_admin or row.project_id == project_id
                holder = Holder(replica=f"{row.kind} {row.id}", project=row.project) if seen else Holder()
                holders.update(dict.fromkeys(orjson.loads(row.gpu_uuids), holder))
            cpus, memory, held = in_use(c)
            return Amount(cpus, memory, len(held)), len(rows), holders

        used, running, holders = await self._database.read(work)
        gpus = [GpuState(gpu, holders.get(gpu.uuid), samples.get(gpu.uuid)) for gpu in capacity.gpus]
        return [Node(self._name or socket.gethostname(), capacity, used, running, gpus)]
