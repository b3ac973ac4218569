"""The handle, on either database: failures undo themselves alone, reads change nothing, closed is closed."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, insert, select
from sqlalchemy.exc import IntegrityError

from stratal.kernel.database import Database

pytestmark = pytest.mark.fast

things = Table("things", MetaData(), Column("n", Integer, primary_key=True))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "t.db")
    database.write_now(lambda c: things.create(c))
    yield database
    database.close()


def add(n: int) -> "object":
    def work(connection: Connection) -> int:
        connection.execute(insert(things).values(n=n))
        return n

    return work


def stored(database: Database) -> list[int]:
    return list(database.read_now(lambda c: c.execute(select(things.c.n).order_by(things.c.n)).scalars()))


def test_a_failing_write_undoes_itself_alone(database: Database) -> None:
    def half(connection: Connection) -> None:
        connection.execute(insert(things).values(n=100))
        raise ValueError("no")

    futures = [database.submit(work) for work in (add(1), half, add(2))]
    assert futures[0].result() == 1
    with pytest.raises(ValueError, match="no"):
        futures[1].result()
    assert futures[2].result() == 2
    with pytest.raises(IntegrityError):
        database.write_now(add(1))
    assert stored(database) == [1, 2]


def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"read-?only"):
        database.read_now(lambda c: c.execute(insert(things).values(n=5)))


def test_a_cancelled_caller_does_not_undo_the_write(database: Database) -> None:
    async def main() -> None:
        task = asyncio.create_task(database.write(add(9)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await database.write(add(10))

    asyncio.run(main())
    assert 10 in stored(database)


def test_closed_refuses(tmp_path: Path) -> None:
    database = Database(tmp_path / "c.db")
    database.close()
    database.close()
    with pytest.raises(RuntimeError):
        database.submit(lambda c: None)
