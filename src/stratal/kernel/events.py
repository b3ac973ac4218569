"""News that travels upward: rows in an outbox, written in the transaction of the change they tell of.

A room that changes something calls `emit(connection, …)` inside its write function. Readers (the
console's event stream, reconcilers, webhooks, the audit log) follow the outbox by sequence number,
so a restart loses none and each is seen in order.

The outbox is the audit log as well: nothing is ever taken out of it, and each row carries a hash over what it
says and the hash of the row before it, made in the same transaction. To alter, remove or reorder rows breaks
the chain; to cut off its end is found by the head that is kept outside of the database (`ledger.audit`).
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import BigInteger, Column, Connection, Index, Integer, Table, Text, insert, select

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

_LAST = select(outbox.c.hash).order_by(outbox.c.seq.desc()).limit(1)
_INSERT = insert(outbox)  # built once: building costs more than running, and every change emits


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
    before = connection.execute(_LAST).scalar()
    connection.execute(_INSERT, {**row, "hash": link(before, row)})


def link(before: str | None, row: Mapping[str, object]) -> str:
    """The hash of a row that follows one whose hash is `before` (None or "": it is the first of the chain).

    The SHA-256, in hex, of the JSON array of `before` ("" for the first) and the row's columns `CHAINED`.
    """
    said = [before or "", *(row[name] for name in CHAINED)]
    return hashlib.sha256(orjson.dumps(said)).hexdigest()


class Events:
    """Follows the outbox. `changed` wakes every waiter after each commit."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        database.after_commit(self._notify)

    def _notify(self) -> None:
        for loop, waiter in list(self._waiters):
            if not loop.is_closed():
                loop.call_soon_threadsafe(waiter.set)

    async def last_seq(self) -> int:
        return await self._database.read(
            lambda c: c.execute(select(outbox.c.seq).order_by(outbox.c.seq.desc()).limit(1)).scalar() or 0
        )

    async def after(self, seq: int, *, project_id: str | None = None, limit: int = 500) -> list[Event]:
        """The events behind `seq`, oldest first; of one project when `project_id` is given."""
        query = (
            select(outbox)
            .where(outbox.c.seq > seq, outbox.c.kind != DENIED)
            .order_by(outbox.c.seq)
            .limit(limit)
        )
        if project_id is not None:
            query = query.where(outbox.c.project_id == project_id)
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [
            Event(r.seq, r.at, r.project_id, r.actor, r.kind, r.subject, orjson.loads(r.data)) for r in rows
        ]

    async def follow(self, seq: int, *, project_id: str | None = None) -> AsyncIterator[Event]:
        """Yield the events behind `seq` for ever, waiting for new ones."""
        waiter = asyncio.Event()
        entry = (asyncio.get_running_loop(), waiter)
        self._waiters.add(entry)
        try:
            while True:
                waiter.clear()
                batch = await self.after(seq, project_id=project_id)
                for event in batch:
                    seq = event.seq
                    yield event
                if not batch:
                    await waiter.wait()
        finally:
            self._waiters.discard(entry)
