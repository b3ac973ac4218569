"""What rooms hold: reads in one consistent snapshot, writes as functions, acknowledged when durable.

Rules for a write function: SQL only. No network, no hashing of bodies, no file I/O, no awaiting, since
others' writes may wait for it; and no traces outside of its connection but its result, since it may be
run again from the start when the database could not fit it between the others' (PostgreSQL).
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, MetaData, text

T = TypeVar("T")
Work = Callable[[Connection], T]
Address = Path | str
"""Where a database is: the path of a SQLite file, or a URL (``postgresql://…``)."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every room's `tables.py` declares its tables on this one `MetaData`."""


class Backend(Protocol):
    """One kind of database."""

    name: str
    """Where it is, without its password."""
    readers: int
    """How many reads are worth running at once."""
    commits_in_any_order: bool
    """May a write that began earlier become visible later?"""

    def read_now(self, work: Work[T]) -> T: ...

    def submit(self, work: Work[T]) -> "Future[T]": ...

    def once_committed(self, callback: Callable[[], None]) -> None: ...

    def close(self) -> None: ...


class Database:
    """One database. Ended by `close()`.

    `sole`: refuse to open a PostgreSQL database that another server has open, and keep others out for as
    long as this one lives, so that no two servers carry out the same work. (A SQLite file lies in a data
    directory, whose lock says the same.)
    """

    def __init__(self, address: Address, *, sole: bool = False) -> None:
        self._after_commit: list[Callable[[], None]] = []
        self._backend = _backend(address, self._committed, sole)
        self._readers = ThreadPoolExecutor(self._backend.readers, thread_name_prefix="db-read")

    @property
    def name(self) -> str:
        """Where it is, as it may be shown: without its password."""
        return self._backend.name

    @property
    def commits_in_any_order(self) -> bool:
        """May a write that began earlier become visible later than others?"""
        return self._backend.commits_in_any_order

    # -- reads ------------------------------------------------------------------------------

    def read_now(self, work: Work[T]) -> T:
        """Run `work` on a read connection in this thread, in one consistent snapshot."""
        return self._backend.read_now(work)

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a reader thread, in one consistent snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    # -- writes -----------------------------------------------------------------------------

    def submit(self, work: Work[T]) -> "Future[T]":
        """Queue `work`. The future resolves after COMMIT, or with what `work` raised.

        It runs in the caller's context, so that what it records can say through which door it came.
        """
        context = contextvars.copy_context()
        return self._backend.submit(lambda c: context.run(work, c))

    def write_now(self, work: Work[T]) -> T:
        """Run `work` in a transaction and wait for its COMMIT. Never call it from the event loop."""
        return self.submit(work).result()

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a transaction; returns its result once that is durable.

        A caller that is cancelled meanwhile does not undo the write.
        """
        return await asyncio.shield(asyncio.wrap_future(self.submit(work)))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` on a writing thread after every commit (it must be quick and not raise)."""
        self._after_commit.append(callback)

    def once_committed(self, callback: Callable[[], None]) -> None:
        """From within a write function: call `callback` once this write is durable, never if it is not.

        Should the write function itself fail later, the callback may still run, so it must be harmless then
        (dropping a cache entry is).
        """
        self._backend.once_committed(callback)

    def _committed(self) -> None:
        for callback in self._after_commit:
            with suppress(Exception):
                callback()

    def close(self) -> None:
        """Finish what is queued, then release every connection. Safe to call twice."""
        self._readers.shutdown(wait=True)
        self._backend.close()


def _backend(address: Address, committed: Callable[[], None], sole: bool) -> Backend:
    # Imported here so that each installation loads only the driver of the database that it has.
    if isinstance(address, Path):
        from stratal.kernel.database.sqlite import SqliteBackend

        return SqliteBackend(address, committed)
    from stratal.kernel.database.postgresql import PostgresBackend

    return PostgresBackend(address, committed, sole=sole)


def is_ready(database: Database) -> bool:
    """True when the database answers."""
    answer: Any = database.read_now(lambda c: c.execute(text("SELECT 1")).scalar_one())
    return bool(answer)
