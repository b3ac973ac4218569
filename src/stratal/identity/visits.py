"""Visits: who may look into a workspace or an app from a browser, at the host name of its own.

The platform's own pages are worth nothing there, on purpose: what runs there is anybody's code. So whoever may use
such a place is given a one-time ticket, which their browser spends at the place's host name for a cookie of that host
alone. The visit stands on what it was made with, a console session or a key: each request asks anew whether that
still is good and its owner still has the role that the place's use takes.

    ticket (a minute, once) ──▶ cookie (12 hours, one place, one person) ──▶ each request: may they still?
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from stratal.identity.keys import Keys
from stratal.identity.model import Kind, Principal
from stratal.identity.permissions import require
from stratal.identity.sessions import Sessions, hashed
from stratal.identity.tables import visits
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, StratalError, Unauthenticated
from stratal.kernel.events import Events, emit
from stratal.kernel.ids import new_id, random_token
from stratal.kernel.names import article

TICKET_MS = 60_000
VISIT_MS = 12 * 3600 * 1000
_WATCHED = ("member.", "session.", "key.", "person.", "project.", "workspace.", "app.")
_LOOK_SECONDS = 2.0


class Place(Protocol):
    """What is visited. Its `kind` is our word for it: who visits needs the action ``<kind>s.use`` of its project."""

    @property
    def kind(self) -> str: ...

    @property
    def id(self) -> str: ...

    @property
    def project_id(self) -> str: ...

    @property
    def project(self) -> str: ...

    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody at a place: as whom, known by which row, until when."""

    id: str
    who: Principal
    expires_at: int


