"""Lineage: the edges between workloads and the versions of things they read and wrote.

Doors and services call `record` whenever a *workload's* credential reads or writes something with a
version; people's own traffic leaves no edges. An edge is durable before the bytes it speaks of leave,
so a chain is never shorter than the truth.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, delete, insert, select

from stratal.identity.model import Principal
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.ledger.past import Pasts
from stratal.ledger.tables import accesses, pasts

Mode = Literal["read", "write"]
Kind = Literal["object", "snapshot", "model", "run", "commit"]
_REMEMBERED = 50_000


@dataclass(frozen=True, slots=True)
class Access:
    """`workload` read or wrote `version` (an object version's id, ``<table id>@<snapshot id>``, a model
    version's id, ``<repository id>@<commit>``) of the thing called `name`, first at `first_at` (epoch milliseconds)."""

    workload: str
    mode: Mode
    kind: Kind
    version: str
    project_id: str
    name: str
    first_at: int


class Lineage:
    """`pasts` says which workloads are shown earlier versions (see `past`)."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.pasts = Pasts(database)
        self._database = database
        self._clock = clock
        self._known: OrderedDict[tuple[str, str, str, str], None] = OrderedDict()

    async def record(
        self, who: Principal, mode: Mode, kind: Kind, version: str, *, project_id: str, name: str
    ) -> None:
        """Record one edge for the caller's workload; does nothing for people. Returns when it is durable."""
        if who.workload is None:
            return
        key = (who.workload, mode, kind, version)
        if key in self._known:
            return
        values = {
            "workload": who.workload,
            "mode": mode,
            "kind": kind,
            "version": version,
            "project_id": project_id,
            "name": name,
            "first_at": self._clock(),
        }
        same = (
            (accesses.c.workload == who.workload)
            & (accesses.c.mode == mode)
            & (accesses.c.kind == kind)
            & (accesses.c.version == version)
        )

        def work(connection: Connection) -> None:
            if connection.execute(select(accesses.c.workload).where(same)).first() is None:
                connection.execute(insert(accesses).values(values))

        await self._database.write(work)
        self._known[key] = None
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def of_workload(self, workload: str, mode: Mode | None = None) -> list[Access]:
        """The workload's edges, in the order they were first seen."""
        query = (
            select(accesses)
            .where(accesses.c.workload == workload)
            .order_by(accesses.c.first_at, accesses.c.version)
        )
        if mode is not None:
            query = query.where(accesses.c.mode == mode)
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [Access(r.workload, r.mode, r.kind, r.version, r.project_id, r.name, r.first_at) for r in rows]

    async def writers(self, kind: Kind, version: str) -> list[str]:
        """The workloads that wrote this very version, oldest first."""
        query = (
            select(accesses.c.workload)
            .where(accesses.c.kind == kind, accesses.c.version == version, accesses.c.mode == "write")
            .order_by(accesses.c.first_at, accesses.c.workload)
        )
        return list(await self._database.read(lambda c: c.execute(query).scalars().all()))

    async def is_referenced(self, kind: Kind, version: str) -> bool:
        """Does any workload's chain go through this version?"""
        query = (
            select(accesses.c.workload).where(accesses.c.kind == kind, accesses.c.version == version).limit(1)
        )
        return await self._database.read(lambda c: c.execute(query).first()) is not None

    async def purge(self, project_id: str) -> None:
        """Forget every edge of a project. May be repeated."""

        def work(connection: Connection) -> None:
            connection.execute(delete(accesses).where(accesses.c.project_id == project_id))
            connection.execute(delete(pasts).where(pasts.c.project_id == project_id))

        await self._database.write(work)
