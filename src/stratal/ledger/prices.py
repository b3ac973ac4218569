"""Prices: what things cost from which moment on. Only what is to come can be priced, so no cost that was told changes.

A price holds from its moment until the next of the same name; before the first there is none, and what
has no price costs nothing. `PriceTable` is the whole of it as read in one transaction.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock, iso
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.ledger.tables import prices
from stratal.ledger.units import check_price_name, money, price_names, shown

EXAMPLES: Mapping[str, str] = {
    "cpu_hour": "0.04",
    "gpu_hour": "1.50",
    "memory_gib_hour": "0.005",
    "storage_gib_month": "0.02",
    "transfer_out_gib": "0.01",
}
"""What a new instance begins with: an example, to be replaced by what the operator's machines really cost."""

_FARTHEST = 4_102_444_800_000  # the year 2100


@dataclass(frozen=True, slots=True)
class Price:
    """`nano` billionths from `since` (epoch milliseconds) on, `until` the next (None: for good)."""

    name: str
    nano: int
    since: int
    until: int | None
    set_at: int
    set_by: str


class PriceTable:
    """Every price as it was when `load`ed."""

    def __init__(self, rows: Mapping[str, Sequence[tuple[int, int]]]) -> None:
        self._rows = {name: sorted(changes) for name, changes in rows.items()}

    def at(self, resource: str, moment: int) -> int:
        """Billionths for each unit of the resource that is priced, at that moment; 0 where there is no price."""
        for name in price_names(resource):
            changes = self._rows.get(name, [])
            place = bisect_right(changes, moment, key=lambda change: change[0])
            if place:
                return changes[place - 1][1]
        return 0

    def changes(self, resource: str, after: int, before: int) -> list[int]:
        """The moments in (after, before) at which a price of the resource begins, in order."""
        found = {
            since
            for name in price_names(resource)
            for since, _ in self._rows.get(name, ())
            if after < since < before
        }
        return sorted(found)

    def last_change(self, resource: str, moment: int) -> int:
        """The last moment up to `moment` at which a price of the resource began; 0 where none had."""
        began = [
            since
            for name in price_names(resource)
            for since, _ in self._rows.get(name, ())
            if since <= moment
        ]
        return max(began, default=0)


def load(connection: Connection) -> PriceTable:
    """The prices, in the caller's transaction."""
    rows: dict[str, list[tuple[int, int]]] = {}
    for name, since, nano in connection.execute(select(prices.c.name, prices.c.since, prices.c.nano)):
        rows.setdefault(name, []).append((since, nano))
    return PriceTable(rows)


class Prices:
    """The price table, edited by admins and read by everybody. `currency` is the word that amounts are told in."""

    def __init__(self, database: Database, clock: Clock, currency: str) -> None:
        self._database = database
        self._clock = clock
        self.currency = currency

    def lay_out(self) -> None:
        """Give a new instance the example prices. One that has any prices, or had, is left alone."""

        def work(c: Connection) -> None:
            if c.execute(select(prices.c.name).limit(1)).first() is not None:
                return
            for name, amount in EXAMPLES.items():
                _insert(c, name, 0, money(amount, "price"), self._clock(), "system")

        self._database.write_now(work)

    async def list(self, who: Principal) -> list[Price]:
        """Every price there is and was, by name, then by when it began."""
        require(who, "prices.read", who.project_id)
        query = select(prices).order_by(prices.c.name, prices.c.since)
        rows = await self._database.read(lambda c: c.execute(query).all())
        following = [*rows[1:], None][: len(rows)]
        return [
            Price(
                row.name,
                row.nano,
                row.since,
                after.since if after is not None and after.name == row.name else None,
                row.set_at,
                row.set_by,
            )
            for row, after in zip(rows, following, strict=True)
        ]

    async def set(self, who: Principal, name: str, amount: str, since: int | None = None) -> Price:
        """Set what `name` costs from `since` on (None: from now). A price of that very moment is replaced.

        Raises `Denied` unless the caller is admin, `Invalid` for a name or amount that makes no sense, and for a
        moment that has passed.
        """
        require(who, "prices.manage", who.project_id)
        check_price_name(name)
        nano = money(amount, "price")
        now = self._clock()
        moment = now if since is None else since
        if moment > _FARTHEST:
            raise Invalid("No price is set beyond the year 2099.", reason="bad_time")
        if moment < now:
            raise Invalid(
                f"A price cannot begin in the past ({iso(moment)}): costs that were told would change.",
                hint="Leave --from out to begin now, or name a moment to come.",
                reason="price_in_the_past",
            )

        def work(c: Connection) -> None:
            same = (prices.c.name == name) & (prices.c.since == moment)
            c.execute(delete(prices).where(same))
            _insert(c, name, moment, nano, now, who.actor)
            emit(c, "price.set", name, actor=who.actor, name=name, price=shown(nano), since=iso(moment))

        await self._database.write(work)
        return next(price for price in await self.list(who) if (price.name, price.since) == (name, moment))

    async def remove(self, who: Principal, name: str, since: int) -> None:
        """Take back a price that has not begun. Raises `NotFound`, `Denied`, `Conflict` when it has."""
        require(who, "prices.manage", who.project_id)
        same = (prices.c.name == name) & (prices.c.since == since)

        def work(c: Connection) -> None:
            if c.execute(select(prices.c.name).where(same)).first() is None:
                raise NotFound(
                    f"There is no price of {name[:60]!r} from {iso(since)}.",
                    hint="List them with: stratal prices ls",
                    reason="no_such_price",
                )
            if since <= self._clock():
                raise Conflict(
                    f"The price of {name} from {iso(since)} has begun: costs that were told stand on it.",
                    hint=f"Set another from now on: stratal prices set {name} AMOUNT",
                    reason="price_in_use",
                )
            c.execute(delete(prices).where(same))
            emit(c, "price.removed", name, actor=who.actor, name=name, since=iso(since))

        await self._database.write(work)


def _insert(c: Connection, name: str, since: int, nano: int, at: int, by: str) -> None:
    c.execute(insert(prices).values(name=name, since=since, nano=nano, set_at=at, set_by=by))
