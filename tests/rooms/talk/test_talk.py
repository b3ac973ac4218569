"""Talk: who may say and change what, who is told once, and what webhooks may reach."""

import asyncio
import hmac
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from stratal.app.tables import metadata
from stratal.collab.talk import outgoing
from stratal.collab.talk.mail import smtp_of
from stratal.collab.talk.model import mentioned
from stratal.collab.talk.outgoing import Forbidden, Outgoing, allowed, check_url, networks_of
from stratal.collab.talk.room import Talk, furnish_talk
from stratal.collab.talk.sending import PAUSES, signature
from stratal.collab.talk.tables import deliveries, notifications, talk_cursors
from stratal.collab.talk.tables import webhooks as webhook_rows
from stratal.identity.founding import found
from stratal.identity.keys import Keys
from stratal.identity.master import MasterKey
from stratal.identity.model import Principal, Role
from stratal.identity.projects import Projects
from stratal.identity.room import furnish_people
from stratal.identity.sessions import Sessions
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, Invalid, NotFound, Unavailable
from stratal.kernel.events import Events, emit

T = TypeVar("T")


class Letters:
    """Takes what would be posted and mailed: the edge that is not ours. `status` is what it answers."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, bytes, dict[str, str]]] = []
        self.mailed: list[tuple[str, str, str]] = []
        self.status: int | Exception = 200

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        self.posted.append((url, body, headers))
        if isinstance(self.status, Exception):
            raise self.status
        return self.status

    async def send(self, address: str, title: str, text: str) -> None:
        self.mailed.append((address, title, text))


class Office:
    """The project ``lab`` with ada (owner), ben (editor) and cleo, who is in no project of it."""

    def __init__(self, home: Path) -> None:
        self.now = 1_800_000_000_000
        self.clock = lambda: self.now
        self.home = home
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        self.master = MasterKey({1: bytes(32)})
        self.keys = Keys(self.database, self.master, self.clock)
        self.sessions = Sessions(self.database, self.clock)
        self.folk = furnish_people(self.database, self.keys, self.master, self.sessions, self.clock)
        projects = Projects(self.database, self.clock)
        founded = found(self.database, self.keys, self.clock)
        self.runner = asyncio.Runner()
        self.admin = self.do(self.keys.principal_of(founded.credential.id))
        self.lab = self.do(projects.create(self.admin, "lab")).id
        other = self.do(projects.create(self.admin, "other")).id
        self.ada, self.ben = self.join("ada", Role.OWNER, self.lab), self.join("ben", Role.EDITOR, self.lab)
        self.cleo = self.join("cleo", Role.OWNER, other)
        self.letters = Letters()
        self.talk = self.furnish()

    def furnish(self) -> Talk:
        async def look(who: Principal, project_id: str, id_: str) -> object:
            if id_ != "r1":
                raise NotFound("There is no such run.")
            return id_

        talk = furnish_talk(
            self.database, self.master, Events(self.database), {"run": look}, self.clock,
            url="http://here", smtp=None, networks=(),
        )  # fmt: skip
        sending: Any = talk.sending
        sending._outgoing, sending._mail = self.letters, self.letters
        return talk

    def do(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.runner.run(run())

    def join(self, name: str, role: Role, project_id: str) -> Principal:
        _, token = self.do(self.folk.members.invite(self.admin, project_id, role, ""))
        session = self.do(
            self.folk.members.accept(token, name, "correct horse battery", address="", agent="")
        )
        return self.do(self.sessions.principal_of(session))

    def news(self, kind: str, subject: str, actor: str, **data: object) -> None:
        self.database.write_now(lambda c: emit(c, kind, subject, actor=actor, project_id=self.lab, **data))

    def tell(self, until: Callable[[], bool]) -> None:
        """Let the room tell everybody, until something is so."""

        async def run() -> None:
            await self.talk.start()
            async with asyncio.timeout(60):
                while not (self.begun() and until()):
                    await asyncio.sleep(0.002)
            await self.talk.close()

        self.runner.run(run())

    def begun(self) -> bool:
        return bool(self.database.read_now(lambda c: c.execute(talk_cursors.select()).all()))

    def told_rows(self) -> list[Any]:
        return list(self.database.read_now(lambda c: c.execute(notifications.select()).all()))

    async def anew(self, name: str) -> Principal:
        """The person as they are now, signed in anew."""
        link = await self.sessions.new_link(name)
        return await self.sessions.principal_of(await self.sessions.sign_in(link))

    def told(self, who: Principal) -> list[str]:
        return [one.words for one in self.do(self.talk.inbox.list(who))[0]]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office(tmp_path)
    yield made
    made.runner.close()
    made.database.close()


def test_a_comment_is_its_authors_alone_and_an_owner_may_delete_it(office: Office) -> None:
    comments, lab, do = office.talk.comments, office.lab, office.do
    said = do(comments.add(office.ben, lab, "run", "r1", "  <b>fine</b>, @ada? "))
    assert [one.text for one in do(comments.list(office.ada, lab, "run", "r1"))] == ["<b>fine</b>, @ada?"]
    for stranger in (office.cleo,):
        with pytest.raises(NotFound):
            do(comments.list(stranger, lab, "run", "r1"))
        with pytest.raises(NotFound):
            do(comments.remove(stranger, lab, said.id))
    with pytest.raises(NotFound, match="yours"):
        do(comments.edit(office.ada, lab, said.id, "mine now"))
    assert do(comments.edit(office.ben, lab, said.id, "better")).edited_at == office.now
    for text in ("", "  ", "x" * 10_001, "a\0b"):
        with pytest.raises(Invalid):
            do(comments.add(office.ben, lab, "run", "r1", text))
    with pytest.raises(NotFound):
        do(comments.add(office.ben, lab, "run", "r2", "where?"))
    with pytest.raises(Invalid, match="run"):
        do(comments.add(office.ben, lab, "wall", "r1", "here"))
    do(comments.remove(office.ada, lab, said.id))
    assert do(comments.list(office.ben, lab, "run", "r1")) == []
    kinds = [one.kind for one in do(office.talk.activity.list(office.ben, lab, kind="comment."))]
    assert kinds == ["comment.deleted", "comment.edited", "comment.created"]
    with pytest.raises(NotFound):
        do(office.talk.activity.list(office.cleo, lab))


def test_whoever_is_concerned_is_told_once_whatever_dies(office: Office) -> None:
    office.tell(lambda: True)  # from here on
    add, lab = office.talk.comments.add, office.lab
    said = office.do(add(office.ben, lab, "run", "r1", "@ada @ben @cleo @nobody look"))
    office.news("job.failed", "7", "person:ben", name="train", reason="exit code 1")
    office.news("job.failed", "8", "service:ci", name="train", reason="exit code 1")
    office.news("job.failed", "6", "person:ben", name="convert-to-onnx", reason="no network", priority=-36)
    office.news("budget.used_up", lab, "system", spent="5.00", budget="5.00", currency="EUR")
    admin = office.do(office.anew("admin"))
    office.tell(lambda: len(office.told_rows()) >= 4)
    assert office.told(office.ada) == [
        "The budget is used up: 5.00 of 5.00 EUR; new work is refused.",
        "ben mentioned you on run r1.",
    ]
    assert office.told(office.ben) == ["Job 7 train failed: exit code 1"]
    assert office.told(office.cleo) == []
    assert len(office.told(admin)) == 1
    office.do(office.talk.comments.edit(office.ben, lab, said.id, "@ada look again"))
    office.talk = office.furnish()  # as after a kill: it goes on where it was, and tells nothing twice
    office.news("job.failed", "9", "person:ben", name="", reason="killed")
    office.tell(lambda: len(office.told_rows()) >= 5)
    assert len(office.told(office.ben)) == 2
    assert len(office.told(office.ada)) == 2
    inbox = office.talk.inbox
    assert office.do(inbox.mark_read(office.ada, None)) == 2
    assert office.do(inbox.list(office.ada, unread=True)) == ([], 0)
    office.do(office.folk.members.remove(office.ada, lab, "ben"))
    assert office.told(office.do(office.anew("ben"))) == []
    with pytest.raises(Denied):
        office.do(inbox.list(office.admin))


def test_webhooks_are_signed_tried_again_and_given_up(office: Office) -> None:
    webhooks, lab, do = office.talk.webhooks, office.lab, office.do
    with pytest.raises(Denied):
        do(webhooks.create(office.ben, lab, "https://example.org/x", []))
    hook, secret = do(webhooks.create(office.ada, lab, "https://example.org/x?token=1", ["job."]))
    sealed = str(
        office.database.read_now(lambda c: c.exec_driver_sql("select secret from webhooks").scalar())
    )
    assert secret not in sealed
    office.tell(lambda: True)
    office.news("job.started", "7", "person:ben", name="train")
    office.news("model.created", "m", "person:ben", name="m")
    office.letters.status = 302
    office.tell(lambda: states(office) == [("due", 1)])
    url, body, headers = office.letters.posted[0]
    told = orjson.loads(body)
    assert (url, told["kind"], told["subject"], told["project"]) == (hook.url, "job.started", "7", "lab")
    at, _, proof = headers["X-Stratal-Signature"].partition(",v1=")
    assert proof == hmac.digest(secret.encode(), f"{at[2:]}.".encode() + body, "sha256").hex()
    assert headers["X-Stratal-Delivery"] == told["id"]
    (first,) = do(webhooks.deliveries(office.ada, lab, hook.id))
    assert (first.state, first.status, first.due_at) == ("due", 302, office.now + PAUSES[0] * 1000)
    assert "redirect" in first.error
    office.letters.status = Unavailable("ConnectError: refused")
    for number, pause in enumerate(PAUSES, 2):
        office.now += pause * 1000
        office.tell(lambda n=number: states(office)[0][1] == n)  # type: ignore[misc]
    assert states(office) == [("dead", len(PAUSES) + 1)]
    office.letters.status = Forbidden("x is not a public address")
    do(webhooks.test(office.ada, lab, hook.id))
    office.tell(lambda: states(office)[0] == ("dead", 1))
    office.letters.status = 204
    do(webhooks.test(office.ada, lab, hook.id))
    office.tell(lambda: states(office)[0] == ("delivered", 1))
    do(webhooks.remove(office.ada, lab, hook.id))
    with pytest.raises(NotFound):
        do(webhooks.deliveries(office.ada, lab, hook.id))


def test_one_webhook_that_cannot_be_told_keeps_no_other_from_it(office: Office) -> None:
    """An address with an empty or too long part is no `OSError` to Python, nor is a secret that is none."""
    webhooks, lab, do = office.talk.webhooks, office.lab, office.do
    for host in ("a..b", "a" * 64 + ".example", ".x"):
        with pytest.raises(Unavailable, match="no address"):
            do(Outgoing().post(f"http://{host}/", b"{}", {}))
    made = [do(webhooks.create(office.ada, lab, f"https://{n}.example/", ["job."]))[0] for n in range(2)]
    broken = update(webhook_rows).where(webhook_rows.c.id == made[0].id).values(secret="x")
    office.database.write_now(lambda c: c.execute(broken))
    office.tell(lambda: True)
    office.letters.status = 204
    office.news("job.started", "7", "person:ben", name="train")
    office.tell(lambda: sorted(states(office)) == [("delivered", 1), ("due", 1)])
    assert [url for url, _, _ in office.letters.posted] == [made[1].url]


def test_a_webhook_of_somebody_who_left_is_told_nothing(office: Office) -> None:
    webhooks, lab, do = office.talk.webhooks, office.lab, office.do
    cleo = office.join("cleo-2", Role.OWNER, lab)
    hooks = [do(webhooks.create(who, lab, "https://a.example/", ["job."]))[0] for who in (cleo, office.ada)]
    office.tell(lambda: True)
    office.letters.status = Unavailable("away")
    office.news("job.started", "7", "person:ben", name="train")
    office.tell(lambda: states(office) == [("due", 1)] * 2)
    do(office.folk.members.remove(office.ada, lab, "cleo-2"))
    office.letters.status, office.letters.posted = 204, []
    office.now += PAUSES[0] * 1000
    office.news("job.started", "8", "person:ben", name="train")
    office.tell(lambda: sorted(states(office)) == [("dead", 2), ("delivered", 1), ("delivered", 2)])
    assert len(office.letters.posted) == 2
    assert "has left" in do(webhooks.deliveries(office.ada, lab, hooks[0].id))[0].error
    assert [one.rests for one in do(webhooks.list(office.ada, lab))] == [True, False]


def states(office: Office) -> list[tuple[str, int]]:
    """State and attempts of each delivery, newest first."""
    query = select(deliveries.c.state, deliveries.c.attempts).order_by(deliveries.c.id.desc())
    return [(row.state, row.attempts) for row in office.database.read_now(lambda c: c.execute(query).all())]


def test_mail_goes_to_whoever_wants_it_and_carries_no_second_header(office: Office) -> None:
    inbox = office.talk.inbox
    for wrong in ("ada", "ada@x\nBcc: b@x.org", "a b@x.org", "@x.org"):
        with pytest.raises(Invalid):
            office.do(inbox.set_mailbox(office.ada, wrong, wanted=True))
    office.do(inbox.set_mailbox(office.ada, "ada@example.org", wanted=True))
    office.tell(lambda: True)
    office.do(office.talk.comments.add(office.ben, office.lab, "run", "r1", "@ada please"))
    office.tell(lambda: bool(office.letters.mailed))
    assert office.letters.mailed == [
        (
            "ada@example.org",
            "[lab] ben mentioned you on run r1.",
            "ben mentioned you on run r1.\n\nhttp://here/projects/lab/inbox\n",
        )
    ]


def test_smtp_is_encrypted_unless_it_stays_here() -> None:
    for url, encryption, port in (
        ("smtp://u:p%40@mail.example.org?from=a@example.org", "starttls", 587),
        ("smtps://mail.example.org?from=a@example.org", "tls", 465),
        ("smtp://localhost?from=a@example.org", "none", 25),
        ("smtps://mail.example.org?from=a@example.org&tls=none", "tls", 465),
        ("smtp://mail.example.org:25?from=a@example.org&tls=none", "none", 25),
    ):
        smtp = smtp_of(url)
        assert (smtp.encryption, smtp.port) == (encryption, port)
        assert "p@" not in repr(smtp)
    for wrong in ("http://x?from=a@b", "smtp://x", "smtp://?from=a@b", "smtp://x?from=a@b&tls=maybe"):
        with pytest.raises(ValueError, match=r"smtp|tls"):
            smtp_of(wrong)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "240.0.0.1",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1", "::ffff:0:7f00:1", "fec0::1", "5f00::1",
    ],
)  # fmt: skip
def test_no_address_of_this_machine_or_its_neighbours_is_asked(address: str) -> None:
    assert not allowed(address)


def test_public_addresses_and_named_networks_are_asked() -> None:
    assert all(allowed(one) for one in ("93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"))
    own = networks_of("10.0.0.0/8, fd00::/8")
    assert allowed("10.1.2.3", own)
    assert allowed("::ffff:10.1.2.3", own)
    assert allowed("fd00::7", own)
    assert not allowed("127.0.0.1", own)


@given(st.ip_addresses())
def test_no_address_is_too_odd_to_be_judged(address: Any) -> None:
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert not allowed(str(address)) or getattr(address, "ipv4_mapped", None)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "gopher://x/", "//x/", "http://", "http://u:p@x/", "http://u@x/", "http://x/ y",
        "http://x\\@y/", "http://x/\r\nX: y", "http://x:0/", "http://x:99999/", "http://x/#y", "javascript:x",
        "http://\u2024/", "http://x/" + "a" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_plain_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        check_url(url)


def test_a_name_is_judged_by_what_it_resolves_to_where_it_is_connected(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is public when it is typed and loopback when it is asked reaches nothing."""

    def resolved(*addresses: str) -> Callable[..., Any]:
        return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 80)) for one in addresses]

    for addresses in (["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], []):
        monkeypatch.setattr(outgoing.socket, "getaddrinfo", resolved(*addresses))
        with pytest.raises(Forbidden):
            office.do(Outgoing().post("http://rebound.example/", b"{}", {}))
    for literal in ("http://127.0.0.1/", "http://[::1]/", "http://2130706433/", "http://0x7f.1/"):
        monkeypatch.undo()
        with pytest.raises((Forbidden, Unavailable)):
            office.do(Outgoing().post(literal, b"{}", {}))


def test_mentions_are_words_of_their_own() -> None:
    assert mentioned("@ada, @ben.k: see a@b.org and x/@cleo (@dora) @ada @") == ["ada", "ben.k", "dora"]
    assert signature(b"k", 5, b"x").startswith("t=5,v1=")
