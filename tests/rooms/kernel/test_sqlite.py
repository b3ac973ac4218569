"""SQLite's writer: many requests, one commit; acknowledged means in the file."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert

from databases import on_postgres
from stratal.kernel.database import Database

pytestmark = pytest.mark.fast

things = Table("things", MetaData(), Column("n", Integer, primary_key=True))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    if on_postgres():
        pytest.skip("of SQLite alone")
    database = Database(tmp_path / "t.db")
    database.write_now(lambda c: things.create(c))
    yield database
    database.close()


def test_many_writers_share_commits(database: Database) -> None:
    commits = 0

    def count() -> None:
        nonlocal commits
        commits += 1

    database.after_commit(count)

    async def main() -> None:
        await asyncio.gather(
            *(database.write(lambda c, n=n: c.execute(insert(things).values(n=n))) for n in range(300))
        )

    asyncio.run(main())
    assert commits < 150


def test_what_was_acknowledged_is_in_the_file(database: Database, tmp_path: Path) -> None:
    database.write_now(lambda c: c.execute(insert(things).values(n=7)))
    other = sqlite3.connect(tmp_path / "t.db")
    assert other.execute("SELECT n FROM things").fetchall() == [(7,)]
    other.close()
