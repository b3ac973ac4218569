"""People: accounts of this instance, how they sign in, and what they may change of their own account."""

from dataclasses import dataclass

from sqlalchemy import Connection, Row, delete, insert, select, update

from stratal.identity.master import MasterKey
from stratal.identity.model import Kind, Principal
from stratal.identity.passwords import Guesses, Passwords, new_totp, totp_step, totp_uri
from stratal.identity.permissions import require
from stratal.identity.sessions import Sessions, hashed
from stratal.identity.tables import device_logins, login_links, members, people, projects, sessions
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, Invalid, NotFound, Unauthenticated
from stratal.kernel.events import emit

_PURPOSE = "totp"


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account. `places` are their projects with their role in each."""

    id: str
    name: str
    admin: bool
    has_password: bool
    has_totp: bool
    created_at: int
    places: tuple[tuple[str, str], ...]


class NeedsCode(Unauthenticated):
    """Name and password are right; the account also wants a one-time code."""

    code = "needs_code"


class People:
    def __init__(
        self, database: Database, master: MasterKey, signing_in: Sessions, clock: Clock, passwords: Passwords
    ) -> None:
        self._database = database
        self._master = master
        self._sessions = signing_in
        self._clock = clock
        self._passwords = passwords
        self._guesses = Guesses(clock)

    async def sign_in(self, name: str, password: str, code: str, *, address: str, agent: str) -> str:
        """A session's token. Raises `Unauthenticated` (`NeedsCode` when only the code lacks), `Busy`."""
        self._guesses.take(name, address)
        row = await self._database.read(lambda c: _named(c, name))
        if not await self._passwords.fits(password, None if row is None else row.password):
            raise Unauthenticated(
                "Name or password is wrong.",
                hint="An owner of your project, or an admin, can make you a new sign-in link.",
                reason="wrong_password",
            )
        assert row is not None
        self._guesses.give_back(name, address)
        if row.totp is not None:
            if not code:
                raise NeedsCode("Now the code that your authenticator app shows.", reason="needs_code")
            await self._check_code(row, code, address)
        self._guesses.forget(name)
        return await self._sessions.begin(row.id, address=address, agent=agent, by="password")

    async def list(self, who: Principal) -> list[Person]:
        """Everybody. Instance admins only."""
        require(who, "instance.manage", who.project_id)

        def read(c: Connection) -> list[Person]:
            return [_person(c, row) for row in c.execute(select(people).order_by(people.c.name)).all()]

        return await self._database.read(read)

    async def me(self, who: Principal) -> Person:
        """Raises `Denied` for a caller who is no person."""
        row = await self._own(who)
        return await self._database.read(lambda c: _person(c, row))

    async def change_password(self, who: Principal, old: str, new: str, *, session: str | None) -> None:
        """Set one's own password; every other session of theirs ends. Raises `Unauthenticated`, `Invalid`.

        `old` is not asked for where there is none yet, and then not of a key: it opens one project, a password all of
        theirs. `session` is the cookie of the one that goes on. Sign-in links that nobody followed yet end, too, and
        what a command line was said yes to and has not taken.
        """
        row = await self._own(who)
        if row.password is None and who.key_id is not None:
            raise Denied(
                "A first password is set by somebody who is signed in in a browser.",
                hint="Open the console, and there: Account.",
                reason="denied",
            )
        if row.password is not None:
            self._guesses.take(row.name, "")
            if not await self._passwords.fits(old, row.password):
                raise Denied("The old password is wrong.", reason="wrong_password")
            self._guesses.give_back(row.name, "")
        made = await self._passwords.hash(new)

        def work(c: Connection) -> None:
            c.execute(update(people).where(people.c.id == row.id).values(password=made))
            _end_sessions(c, row.id, but=session)
            c.execute(delete(login_links).where(login_links.c.person_id == row.id))
            c.execute(delete(device_logins).where(device_logins.c.person_id == row.id))
            emit(c, "person.password_changed", row.id, actor=who.actor, name=row.name)

        await self._database.write(work)

    async def begin_totp(self, who: Principal, address: str) -> tuple[str, str]:
        """A new secret for an authenticator app, as its address and sealed; it counts once `confirm_totp` saw a code."""
        row = await self._own(who)
        secret = new_totp()
        return totp_uri(secret, row.name, address), self._master.seal(secret, f"{_PURPOSE}:{row.id}")

    async def confirm_totp(self, who: Principal, sealed: str, code: str) -> None:
        """From now on a code is asked for. Raises `Invalid` for a wrong one."""
        row = await self._own(who)
        step = totp_step(self._open(sealed, row.id), code, self._clock(), None)
        if step is None:
            raise Invalid(
                "That is not the code that the app shows now.",
                hint="Is this machine's clock right?",
                reason="wrong_code",
            )

        def work(c: Connection) -> None:
            c.execute(update(people).where(people.c.id == row.id).values(totp=sealed, totp_step=step))
            emit(c, "person.totp_set", row.id, actor=who.actor, name=row.name)

        await self._database.write(work)

    async def drop_totp(self, who: Principal, code: str) -> None:
        """Ask for no code any more. Raises `Unauthenticated` for a wrong one."""
        row = await self._own(who)
        if row.totp is None:
            return
        await self._check_code(row, code, "")

        def work(c: Connection) -> None:
            c.execute(update(people).where(people.c.id == row.id).values(totp=None, totp_step=None))
            emit(c, "person.totp_dropped", row.id, actor=who.actor, name=row.name)

        await self._database.write(work)

    async def _check_code(self, row: Row[tuple[object, ...]], code: str, address: str) -> None:
        """Spend a code, once. Raises `Unauthenticated`, `Busy`."""
        self._guesses.take(row.name, address)
        secret = self._open(row.totp, row.id)

        def spend(c: Connection) -> bool:
            last = c.execute(select(people.c.totp_step).where(people.c.id == row.id)).scalar()
            step = totp_step(secret, code, self._clock(), last)
            if step is not None:
                c.execute(update(people).where(people.c.id == row.id).values(totp_step=step))
            return step is not None

        if not await self._database.write(spend):
            raise Unauthenticated("The code is wrong, or was used already.", reason="wrong_code")
        self._guesses.give_back(row.name, address)

    def _open(self, sealed: str, person_id: str) -> bytes:
        return self._master.open(sealed, f"{_PURPOSE}:{person_id}")

    async def _own(self, who: Principal) -> Row[tuple[object, ...]]:
        if who.kind is not Kind.PERSON:
            raise Denied(
                "This is for people about their own account.",
                hint="Sign in: stratal login URL",
                reason="denied",
            )
        row = await self._database.read(
            lambda c: c.execute(select(people).where(people.c.id == who.id)).one_or_none()
        )
        if row is None:
            raise NotFound("There is no such person any more.")
        return row


