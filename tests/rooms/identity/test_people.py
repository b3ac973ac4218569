"""People: joining, signing in, what leaving ends, codes, and signing a command line in."""

import asyncio
from base64 import b32decode
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from sqlalchemy import update

from stratal.app.tables import metadata
from stratal.identity.founding import found
from stratal.identity.keys import Keys
from stratal.identity.master import MasterKey
from stratal.identity.members import is_still_here, role_now
from stratal.identity.model import Principal, Role
from stratal.identity.people import NeedsCode
from stratal.identity.permissions import may
from stratal.identity.projects import Projects
from stratal.identity.room import Folk, furnish_people
from stratal.identity.sessions import Sessions
from stratal.identity.tables import people
from stratal.kernel.database import Database
from stratal.kernel.errors import Busy, Conflict, Denied, Invalid, NotFound, Unauthenticated

T = TypeVar("T")
SECRET = "correct horse battery"


class Town:
    """An instance with its admin, and the projects ``default`` and ``lab``."""

    def __init__(self, home: Path) -> None:
        self.now = 1_800_000_000_000
        clock = lambda: self.now  # noqa: E731
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        master = MasterKey({1: bytes(32)})
        self.keys = Keys(self.database, master, clock)
        self.sessions = Sessions(self.database, clock)
        self.folk: Folk = furnish_people(self.database, self.keys, master, self.sessions, clock)
        self.projects = Projects(self.database, clock)
        founded = found(self.database, self.keys, clock)
        self.runner = asyncio.Runner()
        self.admin = self.do(self.keys.principal_of(founded.credential.id))
        self.lab = self.do(self.projects.create(self.admin, "lab")).id

    def do(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.runner.run(run())

    def join(self, name: str, role: Role, project_id: str | None = None) -> Principal:
        """Somebody new takes up an invitation; as their session acts in the project."""
        _, token = self.do(self.folk.members.invite(self.admin, project_id or self.lab, role, ""))
        session = self.do(self.folk.members.accept(token, name, SECRET, address="10.0.0.1", agent="Browser"))
        return self.at(session)

    def at(self, session: str, project: str = "lab") -> Principal:
        return self.do(self.sessions.principal_of(session, project))

    def sign_in(self, name: str, password: str = SECRET, code: str = "", address: str = "10.0.0.1") -> str:
        return self.do(self.folk.people.sign_in(name, password, code, address=address, agent="Browser"))

    def key_of(self, who: Principal) -> str:
        """A key by way of `stratal login`."""
        device, user = self.do(self.folk.devices.begin("laptop"))
        assert self.do(self.folk.devices.take(device)) is None
        assert self.do(self.folk.devices.asked(user.lower())) == "laptop"
        self.do(self.folk.devices.approve(who, user))
        granted = self.do(self.folk.devices.take(device))
        assert granted is not None
        with pytest.raises(Unauthenticated):
            self.do(self.folk.devices.take(device))
        return granted.credential.id


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    yield made
    made.database.close()
    made.runner.close()


def test_an_invitation_makes_one_member_once(town: Town) -> None:
    id_, token = town.do(town.folk.members.invite(town.admin, town.lab, Role.EDITOR, "for Ada"))
    seen = town.do(town.folk.members.invitation(token))
    assert (seen.id, seen.project, seen.role, seen.note) == (id_, "lab", Role.EDITOR, "for Ada")
    for name, password, error in (
        ("ada", "short", Invalid),
        ("../x", SECRET, Invalid),
        ("admin", SECRET, Conflict),
    ):
        with pytest.raises(error):
            town.do(town.folk.members.accept(token, name, password, address="", agent=""))
    who = town.at(town.do(town.folk.members.accept(token, "ada", SECRET, address="", agent="")))
    assert (who.name, who.project, who.role, who.actor) == ("ada", "lab", Role.EDITOR, "person:ada")
    with pytest.raises(Unauthenticated):
        town.do(town.folk.members.accept(token, "eve", SECRET, address="", agent=""))
    (member,) = town.do(town.folk.members.list(who, town.lab))
    assert (member.person, member.role) == ("ada", Role.EDITOR)
    id_, late = town.do(town.folk.members.invite(town.admin, town.lab, Role.OWNER, ""))
    assert [i.id for i in town.do(town.folk.members.invited(town.admin, town.lab))] == [id_]
    town.now += 8 * 24 * 3600 * 1000
    assert town.do(town.folk.members.invited(town.admin, town.lab)) == []
    with pytest.raises(Unauthenticated):
        town.do(town.folk.members.accept(late, "eve", SECRET, address="", agent=""))


def test_a_person_acts_in_each_of_their_projects_and_in_no_other(town: Town) -> None:
    who = town.join("ada", Role.OWNER)
    other = town.do(town.projects.create(town.admin, "clinic"))
    assert [p.name for p in town.do(town.projects.list(who))] == ["lab"]
    with pytest.raises(NotFound):
        town.do(town.projects.get(who, "clinic"))
    assert not may(who, "project.read", other.id)
    _, token = town.do(town.folk.members.invite(town.admin, other.id, Role.VIEWER, ""))
    assert town.do(town.folk.members.join(who, token)) == "clinic"
    session = town.sign_in("ada")
    in_lab, in_clinic = town.at(session), town.at(session, "clinic")
    assert (in_lab.role, in_clinic.role) == (Role.OWNER, Role.VIEWER)
    assert in_lab.elsewhere == {other.id: Role.VIEWER}
    assert may(in_lab, "keys.manage", town.lab)
    assert not may(in_lab, "keys.manage", other.id)
    assert may(in_lab, "objects.read", other.id)
    assert {p.name for p in town.do(town.projects.list(in_clinic))} == {"lab", "clinic"}


def test_a_person_who_is_removed_loses_every_key_at_once(town: Town) -> None:
    ada, bob = town.join("ada", Role.OWNER), town.join("bob", Role.OWNER)
    own = town.key_of(bob)
    made = town.do(town.keys.create(bob, town.lab, name="ci", role=Role.EDITOR)).id
    hers = town.do(town.keys.create(ada, town.lab, name="hers", role=Role.EDITOR)).id
    for key_id in (own, made, hers):
        assert town.do(town.keys.principal_of(key_id)).project == "lab"  # and so it is in the cache
    assert town.do(town.keys.principal_of(own)).actor == "person:bob"
    assert town.do(town.folk.members.remove(ada, town.lab, "bob")) == 2
    for key_id in (own, made):
        with pytest.raises(Unauthenticated, match="revoked"):
            town.do(town.keys.principal_of(key_id))
    assert town.do(town.keys.principal_of(hers)).project == "lab"
    again = town.at(town.sign_in("bob"))
    assert again.project_id == ""
    assert not may(again, "project.read", town.lab)
    with pytest.raises(NotFound):
        town.do(town.folk.members.remove(ada, town.lab, "bob"))


def test_whoever_leaves_leaves_no_way_back(town: Town) -> None:
    """Neither by keys that their keys made, nor by an invitation of theirs, nor by a job of theirs."""
    ada = town.join("ada", Role.OWNER)
    eve = town.join("eve", Role.OWNER)
    first = town.do(town.keys.create(ada, town.lab, name="robot", role=Role.OWNER))
    robot = town.do(town.keys.principal_of(first.id))
    second = town.do(town.keys.create(robot, town.lab, name="robot-2", role=Role.OWNER))
    shared = town.do(town.keys.create(ada, town.lab, name="shared", role=Role.OWNER))
    kept = town.do(town.keys.create(eve, town.lab, name="shared", role=Role.OWNER))
    by_shared = town.do(
        town.keys.create(town.do(town.keys.principal_of(kept.id)), town.lab, name="third", role=Role.VIEWER)
    )
    _, invitation = town.do(town.folk.members.invite(robot, town.lab, Role.OWNER, ""))
    _, other = town.do(town.folk.members.invite(eve, town.lab, Role.VIEWER, ""))
    jobs = [
        town.database.write_now(
            lambda c, who=who, n=n: town.keys.insert_for_workload(c, who, town.lab, f"job:{n}")
        )
        for n, who in enumerate((ada, robot, eve))
    ]
    stays = town.database.write_now(lambda c: town.keys.insert_for_workload(c, ada, town.lab, "workspace:1"))
    assert town.do(town.folk.members.remove(town.admin, town.lab, "ada")) == 3
    for credential in (first, second, shared, *jobs[:2]):
        with pytest.raises(Unauthenticated):
            town.do(town.keys.principal_of(credential.id))
    for credential in (kept, by_shared, jobs[2], stays):  # what is another's, and what is the project's
        town.do(town.keys.principal_of(credential.id))
    with pytest.raises(Unauthenticated):
        town.do(town.folk.members.invitation(invitation))
    assert town.do(town.folk.members.invitation(other)).role is Role.VIEWER


def test_who_is_still_here(town: Town) -> None:
    here = lambda actor: town.database.read_now(lambda c: is_still_here(c, town.lab, actor))  # noqa: E731
    ada, eve = town.join("ada", Role.OWNER), town.join("eve", Role.OWNER)
    robot = town.do(town.keys.create(ada, town.lab, name="robot", role=Role.OWNER))
    town.do(
        town.keys.create(town.do(town.keys.principal_of(robot.id)), town.lab, name="second", role=Role.OWNER)
    )
    shared = [town.do(town.keys.create(who, town.lab, name="shared", role=Role.OWNER)) for who in (ada, eve)]
    for n, who in enumerate((ada, eve)):
        town.database.write_now(
            lambda c, who=who, n=n: town.keys.insert_for_workload(c, who, town.lab, f"job:{n}")  # type: ignore[misc]
        )
    actors = ["person:ada", "service:robot", "service:second", "job:0"]
    stay = ["person:eve", "person:admin", "service:shared", "job:1", "system:system", "service:admin"]
    town.do(town.keys.revoke(eve, shared[1].id))  # a key that ended is no departure
    assert all(map(here, actors + stay))
    town.do(town.folk.members.remove(town.admin, town.lab, "ada"))
    assert ([one for one in actors if here(one)], [one for one in stay if not here(one)]) == ([], [])
    assert not here("person:nobody")


def test_a_lower_role_holds_for_jobs_and_invitations_too(town: Town) -> None:
    ada = town.join("ada", Role.OWNER)
    _, invitation = town.do(town.folk.members.invite(ada, town.lab, Role.OWNER, ""))
    _, harmless = town.do(town.folk.members.invite(ada, town.lab, Role.VIEWER, ""))
    job = town.database.write_now(lambda c: town.keys.insert_for_workload(c, ada, town.lab, "job:1"))
    assert town.do(town.keys.principal_of(job.id)).role is Role.EDITOR
    town.do(town.folk.members.put(town.admin, town.lab, "ada", Role.VIEWER))
    assert town.do(town.keys.principal_of(job.id)).role is Role.VIEWER
    assert town.database.read_now(lambda c: role_now(c, ada, town.lab)) is Role.VIEWER
    with pytest.raises(Unauthenticated):
        town.do(town.folk.members.invitation(invitation))
    town.do(town.folk.members.invitation(harmless))


def test_a_lower_role_holds_for_keys_at_once(town: Town) -> None:
    town.join("ada", Role.OWNER)
    bob = town.join("bob", Role.EDITOR)
    key_id = town.key_of(bob)
    assert town.do(town.keys.principal_of(key_id)).role is Role.EDITOR
    assert town.do(town.folk.members.put(town.admin, town.lab, "bob", Role.VIEWER)) == 1
    assert town.do(town.keys.principal_of(key_id)).role is Role.VIEWER
    assert town.do(town.folk.members.put(town.admin, town.lab, "bob", Role.OWNER)) == 0
    assert town.do(town.keys.principal_of(key_id)).role is Role.VIEWER  # a key never grows


def test_a_lower_role_holds_for_keys_that_they_made_in_turn(town: Town) -> None:
    ada, eve = town.join("ada", Role.OWNER), town.join("eve", Role.OWNER)

    def made(who: Principal, name: str, role: Role) -> str:
        return town.do(town.keys.create(who, town.lab, name=name, role=role)).id

    first, weak = made(ada, "robot", Role.OWNER), made(ada, "reader", Role.VIEWER)
    robot = town.do(town.keys.principal_of(first))
    second = made(robot, "robot-2", Role.EDITOR)
    _, invitation = town.do(town.folk.members.invite(robot, town.lab, Role.EDITOR, ""))
    shared, kept = made(ada, "shared", Role.OWNER), made(eve, "shared", Role.OWNER)
    third = made(town.do(town.keys.principal_of(kept)), "third", Role.EDITOR)
    town.do(town.folk.members.put(town.admin, town.lab, "ada", Role.VIEWER))
    for key_id in (first, second, shared, weak):
        assert town.do(town.keys.principal_of(key_id)).role is Role.VIEWER
    assert town.do(town.keys.principal_of(kept)).role is Role.OWNER
    assert town.do(town.keys.principal_of(third)).role is Role.EDITOR
    with pytest.raises(Unauthenticated):
        town.do(town.folk.members.invitation(invitation))


def test_a_key_sets_no_first_password_and_a_new_one_ends_links_too(town: Town) -> None:
    ada = town.join("ada", Role.EDITOR)
    key = town.do(town.keys.principal_of(town.key_of(ada)))
    link = town.do(town.sessions.new_link("ada"))
    device, user = town.do(town.folk.devices.begin("a thief's"))
    town.do(town.folk.devices.approve(ada, user))
    town.do(town.folk.people.change_password(key, SECRET, "another long one", session=None))
    with pytest.raises(Unauthenticated):
        town.do(town.sessions.sign_in(link))
    with pytest.raises(Unauthenticated):
        town.do(town.folk.devices.take(device))
    town.database.write_now(lambda c: c.execute(update(people).values(password=None)))
    with pytest.raises(Denied, match="in a browser"):
        town.do(town.folk.people.change_password(key, "", "one of a thief", session=None))
    town.do(town.folk.people.change_password(ada, "", "one of her own", session=None))


def test_who_may_say_who_is_what(town: Town) -> None:
    ada, bob = town.join("ada", Role.OWNER), town.join("bob", Role.EDITOR)
    for call in (
        town.folk.members.put(bob, town.lab, "bob", Role.OWNER),
        town.folk.members.remove(bob, town.lab, "ada"),
        town.folk.members.invite(bob, town.lab, Role.VIEWER, ""),
        town.folk.people.list(ada),
        town.folk.members.join(town.admin, "x"),
    ):
        with pytest.raises(Denied):
            town.do(call)
    for change in (
        town.folk.members.put(ada, town.lab, "ada", Role.VIEWER),
        town.folk.members.remove(ada, town.lab, "ada"),
    ):
        with pytest.raises(Conflict, match="last owner"):
            town.do(change)
    with pytest.raises(NotFound):
        town.do(town.folk.members.put(ada, town.lab, "nobody", Role.VIEWER))
    stranger = town.join("eve", Role.OWNER, town.do(town.projects.create(town.admin, "other")).id)
    with pytest.raises(NotFound):
        town.do(town.folk.members.list(stranger, town.lab))
    end = town.key_of(bob)
    town.do(town.keys.revoke(bob, end))  # one's own key is one's own to end, whatever one's role


def test_guessing_is_slowed_down_by_name_and_by_address(town: Town) -> None:
    town.join("ada", Role.EDITOR)
    for number in range(10):
        with pytest.raises(Unauthenticated, match="wrong"):
            town.sign_in("ada", "wrong password", address=f"10.0.1.{number}")
    with pytest.raises(Busy) as slow:
        town.sign_in("ada", SECRET, address="10.9.9.9")
    assert slow.value.details["retry_after_seconds"] == 15 * 60
    town.now += 16 * 60 * 1000
    assert town.at(town.sign_in("ada")).name == "ada"
    for number in range(50):
        town.folk.people._guesses.take(f"name{number}", "10.0.2.2")
    with pytest.raises(Busy):
        town.sign_in("nobody", SECRET, address="10.0.2.2")
    with pytest.raises(Unauthenticated):
        town.sign_in("nobody", SECRET, address="10.0.2.3")


def test_guessing_many_at_once_gains_nothing(town: Town) -> None:
    """Each is counted before its password is looked at, which takes a while."""
    town.join("ada", Role.EDITOR)

    async def guess(number: int) -> type[Exception] | None:
        try:
            await town.folk.people.sign_in(
                "ada", SECRET if number == 29 else "wrong", "", address=f"10.0.3.{number}", agent=""
            )
        except (Unauthenticated, Busy) as error:
            return type(error)
        return None

    async def all_at_once() -> list[type[Exception] | None]:
        return await asyncio.gather(*map(guess, range(30)))

    told = town.do(all_at_once())
    assert (told.count(Unauthenticated), told.count(Busy)) == (10, 20)
    town.now += 16 * 60 * 1000
    guesses = town.folk.people._guesses
    for _ in range(60):  # what was right is not held against anybody
        guesses.take("ada", "10.0.4.4")
        guesses.give_back("ada", "10.0.4.4")
    assert town.sign_in("ada", address="10.0.4.4")


def test_a_new_password_ends_every_other_session(town: Town) -> None:
    who = town.join("ada", Role.EDITOR)
    here, there = town.sign_in("ada"), town.sign_in("ada")
    with pytest.raises(Denied, match="old password"):
        town.do(town.folk.people.change_password(who, "wrong", "another long one", session=here))
    town.do(town.folk.people.change_password(who, SECRET, "another long one", session=here))
    assert town.at(here).name == "ada"
    with pytest.raises(Unauthenticated):
        town.at(there)
    with pytest.raises(Unauthenticated):
        town.sign_in("ada")
    assert town.sign_in("ada", "another long one")


def test_sessions_are_seen_and_revoked(town: Town) -> None:
    ada, bob = town.join("ada", Role.EDITOR), town.join("bob", Role.EDITOR)
    session = town.sign_in("ada")
    mine = town.do(town.sessions.list(ada, current=session))
    assert [s.current for s in mine].count(True) == 1
    assert {(s.person, s.address, s.agent) for s in mine} == {("ada", "10.0.0.1", "Browser")}
    current = next(s for s in mine if s.current)
    with pytest.raises(NotFound):
        town.do(town.sessions.revoke(bob, current.id))
    town.do(town.sessions.revoke(ada, current.id))
    with pytest.raises(Unauthenticated):
        town.at(session)
    with pytest.raises(Denied):
        town.do(town.sessions.list(town.admin))
    everybody = town.do(town.sessions.list(town.admin, everybody=True))
    assert {s.person for s in everybody} == {"ada", "bob"}
    town.do(town.sessions.revoke(town.admin, everybody[0].id))


def _code(secret: bytes, at: int) -> str:
    return TOTP(secret, 6, SHA1(), 30, enforce_key_length=False).generate(at // 1000).decode()


def test_a_code_is_asked_for_and_good_once(town: Town) -> None:
    who = town.join("ada", Role.EDITOR)
    uri, sealed = town.do(town.folk.people.begin_totp(who, "example.org"))
    told: dict[str, Any] = parse_qs(urlsplit(uri).query)
    secret = b32decode(told["secret"][0] + "=" * (-len(told["secret"][0]) % 8))
    assert town.at(town.sign_in("ada")).name == "ada"  # not confirmed: nothing has changed
    with pytest.raises(Invalid):
        town.do(town.folk.people.confirm_totp(who, sealed, "000000x"))
    town.do(town.folk.people.confirm_totp(who, sealed, _code(secret, town.now)))
    with pytest.raises(NeedsCode):
        town.sign_in("ada")
    with pytest.raises(Unauthenticated, match="used already"):
        town.sign_in("ada", code=_code(secret, town.now))
    town.now += 30_000
    assert town.sign_in("ada", code=_code(secret, town.now))
    with pytest.raises(Unauthenticated):
        town.sign_in("ada", code=_code(secret, town.now))
    town.now += 60_000
    with pytest.raises(Unauthenticated):
        town.do(town.folk.people.drop_totp(who, "123"))
    town.do(town.folk.people.drop_totp(who, _code(secret, town.now)))
    assert town.sign_in("ada")


def test_only_a_person_in_a_browser_says_yes_to_a_command_line(town: Town) -> None:
    bob = town.join("bob", Role.EDITOR)
    _, user = town.do(town.folk.devices.begin("laptop"))
    key = town.do(town.keys.principal_of(town.key_of(bob)))
    for who in (key, town.admin):
        with pytest.raises(Denied):
            town.do(town.folk.devices.approve(who, user))
    with pytest.raises(NotFound):
        town.do(town.folk.devices.approve(bob, "XXXX-XXXX"))
    device, user = town.do(town.folk.devices.begin("laptop"))
    town.do(town.folk.devices.approve(bob, user))
    town.do(town.folk.members.remove(town.admin, town.lab, "bob"))  # in between
    with pytest.raises(Unauthenticated):
        town.do(town.folk.devices.take(device))
    device, user = town.do(town.folk.devices.begin("laptop"))
    town.now += 11 * 60 * 1000
    with pytest.raises(Unauthenticated):
        town.do(town.folk.devices.take(device))


def test_when_a_key_was_used_is_noted(town: Town) -> None:
    ada = town.join("ada", Role.OWNER)
    made = town.do(town.keys.create(ada, town.lab, name="ci", role=Role.EDITOR))
    town.now += 5000
    town.do(town.keys.authenticate(made.id, made.secret))
    town.do(town.keys.write_uses())
    used = {key.name: key.used_at for key in town.do(town.keys.list(ada, town.lab))}
    assert used == {"ci": town.now}


def test_what_is_sealed_opens_only_for_its_purpose() -> None:
    master = MasterKey({1: bytes(32), 2: bytes([1]) * 32})
    sealed = master.seal(b"secret", "totp:ada")
    assert b"secret" not in sealed.encode()
    assert master.open(sealed, "totp:ada") == b"secret"
    for text, purpose in (
        (sealed, "totp:eve"),
        (sealed[:-6] + "AAAAA=", "totp:ada"),
        ("7:AAAA", "totp:ada"),
        ("", ""),
    ):
        with pytest.raises(Exception, match="cannot be opened"):
            master.open(text, purpose)
