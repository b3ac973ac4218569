"""Console sessions: a one-time link becomes a host-only cookie. Only hashes of the tokens are stored."""

import hashlib
from dataclasses import replace

from sqlalchemy import Connection, delete, insert, select

from stratal.identity.model import Kind, Principal, Role
from stratal.identity.tables import login_links, people, projects, sessions
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import NotFound, Unauthenticated
from stratal.kernel.events import emit
from stratal.kernel.ids import random_token

LINK_MS = 24 * 3600 * 1000
SESSION_MS = 14 * 24 * 3600 * 1000


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class Sessions:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def new_link(self, person: str) -> str:
        """A token that signs `person` in once, within a day. Raises `NotFound` for an unknown person."""
        token = random_token(32)

        def work(connection: Connection) -> None:
            person_id = connection.execute(select(people.c.id).where(people.c.name == person)).scalar()
            if person_id is None:
                raise NotFound(f"There is nobody called {person!r}.")
            connection.execute(delete(login_links).where(login_links.c.expires_at <= self._clock()))
            connection.execute(
                insert(login_links).values(
                    token_sha256=_hash(token), person_id=person_id, expires_at=self._clock() + LINK_MS
                )
            )

        await self._database.write(work)
        return token

    async def sign_in(self, token: str) -> str:
        """Spend a one-time token; returns the session's token for the cookie. Raises `Unauthenticated`."""
        session = random_token(40)

        def work(connection: Connection) -> None:
            now = self._clock()
            row = connection.execute(
                delete(login_links).where(login_links.c.token_sha256 == _hash(token)).returning(login_links)
            ).one_or_none()
            if row is None or row.expires_at <= now:
                raise Unauthenticated(
                    "This sign-in link was used or has expired.",
                    hint="Make a new one with: stratal login-link",
                )
            connection.execute(
                insert(sessions).values(
                    token_sha256=_hash(session),
                    person_id=row.person_id,
                    created_at=now,
                    expires_at=now + SESSION_MS,
                )
            )
            emit(connection, "session.started", row.person_id, actor=f"person:{row.person_id}")

        await self._database.write(work)
        return session

    async def principal_of(self, token: str) -> Principal:
        """Who is signed in with this cookie, acting in the project ``default``. Raises `Unauthenticated`."""
        query = (
            select(people.c.id, people.c.name, people.c.admin, sessions.c.expires_at)
            .join(people, people.c.id == sessions.c.person_id)
            .where(sessions.c.token_sha256 == _hash(token))
        )
        home = select(projects.c.id, projects.c.name).order_by(
            projects.c.name != "default", projects.c.created_at
        )

        def read(connection: Connection) -> Principal:
            row = connection.execute(query).one_or_none()
            if row is None or row.expires_at <= self._clock():
                raise Unauthenticated(
                    "You are not signed in.", hint="Get a sign-in link with: stratal login-link"
                )
            project = connection.execute(home.limit(1)).one()
            role = Role.ADMIN if row.admin else Role.VIEWER
            return Principal(Kind.PERSON, row.id, row.name, project.id, project.name, role)

        return await self._database.read(read)

    async def sign_out(self, token: str) -> None:
        """End the session; an unknown token is fine."""
        await self._database.write(
            lambda c: c.execute(delete(sessions).where(sessions.c.token_sha256 == _hash(token)))
        )


def in_project(who: Principal, project_id: str, project: str) -> Principal:
    """`who`, looking at another project (an admin switching projects in the console)."""
    return replace(who, project_id=project_id, project=project)
