"""PostgreSQL's own promises: writes as if one after the other, nobody's news skipped, one server at a time."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    Table,
    Text,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from postgres_server import PostgresServer
from stratal.kernel.database import Database, metadata
from stratal.kernel.errors import Conflict, Internal, Invalid, Unavailable
from stratal.kernel.events import Events, emit, outbox, resume_numbering

accounts = Table(
    "accounts",
    MetaData(),
    Column("name", Text, primary_key=True),
    Column("held", Integer, nullable=False),
)


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.url(postgres.create())


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = Database(url)

    def work(c: Connection) -> None:
        accounts.create(c)
        outbox.metadata.create_all(c, [outbox, metadata.tables["outbox_shift"]])
        c.execute(insert(accounts), [{"name": name, "held": 0} for name in ("ann", "bob")])

    opened.write_now(work)
    yield opened
    opened.close()


def held(database: Database) -> dict[str, int]:
    rows = database.read_now(lambda c: c.execute(select(accounts.c.name, accounts.c.held)).all())
    return {name: amount for name, amount in rows}  # noqa: C416


def put(c: Connection, name: str, amount: int) -> None:
    c.execute(update(accounts).where(accounts.c.name == name).values(held=amount))


def holding(c: Connection, name: str) -> int:
    return int(c.execute(select(accounts.c.held).where(accounts.c.name == name)).scalar_one())


class Meeting:
    """Makes two write functions overlap the first time that each of them runs."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(2)
        self._met: set[str] = set()

    def meet(self, who: str) -> None:
        if who not in self._met:
            self._met.add(who)
            self._barrier.wait(10)


def together(database: Database, *works: Callable[[Connection], Any]) -> list[Any]:
    futures: list[Future[Any]] = [database.submit(work) for work in works]
    return [future.result(timeout=30) for future in futures]


# -- writes ------------------------------------------------------------------------------------------


def test_many_read_and_write_the_same_row_and_none_is_lost(database: Database) -> None:
    def more(c: Connection) -> None:
        put(c, "ann", holding(c, "ann") + 1)

    together(database, *[more] * 60)
    assert held(database) == {"ann": 60, "bob": 0}


def test_two_that_read_what_the_other_writes_are_put_into_an_order(database: Database) -> None:
    """Write skew: each takes one only while the other holds none. Repeatable read would let both."""
    meeting = Meeting()

    def take(mine: str, theirs: str) -> Callable[[Connection], bool]:
        def work(c: Connection) -> bool:
            free = holding(c, theirs) == 0
            meeting.meet(mine)
            if free:
                put(c, mine, 1)
            return free

        return work

    taken = together(database, take("ann", "bob"), take("bob", "ann"))
    assert sorted(taken) == [False, True]
    assert sum(held(database).values()) == 1


def test_a_deadlock_is_resolved_and_both_happen(database: Database) -> None:
    meeting = Meeting()

    def move(first: str, then: str) -> Callable[[Connection], None]:
        def work(c: Connection) -> None:
            put(c, first, 7)
            meeting.meet(first)
            put(c, then, 7)

        return work

    together(database, move("ann", "bob"), move("bob", "ann"))
    assert held(database) == {"ann": 7, "bob": 7}


def test_a_row_that_another_inserts_meanwhile_is_seen_by_another_attempt(database: Database) -> None:
    meeting = Meeting()

    def ensure(who: str) -> Callable[[Connection], str]:
        def work(c: Connection) -> str:
            found = c.execute(select(accounts.c.name).where(accounts.c.name == "cy")).scalar()
            meeting.meet(who)
            if found is None:
                c.execute(insert(accounts).values(name="cy", held=1))
            return found or "made"

        return work

    assert sorted(together(database, ensure("1"), ensure("2"))) == ["cy", "made"]


def test_a_broken_constraint_is_refused_and_undone(database: Database) -> None:
    def twice(c: Connection) -> None:
        put(c, "ann", 5)
        c.execute(insert(accounts).values(name="bob", held=0))

    with pytest.raises(IntegrityError):
        database.write_now(twice)
    assert held(database) == {"ann": 0, "bob": 0}


def test_what_went_on_after_an_error_is_never_acknowledged(database: Database) -> None:
    """COMMIT of a failed transaction answers ROLLBACK, without an error."""

    def careless(c: Connection) -> str:
        put(c, "ann", 5)
        try:
            c.execute(insert(accounts).values(name="bob", held=0))
        except IntegrityError:
            return "all is well"
        return "inserted"

    with pytest.raises(Internal):
        database.write_now(careless)
    assert held(database)["ann"] == 0


def test_callbacks_come_once_however_many_attempts_it_took(database: Database) -> None:
    told: list[str] = []
    commits: list[int] = []
    database.after_commit(lambda: commits.append(1))
    meeting = Meeting()

    def more(who: str) -> Callable[[Connection], None]:
        def work(c: Connection) -> None:
            database.once_committed(lambda: told.append(who))
            now = holding(c, "ann")
            meeting.meet(who)
            put(c, "ann", now + 1)

        return work

    together(database, more("1"), more("2"))
    assert sorted(told) == ["1", "2"]
    assert len(commits) == 2


