"""Which database the rooms stand on: SQLite files, or a PostgreSQL server with a database for each file they name.

With ``--database postgres`` whatever opens a database by path is given one of the server's instead, made from a
copy of the newest schema. Every write function is then run twice: the first time is undone, as if it had lost
to another, so that a test shows what a write leaves behind outside of its transaction.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Connection, String, Table, bindparam, text

from stratal.app.schema import ensure_schema_of
from stratal.app.tables import metadata
from stratal.kernel.database import Address, Database, handle
from stratal.kernel.database.handle import Backend

_postgres: "OnPostgres | None" = None


def copy_database(template: Path, path: Path) -> None:
    """Make the database at `path` a copy of the one at `template`, which nobody may have open."""
    if _postgres is None:
        shutil.copy(template, path)
    else:
        _postgres.copy(template, path)


def on_postgres() -> bool:
    return _postgres is not None


class OnPostgres:
    """Databases of one server, by the paths of the files that they stand for.

    Making one takes a fifth of a second, emptying one a hundredth: so those of a test are used again.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._names: dict[Path, str] = {}
        self._made: list[Path] = []
        self._spare: list[str] = []
        self._schema = server.create()
        self._rows: dict[Path, list[tuple[Table, list[Any]]]] = {}
        database = Database(server.url(self._schema))
        ensure_schema_of(database, "the template")
        database.close()

    def url(self, path: Path) -> str:
        if path not in self._names:
            self._names[path] = self._spare.pop() if self._spare else self._server.create(self._schema)
            self._made.append(path)
        return str(self._server.url(self._names[path]))

    def copy(self, template: Path, path: Path) -> None:
        if template not in self._rows:
            with self._connected(self._names[template]) as connection:
                self._rows[template] = [
                    (table, rows)
                    for table in metadata.sorted_tables
                    if (rows := connection.execute(f'SELECT * FROM "{table.name}"').fetchall())
                ]
        self.url(path)
        with self._connected(self._names[path]) as connection:
            for table, rows in self._rows[template]:
                places = ", ".join(["%s"] * len(table.columns))
                connection.cursor().executemany(f'INSERT INTO "{table.name}" VALUES ({places})', rows)

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """The databases that are made within it are spare afterwards."""
        before = len(self._made)
        yield
        while len(self._made) > before:
            name = self._names.pop(self._made.pop())
            with self._connected(name) as connection:
                connection.execute(_EMPTY)
            self._spare.append(name)

    @contextmanager
    def _connected(self, name: str) -> Iterator[Any]:
        import psycopg

        with psycopg.connect(self._server.url(name)) as connection:
            yield connection


_KNOWN = [table.name for table in metadata.sorted_tables]
_EMPTY = f"""
SET LOCAL session_replication_role = replica; -- foreign keys look away
{"".join(f'DELETE FROM "{name}";' for name in _KNOWN)}
SELECT setval(format('%I.%I', schemaname, sequencename), 1, false) FROM pg_sequences;
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public'
    AND NOT tablename = ANY ('{{{",".join(_KNOWN)},alembic_version}}') LOOP
    EXECUTE format('DROP TABLE %I', name);
  END LOOP;
END $$
"""


@contextmanager
def standing_on(server: Any) -> Iterator["OnPostgres"]:
    """Within it, databases named by path are the server's."""
    global _postgres
    _postgres = here = OnPostgres(server)
    by_address = handle._backend

    def backend(address: Address, committed: Callable[[], None], sole: bool) -> Backend:
        from stratal.kernel.database.postgresql import PostgresBackend

        if not isinstance(address, Path):
            return by_address(address, committed, sole)
        return _Twice(PostgresBackend)(here.url(address), committed, sole=sole)

    handle._backend = backend
    try:
        yield here
    finally:
        handle._backend = by_address
        _postgres = None


_NUMBERS = text("SELECT schemaname || '.' || sequencename, last_value FROM pg_sequences ORDER BY 1")
_RESET = text("SELECT setval(:name, coalesce(:last, 1), :last IS NOT NULL)").bindparams(
    bindparam("name", type_=String), bindparam("last", type_=BigInteger)
)


def _Twice(backend: type) -> type:  # noqa: N802
    from stratal.kernel.database.postgresql import Again

    class Twice(backend):  # type: ignore[misc]
        """Runs each write function once in vain, and gives back the numbers that it drew from sequences."""

        def _write(self, work: Callable[[Connection], Any]) -> Any:
            def in_vain(connection: Connection) -> None:
                before = connection.execute(_NUMBERS).all()
                work(connection)
                for name, last in set(before) - set(connection.execute(_NUMBERS).all()):
                    connection.execute(_RESET, {"name": name, "last": last})
                raise Again(RuntimeError("undone by the test"))

            # What it refuses it is left to refuse again, so that the refusal comes by the usual way.
            with suppress(Exception), self._turns.alone():
                self._attempt(in_vain)
            return super()._write(work)

    return Twice
