"""News that travels upward: rows in an outbox, written in the transaction of the change they tell of.

A room that changes something calls `emit(connection, …)` inside its write function. Readers (the
console's event stream, reconcilers, webhooks, the audit log) follow the outbox by sequence number,
so a restart loses none and each is seen in order.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import BigInteger, Column, Connection, Index, Integer, Table, Text, insert, select

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
    Index("ix_outbox_project_id_seq", "project_id", "seq"),
    sqlite_autoincrement=True,
)

_INSERT = insert(outbox)  # built once: building costs more than running, and every change emits


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
    connection.execute(
        _INSERT,
        {
            "at": system_clock(),
            "project_id": project_id,
            "actor": actor,
            "kind": kind,
            "subject": subject,
            "data": orjson.dumps(data).decode(),
        },
    )


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
        query = select(outbox).where(outbox.c.seq > seq).order_by(outbox.c.seq).limit(limit)
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
