"""The audit log: what is on record, from where, and every way of tampering found."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, delete, insert, select, update

from stratal.app.tables import metadata
from stratal.identity.model import Kind, Principal, Role
from stratal.kernel.asking import ASKING, Asking
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, NotFound
from stratal.kernel.events import CHAINED, Events, emit, link, outbox
from stratal.ledger.audit import Audit, Denial, Wanted, chained

pytestmark = pytest.mark.fast

ADMIN = Principal(Kind.PERSON, "usr_1", "root", "prj_a", "a", Role.ADMIN)
OWNER = Principal(Kind.PERSON, "usr_2", "ada", "prj_a", "a", Role.OWNER)
EDITOR = Principal(Kind.PERSON, "usr_3", "bob", "prj_a", "a", Role.EDITOR)


class Book:
    """Entries are named here by their places, 1, 2 …: the numbers of events differ between the databases."""

    def __init__(self, home: Path) -> None:
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        self.head = home / "audit" / "head.json"
        self.head.parent.mkdir()
        self.audit = Audit(self.database, self.head.parent)
        self.known: list[int] = []
        """The numbers of the entries as they were written."""

    def change(self, number: int, project: str = "prj_a", actor: str = "person:ada") -> None:
        self.database.write_now(
            lambda c: emit(
                c, "thing.made", f"th_{number}", actor=actor, project_id=project, name=f"ä{number}"
            )
        )
        self.known += [seq for seq in self.seqs() if seq not in self.known]

    def at(self, place: int) -> int:
        return self.known[place - 1]

    def alter(self, c: Connection, column: str, value: object, place: int = 3) -> None:
        c.execute(update(outbox).where(outbox.c.seq == self.at(place)).values({column: value}))

    def wrong_at(self) -> int | None:
        found = asyncio.run(self.audit.verify(ADMIN))
        assert found.holds == (found.wrong == "")
        assert found.holds or found.wrong_at is not None
        return None if found.wrong_at is None else self.known.index(found.wrong_at) + 1

    def seqs(self) -> list[int]:
        return self.database.read_now(
            lambda c: list(c.execute(select(outbox.c.seq).order_by(outbox.c.seq)).scalars())
        )


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    made = Book(tmp_path)
    for number in range(6):
        made.change(number)
    asyncio.run(made.audit.keep_head())
    yield made
    made.database.close()


def test_an_untouched_chain_holds_and_grows(book: Book) -> None:
    assert book.wrong_at() is None
    book.change(7)
    assert book.wrong_at() is None
    found = asyncio.run(book.audit.verify(ADMIN))
    assert (found.entries, found.unchained, found.kept_seq) == (7, 0, book.at(6))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", 5), ("project_id", "prj_b"), ("actor", "person:eve"), ("kind", "thing.removed"), ("subject", "x"),
        ("data", "{}"), ("door", "s3"), ("address", "10.0.0.1"), ("hash", None), ("hash", "0" * 64),
    ],
)  # fmt: skip
def test_an_altered_entry_is_found(book: Book, column: str, value: object) -> None:
    book.database.write_now(lambda c: book.alter(c, column, value))
    assert book.wrong_at() == 3


@pytest.mark.parametrize(("removed", "found_at"), [(1, 2), (3, 4), (6, 6)])
def test_a_removed_entry_is_found_the_last_too(book: Book, removed: int, found_at: int) -> None:
    book.database.write_now(lambda c: c.execute(delete(outbox).where(outbox.c.seq == book.at(removed))))
    assert book.wrong_at() == found_at


def test_entries_that_changed_places_are_found(book: Book) -> None:
    def swap(c: Connection) -> None:
        second, third = book.at(2), book.at(3)
        for old, new in ((second, -1), (third, second), (-1, third)):
            c.execute(update(outbox).where(outbox.c.seq == old).values(seq=new))

    book.database.write_now(swap)
    assert book.wrong_at() == 2


def test_a_log_written_anew_is_found_by_the_head_outside(book: Book) -> None:
    """Somebody who can compute hashes alters an entry and every hash behind it."""

    def forge(c: Connection) -> None:
        book.alter(c, "actor", "person:eve")
        before = ""
        for row in c.execute(select(outbox).order_by(outbox.c.seq)).all():
            before = link(before, dict(row._mapping))
            c.execute(update(outbox).where(outbox.c.seq == row.seq).values(hash=before))

    book.database.write_now(forge)
    found = asyncio.run(book.audit.verify(ADMIN))
    assert (found.wrong_at, "cut off" in found.wrong) == (book.at(6), True)
    book.head.write_text("nonsense")
    assert not asyncio.run(book.audit.verify(ADMIN)).holds


def test_everything_removed_is_found_and_a_new_entry_hides_nothing(book: Book) -> None:
    book.database.write_now(lambda c: c.execute(delete(outbox)))
    assert book.wrong_at() == 6
    book.change(9)
    asyncio.run(book.audit.keep_head())  # a head is only ever replaced by one that follows it
    assert book.wrong_at() == 6


def test_an_entry_put_before_all_others_is_found(book: Book) -> None:
    def forge(c: Connection) -> None:
        row = dict(c.execute(select(outbox).where(outbox.c.seq == book.at(1))).one()._mapping)
        c.execute(insert(outbox).values({**row, "seq": -7, "actor": "person:eve", "hash": None}))

    book.database.write_now(forge)
    found = asyncio.run(book.audit.verify(ADMIN))
    assert (found.holds, found.wrong_at) == (False, -7)


def test_entries_of_an_older_version_come_before_the_chain(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.change(1)
    book.change(2)
    book.database.write_now(lambda c: c.execute(update(outbox).values(hash=None)))
    book.change(3)
    book.change(4)
    found = asyncio.run(book.audit.verify(ADMIN))
    assert (found.holds, found.unchained, found.entries) == (True, 2, 4)
    book.database.write_now(
        lambda c: book.alter(c, "hash", None)
    )  # to hide an entry among the unprotected ones
    assert book.wrong_at() == 4
    book.database.close()


def test_a_write_that_fails_leaves_no_gap(book: Book) -> None:
    def fails(c: Connection) -> None:
        emit(c, "thing.made", "th_x", actor="person:ada")
        raise ValueError

    with pytest.raises(ValueError):
        book.database.write_now(fails)
    book.change(8)
    assert book.wrong_at() is None
    assert len(book.seqs()) == 7


def test_door_and_address_come_with_the_request_on_whichever_thread(book: Book) -> None:
    async def request() -> None:
        ASKING.set(Asking("s3", "10.1.2.3"))
        await book.database.write(lambda c: emit(c, "thing.made", "th_q", actor="job:7", project_id="prj_a"))

    asyncio.run(request())
    (entry,) = asyncio.run(book.audit.entries(OWNER, "prj_a", Wanted(door="s3"), limit=10))
    assert (entry.actor, entry.address, entry.subject) == ("job:7", "10.1.2.3", "th_q")


def test_denials_are_counted_on_record_and_no_news(book: Book) -> None:
    for _ in range(3):
        book.audit.deny(
            Denial("person:bob", "prj_a", "native", "10.0.0.9", "DELETE /x", 403, "project.remove")
        )
    for number in range(500):
        book.audit.deny(Denial("unknown", None, "native", "10.0.0.9", f"GET /{number}", 401, ""))
    found = asyncio.run(book.audit.entries(OWNER, "prj_a", Wanted(denied=True), limit=10))
    assert [(e.actor, e.subject, e.address) for e in found] == [("person:bob", "DELETE /x", "10.0.0.9")]
    assert json.loads(found[0].data) == {"status": 403, "action": "project.remove", "count": 3}
    everything = asyncio.run(book.audit.entries(ADMIN, None, Wanted(denied=True), limit=1000))
    assert len(everything) == 101
    assert sum(json.loads(e.data)["count"] for e in everything) == 503
    assert book.wrong_at() is None
    news = asyncio.run(Events(book.database).after(0))
    assert {event.kind for event in news} == {"thing.made"}


def test_what_is_wanted(book: Book) -> None:
    book.change(10, "prj_b", "service:ci")

    def ask(by: Principal, project: str | None, **wanted: Any) -> list[str]:
        found = asyncio.run(book.audit.entries(by, project, Wanted(**wanted), limit=100))
        return [entry.subject for entry in found]

    assert ask(ADMIN, None, who="ci") == ["th_10"]
    assert ask(ADMIN, None, who="service:ci") == ["th_10"]
    assert ask(ADMIN, None, who="%") == []
    assert ask(ADMIN, None, what="th_3") == ["th_3"]
    assert len(ask(ADMIN, None, what="thing.")) == 7
    assert ask(OWNER, "prj_a", before=book.at(3)) == ["th_1", "th_0"]
    assert ask(OWNER, "prj_a", since=2**50) == []
    for who, project, error in (
        (EDITOR, "prj_a", Denied),
        (OWNER, "prj_b", NotFound),
        (OWNER, None, Denied),
    ):
        with pytest.raises(error):
            asyncio.run(book.audit.entries(who, project, Wanted(), limit=1))
        with pytest.raises(error):
            asyncio.run(book.audit.export(who, project, Wanted()))
    with pytest.raises(Denied):
        asyncio.run(book.audit.verify(OWNER))


def test_an_export_can_be_checked_by_itself(book: Book) -> None:
    async def export() -> list[dict[str, object]]:
        found = await book.audit.export(ADMIN, None, Wanted())
        return [{**chained(entry), "hash": entry.hash} async for entry in found]

    before = ""
    for line in orjson.loads(orjson.dumps(asyncio.run(export()))):
        assert set(line) == {*CHAINED, "hash"}
        assert link(before, line) == line["hash"]
        before = line["hash"]
