"""Writing usage down: what an attempt, a request or a stored byte took, priced where it is written.

These are pieces of write functions: the caller's transaction holds the usage *and* what it belongs to (a
job's end), so that one is never without the other. `measure` is told an attempt's usage as it stands and
writes what the ledger lacks of it: telling it again, after a restart or twice, adds nothing.

A row is one resource of one source within one hour and one price; it grows until either is over. Its amount
is its quantity at its price, rounded once, so an hour's usage costs the same in however many slices it came.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from sqlalchemy import Connection, func, insert, select, update

from stratal.identity.tables import projects
from stratal.ledger.prices import PriceTable, load
from stratal.ledger.tables import spending, usage
from stratal.ledger.units import cost_of, share

_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Account:
    """Whom usage is put down to: the project, the person who pays, and the workload (``job:12``) with its name."""

    project_id: str
    person: str
    workload: str
    name: str


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt that runs, with what it used since `started_at` (epoch ms): units by resource, see `units`."""

    account: Account
    source: str
    started_at: int
    used: Mapping[str, int]


def month_of(moment: int) -> str:
    """The month of a moment, in UTC: ``2026-11``."""
    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%Y-%m")


def measure(c: Connection, running: Running, now: int) -> None:
    """Write down what the ledger lacks of an attempt's usage up to `now`. Repeatable."""
    have = metered(c, running.source)
    table = load(c)
    wall = running.used.get("wall", 0) - have.get("wall", (0, 0))[0]
    earliest = now - wall // 1000
    for resource, total in running.used.items():
        known, until = have.get(resource, (0, 0))
        if total > known:
            start = min(max(until, running.started_at, earliest), now)
            add(c, table, running.account, running.source, resource, total - known, start, now)


def metered(c: Connection, source: str) -> dict[str, tuple[int, int]]:
    """What the ledger has of a source: for each resource its units, and up to when."""
    query = (
        select(usage.c.resource, func.sum(usage.c.quantity), func.max(usage.c.ended_at))
        .where(usage.c.source == source)
        .group_by(usage.c.resource)
    )
    return {resource: (int(total), until) for resource, total, until in c.execute(query)}


def add(
    c: Connection,
    table: PriceTable,
    account: Account,
    source: str,
    resource: str,
    quantity: int,
    start: int,
    end: int,
) -> None:
    """Add so many units, used evenly from `start` to `end`, to the rows of the hours and prices they fall into."""
    given = 0
    for begin, finish in _pieces(table, resource, start, end):
        upto = share(quantity, finish - start, end - start)
        _grow(c, table, account, source, resource, upto - given, begin, finish)
        given = upto


def _pieces(table: PriceTable, resource: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    hours = range((start // _HOUR + 1) * _HOUR, end, _HOUR)
    cuts = sorted({start, *hours, *table.changes(resource, start, end), end})
    yield from pairwise(cuts) if len(cuts) > 1 else [(start, end)]


def _grow(
    c: Connection,
    table: PriceTable,
    account: Account,
    source: str,
    resource: str,
    quantity: int,
    begin: int,
    finish: int,
) -> None:
    """Add to the one row of this hour and price, or begin it."""
    if not quantity:
        return
    started_at = max(begin - begin % _HOUR, table.last_change(resource, begin))
    key = (usage.c.source == source) & (usage.c.resource == resource) & (usage.c.started_at == started_at)
    row = c.execute(
        select(usage.c.quantity, usage.c.price, usage.c.amount, usage.c.ended_at).where(key)
    ).one_or_none()
    if row is None:
        price = table.at(resource, started_at)
        amount = cost_of(resource, quantity, price)
        c.execute(
            insert(usage).values(
                source=source,
                resource=resource,
                started_at=started_at,
                ended_at=finish,
                project_id=account.project_id,
                project=_project_name(c, account.project_id),
                person=account.person,
                workload=account.workload,
                name=account.name,
                quantity=quantity,
                price=price,
                amount=amount,
            )
        )
        _spend(c, account.project_id, started_at, amount)
        return
    total = row.quantity + quantity
    amount = cost_of(resource, total, row.price)
    grown = {"quantity": total, "amount": amount, "ended_at": max(finish, row.ended_at)}
    c.execute(update(usage).where(key).values(grown))
    _spend(c, account.project_id, started_at, amount - row.amount)


def _spend(c: Connection, project_id: str, moment: int, amount: int) -> None:
    if not amount:
        return
    month = month_of(moment)
    mine = (spending.c.project_id == project_id) & (spending.c.month == month)
    more = update(spending).where(mine).values(amount=spending.c.amount + amount)
    if not c.execute(more.returning(spending.c.month)).first():
        c.execute(insert(spending).values(project_id=project_id, month=month, amount=amount))


def spent(c: Connection, project_id: str, month: str) -> int:
    """Billionths that the project's rows of a month come to."""
    query = select(spending.c.amount).where(spending.c.project_id == project_id, spending.c.month == month)
    return c.execute(query).scalar() or 0


def _project_name(c: Connection, project_id: str) -> str:
    return c.execute(select(projects.c.name).where(projects.c.id == project_id)).scalar() or project_id


def project_names(c: Connection) -> dict[str, str]:
    """The name of every project, by id."""
    return {row.id: row.name for row in c.execute(select(projects.c.id, projects.c.name))}
