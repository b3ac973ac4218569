"""News that travels upward: rows in an outbox, written in the transaction of the change they tell of.

A room that changes something calls `emit(connection, …)` inside its write function. Readers (the
console's event stream, reconcilers, webhooks, the audit log) follow the outbox by sequence number,
so a restart loses none and each is seen in order.

The outbox is the audit log as well: nothing is ever taken out of it, and each row carries a hash over what it
says and the hash of the row before it, made in the same transaction. To alter, remove or reorder rows breaks
the chain; to cut off its end is found by the head that is kept outside of the database (`ledger.audit`).

SQLite has one writer, so there numbers are given in the order of commits. On PostgreSQL transactions commit in
any order, and a reader who had seen number 8 would never look for a number 7 that commits later. So an event's
number there is its transaction's id (which grows), shifted, plus its place within the transaction; and a
reader is shown only numbers of transactions older than every one that is still running, the snapshot's
``xmin``: below it nothing can be added any more. The price: news wait for the oldest transaction on that
server that writes, and nobody rings when it ends, so followers look again by themselves each second.
Transaction ids belong to a server; where a database was restored on another, `resume_numbering` goes on above.
"""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Index,
    Integer,
    Row,
    Select,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    select,
    true,
)

from stratal.kernel.asking import ASKING
from stratal.kernel.clock import system_clock
from stratal.kernel.database import Database, metadata

