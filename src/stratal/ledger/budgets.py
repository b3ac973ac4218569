"""Budgets: what a project may spend in a calendar month (UTC), watched while it is spent.

At four fifths it is told; when it is used up, new work is refused at every door, and with `stops` what runs is
stopped, too, each with its grace. Reading and deleting stay possible, so that people can look and clean up.

What runs is written down every other second where there is a budget. So that many that start at once cannot
spend far beyond it before that is seen, each job reserves what it can cost until a stop takes effect: the next
`NOTICED_SECONDS` and its grace, at the prices of the moment. One for whose reservation there is no room waits.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.tables import projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound, OverBudget
from stratal.kernel.events import emit
from stratal.ledger.metering import month_of, spent
from stratal.ledger.prices import PriceTable, load
from stratal.ledger.tables import budgets, spending
from stratal.ledger.units import cost_of, money, shown

log = logging.getLogger("stratal.ledger")

WARN_PERCENT = 80
NOTICED_SECONDS = 10.0
"""So long it may take until somebody notices that a budget is used up: the meter looks every other second."""

Heed = Callable[[Mapping[str, "Standing"]], Awaitable[None]]
"""Told at every look which projects have used up their budgets, by id: begin nothing for them, and end what runs of
those whose budget says so; go on with all others. May be told the same any number of times."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Billionths a month; `stops`: what runs is stopped when it is used up."""

    amount: int
    stops: bool
    set_at: int
    set_by: str


@dataclass(frozen=True, slots=True)
class Standing:
    """How a project stands with its budget in `month`. `level`: 0, `WARN_PERCENT` or 100."""

    project_id: str
    project: str
    budget: Budget
    month: str
    spent: int

    @property
    def level(self) -> int:
        if self.spent >= self.budget.amount:
            return 100
        return WARN_PERCENT if self.spent * 100 >= self.budget.amount * WARN_PERCENT else 0

    @property
    def in_words(self) -> str:
        return (
            f"The budget of project {self.project!r} for {self.month} is used up: {shown(self.spent)} of "
            f"{shown(self.budget.amount)} spent."
        )

    def refusal(self) -> OverBudget:
        """What whoever asks for new work is told."""
        return OverBudget(
            self.in_words,
            hint="Reading and deleting stay possible. An admin can raise it: "
            f"stratal budget set {self.project} AMOUNT/month",
            reason="over_budget",
            project=self.project,
            month=self.month,
            spent=shown(self.spent),
            budget=shown(self.budget.amount),
        )


class Budgets:
    """`look` after every time that usage was written down; `over` is what doors ask, from memory."""

    def __init__(self, database: Database, clock: Clock, currency: str) -> None:
        self.currency = currency
        self._database = database
        self._clock = clock
        self._heed: list[Heed] = []
        self._standings: Mapping[str, Standing] = {}
        self._over: Mapping[str, Standing] = {}

    def heed(self, heed: Heed) -> None:
        """Have a room told which budgets are used up."""
        self._heed.append(heed)

    def watched(self) -> set[str]:
        """The projects that have a budget."""
        return set(self._standings)

    # -- asked at the doors ----------------------------------------------------------------------

    @property
    def any_over(self) -> bool:
        return bool(self._over)

    def refuse(self, project: str) -> None:
        """Raise `OverBudget` when the budget of the project (its id or its name) is used up. Memory only."""
        standing = self._over.get(project)
        if standing is not None:
            raise standing.refusal()

    # -- watching ----------------------------------------------------------------------------------

    async def look(self) -> None:
        """See how every budget stands now, tell what is new, and have what follows from it done."""
        now = self._clock()
        month = month_of(now)
        standings = {s.project_id: s for s in await self._database.read(lambda c: _standings(c, month))}
        over = {key: s for s in standings.values() if s.level == 100 for key in (s.project_id, s.project)}
        self._standings, self._over = standings, over
        if any(s.level for s in standings.values()):
            await self._tell(month)
        used_up = {s.project_id: s for s in standings.values() if s.level == 100}
        for heed in self._heed:
            await heed(used_up)

    async def _tell(self, month: str) -> None:
        def untold(c: Connection) -> list[Standing]:
            told = {
                row.project_id: row.level for row in c.execute(_TOLD.where(budgets.c.told_month == month))
            }
            return [s for s in _standings(c, month) if s.level > told.get(s.project_id, 0)]

        def work(c: Connection) -> list[Standing]:
            found = untold(c)
            for standing in found:
                _told(c, standing, self.currency)
            return found

        if await self._database.read(untold):
            for standing in await self._database.write(work):
                log.warning(
                    "project %s has spent %d %% of its budget or more", standing.project, standing.level
                )

    # -- setting -----------------------------------------------------------------------------------

    async def list(self, who: Principal) -> Sequence[Standing]:
        """Every budget for an admin, else the one of the caller's project."""
        if not who.is_admin:
            require(who, "cost.read", who.project_id)
        month = month_of(self._clock())
        found = await self._database.read(lambda c: _standings(c, month))
        return [s for s in found if who.is_admin or s.project_id == who.project_id]

    async def get(self, who: Principal, project_id: str) -> Standing:
        """Raises `NotFound` where there is none, or no such project of the caller's."""
        require(who, "cost.read", project_id)
        month = month_of(self._clock())
        found = await self._database.read(lambda c: _standings(c, month))
        for standing in found:
            if standing.project_id == project_id:
                return standing
        raise _none()

    async def set(self, who: Principal, project_id: str, amount: str, *, stops: bool) -> Standing:
        """Put a budget in the place of the project's. Raises `Denied` for all but admins, `Invalid`."""
        require(who, "budgets.manage", project_id)
        nano = money(amount, "budget")
        if nano == 0:
            raise Invalid(
                "A budget is more than 0.",
                hint="To let a project run nothing: stratal quota set PROJECT --jobs 0",
            )

        def work(c: Connection) -> None:
            mine = budgets.c.project_id == project_id
            values = {"amount": nano, "stops": int(stops), "set_at": self._clock(), "set_by": who.actor}
            # What was told was told of another budget.
            values |= {"told_month": "", "told_level": 0}
            if not c.execute(update(budgets).where(mine).values(values).returning(budgets.c.amount)).first():
                c.execute(insert(budgets).values(project_id=project_id, **values))
            told = {"amount": shown(nano), "stops": stops}
            emit(c, "budget.set", project_id, actor=who.actor, project_id=project_id, **told)

        await self._database.write(work)
        await self.look()
        return await self.get(who, project_id)

    async def remove(self, who: Principal, project_id: str) -> None:
        """Let the project spend what it likes. Raises `NotFound`, `Denied`."""
        require(who, "budgets.manage", project_id)
        gone = delete(budgets).where(budgets.c.project_id == project_id).returning(budgets.c.amount)

        def work(c: Connection) -> None:
            if c.execute(gone).first() is None:
                raise _none()
            emit(c, "budget.removed", project_id, actor=who.actor, project_id=project_id)

        await self._database.write(work)
        await self.look()

    async def purge(self, project_id: str) -> None:
        """Forget the budget of a removed project. May be repeated."""
        await self._database.write(
            lambda c: c.execute(delete(budgets).where(budgets.c.project_id == project_id))
        )
        await self.look()


