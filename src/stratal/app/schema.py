"""The schema's version: migrated by Alembic before the server reads a row.

Alembic costs half a second to import, so a database that is at the newest revision already is
recognised without it.
"""

import sqlite3
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, event, inspect, text

from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict

MIGRATIONS = Path(__file__).parent / "migrations"


def newest_revision() -> str:
    """The revision this version of Stratal needs: the last file in `migrations/versions`, by name."""
    return sorted(MIGRATIONS.joinpath("versions").glob("[0-9]*.py"))[-1].stem.split("_")[0]


def current_revision(database: Path) -> str | None:
    """The revision the SQLite file is at; None for a new one."""
    if not database.exists():
        return None
    with sqlite3.connect(database) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except sqlite3.OperationalError:
            return None
    connection.close()
    return None if row is None else str(row[0])


def ensure_schema(database: Path) -> None:
    """Bring the SQLite file to the newest revision, by all the revisions that it lacks or none.

    Raises `Conflict` when it was written by a newer Stratal.
    """
    if _is_newest(current_revision(database), str(database)):
        return
    engine = create_engine(f"sqlite:///{database}", poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # Python's module would commit before each change of the schema

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.begin() as connection:
        _upgrade(connection)


def ensure_schema_of(database: Database, shown: str) -> None:
    """The same for an open PostgreSQL database, `shown` in errors: all revisions in one transaction, or none."""
    if _is_newest(database.read_now(revision_in), shown):
        return
    database.write_now(_upgrade)


def _upgrade(connection: Connection) -> None:
    """Run the revisions that are lacking, in the transaction that `connection` is in."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def revision_in(connection: Connection) -> str | None:
    """The revision of the database that `connection` leads to; None for a new one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if row is None else str(row)


def _is_newest(current: str | None, shown: str) -> bool:
    if current is not None and current > newest_revision():
        raise Conflict(
            f"{shown} was written by a newer Stratal (revision {current}; this one knows {newest_revision()}).",
            hint="Install that version, or choose another data directory with --home.",
            reason="newer_schema",
        )
    return current == newest_revision()
