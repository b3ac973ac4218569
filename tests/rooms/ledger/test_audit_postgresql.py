"""The chain under many writers at once: on PostgreSQL each is a transaction of its own."""

import asyncio
from pathlib import Path

from postgres_server import PostgresServer
from stratal.app.tables import metadata
from stratal.identity.model import Kind, Principal, Role
from stratal.kernel.database import Database
from stratal.kernel.events import emit
from stratal.ledger.audit import Audit

ADMIN = Principal(Kind.PERSON, "usr_1", "root", "prj_a", "a", Role.ADMIN)


def test_the_chain_holds_when_many_write_at_once(postgres: PostgresServer, tmp_path: Path) -> None:
    database = Database(postgres.url(postgres.create()))
    database.write_now(metadata.create_all)
    writes = [
        database.submit(lambda c, n=number: emit(c, "thing.made", f"th_{n}", actor="person:ada"))
        for number in range(150)
    ]
    for write in writes:
        write.result()
    found = asyncio.run(Audit(database, tmp_path).verify(ADMIN))
    database.close()
    assert (found.holds, found.entries, found.unchained) == (True, 150, 0), found
