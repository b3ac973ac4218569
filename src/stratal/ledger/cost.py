"""What it cost: the ledger's rows added up by project, person, job or endpoint, and the rows themselves.

Amounts are billionths and whole, so the groups of any report add up to its total, and the total is the sum of
the rows. What runs and is not in the ledger yet is told apart, as an estimate at the price of the moment.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select

from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, Unavailable
from stratal.ledger import metering
from stratal.ledger.meter import Meter
from stratal.ledger.metering import Running
from stratal.ledger.prices import PriceTable, load
from stratal.ledger.tables import usage
from stratal.ledger.units import cost_of

By = Literal["project", "user", "job", "endpoint", "function", "app", "workload", "resource", "day"]
OTHER = "(other)"
NOBODY = "(project)"
"""Who pays for what no person asked for: what a project stores."""
MOST_ROWS = 10_000
_DAY = 86_400_000
_BEYOND = 2**62


@dataclass(frozen=True, slots=True)
class Span:
    """From `since` up to, not including, `until` (epoch milliseconds; None: open)."""

    since: int
    until: int | None = None


@dataclass(slots=True)
class Cost:
    """One line of a report. `quantities` by resource, in the ledger's units; `label` is for people."""

    name: str
    label: str = ""
    project: str = ""
    amount: int = 0
    quantities: dict[str, int] = field(default_factory=dict)

    def take(self, resource: str, quantity: int, amount: int) -> None:
        self.amount += amount
        self.quantities[resource] = self.quantities.get(resource, 0) + quantity


@dataclass(frozen=True, slots=True)
class Report:
    """`costs` add up to `total` exactly. `so_far` is what runs and is not in `costs` yet; None: cannot be told now."""

    span: Span
    by: By
    total: int
    costs: Sequence[Cost]
    so_far: Sequence[Cost] | None


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the ledger: see `tables.usage`."""

    source: str
    resource: str
    started_at: int
    ended_at: int
    project: str
    person: str
    workload: str
    name: str
    quantity: int
    price: int
    amount: int


@dataclass(frozen=True, slots=True)
class _Key:
    """How lines of a report are told apart: columns in SQL, and the line's name and label of their values."""

    columns: Sequence[Any]
    told: Callable[[Sequence[Any]], tuple[str, str, str]]


class Costs:
    def __init__(self, database: Database, meter: Meter, clock: Clock) -> None:
        self._database = database
        self._meter = meter
        self._clock = clock

    async def report(
        self, who: Principal, project_id: str | None, by: By, since: int | None, until: int | None
    ) -> Report:
        """What was spent from `since` (None: this month's begin, UTC) to `until`, of one project or (None) of all
        that the caller may see: an admin's all, else their own. Raises `Denied`, `NotFound`, `Invalid`.
        """
        place = self._place(who, project_id)
        span = self._span(since, until)
        key = _KEYS[by]
        query = (
            select(
                *key.columns,
                usage.c.resource.label("what"),
                func.sum(usage.c.quantity).label("quantity"),
                func.sum(usage.c.amount).label("amount"),
            )
            .where(_within(place, span))
            .group_by(*key.columns, usage.c.resource)
        )
        rows = await self._database.read(lambda c: c.execute(query).all())
        costs: dict[str, Cost] = {}
        for row in rows:
            line = _line(costs, *key.told(row))
            line.take(row.what, int(row.quantity), int(row.amount))
        listed = sorted(costs.values(), key=_by_day if by == "day" else _dearest)
        so_far = await self._so_far(place, span, by)
        return Report(span, by, sum(cost.amount for cost in listed), listed, so_far)

    async def rows(
        self,
        who: Principal,
        project_id: str | None,
        since: int | None,
        until: int | None,
        *,
        after: tuple[int, str, str] | None = None,
        limit: int = 1000,
    ) -> tuple[Sequence[Row], tuple[int, str, str] | None]:
        """The ledger's rows, oldest first, and what to pass as `after` for the next; None at the end."""
        place = self._place(who, project_id)
        limit = max(1, min(limit, MOST_ROWS))
        order = (usage.c.started_at, usage.c.source, usage.c.resource)
        query: Select[Any] = select(usage).where(_within(place, self._span(since, until)))
        if after is not None:
            query = query.where(_behind(after))
        found = await self._database.read(lambda c: c.execute(query.order_by(*order).limit(limit + 1)).all())
        rows = [
            Row(
                r.source,
                r.resource,
                r.started_at,
                r.ended_at,
                r.project,
                r.person,
                r.workload,
                r.name,
                r.quantity,
                r.price,
                r.amount,
            )
            for r in found[:limit]
        ]
        last = rows[-1] if len(found) > limit else None
        return rows, None if last is None else (last.started_at, last.source, last.resource)

    # -- what runs -----------------------------------------------------------------------------

    async def _so_far(self, place: str | None, span: Span, by: By) -> Sequence[Cost] | None:
        now = self._clock()
        if not span.since <= now < (_BEYOND if span.until is None else span.until):
            return []
        try:
            running = await self._meter.running()
        except Unavailable:
            return None
        mine = [r for r in running if place is None or r.account.project_id == place]
        if not mine:
            return []
        return await self._database.read(lambda c: _unwritten(c, mine, by, now))

    # -- what was asked ------------------------------------------------------------------------

    def _place(self, who: Principal, project_id: str | None) -> str | None:
        if project_id is None and who.is_admin:
            return None
        place = project_id or who.project_id
        require(who, "cost.read", place)
        return place

    def _span(self, since: int | None, until: int | None) -> Span:
        span = Span(self.this_month() if since is None else since, until)
        if span.until is not None and span.until <= span.since:
            raise Invalid(
                "That span of time ends before it begins.",
                hint="Give --since a moment before --until.",
                reason="bad_time",
            )
        return span

    def this_month(self) -> int:
        """When the present month began, in UTC."""
        now = datetime.fromtimestamp(self._clock() / 1000, UTC)
        return int(datetime(now.year, now.month, 1, tzinfo=UTC).timestamp() * 1000)


