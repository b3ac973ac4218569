"""What jobs use, told to the ledger: when an attempt ends, and while it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stratal.compute import records
from stratal.compute.engine import Capacity, Usage, WorkloadStatus
from stratal.compute.model import ACTIVE, Held, Job
from stratal.compute.tables import jobs
from stratal.compute.workloads import Workloads
from stratal.kernel.database import Database
from stratal.ledger.metering import Account, Running


def units_of(usage: Usage, gpu_type: str = "") -> dict[str, int]:
    """An attempt's usage in the ledger's units."""
    gpu = f"gpu:{gpu_type}" if gpu_type else "gpu"
    return {
        gpu: round(usage.gpu_seconds * 1e6),
        "cpu": round(usage.cpu_seconds * 1e6),
        "memory": round(usage.memory_byte_seconds / 1024),
        "wall": round(usage.wall_seconds * 1e6),
    }


def gpu_type_of(job: Job, capacity: Capacity) -> str:
    """The type of the GPUs that a job was given; "" for none, and for GPUs that are there no more."""
    found = {gpu.type for gpu in capacity.gpus if gpu.uuid in job.gpu_uuids}
    return found.pop() if len(found) == 1 else (job.gpu_type or "") if job.gpu_uuids else ""


def running_of(held: Held, usage: Usage, gpu_type: str) -> Running:
    """The attempt that a job is at, with what it used so far; its creator pays."""
    job = held.job
    account = Account(job.project_id, held.creator.name, job.workload, job.name)
    return Running(account, job.attempt_id, job.starting_at or job.queued_at, units_of(usage, gpu_type))


class RunningJobs:
    """The jobs that run now, as the engine sees them."""

    def __init__(self, database: Database, workloads: Workloads) -> None:
        self._database = database
        self._workloads = workloads

    async def __call__(self) -> Sequence[Running]:
        query = records.query().where(jobs.c.state.in_([state.value for state in ACTIVE]))
        rows = await self._database.read(lambda c: [dict(row) for row in c.execute(query).mappings()])
        if not rows:
            return []
        found = [records.held_of(row) for row in rows]
        listed: Mapping[str, WorkloadStatus] = {
            status.attempt_id: status for status in await self._workloads.engine.adopt()
        }
        capacity = await self._workloads.engine.capacity()
        return [
            _so_far(held, listed[held.job.attempt_id].usage, capacity)
            for held in found
            if held.job.attempt_id in listed
        ]


def _so_far(held: Held, usage: Usage, capacity: Capacity) -> Running:
    job = held.job
    usage = replace(usage, gpu_seconds=usage.wall_seconds * len(job.gpu_uuids))
    return running_of(held, usage, gpu_type_of(job, capacity))
