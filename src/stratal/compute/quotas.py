"""Quotas: what a project's jobs may hold at the same time. A ceiling, never a claim on idle capacity.

A project without a quota may use all that is free. One with a quota never gets beyond it, idle machine or
not: nothing is borrowed, so nothing has ever to be taken back from a running job.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, bindparam, delete, func, insert, select

from stratal.compute.admission import Amount, ceiling_amount
from stratal.compute.model import ACTIVE
from stratal.compute.tables import jobs, quotas
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid
from stratal.kernel.events import emit

_MOST = 2**50


@dataclass(frozen=True, slots=True)
class Quota:
    """The most at the same time; None: no ceiling."""

    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    jobs: int | None = None

    @property
    def amount(self) -> Amount:
        return ceiling_amount(self.cpus, self.memory_bytes, self.gpus, self.jobs)


@dataclass(frozen=True, slots=True)
class QuotaUse:
    """A project's quota, and what its starting and running jobs hold right now."""

    quota: Quota
    used: Amount


class Quotas:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def get(self, who: Principal, project_id: str) -> QuotaUse:
        """Raises `NotFound` for a project that is not the caller's."""
        require(who, "jobs.read", project_id)
        return await self._database.read(lambda c: _use(c, project_id))

    async def set(self, who: Principal, project_id: str, quota: Quota) -> QuotaUse:
        """Put `quota` in the place of the project's; one without any ceiling lifts it. Running jobs go on.

        Raises `Denied` for all but the instance's admins, `Invalid` for a ceiling that makes no sense.
        """
        require(who, "instance.manage", project_id)
        for name, value in asdict(quota).items():
            if value is not None and not 0 <= value <= _MOST:
                raise Invalid(f"A ceiling of {name} is 0 or more.", reason="bad_quota")

        def work(c: Connection) -> QuotaUse:
            c.execute(delete(quotas).where(quotas.c.project_id == project_id))
            values = asdict(quota)
            if any(value is not None for value in values.values()):
                made = {"project_id": project_id, "set_at": self._clock(), "set_by": who.actor}
                c.execute(insert(quotas).values(**made, **values))
            emit(c, "quota.set", project_id, actor=who.actor, project_id=project_id, **values)
            return _use(c, project_id)

        return await self._database.write(work)


_ALL = select(quotas)
_OF_ONE = _ALL.where(quotas.c.project_id == bindparam("whose"))


def every_quota(c: Connection) -> Mapping[str, Quota]:
    """The quotas there are, by project."""
    return {row.project_id: _quota(dict(row._mapping)) for row in c.execute(_ALL)}


def quota_of(c: Connection, project_id: str) -> Quota:
    row = c.execute(_OF_ONE, {"whose": project_id}).mappings().one_or_none()
    return Quota() if row is None else _quota(dict(row))


def _quota(row: Mapping[str, object]) -> Quota:
    return Quota(**{name: row[name] for name in ("cpus", "memory_bytes", "gpus", "jobs")})  # type: ignore[arg-type]


def _use(c: Connection, project_id: str) -> QuotaUse:
    size = func.coalesce(jobs.c.nodes, 1)
    held = select(
        func.coalesce(func.sum(jobs.c.cpus * size), 0),
        func.coalesce(func.sum(jobs.c.memory_bytes * size), 0),
        func.coalesce(func.sum(jobs.c.gpus * size), 0),
        func.count(),
    ).where(jobs.c.project_id == project_id, jobs.c.state.in_([state.value for state in ACTIVE]))
    cpus, memory, gpus, count = c.execute(held).one()
    return QuotaUse(quota_of(c, project_id), Amount(float(cpus), int(memory), int(gpus), count))
