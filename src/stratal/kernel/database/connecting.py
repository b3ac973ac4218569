"""How PostgreSQL is reached: its URL, what every connection is set to, and who may be connected.

Text is compared and sorted byte by byte on both databases (COLLATE "C" here, BINARY on SQLite): that is the
order S3 promises for keys and the one page tokens rely on, and no upgrade of the machine's locales can
change an index that was built with it.
"""

import logging
import threading
from contextlib import suppress
from typing import Any, LiteralString
from urllib.parse import quote

from sqlalchemy import Column, Engine, create_engine, event
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.engine.interfaces import DBAPIConnection, IsolationLevel

from stratal.kernel.errors import Conflict, Invalid, Unavailable

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict
except ImportError as missing:
    raise Unavailable(
        "A PostgreSQL database needs the library psycopg, which is not installed.",
        hint="Install it: pip install 'stratal[postgres]'",
        reason="no_psycopg",
    ) from missing

log = logging.getLogger("stratal.database")

OLDEST = 13  # the first with pg_current_xact_id
_SCHEMES = ("postgresql://", "postgres://")
_DEFAULTS: dict[str, str | int] = {
    "application_name": "stratal",
    "connect_timeout": 10,
    "target_session_attrs": "read-write",
    # A database whose machine is gone is noticed, too.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_KEY = 0x53545241  # "STRA": the first half of our advisory locks' names
_SERVER, _CONNECTIONS = 1, 2
_WATCH_SECONDS = 5.0
_OTHERS_END_SECONDS = 3  # a killed server's idle session ends at once, with its socket
_OTHERS_FINISH_SECONDS = 10


class Target:
    """Where a PostgreSQL database is. Shown without its password, whichever way it is printed."""

    def __init__(self, url: str) -> None:
        plain = url.replace("postgresql+psycopg://", "postgresql://", 1)
        try:
            said = conninfo_to_dict(plain)
            if not plain.startswith(_SCHEMES) or not str(said.get("port", "0")).replace(",", "").isdecimal():
                raise psycopg.ProgrammingError
        except psycopg.Error:
            raise Invalid(  # not what the library says: it may repeat the password
                "The database's URL is not one that PostgreSQL understands.",
                hint="It looks like postgresql://USER:PASSWORD@HOST:5432/NAME",
                reason="bad_database_url",
            ) from None
        self.conninfo = plain
        self._shown = _shown(said)
        self._defaults: dict[str, Any] = {k: v for k, v in _DEFAULTS.items() if k not in said}

    def __str__(self) -> str:
        return self._shown

    __repr__ = __str__

    def connect(self, **more: Any) -> "psycopg.Connection[Any]":
        """Raises `Unavailable` when nobody answers or lets us in, `Invalid` for a server that will not do."""
        try:
            raw = psycopg.connect(self.conninfo, client_encoding="utf8", **self._defaults, **more)
        except psycopg.OperationalError as error:
            raise Unavailable(
                f"Cannot reach the database at {self}: {_first_line(error)}",
                hint="Is it running, and is STRATAL_DATABASE_URL right?",
                reason="database_unreachable",
            ) from None
        try:
            self._prepare(raw)
        except BaseException:
            raw.close()
            raise
        return raw

    def _prepare(self, raw: "psycopg.Connection[Any]") -> None:
        raw.autocommit = True
        version, encoding, *_ = raw.execute(_SESSION).fetchone() or (0, "")
        raw.autocommit = False
        if int(version) < OLDEST * 10_000:
            raise Invalid(
                f"The database at {self} is PostgreSQL {int(version) // 10_000}; Stratal needs {OLDEST} or newer."
            )
        if encoding != "UTF8":
            raise Invalid(
                f"The database at {self} has the encoding {encoding}; Stratal needs UTF8.",
                hint="Make one: CREATE DATABASE stratal ENCODING 'UTF8' TEMPLATE template0",
            )


# A server that is gone is noticed in half a minute, so that its successor can take over; what was
# acknowledged is on the disk, even where the database's administrator chose speed over that.
_SESSION: LiteralString = """
SELECT current_setting('server_version_num'), current_setting('server_encoding'),
       set_config('tcp_keepalives_idle', '10', false),
       set_config('tcp_keepalives_interval', '5', false),
       set_config('tcp_keepalives_count', '3', false),
       CASE WHEN current_setting('synchronous_commit') = 'off'
            THEN set_config('synchronous_commit', 'on', false) END
"""


def _shown(said: dict[str, Any]) -> str:
    host, port = str(said.get("host") or "localhost"), said.get("port")
    user = f"{quote(str(said['user']), safe='')}@" if said.get("user") else ""
    place = f"{quote(host, safe='/,:')}{f':{port}' if port else ''}"
    return f"postgresql://{user}{place}/{quote(str(said.get('dbname') or ''), safe='')}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# -- engines ----------------------------------------------------------------------------------------


class _BytewiseText(PGTypeCompiler):
    """Every text column that is made compares by its bytes."""

    def visit_TEXT(self, type_: Any, **kw: Any) -> str:  # noqa: N802  # SQLAlchemy's spelling
        made: str = super().visit_TEXT(type_, **kw)
        in_a_table = isinstance(kw.get("type_expression"), Column)
        return f'{made} COLLATE "C"' if in_a_table and not type_.collation else made


def make_engine(target: Target, *, isolation: IsolationLevel, pool_size: int, hold: "Hold | None") -> Engine:
    """Connections to `target`; when there is a `hold`, only for as long as it is ours."""
    engine = create_engine(
        "postgresql+psycopg://",
        isolation_level=isolation,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=60,
        use_native_hstore=False,
    )
    engine.dialect.type_compiler_instance = _BytewiseText(engine.dialect)

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: object, _args: Any, kwargs: dict[str, Any]) -> DBAPIConnection:
        raw: Any = target.connect(context=kwargs.get("context"))
        if hold is not None:
            try:
                hold.admit(raw)
            except BaseException:
                raw.close()
                raise
        return raw  # type: ignore[no-any-return]

    return engine


