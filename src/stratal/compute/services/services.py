"""All services of the instance: kept, found again after a restart, ended, and making room for one another."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from stratal.compute.services import records
from stratal.compute.services.metered import Payer
from stratal.compute.services.model import (
    Needs,
    ReplicaInfo,
    Scaling,
    ServiceName,
    check_scaling,
)
from stratal.compute.services.port import Blueprint, R
from stratal.compute.services.replicas import Replicas, gpus_said
from stratal.compute.services.service import Service
from stratal.compute.workloads import Workloads
from stratal.kernel.blobs import BlobStore
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.ledger.budgets import Standing

log = logging.getLogger("stratal.services")


class Services:
    """`start` before use; `close` lets go, and replicas go on alone until they are found by the next `keep`."""

    def __init__(
        self, database: Database, blobs: BlobStore, workloads: Workloads, replicas: Replicas
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._workloads = workloads
        self._replicas = replicas
        self._kept: dict[ServiceName, Service[Any]] = {}
        self._left: list[ReplicaInfo] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._room = asyncio.Lock()
        self._used_up: Mapping[str, Standing] = {}

    async def start(self) -> None:
        await self._workloads.start()
        self._left = await self._database.read(records.running)
        self._replicas.begin_clearing([replica.id for replica in self._left])

    async def close(self) -> None:
        for service in list(self._kept.values()):
            await service.close(stop=False)
        self._kept.clear()
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await self._replicas.close()
        await self._workloads.close()

    def paid_by(self, kind: str, payer: Payer) -> None:
        """Have `payer` say whose usage the replicas of a kind of service are."""
        self._replicas.payers.add(kind, payer)

    # -- keeping -------------------------------------------------------------------------------

    def keep(
        self, name: ServiceName, blueprint: Blueprint[R], scaling: Scaling, needs: Needs | None = None
    ) -> Service[R]:
        """Keep the service from now on; replicas of it that an earlier server left are taken over.

        Scale it with `Service.change`, end it with `end`.
        """
        if name in self._kept:
            raise ValueError(f"{name} is kept already")
        mine = [replica.id for replica in self._left if replica.service == name]
        self._left = [replica for replica in self._left if replica.id not in mine]
        service = Service(name, blueprint, scaling, needs or Needs(), self._replicas, self._make_room)
        self._kept[name] = service
        self._limit(service)
        service.start(adopt=mine)
        return service

    async def end(self, service: Service[Any]) -> None:
        """Keep it no more: it answers what it was asked, and its replicas end. Waits for that."""
        self._kept.pop(service.name, None)
        await service.close(stop=True)

    def end_aside(self, service: Service[Any]) -> "asyncio.Task[None]":
        """As `end`, without waiting."""
        self._kept.pop(service.name, None)
        task = asyncio.create_task(service.close(stop=True), name=f"the end of {service.name}")
        self._ending.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._ending.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a service did not end well", exc_info=task.exception())

    async def settle(self, kind: str) -> None:
        """Every service of the kind is kept by now: what an earlier server left beside them is stopped."""
        strays = [replica.id for replica in self._left if replica.service.kind == kind]
        self._left = [replica for replica in self._left if replica.service.kind != kind]
        await self._replicas.stop_strays(strays)

    async def check(self, scaling: Scaling, needs: Needs) -> None:
        """Raise `Invalid` for wishes that make no sense, or that this machine could never fulfil."""
        check_scaling(scaling)
        capacity = await self._workloads.engine.capacity()
        if needs.cpus < 0 or needs.memory_bytes < 16 << 20:
            raise Invalid("A replica needs 0 processors or more, and 16 MiB of memory.", reason="bad_needs")
        count = max(1, scaling.least)
        if needs.cpus * count > capacity.cpus or needs.memory_bytes * count > capacity.memory_bytes:
            raise Invalid(
                f"This could never run here: {count} replica{'s' if count > 1 else ''} of {needs.cpus:g} processors "
                f"and {needs.memory_bytes / 2**30:.2f} GiB of memory, and there are {capacity.cpus:g} and "
                f"{capacity.memory_bytes / 2**30:.2f} GiB in all.",
                reason="never_fits",
            )
        if needs.gpu_type is not None and not needs.gpus:
            raise Invalid("A type of GPU was named, and no GPU asked for.", reason="bad_gpus")
        if not needs.gpus:
            return
        counts = Counter(gpu.type for gpu in capacity.gpus)
        most = counts[needs.gpu_type] if needs.gpu_type else max(counts.values(), default=0)
        if not 0 < needs.gpus * count <= most:
            there = ", ".join(f"{number} {kind}" for kind, number in counts.items()) or "no GPU"
            because = f" ({capacity.why_no_gpus})" if not counts and capacity.why_no_gpus else ""
            raise Invalid(
                f"This could never run here: {count} replica{'s' if count > 1 else ''} of {gpus_said(needs)}, and "
                f"there is {there}{because}.",
                hint="See what there is with: stratal gpus. A replica's GPUs are all of one type.",
                reason="never_fits",
            )

    async def _make_room(self, needs: Needs) -> bool:
        """Have the replica that was idle the longest end, of any service; False when none is idle."""
        async with self._room:
            for service in sorted(self._kept.values(), key=lambda kept: kept.idle_since):
                if await service.give_way():
                    return True
        return False

    async def heed(self, used_up: Mapping[str, Standing]) -> None:
        """Answer nobody in projects whose budgets are used up, and keep no replicas where the budget says so."""
        self._used_up = used_up
        for service in self._kept.values():
            self._limit(service)

    def _limit(self, service: Service[Any]) -> None:
        standing = self._used_up.get(service.name.project_id)
        if standing is None:
            service.limit(None, halt=False)
        else:
            service.limit(standing.refusal, halt=standing.budget.stops)

    # -- looking -------------------------------------------------------------------------------

    async def replicas(self, kind: str, owner: str, limit: int = 20) -> Sequence[ReplicaInfo]:
        """The owner's replicas, running and ended, newest first."""
        return await self._database.read(lambda c: records.of_owner(c, kind, owner, limit))

    async def log(self, kind: str, owner: str, attempt_id: str) -> bytes:
        """What one of the owner's replicas wrote, at most the first MiB. Raises `NotFound`."""
        found = await self._database.read(lambda c: records.owner_of(c, attempt_id))
        if found != (kind, owner):
            raise NotFound(f"There is no replica {attempt_id[:100]!r}.", reason="no_such_replica")
        return await self._replicas.log(attempt_id)

    # -- forgetting ----------------------------------------------------------------------------

    async def forget(self, kind: str, owner: str) -> None:
        """Remove the rows and logs of an owner's ended replicas (it was removed)."""
        await self._delete(await self._database.write(lambda c: records.prune(c, kind, owner, 0)))

    async def purge(self, project_id: str, kind: str) -> None:
        """Remove the rows and logs of a project's replicas of one kind; its services were ended before."""

        def work(c: Connection) -> list[str]:
            return records.purge(c, project_id, kind)

        await self._delete(await self._database.write(work))

    async def _delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._blobs.delete(key)
