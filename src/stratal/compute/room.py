"""The room's services, made together from what they stand on: the wiring calls `furnish` once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from uv import find_uv_bin

from stratal.compute.checkpoints import Checkpoints
from stratal.compute.engine import Engine
from stratal.compute.environments import Environments, Sources
from stratal.compute.gpu_meter import GpuMeter
from stratal.compute.joblogs import JobLogs
from stratal.compute.jobs import Jobs
from stratal.compute.launching import ClientEnv, Launching
from stratal.compute.leftovers import Leftovers, SweptBlobs
from stratal.compute.metered import RunningJobs
from stratal.compute.nodes import Nodes
from stratal.compute.queue import in_use
from stratal.compute.quotas import Quotas
from stratal.compute.reconciler import Reconciler
from stratal.compute.services.metered import RunningReplicas
from stratal.compute.services.replicas import PREFIX, Replicas
from stratal.compute.services.services import Services
from stratal.compute.snapshots import Snapshots
from stratal.compute.workloads import Workloads
from stratal.identity.keys import Keys
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.ledger.meter import Source


@dataclass(frozen=True, slots=True)
class Compute:
    following: Sequence[Workloads]
    environments: Environments
    snapshots: Snapshots
    jobs: Jobs
    quotas: Quotas
    nodes: Nodes
    services: Services
    leftovers: Leftovers
    running: Sequence[Source]
    """What runs now, for the meter."""

    async def start(self) -> None:
        await self.leftovers.start()
        for workloads in self.following:
            await workloads.start()
        await self.environments.start()
        await self.jobs.start()
        await self.services.start()

    async def close(self) -> None:
        """Let go of everything; what runs goes on running."""
        await self.services.close()
        await self.jobs.close()
        await self.environments.close()
        for workloads in self.following:
            await workloads.close()
        await self.leftovers.close()


def furnish(
    database: Database,
    blobs: SweptBlobs,
    keys: Keys,
    engine: Engine,
    clock: Clock,
    *,
    environments: Path,
    work: Path,
    checkpoints: Path,
    replica_logs: BlobStore,
    sockets: Path,
    sources: Sources,
    client_env: ClientEnv,
    jobs_on: Engine | None = None,
) -> Compute:
    """The services of compute on one engine, jobs on another where `jobs_on` is given. `environments`, `work`,
    `checkpoints` and `sockets` are folders of this machine.

    `replica_logs` keeps what ended replicas wrote; `sources` reads the operator's package sources;
    `client_env` makes the variables that point a workload's clients at this instance.
    """
    workloads = Workloads(engine) if jobs_on is None else Workloads(jobs_on, prefixes=("job-",))
    building = workloads if jobs_on is None else Workloads(engine, prefixes=("env-",))
    built = Environments(
        database, blobs, building, environments, clock, uv=Path(find_uv_bin()), sources=sources
    )
    snapshots = Snapshots(database, blobs, clock)
    logs = JobLogs(blobs, workloads, work)
    kept = Checkpoints(checkpoints)
    launching = Launching(database, keys, built, snapshots, kept, logs, client_env)
    gpus = GpuMeter(database, workloads.engine)
    reconciler = Reconciler(database, keys, workloads, launching, kept, logs, gpus, clock)
    jobs = Jobs(database, blobs, workloads, snapshots, logs, kept, reconciler, clock)
    following = Workloads(engine, prefixes=(PREFIX,))
    replicas = Replicas(database, replica_logs, following, sockets, clock, in_use, reconciler.kick)
    services = Services(database, replica_logs, following, replicas)
    quotas = Quotas(database, clock)
    nodes = Nodes(database, workloads.engine, name="" if jobs_on is None else "pool")
    return Compute(
        (workloads,) if building is workloads else (workloads, building),
        built,
        snapshots,
        jobs,
        quotas,
        nodes,
        services,
        Leftovers(database, blobs),
        (RunningJobs(database, workloads), RunningReplicas(database, following, replicas.payers)),
    )