# -- one server at a time ------------------------------------------------------------------------------


class Hold:
    """Keeps every other server out of a database for as long as this one has a connection to it.

    Two advisory locks: one is the server's, held by a connection of its own; the other is shared by all of
    its connections. A server starts only when it gets the first and nobody shares the second, so nothing
    of a predecessor can still commit. A connection is admitted only while the first is ours. The locks
    belong to sessions of the database, so they end with them in whatever way a server dies.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._raw = target.connect()
        self._raw.autocommit = True
        try:
            self._take(self._raw)
            self._await_the_last_of_others(self._raw)
        except BaseException:
            self._raw.close()
            raise
        self._session = self._raw.info.backend_pid
        threading.Thread(target=self._watch, name="db-hold", daemon=True).start()

    def admit(self, raw: "psycopg.Connection[Any]") -> None:
        """Let a new connection in, or raise `Unavailable` because the database is somebody else's by now."""
        raw.autocommit = True
        _ask(raw, "SELECT pg_advisory_lock_shared(%s, %s)", _KEY, _CONNECTIONS)
        with self._lock:
            mine = _ask(raw, _HOLDER, _KEY, _SERVER) == self._session or self._retake()
        raw.autocommit = False
        if not mine:
            raise self._lost()

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            self._raw.close()

    def _take(self, raw: "psycopg.Connection[Any]") -> None:
        if not _locked_within(raw, _OTHERS_END_SECONDS, _SERVER):
            raise Conflict(
                f"Another Stratal server is running on the database at {self._target}.",
                hint="One database serves one server: stop that one, or give this one a database of its own.",
                reason="database_in_use",
            )

    def _await_the_last_of_others(self, raw: "psycopg.Connection[Any]") -> None:
        if not _locked_within(raw, _OTHERS_FINISH_SECONDS, _CONNECTIONS):
            raise Conflict(
                f"Connections of another Stratal server to the database at {self._target} are still open.",
                hint="Stop that server; when its machine is gone, try again in a minute.",
                reason="database_in_use",
            )
        _ask(raw, "SELECT pg_advisory_unlock(%s, %s)", _KEY, _CONNECTIONS)

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH_SECONDS):
            with self._lock:
                if self._closed.is_set():
                    return
                try:
                    self._raw.execute("SELECT 1")
                except psycopg.Error:
                    with suppress(Unavailable):
                        self._retake()

    def _retake(self) -> bool:
        """The session that held the lock is gone: hold it by a new one, unless somebody else does."""
        if self._closed.is_set():
            return False
        self._raw.close()
        raw = self._target.connect()
        raw.autocommit = True
        try:
            taken = _locked_within(raw, 1, _SERVER)
        except BaseException:
            raw.close()
            raise
        if not taken:
            raw.close()
            log.error("the database at %s is held by another session", self._target)
            return False
        self._raw, self._session = raw, raw.info.backend_pid
        log.warning("the connection to the database at %s was lost, and is back", self._target)
        return True

    def _lost(self) -> Unavailable:
        return Unavailable(
            f"This server does not hold the database at {self._target} any more.",
            hint="Either another one has taken over: then stop this one (stratal down). Or the database has not "
            "noticed yet that this one's connection broke: then it passes within a minute.",
            reason="database_lost",
        )


_HOLDER: LiteralString = """
SELECT pid FROM pg_locks
 WHERE locktype = 'advisory' AND granted AND mode = 'ExclusiveLock'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND classid = %s AND objid = %s AND objsubid = 2
"""


def _locked_within(raw: "psycopg.Connection[Any]", seconds: int, what: int) -> bool:
    _ask(raw, "SELECT set_config('lock_timeout', %s, false)", f"{seconds}s")
    try:
        _ask(raw, "SELECT pg_advisory_lock(%s, %s)", _KEY, what)
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def _ask(raw: "psycopg.Connection[Any]", query: LiteralString, *values: Any) -> Any:
    row = raw.execute(query, values).fetchone()
    return None if row is None else row[0]
