"""PostgreSQL: several writers at once, each write function a SERIALIZABLE transaction that is run again if need be.

Serializable means that a write function may be written as if nobody else wrote: where two of them cannot be
put into an order, PostgreSQL fails one (40001; 40P01 for a deadlock), and that one is run again from the
start after a random pause. After two times in vain it is run with the other writers of this process
standing back, so a write that conflicts with everybody's still gets its turn. So is one that broke a
constraint: the row in its way may be one that another committed after this one had looked for it.
(https://www.postgresql.org/docs/current/transaction-iso.html#XACT-SERIALIZABLE)

Reads are REPEATABLE READ, READ ONLY: one snapshot for all that a function asks. A connection that is lost
before COMMIT was sent costs another attempt; one that is lost while it commits leaves unknown what became
of it, and is said to have.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from stratal.kernel.database.connecting import Hold, Target, make_engine
from stratal.kernel.database.handle import Work
from stratal.kernel.errors import Internal, Invalid, StratalError, Unavailable

T = TypeVar("T")

_WRITERS = 8
_READERS = 8
_TRIES = 6
_TRIES_TOGETHER = (
    2  # those that tell of what they did conflict: each event carries the hash of the one before
)
_TRIES_ALONE = 6
_PAUSE_SECONDS = 0.005
_LONGEST_PAUSE_SECONDS = 0.5
_OVERTAKEN = {"40001", "40P01"}  # serialization failure, deadlock
_UNSTORABLE = {"22003", "22021"}  # a number out of the column's range, characters that text cannot hold


class Again(Exception):
    """This attempt undid itself; another may succeed. `cause` is why."""

    def __init__(self, cause: Exception) -> None:
        super().__init__()
        self.cause = cause


class PostgresBackend:
    """One PostgreSQL database, by pools of connections that are opened as they are needed."""

    readers = _READERS
    commits_in_any_order = True

    def __init__(self, url: str, committed: Callable[[], None], *, sole: bool = False) -> None:
        self._target = Target(url)
        self.name = str(self._target)
        self._committed = committed
        self._hold = Hold(self._target) if sole else None
        self._write_engine = make_engine(
            self._target, isolation="SERIALIZABLE", pool_size=_WRITERS, hold=self._hold
        )
        self._read_engine = make_engine(
            self._target, isolation="REPEATABLE READ", pool_size=_READERS, hold=self._hold
        ).execution_options(postgresql_readonly=True)
        self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="db-write")
        self._turns = _Turns()
        self._now = threading.local()

    def read_now(self, work: Work[T]) -> T:
        for attempt in range(_TRIES):
            try:
                with _explained(), self._read_engine.connect() as connection:
                    return work(connection)
            except Again as again:
                if attempt == _TRIES - 1:
                    raise _unavailable(self._target, again.cause) from again.cause
            _pause(attempt)
        raise AssertionError("unreachable")

    def submit(self, work: Work[T]) -> "Future[T]":
        return self._writers.submit(self._write, work)

    def once_committed(self, callback: Callable[[], None]) -> None:
        self._now.once.append(callback)

    def close(self) -> None:
        self._writers.shutdown(wait=True)
        self._read_engine.dispose()
        self._write_engine.dispose()
        if self._hold is not None:
            self._hold.close()

    # -- on a writer's thread --------------------------------------------------------------------

    def _write(self, work: Work[T]) -> T:
        alone = False
        for attempt in range(_TRIES_TOGETHER + _TRIES_ALONE):
            try:
                with self._turns.alone() if alone else self._turns.shared():
                    answer = self._attempt(work)
            except IntegrityError:
                if alone:
                    raise
                alone = True  # it may be due to a row of another writer, which this snapshot did not have yet
            except Again as again:
                alone = alone or attempt >= _TRIES_TOGETHER - 1
                if attempt == _TRIES_TOGETHER + _TRIES_ALONE - 1:
                    raise _unavailable(self._target, again.cause) from again.cause
            else:
                self._tell()
                return answer
            _pause(attempt)
        raise AssertionError("unreachable")

    def _attempt(self, work: Work[T]) -> T:
        self._now.once = []
        with _explained(), self._write_engine.connect() as connection:
            transaction = connection.begin()
            try:
                answer = work(connection)
            except DBAPIError as error:
                if isinstance(
                    error.orig, psycopg.errors.ReadOnlySqlTransaction
                ):  # the database became a standby
                    connection.invalidate()
                    raise _unavailable(self._target, error) from error
                raise
            _check_whole(connection)
            try:
                transaction.commit()
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise _unknown(self._target) from error
                raise
            return answer

    def _tell(self) -> None:
        for callback in self._now.once:
            with suppress(Exception):
                callback()
        self._committed()


class _Turns:
    """Many at once, or one alone; who waits to be alone lets nobody past."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._waiting = 0
        self._one = False

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._one and not self._waiting)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._one and not self._sharing)
            self._waiting -= 1
            self._one = True
        try:
            yield
        finally:
            with self._changed:
                self._one = False
                self._changed.notify_all()


@contextmanager
def _explained() -> Iterator[None]:
    """Give the database's errors their meaning: `Again`, `Invalid` for values it cannot store, or themselves."""
    try:
        yield
    except DBAPIError as error:
        cause = error.orig
        state = getattr(cause, "sqlstate", None)
        if state in _OVERTAKEN or error.connection_invalidated:
            raise Again(error) from error
        if state in _UNSTORABLE or (state is None and isinstance(cause, psycopg.DataError)):
            raise _unstorable(cause) from error
        raise


def _check_whole(connection: Connection) -> None:
    """Refuse to COMMIT what the database has given up already: it would answer with a silent ROLLBACK."""
    raw = connection.connection.driver_connection
    if isinstance(raw, psycopg.Connection) and raw.info.transaction_status == TransactionStatus.INERROR:
        raise Again(Internal("A change went on after an error of the database, and was undone."))


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0, min(_PAUSE_SECONDS * 2**attempt, _LONGEST_PAUSE_SECONDS)))  # noqa: S311


def _unstorable(cause: BaseException | None) -> Invalid:
    if "NUL" in str(cause):
        return Invalid("Text may not contain the character NUL.", reason="unstorable_text")
    return Invalid(
        "A value is too large, or holds characters that cannot be stored.", reason="unstorable_value"
    )


def _unavailable(target: Target, cause: Exception) -> StratalError:
    """What is said when it was tried often enough."""
    if isinstance(cause, StratalError):
        return cause
    orig = getattr(cause, "orig", None) or cause
    if getattr(orig, "sqlstate", None) in _OVERTAKEN:
        return Unavailable(
            "Too many changes of the same things at once.", hint="Try again.", reason="contended"
        )
    return Unavailable(
        f"The database at {target} does not answer: {next(iter(str(orig).splitlines()), '')}",
        hint="Try again in a moment.",
        reason="database_unreachable",
    )


def _unknown(target: Target) -> Unavailable:
    return Unavailable(
        f"The connection to the database at {target} broke while a change was being committed: "
        "it may have happened or not.",
        hint="Look before trying again.",
        reason="outcome_unknown",
    )