class Visits:
    """`start` begins to watch for what ends visits, so that open connections end with them."""

    def __init__(
        self, database: Database, keys: Keys, sessions: Sessions, events: Events, clock: Clock
    ) -> None:
        self._database = database
        self._keys = keys
        self._sessions = sessions
        self._events = events
        self._clock = clock
        self._open: dict[object, tuple[Place, str, str, Callable[[], None]]] = {}
        """Open connections: whose workspace, which visit, who by name, and how to end them."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._watch(), name="visits")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- coming in -----------------------------------------------------------------------------

    async def invite(self, who: Principal, of: Place, session: str | None) -> str:
        """A ticket that lets `who` into the place once; `session` is the token of their console session, if any.

        Raises `Denied` for a workload: what runs here does not browse.
        """
        require(who, f"{of.kind}s.use", of.project_id, what=f"{of.kind} {of.name!r}")
        if who.kind is Kind.WORKLOAD or (session is None and who.key_id is None):
            raise Denied(
                f"{article(of.kind).title()} {of.kind} is opened by people.", hint="Open it in the console."
            )
        ticket = random_token(40)
        now = self._clock()

        def work(c: Connection) -> None:
            c.execute(delete(visits).where(visits.c.expires_at <= now))
            c.execute(
                insert(visits).values(
                    id=new_id("vis"),
                    place_id=of.id,
                    project=of.project,
                    session_sha256=None if session is None else hashed(session),
                    key_id=None if session is not None else who.key_id,
                    ticket_sha256=hashed(ticket),
                    created_at=now,
                    expires_at=now + TICKET_MS,
                )
            )

        await self._database.write(work)
        return ticket

    async def enter(self, of: Place, ticket: str) -> str:
        """Spend a ticket; the cookie's value. Raises `Unauthenticated` for one that opens nothing (any more)."""
        cookie = random_token(40)
        now = self._clock()
        mine = (visits.c.ticket_sha256 == hashed(ticket)) & (visits.c.place_id == of.id)

        def find(c: Connection) -> RowMapping | None:
            return c.execute(select(visits).where(mine, visits.c.expires_at > now)).mappings().one_or_none()

        row = await self._database.read(find)
        if row is None:
            raise _spent(of)
        who = await self._principal(row, of)

        def work(c: Connection) -> None:
            spent = (
                update(visits)
                .where(mine, visits.c.expires_at > now)
                .values(ticket_sha256=None, cookie_sha256=hashed(cookie), expires_at=now + VISIT_MS)
            )
            if c.execute(spent.returning(visits.c.id)).scalar() is None:
                raise _spent(of)
            emit(
                c,
                f"{of.kind}.entered",
                of.id,
                actor=who.actor,
                project_id=of.project_id,
                name=of.name,
                person=who.name,
            )

        await self._database.write(work)
        return cookie

    async def visit(self, of: Place, cookie: str) -> Visit:
        """Who comes with this cookie, if they still may.

        Raises `Unauthenticated` when it opens nothing (any more), `Denied` or `NotFound` when they are no editor now.
        """
        now = self._clock()
        mine = (visits.c.cookie_sha256 == hashed(cookie)) & (visits.c.place_id == of.id)
        query = select(visits).where(mine, visits.c.expires_at > now)
        row = await self._database.read(lambda c: c.execute(query).mappings().one_or_none())
        if row is None:
            raise Unauthenticated(
                f"You are not in this {of.kind}.",
                hint=f"Open it from the console, or with: stratal {of.kind} open {of.name}",
                reason="no_visit",
            )
        return Visit(row["id"], await self._principal(row, of), row["expires_at"])

    async def _principal(self, row: RowMapping | Any, of: Place) -> Principal:
        if row["session_sha256"] is not None:
            who = await self._sessions.behind(row["session_sha256"], row["project"])
        else:
            who = await self._keys.principal_of(row["key_id"])
        require(who, f"{of.kind}s.use", of.project_id, what=f"{of.kind} {of.name!r}")
        return who

    # -- open connections ----------------------------------------------------------------------

    def hold(self, of: Place, cookie: str, who: Principal, end: Callable[[], None]) -> object:
        """Note an open connection; `end` is called once, when the visit is over. Give the result to `let_go`."""
        place = object()
        self._open[place] = (of, cookie, who.name, end)
        self._changed.set()  # from now on it is looked at, also when nothing happens but that a key expires
        return place

    def let_go(self, place: object) -> None:
        self._open.pop(place, None)

    def visitors(self, place_id: str) -> tuple[str, ...]:
        """Who has connections open, by name."""
        return tuple(sorted({name for of, _, name, _ in self._open.values() if of.id == place_id}))

    def end_all(self, place_id: str) -> None:
        """End every open connection of a place (it stops)."""
        for place, (of, _, _, end) in list(self._open.items()):
            if of.id == place_id:
                self._open.pop(place, None)
                end()

    async def check(self) -> None:
        """End the open connections of those who may not be here any more."""
        gone: dict[tuple[str, str], bool] = {}
        for place, (of, cookie, _, end) in list(self._open.items()):
            known = (of.id, cookie)
            if known not in gone:
                try:
                    await self.visit(of, cookie)
                    gone[known] = False
                except StratalError:
                    gone[known] = True
            if gone[known] and self._open.pop(place, None) is not None:
                end()

    async def _watch(self) -> None:
        """Look whenever something changed that may end a visit, and now and then for those that expire."""
        changed = self._changed
        follow = asyncio.create_task(self._follow(changed))
        try:
            while True:
                try:
                    async with asyncio.timeout(_LOOK_SECONDS if self._open else None):
                        await changed.wait()
                except TimeoutError:
                    pass
                changed.clear()
                await self.check()
        finally:
            follow.cancel()

    async def _follow(self, changed: asyncio.Event) -> None:
        async for event in self._events.follow(await self._events.last_seq()):
            if event.kind.startswith(_WATCHED):
                changed.set()


def _spent(of: Place) -> Unauthenticated:
    return Unauthenticated(
        "This link was used already, or is older than a minute.",
        hint=f"Open it again from the console, or with: stratal {of.kind} open {of.name}",
        reason="spent_ticket",
    )