outbox = Table(
    "outbox",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("project_id", Text),
    Column("actor", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("door", Text),
    Column("address", Text),
    Column("hash", Text),
    Index("ix_outbox_project_id_seq", "project_id", "seq"),
    sqlite_autoincrement=True,
)

# How far event numbers on PostgreSQL are ahead of the server's transaction ids; no row means not at all.
outbox_shift = Table("outbox_shift", metadata, Column("transactions", BigInteger, primary_key=True))

_PLACES = 1 << 16  # events that one transaction may emit
_LOOK_AGAIN_SECONDS = 1.0
_AT_ONCE = 500
_SHIFT = "coalesce((SELECT transactions FROM outbox_shift), 0)"
_OWN: ColumnElement[int] = literal_column(
    f"((pg_current_xact_id()::text::bigint + {_SHIFT}) * {_PLACES})", BigInteger
)
_UNFINISHED: ColumnElement[int] = literal_column(
    f"((pg_snapshot_xmin(pg_current_snapshot())::text::bigint + {_SHIFT}) * {_PLACES})", BigInteger
)

# Built once: building costs more than running, and every change emits.
_INSERT = insert(outbox)
_INSERT_NUMBERED = insert(outbox).values(seq=_OWN + bindparam("place", type_=BigInteger))
_LAST = select(outbox.c.hash).order_by(outbox.c.seq.desc()).limit(1)


CHAINED = ("at", "project_id", "actor", "kind", "subject", "data", "door", "address")
DENIED = "request.denied"
"""The kind of what is on record because it was refused: no news for those who follow what happens."""


@dataclass(frozen=True, slots=True)
class Event:
    """One piece of news: what `kind` of thing happened to which `subject`, by whom, when."""

    seq: int
    at: int
    project_id: str | None
    actor: str
    kind: str
    subject: str
    data: dict[str, Any]


def emit(
    connection: Connection,
    kind: str,
    subject: str,
    *,
    actor: str,
    project_id: str | None = None,
    **data: object,
) -> None:
    """Record an event in the current transaction.

    `kind` is ``<noun>.<past participle>`` (``job.succeeded``), `subject` the thing's id, `actor` the
    id of the person or workload who did it (``system`` for the platform itself).
    """
    asking = ASKING.get()
    row = {
        "at": system_clock(),
        "project_id": project_id,
        "actor": actor,
        "kind": kind,
        "subject": subject,
        "data": orjson.dumps(data).decode(),
        "door": asking.door if asking else None,
        "address": asking.address if asking else None,
    }
    row["hash"] = link(connection.execute(_LAST).scalar(), row)
    if connection.dialect.name == "postgresql":
        connection.execute(_INSERT_NUMBERED, {**row, "place": _next_place(connection)})
    else:
        connection.execute(_INSERT, row)


def link(before: str | None, row: Mapping[str, object]) -> str:
    """The hash of a row that follows one whose hash is `before` (None or "": it is the first of the chain).

    The SHA-256, in hex, of the JSON array of `before` ("" for the first) and the row's columns `CHAINED`.
    """
    said = [before or "", *(row[name] for name in CHAINED)]
    return hashlib.sha256(orjson.dumps(said)).hexdigest()


def _next_place(connection: Connection) -> int:
    """0, 1, 2 … within the transaction that `connection` is in."""
    transaction = connection.get_transaction()
    last_in, last = connection.info.get("outbox", (None, -1))
    place: int = last + 1 if last_in is transaction else 0
    if place == _PLACES:
        raise RuntimeError(f"more than {_PLACES} events in one transaction")
    connection.info["outbox"] = (transaction, place)
    return place


def resume_numbering(connection: Connection) -> None:
    """Number on above every event there is, also where the server counts transactions from anew (a restored copy).

    For the one server of a PostgreSQL database, before it emits.
    """
    newest = connection.execute(select(func.max(outbox.c.seq))).scalar()
    next_ = connection.execute(select(_OWN)).scalar_one()
    if newest is None or newest < next_:
        return
    shift = connection.execute(select(outbox_shift.c.transactions)).scalar() or 0
    connection.execute(delete(outbox_shift))
    connection.execute(insert(outbox_shift).values(transactions=shift + (newest - next_) // _PLACES + 1))


def _finished(connection: Connection) -> ColumnElement[bool]:
    """Events before which none can be added any more."""
    return outbox.c.seq < _UNFINISHED if connection.dialect.name == "postgresql" else true()


def _after(*, finished: bool, of_one: bool) -> Select[Any]:
    query = select(outbox).where(outbox.c.seq > bindparam("beyond"), outbox.c.kind != DENIED)
    if of_one:
        query = query.where(outbox.c.project_id == bindparam("place"))
    if finished:
        query = query.where(outbox.c.seq < _UNFINISHED)
    return query.order_by(outbox.c.seq).limit(bindparam("most"))


_AFTER = {
    (pg, of_one): _after(finished=pg, of_one=of_one) for pg in (False, True) for of_one in (False, True)
}


class Events:
    """Follows the outbox. `changed` wakes every waiter after each commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self._commits = 0
        self._counting = threading.Lock()  # PostgreSQL's writes end on several threads
        self._looks: dict[tuple[asyncio.AbstractEventLoop, int], tuple[int, asyncio.Task[list[Event]]]] = {}
        database.after_commit(self._notify)

    def _notify(self) -> None:
        with self._counting:  # before anybody is woken: who looks from now on must not be given an older look
            self._commits += 1
        for loop, waiter in list(self._waiters):
            if not loop.is_closed():
                loop.call_soon_threadsafe(waiter.set)

    async def last_seq(self) -> int:
        def work(c: Connection) -> int:
            return c.execute(select(func.max(outbox.c.seq)).where(_finished(c))).scalar() or 0

        return await self._database.read(work)

    async def after(self, seq: int, *, project_id: str | None = None, limit: int = 500) -> list[Event]:
        """The events behind `seq`, oldest first; of one project when `project_id` is given."""
        asked = {"beyond": seq, "most": limit, "place": project_id}

        def look(c: Connection) -> Sequence[Row[Any]]:
            return c.execute(_AFTER[c.dialect.name == "postgresql", project_id is not None], asked).all()

        rows = await self._database.read(look)
        return [
            Event(r.seq, r.at, r.project_id, r.actor, r.kind, r.subject, orjson.loads(r.data)) for r in rows
        ]

    async def _looked(self, seq: int) -> Sequence[Event]:
        """`after`, of all projects, for those who follow: a look that began after the last commit serves them all.

        On PostgreSQL only while it goes on: without any commit of ours, one that is over may be out of date there.
        """
        place = (asyncio.get_running_loop(), seq)
        commits, look = self._looks.get(place, (-1, None))
        if look is None or commits != self._commits or self._is_spent(look):
            commits = self._commits
            look = asyncio.create_task(self.after(seq, limit=_AT_ONCE), name="events: look")
            self._looks = {k: v for k, v in self._looks.items() if not v[1].done()}
            self._looks[place] = (commits, look)
        return await asyncio.shield(look)

    def _is_spent(self, look: "asyncio.Task[list[Event]]") -> bool:
        if not look.done():
            return False
        return self._database.commits_in_any_order or look.cancelled() or look.exception() is not None

    async def follow(self, seq: int, *, project_id: str | None = None) -> AsyncIterator[Event]:
        """Yield the events behind `seq` for ever, waiting for new ones."""
        waiter = asyncio.Event()
        entry = (asyncio.get_running_loop(), waiter)
        self._waiters.add(entry)
        try:
            while True:
                waiter.clear()
                if project_id is None:
                    batch = await self._looked(seq)
                else:
                    batch = await self.after(seq, project_id=project_id, limit=_AT_ONCE)
                for event in batch:
                    seq = event.seq
                    yield event
                if len(batch) < _AT_ONCE:  # these were all; whatever was committed since has woken us again
                    await self._news(waiter)
        finally:
            self._waiters.discard(entry)

    async def _news(self, waiter: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_SECONDS if self._database.commits_in_any_order else None):
                await waiter.wait()
