"""SQLite: reads on their own connections, writes through one writer that commits in groups.

SQLite allows one writer at a time and an fsync costs milliseconds, so write functions are handed to the
writer's thread. It takes every function that is waiting, opens one transaction, runs each inside a
SAVEPOINT (a failure undoes that function alone; one by itself needs none), commits once, and only then
answers them all: many requests, one fsync. ``synchronous=FULL`` in WAL mode makes the commit survive a power
cut; NORMAL loses acknowledged rows (https://www.sqlite.org/pragma.html#pragma_synchronous).
"""

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection

from stratal.kernel.database.handle import Work

T = TypeVar("T")

_GROUP_LIMIT = 512
_READERS = 4


def _engine(path: Path, *, readonly: bool) -> Engine:
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


class SqliteBackend:
    """One SQLite file. Threads: one writer, a few readers."""

    readers = _READERS
    commits_in_any_order = False

    def __init__(self, path: Path, committed: Callable[[], None]) -> None:
        self.name = str(path)
        self._committed = committed
        self._write_engine = _engine(path, readonly=False)
        self._read_engine = _engine(path, readonly=True)
        self._queue: queue.SimpleQueue[tuple[Work[Any], Future[Any]] | None] = queue.SimpleQueue()
        self._once: list[Callable[[], None]] = []
        self._closed = False
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write_loop, name="db-write", daemon=True)
        self._writer.start()

    def read_now(self, work: Work[T]) -> T:
        with self._read_engine.connect() as connection:
            return work(connection)

    def submit(self, work: Work[T]) -> "Future[T]":
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the database is closed")
            self._queue.put((work, future))
        return future

    def once_committed(self, callback: Callable[[], None]) -> None:
        self._once.append(callback)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._writer.join()
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
        if len(group) == 1:
            self._run_alone(connection, *group[0])
            return
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
        self._tell()
        for future, answer in answers:
            future.set_result(answer)
        for future, refusal in refusals:
            future.set_exception(refusal)

    def _run_alone(self, connection: Connection, work: Work[Any], future: "Future[Any]") -> None:
        """As a group of one: what undoes it undoes the whole transaction, so it needs no savepoint."""
        self._once.clear()
        if not future.set_running_or_notify_cancel():
            return
        try:
            with connection.begin():
                answer = work(connection)
        except Exception as error:
            future.set_exception(error)
            return
        self._tell()
        future.set_result(answer)

    def _tell(self) -> None:
        """After COMMIT."""
        for callback in self._once:
            with contextlib.suppress(Exception):
                callback()
        self._committed()
