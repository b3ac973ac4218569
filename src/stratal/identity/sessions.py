"""Console sessions: a one-time link becomes a host-only cookie. Only hashes of the tokens are stored."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from stratal.identity.model import Kind, Principal, Role
from stratal.identity.permissions import require
from stratal.identity.tables import login_links, members, people, projects, sessions
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, NotFound, Unauthenticated
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id, random_token

LINK_MS = 24 * 3600 * 1000
SESSION_MS = 14 * 24 * 3600 * 1000
SEEN_MS = 60_000


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A browser in which somebody is signed in. Times are epoch milliseconds."""

    id: str
    person: str
    created_at: int
    expires_at: int
    seen_at: int | None
    address: str
    agent: str
    current: bool


class Sessions:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._seen: dict[str, int] = {}

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
                    token_sha256=hashed(token), person_id=person_id, expires_at=self._clock() + LINK_MS
                )
            )

        await self._database.write(work)
        return token

    async def sign_in(self, token: str, *, address: str = "", agent: str = "") -> str:
        """Spend a one-time token; returns the session's token for the cookie. Raises `Unauthenticated`."""
        session = random_token(40)

        def work(connection: Connection) -> None:
            row = connection.execute(
                delete(login_links).where(login_links.c.token_sha256 == hashed(token)).returning(login_links)
            ).one_or_none()
            if row is None or row.expires_at <= self._clock():
                raise Unauthenticated(
                    "This sign-in link was used or has expired.",
                    hint="Make a new one with: stratal login-link",
                )
            self._insert(connection, session, row.person_id, address, agent, "link")

        await self._database.write(work)
        return session

    async def begin(self, person_id: str, *, address: str, agent: str, by: str) -> str:
        """Sign in somebody who has proven who they are; returns the session's token for the cookie."""
        session = random_token(40)
        await self._database.write(lambda c: self._insert(c, session, person_id, address, agent, by))
        return session

    def _insert(
        self, connection: Connection, session: str, person_id: str, address: str, agent: str, by: str
    ) -> None:
        now = self._clock()
        name = connection.execute(select(people.c.name).where(people.c.id == person_id)).scalar_one()
        connection.execute(delete(sessions).where(sessions.c.expires_at <= now))
        connection.execute(
            insert(sessions).values(
                token_sha256=hashed(session),
                person_id=person_id,
                created_at=now,
                expires_at=now + SESSION_MS,
                id=new_id("ses"),
                address=address[:100],
                agent=agent[:200],
                seen_at=now,
            )
        )
        emit(connection, "session.started", person_id, actor=f"person:{name}", name=name, by=by)

    async def principal_of(self, token: str, project: str | None = None) -> Principal:
        """Who is signed in with this cookie, acting in `project` if they may see it, else in one of theirs.

        Raises `Unauthenticated`.
        """
        who, seen = await self._database.read(lambda c: self._signed_in(c, hashed(token), project))
        now = self._clock()
        if now - max(seen, self._seen.get(hashed(token), 0)) > SEEN_MS:
            self._seen[hashed(token)] = now
            if len(self._seen) > 10_000:
                self._seen.clear()
            await self._database.write(
                lambda c: c.execute(
                    update(sessions).where(sessions.c.token_sha256 == hashed(token)).values(seen_at=now)
                )
            )
        return who

    async def behind(self, token_sha256: str, project: str) -> Principal:
        """As `principal_of`, of a session that something else stands on, which remembers the hash of its token."""
        who, _ = await self._database.read(lambda c: self._signed_in(c, token_sha256, project))
        return who

    def _signed_in(
        self, connection: Connection, token_sha256: str, project: str | None
    ) -> tuple[Principal, int]:
        """Whose session it is, and when it was last seen. Raises `Unauthenticated`."""
        query = (
            select(people.c.id, people.c.name, people.c.admin, sessions.c.expires_at, sessions.c.seen_at)
            .join(people, people.c.id == sessions.c.person_id)
            .where(sessions.c.token_sha256 == token_sha256)
        )
        row = connection.execute(query).one_or_none()
        if row is None or row.expires_at <= self._clock():
            raise Unauthenticated(
                "You are not signed in.", hint="Get a sign-in link with: stratal login-link"
            )
        return person_in(connection, row, project), row.seen_at or 0

    async def list(
        self, who: Principal, *, everybody: bool = False, current: str | None = None
    ) -> list[SessionInfo]:
        """One's own sessions, newest first; with `everybody` all of them (instance admins only)."""
        query = (
            select(sessions, people.c.name)
            .join(people, people.c.id == sessions.c.person_id)
            .where(sessions.c.expires_at > self._clock(), sessions.c.id.is_not(None))
            .order_by(sessions.c.created_at.desc())
        )
        if everybody:
            require(who, "instance.manage", who.project_id)
        else:
            _only_people(who)
            query = query.where(sessions.c.person_id == who.id)
        rows = await self._database.read(lambda c: c.execute(query).all())
        here = hashed(current) if current else ""
        return [
            SessionInfo(
                r.id, r.name, r.created_at, r.expires_at, r.seen_at, r.address or "", r.agent or "",
                r.token_sha256 == here,
            )
            for r in rows
        ]  # fmt: skip

    async def revoke(self, who: Principal, session_id: str) -> None:
        """End one of one's own sessions, or as an instance admin anybody's. Raises `NotFound`."""

        def work(connection: Connection) -> None:
            mine = sessions.c.id == session_id
            if not who.is_admin:
                _only_people(who)
                mine &= sessions.c.person_id == who.id
            ended = connection.execute(delete(sessions).where(mine).returning(sessions.c.person_id)).scalar()
            if ended is None:
                raise NotFound("There is no such session.", hint="List them with: stratal sessions list")
            emit(connection, "session.revoked", session_id, actor=who.actor, person=ended)

        await self._database.write(work)

    async def sign_out(self, token: str) -> None:
        """End the session; an unknown token is fine."""
        await self._database.write(
            lambda c: c.execute(delete(sessions).where(sessions.c.token_sha256 == hashed(token)))
        )


def person_in(connection: Connection, person: Any, project: str | None) -> Principal:
    """A person (a row with `id`, `name`, `admin`) as they act in `project`, or where that is not theirs in one that is.

    Somebody who is in no project is a viewer of nothing: a project that does not exist.
    """
    query = (
        select(projects.c.id, projects.c.name, members.c.role)
        .where(projects.c.removing_at.is_(None))
        .order_by(projects.c.name != "default", projects.c.created_at)
    )
    belongs = (members.c.project_id == projects.c.id) & (members.c.person_id == person.id)
    query = query.outerjoin(members, belongs) if person.admin else query.join(members, belongs)
    places = connection.execute(query).all()
    if not places:
        return Principal(Kind.PERSON, person.id, person.name, "", "", Role.VIEWER)
    here = next((place for place in places if place.name == project), places[0])
    if person.admin:
        return Principal(Kind.PERSON, person.id, person.name, here.id, here.name, Role.ADMIN)
    elsewhere = {place.id: Role(place.role) for place in places if place.id != here.id}
    return Principal(
        Kind.PERSON, person.id, person.name, here.id, here.name, Role(here.role), elsewhere=elsewhere
    )


def _only_people(who: Principal) -> None:
    if who.kind is not Kind.PERSON:
        raise Denied("Sessions are people's.", hint="Sign in: stratal login URL", reason="denied")


def in_project(who: Principal, project_id: str, project: str) -> Principal:
    """`who`, looking at another project (an admin switching projects in the console)."""
    return replace(who, project_id=project_id, project=project)
