"""Which database the server opens, and that it is this home's own.

Rows, bytes and keys belong together: a server that met another home's rows, or none, would take the home's
bytes for leftovers and remove them. So a home and a PostgreSQL database that have met know each other by an
id: a row there, a file here; and a home never changes its database unnoticed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import BigInteger, Column, Connection, Table, Text, insert, inspect, select

from stratal.app.record import write_private
from stratal.app.schema import ensure_schema, ensure_schema_of
from stratal.app.settings import Home, Settings
from stratal.kernel.clock import Clock, system_clock
from stratal.kernel.database import Database, metadata
from stratal.kernel.errors import Conflict, Internal
from stratal.kernel.events import resume_numbering
from stratal.kernel.ids import new_id

instance = Table(
    "instance",
    metadata,
    Column("id", Text, primary_key=True),
    Column("met_at", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Bond:
    """What a home knows of its PostgreSQL database. `sealed`: the database has the row with `id`, too."""

    id: str
    database: str
    sealed: bool


def open_database(settings: Settings, clock: Clock = system_clock) -> Database:
    """The database of the settings, with the newest schema, for the only server on it.

    Raises `Conflict` when it is not this home's, is in use, or was written by a newer Stratal; `Invalid` for a
    URL that is none; `Unavailable` when it cannot be reached.
    """
    home = settings.home
    bond = read_bond(home)
    if settings.database_url is None:
        if bond is not None:
            raise Conflict(
                f"The records of {home.root} are in the database at {bond.database}.",
                hint="Set STRATAL_DATABASE_URL to its URL, or choose another data directory with --home.",
                reason="other_database",
            )
        ensure_schema(home.database)
        return Database(home.database)
    if home.database.exists():
        raise Conflict(
            f"The records of {home.root} are in {home.database}, not in PostgreSQL.",
            hint="Unset STRATAL_DATABASE_URL, or choose a new data directory with --home.",
            reason="other_database",
        )
    database = Database(settings.database_url, sole=True)
    try:
        _meet(home, database, bond, clock)
    except BaseException:
        database.close()
        raise
    return database


def _meet(home: Home, database: Database, bond: Bond | None, clock: Clock) -> None:
    shown = database.name
    known = database.read_now(_known)
    if known is not None and (bond is None or known != bond.id):
        raise Conflict(
            f"The database at {shown} belongs to another data directory than {home.root}.",
            hint="Give this one a database of its own, or start with the data directory that belongs to it (--home).",
            reason="foreign_database",
        )
    if known is None and bond is not None and bond.sealed:
        raise Conflict(
            f"The database at {shown} is empty, but {home.root} has records in the one at {bond.database}.",
            hint="Set STRATAL_DATABASE_URL to that one, or restore it from a backup first.",
            reason="empty_database",
        )
    if known is None and not database.read_now(_is_free):
        raise Conflict(
            f"The database at {shown} holds tables that are not Stratal's.",
            hint="Give Stratal a database of its own: CREATE DATABASE stratal",
            reason="foreign_database",
        )
    ensure_schema_of(database, shown)
    if known is None:
        # The file first: should this process die in between, the next start finds it unsealed and goes on.
        id_ = new_id("ins") if bond is None else bond.id
        _write_bond(home, Bond(id_, shown, sealed=False))
        database.write_now(lambda c: c.execute(insert(instance).values(id=id_, met_at=clock())))
        bond = Bond(id_, shown, sealed=False)
    assert bond is not None
    if not bond.sealed or bond.database != shown:
        _write_bond(home, Bond(bond.id, shown, sealed=True))
    database.write_now(resume_numbering)


def _known(connection: Connection) -> str | None:
    if not inspect(connection).has_table(instance.name):
        return None
    return connection.execute(select(instance.c.id)).scalar()


def _is_free(connection: Connection) -> bool:
    tables = set(inspect(connection).get_table_names())
    return not tables or instance.name in tables


def _file(home: Home) -> Path:
    return home.database.with_name("postgresql.json")


def read_bond(home: Home) -> Bond | None:
    """What the home knows of its PostgreSQL database; None when it has not met one. Raises `Internal` when damaged."""
    try:
        return Bond(**json.loads(_file(home).read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise Internal(f"{_file(home)} is damaged.", hint="Restore it from a backup.") from error


def _write_bond(home: Home, bond: Bond) -> None:
    write_private(_file(home), json.dumps({"id": bond.id, "database": bond.database, "sealed": bond.sealed}))