def test_a_connection_lost_before_the_commit_costs_an_attempt(database: Database) -> None:
    attempts = []

    def work(c: Connection) -> None:
        attempts.append(1)
        put(c, "ann", holding(c, "ann") + 1)
        if len(attempts) == 1:
            c.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    database.write_now(work)
    assert (len(attempts), held(database)["ann"]) == (2, 1)


def test_a_connection_lost_while_committing_is_said_to_be(database: Database) -> None:
    def prepare(c: Connection) -> None:
        c.execute(
            text(
                "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NULL; END $$"
            )
        )
        c.execute(
            text(
                "CREATE CONSTRAINT TRIGGER die AFTER UPDATE ON accounts DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION die()"
            )
        )

    database.write_now(prepare)
    with pytest.raises(Unavailable, match="may have happened or not") as raised:
        database.write_now(lambda c: put(c, "ann", 1))
    assert raised.value.reason == "outcome_unknown"
    assert held(database)["ann"] == 0


def test_reads_are_one_snapshot(database: Database) -> None:
    def work(c: Connection) -> tuple[int, int]:
        first = holding(c, "ann")
        database.write_now(lambda w: put(w, "ann", 9))
        return first, holding(c, "ann")

    assert database.read_now(work) == (0, 0)
    assert held(database)["ann"] == 9


@pytest.mark.parametrize("value", ["a\x00b", "\x00"])
def test_the_character_that_cannot_be_stored_is_refused_in_words(database: Database, value: str) -> None:
    with pytest.raises(Invalid, match="NUL"):
        database.write_now(lambda c: c.execute(insert(accounts).values(name=value, held=0)))
    with pytest.raises(Invalid, match="NUL"):
        database.read_now(lambda c: c.execute(select(accounts).where(accounts.c.name == value)).all())


def test_numbers_out_of_range_are_refused_in_words(database: Database) -> None:
    with pytest.raises(Invalid, match="too large"):
        database.write_now(lambda c: put(c, "ann", 2**40))


def test_text_is_sorted_by_its_bytes(database: Database) -> None:
    names = ["B", "a", "_", "é", "Z", "~", "10", "9", "a/b", "a-b", "a b", "💥", "ｚ"]

    def work(c: Connection) -> None:
        c.execute(accounts.delete())
        c.execute(insert(accounts), [{"name": name, "held": 0} for name in names])

    database.write_now(work)
    found = database.read_now(
        lambda c: c.execute(select(accounts.c.name).order_by(accounts.c.name)).scalars().all()
    )
    assert found == sorted(names, key=str.encode)


# -- news --------------------------------------------------------------------------------------------


def test_an_event_that_commits_late_is_not_skipped(database: Database) -> None:
    events = Events(database)
    emitted, go = threading.Event(), threading.Event()

    def slow(c: Connection) -> None:
        emit(c, "thing.made", "slow 1", actor="t")
        emitted.set()
        go.wait(10)
        emit(c, "thing.made", "slow 2", actor="t")

    async def story() -> list[str]:
        late = database.submit(slow)
        await asyncio.to_thread(emitted.wait, 10)
        await database.write(lambda c: emit(c, "thing.made", "quick", actor="t"))
        start = await events.last_seq()
        seen = [event.subject for event in await events.after(start)]
        assert seen == []  # the quick one waits, since it has the higher number
        go.set()
        await asyncio.wrap_future(late)
        async with asyncio.timeout(60):
            async for event in events.follow(start):
                seen.append(event.subject)
                if len(seen) == 3:
                    break
        return seen

    # Each carries the hash of the one before, so the slow one, which did not know of the quick one, was run again.
    assert asyncio.run(story()) == ["quick", "slow 1", "slow 2"]


def test_of_many_writers_at_once_followers_see_each_event_once_and_in_order(database: Database) -> None:
    events = Events(database)
    said = {f"{writer}-{n}" for writer in range(40) for n in range(3)}

    async def write(writer: int) -> None:
        def work(c: Connection) -> None:
            for n in range(3):
                emit(c, "thing.made", f"{writer}-{n}", actor="t")
                put(c, "ann", holding(c, "ann") + 1)

        await database.write(work)

    async def follow() -> list[tuple[int, str]]:
        seen: list[tuple[int, str]] = []
        async for event in events.follow(0):
            seen.append((event.seq, event.subject))
            if len(seen) == len(said):
                break
        return seen

    async def story() -> list[tuple[int, str]]:
        async with asyncio.timeout(60):
            following = asyncio.create_task(follow())
            await asyncio.gather(*(write(writer) for writer in range(40)))
            return await following

    seen = asyncio.run(story())
    assert {subject for _, subject in seen} == said
    assert seen == sorted(seen)
    assert held(database)["ann"] == 120


def test_what_was_emitted_but_undone_holds_nobody_up(database: Database) -> None:
    events = Events(database)

    def undone(c: Connection) -> None:
        emit(c, "thing.made", "undone", actor="t")
        raise ValueError

    async def story() -> list[str]:
        with pytest.raises(ValueError):
            await database.write(undone)
        await database.write(lambda c: emit(c, "thing.made", "done", actor="t"))
        return [event.subject for event in await events.after(0)]

    assert asyncio.run(story()) == ["done"]