def _within(place: str | None, span: Span) -> ColumnElement[bool]:
    conditions = [usage.c.started_at >= span.since]
    if span.until is not None:
        conditions.append(usage.c.started_at < span.until)
    if place is not None:
        conditions.append(usage.c.project_id == place)
    return and_(*conditions)


def _behind(after: tuple[int, str, str]) -> ColumnElement[bool]:
    moment, source, resource = after
    same = usage.c.started_at == moment
    return or_(
        usage.c.started_at > moment,
        and_(same, usage.c.source > source),
        and_(same, usage.c.source == source, usage.c.resource > resource),
    )


def _unwritten(c: Connection, running: Sequence[Running], by: By, now: int) -> list[Cost]:
    table: PriceTable = load(c)
    costs: dict[str, Cost] = {}
    names: Mapping[str, str] = metering.project_names(c)
    for one in running:
        have = metering.metered(c, one.source)
        for resource, total in one.used.items():
            quantity = total - have.get(resource, (0, 0))[0]
            if quantity <= 0:
                continue
            told = _told_of(by, one, names.get(one.account.project_id, ""), resource, now)
            amount = cost_of(resource, quantity, table.at(resource, now))
            _line(costs, *told).take(resource, quantity, amount)
    return sorted(costs.values(), key=_dearest)


def _told_of(by: By, one: Running, project: str, resource: str, now: int) -> tuple[str, str, str]:
    account = one.account
    if by == "day":
        return _KEYS[by].told([now // _DAY])
    values = {
        "project": [account.project_id, project],
        "user": [account.person],
        "resource": [resource],
    }
    return _KEYS[by].told(values.get(by, [account.workload, account.name, project]))


def _line(costs: dict[str, Cost], name: str, label: str, project: str) -> Cost:
    line = costs.setdefault(f"{name}\0{project}", Cost(name, label, project))
    line.label = line.label or label
    return line


def _dearest(cost: Cost) -> tuple[Any, ...]:
    return cost.name == OTHER, -cost.amount, cost.name, cost.project


def _by_day(cost: Cost) -> tuple[Any, ...]:
    return (cost.name,)


def _workloads(kind: str) -> Callable[[Sequence[Any]], tuple[str, str, str]]:
    """Lines for workloads of one kind; what is of no such workload is one line more."""

    def told(values: Sequence[Any]) -> tuple[str, str, str]:
        workload, name, project = values[:3]
        return (workload, name, project) if workload.startswith(kind) else (OTHER, "", "")

    return told


def _day_of(values: Sequence[Any]) -> tuple[str, str, str]:
    return datetime.fromtimestamp(int(values[0]) * 86_400, UTC).strftime("%Y-%m-%d"), "", ""


_WORKLOAD = (usage.c.workload, usage.c.name, usage.c.project)
_KEYS: Mapping[By, _Key] = {
    "project": _Key((usage.c.project_id, usage.c.project), lambda v: (v[1], "", v[1])),
    "user": _Key((usage.c.person,), lambda v: (v[0] or NOBODY, "", "")),
    "job": _Key(_WORKLOAD, _workloads("job:")),
    "endpoint": _Key(_WORKLOAD, _workloads("endpoint:")),
    "function": _Key(_WORKLOAD, _workloads("function:")),
    "app": _Key(_WORKLOAD, _workloads("app:")),
    "workload": _Key(_WORKLOAD, _workloads("")),
    "resource": _Key((usage.c.resource,), lambda v: (v[0], "", "")),
    "day": _Key(((usage.c.started_at // _DAY).label("day"),), _day_of),
}
