"""The database handle: reads on their own connections, writes through one writer that commits in groups.

SQLite allows one writer at a time and an fsync costs milliseconds, so each write is a *function*
handed to the writer's thread. The thread takes every function that is waiting, opens one
transaction, runs each inside a SAVEPOINT (a failure undoes that function alone), commits once, and
only then answers them all: many requests, one fsync. ``synchronous=FULL`` in WAL mode makes the
commit survive a power cut; NORMAL loses acknowledged rows (https://www.sqlite.org/pragma.html#pragma_synchronous).

Rules for a write function: SQL only. No network, no hashing of bodies, no file I/O, no awaiting:
everybody else's write waits for it.
"""

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection

T = TypeVar("T")
Work = Callable[[Connection], T]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every room's `tables.py` declares its tables on this one `MetaData`."""

_GROUP_LIMIT = 512
_READERS = 4


def _sqlite_engine(path: Path, *, readonly: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": 30.0},
        pool_size=1 if not readonly else _READERS + 2,
        max_overflow=0 if not readonly else 8,
    )

    @event.listens_for(engine, "connect")
    def _on_connect(raw: DBAPIConnection, _record: object) -> None:
        raw.isolation_level = None  # we say BEGIN ourselves, below
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA temp_store=MEMORY")
        cursor.execute("PRAGMA cache_size=-8000")
        if readonly:
            cursor.execute("PRAGMA query_only=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")

    return engine


class Database:
    """One SQLite file. Threads: one writer, a few readers. Made by `Database(path)`, ended by `close()`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._write_engine = _sqlite_engine(path, readonly=False)
        self._read_engine = _sqlite_engine(path, readonly=True)
        self._queue: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="db-read")
        self._after_commit: list[Callable[[], None]] = []
        self._once: list[Callable[[], None]] = []
        self._closed = False
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write_loop, name="db-write", daemon=True)
        self._writer.start()

    # -- reads ------------------------------------------------------------------------------

    def read_now(self, work: Work[T]) -> T:
        """Run `work` on a read connection in this thread, in one consistent snapshot."""
        with self._read_engine.connect() as connection:
            return work(connection)

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a reader thread, in one consistent snapshot."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, work)

    # -- writes -----------------------------------------------------------------------------

    def submit(self, work: Work[T]) -> "Future[T]":
        """Queue `work` for the writer. The future resolves after COMMIT, or with what `work` raised.

        It runs in the caller's context, so that what it records can say through which door it came.
        """
        context = contextvars.copy_context()
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the database is closed")
            self._queue.put((lambda c: context.run(work, c), future))
        return future

    def write_now(self, work: Work[T]) -> T:
        """Run `work` on the writer and wait for its COMMIT. Never call it from the event loop."""
        return self.submit(work).result()

    async def write(self, work: Work[T]) -> T:
        """Run `work` on the writer; returns its result once that is durable.

        A caller that is cancelled meanwhile does not undo the write.
        """
        return await asyncio.shield(asyncio.wrap_future(self.submit(work)))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the writer's thread after every commit (it must be quick and not raise)."""
        self._after_commit.append(callback)

    def once_committed(self, callback: Callable[[], None]) -> None:
        """From within a write function: call `callback` once this group is durable, never if it is not.

        Should the write function itself fail later, the callback still runs, so it must be harmless then
        (dropping a cache entry is).
        """
        self._once.append(callback)

    def close(self) -> None:
        """Finish what is queued, then release every connection. Safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._writer.join()
        self._readers.shutdown(wait=True)
        self._read_engine.dispose()
        self._write_engine.dispose()

    # -- the writer's thread -----------------------------------------------------------------

    def _write_loop(self) -> None:
        with self._write_engine.connect() as connection:
            open_ = True
            while open_:
                group: list[tuple[Work[Any], Future[Any]]] = []
                item = self._queue.get()
                while item is not None:
                    group.append(item)
                    if len(group) >= _GROUP_LIMIT:
                        break
                    try:
                        item = self._queue.get_nowait()
                    except queue.Empty:
                        break
                open_ = item is not None
                if group:
                    self._run_group(connection, group)

    def _run_group(self, connection: Connection, group: list[tuple[Work[Any], "Future[Any]"]]) -> None:
        answers: list[tuple[Future[Any], Any]] = []
        refusals: list[tuple[Future[Any], Exception]] = []
        self._once.clear()
        try:
            with connection.begin():
                for work, future in group:
                    if not future.set_running_or_notify_cancel():
                        continue
                    try:
                        with connection.begin_nested():
                            answer = work(connection)
                        answers.append((future, answer))
                    except Exception as error:
                        # Answered after COMMIT too: it may fail because of what another of the group did.
                        refusals.append((future, error))
        except Exception as error:  # BEGIN or COMMIT itself failed: nothing of this group happened
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
            return
        for callback in (*self._once, *self._after_commit):
            with contextlib.suppress(Exception):
                callback()
        for future, answer in answers:
            future.set_result(answer)
        for future, refusal in refusals:
            future.set_exception(refusal)


def is_ready(database: Database) -> bool:
    """True when the database answers."""
    return bool(database.read_now(lambda c: c.execute(text("SELECT 1")).scalar_one()))
