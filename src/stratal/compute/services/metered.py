"""What replicas use, told to the ledger: when one ends, and while it runs."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from stratal.compute.engine import WorkloadStatus
from stratal.compute.metered import units_of
from stratal.compute.services import records
from stratal.compute.services.model import ReplicaInfo, ServiceName
from stratal.compute.workloads import Workloads
from stratal.kernel.database import Database
from stratal.ledger.metering import Account, Running

Payer = Callable[[Connection, ServiceName], tuple[str, str]]
"""(the person who pays for a service, what people call it), as the room that keeps services of its kind knows."""


class Payers:
    """Who pays for services, by kind; for a kind that nobody speaks for, it is the service's project."""

    def __init__(self) -> None:
        self._payers: dict[str, Payer] = {}

    def add(self, kind: str, payer: Payer) -> None:
        self._payers[kind] = payer

    def running(self, c: Connection, replica: ReplicaInfo, status: WorkloadStatus) -> Running:
        """A replica with what it used so far, put down to whom it belongs. Its GPUs are its own all the time."""
        name = replica.service
        payer = self._payers.get(name.kind)
        person, called = ("", name.owner) if payer is None else payer(c, name)
        account = Account(name.project_id, person, f"{name.kind}:{called}", called)
        usage = status.usage
        if replica.gpu_uuids:
            usage = replace(usage, gpu_seconds=usage.wall_seconds * len(replica.gpu_uuids))
        used = units_of(usage, replica.needs.gpu_type or "")
        return Running(account, replica.id, status.started_at or replica.started_at, used)


class RunningReplicas:
    """The replicas that run now, as the engine sees them."""

    def __init__(self, database: Database, workloads: Workloads, payers: Payers) -> None:
        self._database = database
        self._workloads = workloads
        self._payers = payers

    async def __call__(self) -> Sequence[Running]:
        if not await self._database.read(records.running):
            return []
        listed = {status.attempt_id: status for status in await self._workloads.engine.adopt()}

        def told(c: Connection) -> list[Running]:
            return [
                self._payers.running(c, replica, listed[replica.id])
                for replica in records.running(c)
                if replica.id in listed
            ]

        return await self._database.read(told)