# -- within others' transactions ---------------------------------------------------------------------


def require_open(c: Connection, project_id: str, now: int) -> None:
    """Raise `OverBudget` when the project's budget is used up by what the ledger has."""
    for standing in _standings(c, month_of(now), project_id):
        if standing.level == 100:
            raise standing.refusal()


@dataclass(frozen=True, slots=True)
class Toll:
    """What jobs reserve, and what is left to reserve from in each project that has a budget."""

    left: Mapping[str, int]
    _prices: PriceTable
    _now: int

    def of(
        self, cpus: float, memory_bytes: int, gpus: int, gpu_types: Sequence[str], grace_seconds: float
    ) -> int:
        """Billionths that a job may cost until a stop of it takes effect."""
        seconds = NOTICED_SECONDS + grace_seconds
        kinds = [f"gpu:{kind}" for kind in gpu_types] or ["gpu"]
        return (
            self._cost("cpu", cpus * seconds * 1e6)
            + self._cost("wall", seconds * 1e6)
            + self._cost("memory", memory_bytes / 1024 * seconds)
            + max(self._cost(kind, gpus * seconds * 1e6) for kind in kinds)
        )

    def _cost(self, resource: str, quantity: float) -> int:
        return cost_of(resource, int(quantity), self._prices.at(resource, self._now))


def toll(c: Connection, now: int) -> Toll | None:
    """None where no project has a budget."""
    standings = _standings(c, month_of(now))
    if not standings:
        return None
    return Toll({s.project_id: max(0, s.budget.amount - s.spent) for s in standings}, load(c), now)


# Built once: building costs more than running, and every job that starts asks.
_ALL = (
    select(budgets, projects.c.name)
    .join(projects, projects.c.id == budgets.c.project_id)
    .order_by(projects.c.name)
)
_OF_ONE = _ALL.where(budgets.c.project_id == bindparam("whose"))
_TOLD = select(budgets.c.project_id, budgets.c.told_level.label("level"))


def _standings(c: Connection, month: str, project_id: str | None = None) -> list[Standing]:
    found = (c.execute(_ALL) if project_id is None else c.execute(_OF_ONE, {"whose": project_id})).all()
    if not found:
        return []
    sums = (
        {
            row.project_id: row.amount
            for row in c.execute(
                select(spending.c.project_id, spending.c.amount).where(spending.c.month == month)
            )
        }
        if project_id is None
        else {project_id: spent(c, project_id, month)}
    )
    return [
        Standing(
            row.project_id,
            row.name,
            Budget(row.amount, bool(row.stops), row.set_at, row.set_by),
            month,
            sums.get(row.project_id, 0),
        )
        for row in found
    ]


def _told(c: Connection, standing: Standing, currency: str) -> None:
    values = {"told_month": standing.month, "told_level": standing.level}
    c.execute(update(budgets).where(budgets.c.project_id == standing.project_id).values(values))
    kind = "budget.used_up" if standing.level == 100 else "budget.warned"
    news = {"spent": shown(standing.spent), "budget": shown(standing.budget.amount), "currency": currency}
    emit(c, kind, standing.project_id, actor="system", project_id=standing.project_id, **news)


def _none() -> NotFound:
    return NotFound(
        "The project has no budget.",
        hint="Set one: stratal budget set PROJECT 5.00/month",
        reason="no_budget",
    )
