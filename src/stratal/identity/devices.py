"""Signing a command line in from a browser: the device code grant (RFC 8628), without its wire.

The command line asks for a pair of codes and shows the short one; a signed-in person types or follows it and
says yes; the command line, which kept the long one, then gets a key that speaks for the person.
"""

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, select, update

from stratal.identity.keys import Credential, Keys
from stratal.identity.model import Kind, Principal
from stratal.identity.sessions import hashed, person_in
from stratal.identity.tables import device_logins, people, projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Busy, Denied, NotFound, Unauthenticated
from stratal.kernel.events import emit
from stratal.kernel.ids import random_token

LIFE_MS = 10 * 60 * 1000
KEY_MS = 90 * 24 * 3600 * 1000
_MOST_OPEN = 1000
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels, so no words; nothing that looks like another


@dataclass(frozen=True, slots=True)
class Granted:
    """The key that a command line was given, with what it opens."""

    credential: Credential
    person: str
    project: str


class Devices:
    def __init__(self, database: Database, service: Keys, clock: Clock) -> None:
        self._database = database
        self._keys = service
        self._clock = clock

    async def begin(self, machine: str) -> tuple[str, str]:
        """A device code to keep and a user code to show. `machine` is what the asker calls itself."""
        device, user = random_token(40), _user_code()

        def work(c: Connection) -> None:
            now = self._clock()
            c.execute(delete(device_logins).where(device_logins.c.expires_at <= now))
            if c.execute(select(func.count()).select_from(device_logins)).scalar_one() >= _MOST_OPEN:
                raise Busy("Too many sign-ins wait for a yes.", hint="Try again in a few minutes.")
            c.execute(
                insert(device_logins).values(
                    device_sha256=hashed(device),
                    user_code=user,
                    machine=machine[:100],
                    created_at=now,
                    expires_at=now + LIFE_MS,
                )
            )

        await self._database.write(work)
        return device, user

    async def asked(self, user_code: str) -> str:
        """What the machine that shows this code calls itself. Raises `NotFound`."""
        query = select(device_logins.c.machine).where(
            device_logins.c.user_code == _plain(user_code),
            device_logins.c.expires_at > self._clock(),
            device_logins.c.person_id.is_(None),
        )
        found = await self._database.read(lambda c: c.execute(query).scalar())
        if found is None:
            raise _no_code()
        return str(found)

    async def approve(self, who: Principal, user_code: str) -> None:
        """Say yes, for the project that `who` acts in. Raises `NotFound`, `Denied` for a caller who is no person."""
        if who.kind is not Kind.PERSON or who.key_id is not None:
            raise Denied("Only somebody who is signed in in a browser can say yes.", reason="denied")
        if not who.project_id:
            raise Denied("You are a member of no project.", hint="Ask to be invited to one.", reason="denied")

        def work(c: Connection) -> None:
            now = self._clock()
            done = c.execute(
                update(device_logins)
                .where(
                    device_logins.c.user_code == _plain(user_code),
                    device_logins.c.expires_at > now,
                    device_logins.c.person_id.is_(None),
                )
                .values(person_id=who.id, project_id=who.project_id)
            )
            if not done.rowcount:
                raise _no_code()
            emit(c, "device.approved", who.id, actor=who.actor, project_id=who.project_id, name=who.name)

        await self._database.write(work)

    async def take(self, device_code: str) -> Granted | None:
        """The key, once, when somebody said yes; None as long as nobody has. Raises `Unauthenticated`: too late."""

        def work(c: Connection) -> Granted | None:
            mine = device_logins.c.device_sha256 == hashed(device_code)
            row = c.execute(select(device_logins).where(mine)).one_or_none()
            if row is None or row.expires_at <= self._clock():
                raise Unauthenticated(
                    "This sign-in was not said yes to in time.", hint="Begin anew: stratal login URL"
                )
            if row.person_id is None:
                return None
            c.execute(delete(device_logins).where(mine))
            person = c.execute(select(people).where(people.c.id == row.person_id)).one()
            project = c.execute(select(projects.c.name).where(projects.c.id == row.project_id)).scalar_one()
            who = person_in(c, person, project)
            if who.project != project:
                raise Unauthenticated("You are no member of that project any more.")
            until = self._clock() + KEY_MS
            made = self._keys.insert_for_person(c, who, name=f"login-{row.machine}"[:100], expires_at=until)
            return Granted(made, who.name, project)

        return await self._database.write(work)


def _user_code() -> str:
    letters = "".join(secrets.choice(_LETTERS) for _ in range(8))
    return f"{letters[:4]}-{letters[4:]}"


def _plain(code: str) -> str:
    letters = "".join(character for character in code.upper() if character in _LETTERS)
    return f"{letters[:4]}-{letters[4:8]}"


def _no_code() -> NotFound:
    return NotFound(
        "No command line waits with this code.",
        hint="It may be too old: begin anew with stratal login.",
        reason="no_such_code",
    )
