"""Signing in through the provider, and holding people here to what it says of them."""

import asyncio
import base64
import contextlib
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from stratal.identity.federation.model import Trust, groups_of, name_of, roles_of
from stratal.identity.federation.provider import Gone, Provider, Told
from stratal.identity.federation.tables import federated, federated_logins
from stratal.identity.keys import Keys
from stratal.identity.master import MasterKey
from stratal.identity.members import take_out, take_out_everywhere, weaken
from stratal.identity.model import Kind, Role
from stratal.identity.people import insert_person
from stratal.identity.sessions import Sessions, hashed
from stratal.identity.tables import login_links, members, people, projects, sessions
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import StratalError, Unauthenticated, Unavailable
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id, random_token

log = logging.getLogger("stratal.identity")

BY = "oidc"
"""Who made a member, where the provider's groups did."""
_LOGIN_MS = 10 * 60 * 1000
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Begun:
    """Where the browser goes, and what it keeps as a cookie until it is back."""

    address: str
    browser: str


class Federation:
    """Between `start` and `close` everybody with access is looked after."""

    def __init__(
        self,
        database: Database,
        trust: Trust,
        provider: Provider,
        keys: Keys,
        signing_in: Sessions,
        master: MasterKey,
        clock: Clock,
    ) -> None:
        self._database = database
        self._trust = trust
        self._provider = provider
        self._keys = keys
        self._sessions = signing_in
        self._master = master
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="identity: federation")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # -- signing in ----------------------------------------------------------------------------

    async def begin(self, redirect_uri: str, target: str) -> Begun:
        """Raises `Unavailable` when the provider does not answer."""
        state, browser, nonce, verifier = (random_token(43) for _ in range(4))
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        address = await self._provider.address(redirect_uri, state, nonce, challenge)
        now = self._clock()

        def work(c: Connection) -> None:
            c.execute(delete(federated_logins).where(federated_logins.c.expires_at <= now))
            c.execute(
                insert(federated_logins).values(
                    state_sha256=hashed(state),
                    browser_sha256=hashed(browser),
                    nonce=nonce,
                    verifier=verifier,
                    redirect_uri=redirect_uri,
                    next=target,
                    expires_at=now + _LOGIN_MS,
                )
            )

        await self._database.write(work)
        return Begun(address, browser)

    async def finish(
        self, state: str, code: str, browser: str, *, address: str, agent: str
    ) -> tuple[str, str]:
        """The session's token and where the person wanted to go. Raises `Unauthenticated`, `Unavailable`."""
        mine = federated_logins.c.state_sha256 == hashed(state)
        begun = await self._database.write(
            lambda c: c.execute(
                delete(federated_logins).where(mine).returning(federated_logins)
            ).one_or_none()
        )
        if begun is None or begun.expires_at <= self._clock() or begun.browser_sha256 != hashed(browser):
            raise Unauthenticated(
                "This sign-in was not begun in this browser, or too long ago.",
                hint="Begin again.",
                reason="stale_login",
            )
        told = await self._provider.exchange(code, begun.redirect_uri, begun.verifier, begun.nonce)
        if told.refresh_token is None:
            raise Unauthenticated(
                "The provider gave no refresh token, so nobody could tell when you leave.",
                hint="Let this instance's client there use refresh tokens (the scope offline_access).",
                reason="no_refresh_token",
            )
        person_id = await self._database.write(lambda c: self._enter(c, told))
        session = await self._sessions.begin(person_id, address=address, agent=agent, by="oidc")
        return session, str(begun.next)

    def _enter(self, c: Connection, told: Told) -> str:
        """Whoever this is here, made anew if need be, with what their groups make them."""
        mine = (federated.c.issuer == self._trust.issuer) & (federated.c.subject == told.subject)
        person_id = c.execute(select(federated.c.person_id).where(mine)).scalar()
        now = self._clock()
        if person_id is None:
            person_id, name = new_id("usr"), _free_name(c, name_of(told.claims))
            insert_person(c, person_id, name, now, password=None, actor=f"{Kind.PERSON}:{name}")
            c.execute(
                insert(federated).values(
                    issuer=self._trust.issuer,
                    subject=told.subject,
                    person_id=person_id,
                    refresh_token="",
                    checked_at=now,
                )
            )
        self._keep(c, str(person_id), told)
        return str(person_id)

    def _keep(self, c: Connection, person_id: str, told: Told) -> None:
        values: dict[str, object] = {"checked_at": self._clock(), "ended_at": None}
        if told.refresh_token is not None:
            values["refresh_token"] = self._sealed(person_id, told.refresh_token)
        c.execute(update(federated).where(federated.c.person_id == person_id).values(values))
        self._apply(c, person_id, told.claims)

    def _apply(self, c: Connection, person_id: str, claims: Mapping[str, Any]) -> None:
        """Make memberships what the groups say; those that somebody here gave stay."""
        person = c.execute(select(people).where(people.c.id == person_id)).one()
        roles, admin = roles_of(self._trust, groups_of(claims, self._trust.groups_claim))
        if self._trust.names_admins and bool(person.admin) != admin:
            c.execute(update(people).where(people.c.id == person_id).values(admin=int(admin)))
            emit(c, "person.admin_changed", person_id, actor=BY, name=person.name, admin=admin)
            if not admin:
                self._no_admin(c, person)
        known = dict(c.execute(select(projects.c.name, projects.c.id)).tuples().all())
        wanted = {known[name]: role for name, role in roles.items() if name in known}
        query = select(members).where(members.c.person_id == person_id)
        present = {row.project_id: row for row in c.execute(query)}
        for project_id, role in wanted.items():
            row = present.get(project_id)
            told = {"actor": BY, "project_id": project_id, "name": person.name, "role": role.value}
            if row is None:
                made = {"project_id": project_id, "person_id": person_id, "role": role.value}
                c.execute(insert(members).values(**made, added_at=self._clock(), added_by=BY))
                emit(c, "member.added", person_id, **told)
            elif row.added_by == BY and row.role != role.value:
                c.execute(update(members).where(*_is(project_id, person_id)).values(role=role.value))
                weaken(c, self._keys, project_id, person_id, str(person.name), role)
                emit(c, "member.changed", person_id, **told)
        for project_id, row in present.items():
            if row.added_by == BY and project_id not in wanted:
                self._out(c, project_id, person)

    def _no_admin(self, c: Connection, person: Row[tuple[object, ...]]) -> None:
        """What is left is what they are where they are members."""
        person_id, name = str(person.id), str(person.name)
        take_out_everywhere(c, self._keys, person_id, name, by=BY)
        query = select(members.c.project_id, members.c.role).where(members.c.person_id == person_id)
        for project_id, role in c.execute(query).all():
            weaken(c, self._keys, project_id, person_id, name, Role(role))

    def _out(self, c: Connection, project_id: str, person: Row[tuple[object, ...]]) -> None:
        take_out(c, self._keys, project_id, str(person.id), str(person.name), by=BY)

    # -- asking again --------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except Exception:
                log.exception("people could not be looked up at the provider")
            await asyncio.sleep(min(self._trust.check_seconds / 6, 5.0))

    async def look(self) -> None:
        """Ask about everybody whom the provider was not asked about for a while."""
        query = select(federated).where(
            federated.c.issuer == self._trust.issuer,
            federated.c.ended_at.is_(None),
            federated.c.checked_at <= self._clock() - round(self._trust.check_seconds * 1000),
        )
        rows = await self._database.read(lambda c: c.execute(query.order_by(federated.c.checked_at)).all())
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(row: Row[tuple[object, ...]]) -> None:
            async with turns:
                try:
                    await self._look_at(row)
                except Exception:  # nobody is trusted longer because somebody else could not be looked at
                    log.exception("%s could not be looked up at the provider", row.person_id)

        await asyncio.gather(*(one(row) for row in rows))

    async def _look_at(self, row: Row[tuple[object, ...]]) -> None:
        person_id, subject = str(row.person_id), str(row.subject)
        token = self._master.open(str(row.refresh_token), f"oidc:{person_id}").decode()
        try:
            told = await self._provider.renew(token, subject)
        except Gone as gone:
            log.info("the provider refuses %s: %s", person_id, gone)
            await self._database.write(lambda c: self._end(c, person_id, str(row.refresh_token)))
            return
        except Unavailable as error:
            log.warning("the provider could not be asked: %s", error.message)
            return
        except StratalError as error:
            log.error("the provider cannot be trusted: %s", error)
            return
        await self._database.write(lambda c: self._keep(c, person_id, told))

    def _end(self, c: Connection, person_id: str, refresh_token: str) -> None:
        """Take every access from somebody, unless they have signed in anew meanwhile."""
        mine = (federated.c.person_id == person_id) & (federated.c.refresh_token == refresh_token)
        if c.execute(update(federated).where(mine).values(ended_at=self._clock())).rowcount == 0:
            return
        person = c.execute(select(people).where(people.c.id == person_id)).one()
        c.execute(update(people).where(people.c.id == person_id).values(admin=0, password=None, totp=None))
        c.execute(delete(sessions).where(sessions.c.person_id == person_id))
        c.execute(delete(login_links).where(login_links.c.person_id == person_id))
        for project_id in list(
            c.execute(select(members.c.project_id).where(members.c.person_id == person_id)).scalars()
        ):
            self._out(c, project_id, person)
        if person.admin:
            take_out_everywhere(c, self._keys, person_id, str(person.name), by=BY)
        emit(c, "person.refused", person_id, actor=BY, name=person.name)

    def _sealed(self, person_id: str, token: str) -> str:
        return self._master.seal(token.encode(), f"oidc:{person_id}")


def _is(project_id: str, person_id: str) -> tuple[Any, Any]:
    return members.c.project_id == project_id, members.c.person_id == person_id


def _free_name(c: Connection, name: str) -> str:
    """The name, with a number behind it when somebody here has it: nobody becomes somebody else by a name."""
    taken = set(
        c.execute(select(people.c.name).where(people.c.name.startswith(name, autoescape=True))).scalars()
    )
    if name not in taken:
        return name
    return next(made for number in range(2, len(taken) + 3) if (made := f"{name}-{number}") not in taken)