def _named(c: Connection, name: str) -> Row[tuple[object, ...]] | None:
    return c.execute(select(people).where(people.c.name == name)).one_or_none()


def _person(c: Connection, row: Row[tuple[object, ...]]) -> Person:
    query = (
        select(projects.c.name, members.c.role)
        .join(projects, projects.c.id == members.c.project_id)
        .where(members.c.person_id == row.id, projects.c.removing_at.is_(None))
        .order_by(projects.c.name)
    )
    places = tuple((str(name), str(role)) for name, role in c.execute(query))
    return Person(
        row.id,
        row.name,
        bool(row.admin),
        row.password is not None,
        row.totp is not None,
        row.created_at,
        places,
    )


def _end_sessions(c: Connection, person_id: str, *, but: str | None) -> None:
    kept = hashed(but) if but else ""
    c.execute(delete(sessions).where(sessions.c.person_id == person_id, sessions.c.token_sha256 != kept))


def insert_person(
    c: Connection, person_id: str, name: str, now: int, *, password: str | None, actor: str
) -> None:
    """Insert the row, in the caller's write transaction. Raises `IntegrityError` for a name that is taken."""
    c.execute(insert(people).values(id=person_id, name=name, admin=0, created_at=now, password=password))
    emit(c, "person.joined", person_id, actor=actor, name=name)