def test_numbers_go_on_where_a_restored_copy_counts_transactions_anew(database: Database) -> None:
    events = Events(database)
    far = 10**15

    def as_elsewhere(c: Connection) -> None:
        c.execute(
            insert(outbox).values(seq=far, at=0, actor="t", kind="thing.made", subject="old", data="{}")
        )

    async def story() -> list[str]:
        await database.write(as_elsewhere)
        await database.write(resume_numbering)
        await database.write(lambda c: emit(c, "thing.made", "new", actor="t"))
        await database.write(resume_numbering)  # the next start
        await database.write(lambda c: emit(c, "thing.made", "newer", actor="t"))
        news = await events.after(0)
        assert [event.seq for event in news] == sorted(event.seq for event in news)
        assert await events.last_seq() == news[-1].seq
        return [event.subject for event in news]

    assert asyncio.run(story()) == ["old", "new", "newer"]


# -- one server at a time ------------------------------------------------------------------------------


def test_a_second_server_is_refused_until_the_first_is_gone(url: str) -> None:
    first = Database(url, sole=True)
    with pytest.raises(Conflict, match="Another Stratal server is running"):
        Database(url, sole=True)
    first.write_now(lambda c: c.execute(text("SELECT 1")).scalar())
    first.close()
    Database(url, sole=True).close()


def terminate(postgres: PostgresServer, url: str, what: str = "true") -> None:
    name = url.partition("?")[0].rpartition("/")[2]
    postgres.administer(
        f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '{name}' AND {what}"
    )


def test_a_server_that_lost_its_connections_takes_them_up_again(postgres: PostgresServer, url: str) -> None:
    database = Database(url, sole=True)
    database.write_now(lambda c: accounts.create(c))
    terminate(postgres, url)
    database.write_now(lambda c: c.execute(insert(accounts).values(name="ann", held=1)))
    assert held(database) == {"ann": 1}
    with pytest.raises(Conflict):
        Database(url, sole=True)
    database.close()


def test_a_server_whose_place_was_taken_writes_no_more(postgres: PostgresServer, url: str) -> None:
    old = Database(url, sole=True)
    old.write_now(lambda c: accounts.create(c))
    terminate(postgres, url)
    new = Database(url, sole=True)
    new.write_now(lambda c: c.execute(insert(accounts).values(name="ann", held=1)))
    with pytest.raises(Unavailable, match="does not hold"):
        old.write_now(lambda c: put(c, "ann", 2))
    with pytest.raises(Unavailable, match="does not hold"):
        held(old)
    assert held(new) == {"ann": 1}
    new.close()
    old.close()


def test_nobody_takes_over_while_a_predecessors_write_is_open(postgres: PostgresServer, url: str) -> None:
    """Its server is gone, as far as it can be seen, but its last transaction may still commit."""
    old = Database(url, sole=True)
    old.write_now(lambda c: accounts.create(c))
    writing, go = threading.Event(), threading.Event()

    def slow(c: Connection) -> None:
        c.execute(insert(accounts).values(name="late", held=1))
        writing.set()
        go.wait(20)

    late = old.submit(slow)
    writing.wait(10)
    terminate(postgres, url, "state = 'idle'")  # the session that held the server's lock among them
    opened: list[Database] = []
    taking = threading.Thread(target=lambda: opened.append(Database(url, sole=True)))
    taking.start()
    taking.join(0.5)
    assert opened == []
    go.set()
    late.result(timeout=60)
    old.close()
    taking.join(20)
    assert held(opened[0]) == {"late": 1}
    opened[0].close()


# -- the way there -------------------------------------------------------------------------------------


def test_a_wrong_password_or_nobody_there_is_said_without_the_password(postgres: PostgresServer) -> None:
    name = postgres.create()
    Database(postgres.tcp_url(name)).close()
    for url in (
        f"postgresql://stratal:hunter2@127.0.0.1:{postgres.port}/{name}",
        f"postgresql://stratal@127.0.0.1:{postgres.port}/{name}?password=hunter2",
        f"postgres://stratal:hunter2@127.0.0.1:1/{name}",
        f"postgresql+psycopg://stratal:hunter2@127.0.0.1:{postgres.port}/nothing",
    ):
        database = Database(url)
        with pytest.raises(
            Unavailable, match="Cannot reach the database at postgresql://stratal@127"
        ) as raised:
            database.read_now(lambda c: c.execute(text("SELECT 1")).scalar())
        database.close()
        assert "hunter2" not in str(raised.value) + repr(raised.value) + database.name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "sqlite:////tmp/x.db",
        "mysql://u:hunter2@h/d",
        "postgresql://u:hunter2@h:port/d",
        "postgresql://u:hunter2@[::1/d",
        "postgresql://u:hunter2@h/d?what=ever",
        "host=h password=hunter2",
    ],
)
def test_what_is_no_url_of_postgresql_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(Invalid) as raised:
        Database(url)
    assert "hunter2" not in str(raised.value)
