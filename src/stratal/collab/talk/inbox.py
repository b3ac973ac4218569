"""A person's notifications, and where they want to be told by mail."""

import re
from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select, update

from stratal.collab.talk.model import Notification
from stratal.collab.talk.tables import mailboxes, notifications
from stratal.identity.model import Kind, Principal
from stratal.identity.tables import members, projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, Invalid

_ADDRESS = re.compile(
    r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){0,8}\Z"
)


class Inbox:
    """`mails` says whether this instance can send mail at all."""

    def __init__(self, database: Database, clock: Clock, *, mails: bool) -> None:
        self._database = database
        self._clock = clock
        self._mails = mails

    async def list(
        self, who: Principal, *, unread: bool = False, before: str | None = None, limit: int = 50
    ) -> tuple[Sequence[Notification], int]:
        """One's own notifications of projects that one still sees, newest first, and how many are unread."""
        _only_people(who)
        query = (
            select(notifications, projects.c.name.label("project"))
            .join(projects, projects.c.id == notifications.c.project_id)
            .where(notifications.c.person_id == who.id)
        )
        count = (
            select(func.count())
            .select_from(notifications)
            .where(notifications.c.person_id == who.id, notifications.c.read_at.is_(None))
        )
        if not who.is_admin:
            mine = select(members.c.project_id).where(members.c.person_id == who.id)
            query = query.where(notifications.c.project_id.in_(mine))
            count = count.where(notifications.c.project_id.in_(mine))
        if unread:
            query = query.where(notifications.c.read_at.is_(None))
        if before is not None:
            query = query.where(notifications.c.id < before)
        query = query.order_by(notifications.c.id.desc()).limit(limit)

        def read(c: Connection) -> tuple[Sequence[Notification], int]:
            rows = c.execute(query).all()
            told = [
                Notification(r.id, r.project, r.kind, r.words, r.on_kind, r.on_id, r.created_at, r.read_at)
                for r in rows
            ]
            return told, c.execute(count).scalar_one()

        return await self._database.read(read)

    async def mark_read(self, who: Principal, ids: Sequence[str] | None) -> int:
        """Mark some, or all with None, of one's own as read; how many were not."""
        _only_people(who)
        change = update(notifications).where(
            notifications.c.person_id == who.id, notifications.c.read_at.is_(None)
        )
        if ids is not None:
            change = change.where(notifications.c.id.in_(ids))
        change = change.values(read_at=self._clock())
        return int(await self._database.write(lambda c: c.execute(change).rowcount))

    async def mailbox(self, who: Principal) -> tuple[str, bool, bool]:
        """Where one wants mail, whether one does, and whether this instance can send any."""
        _only_people(who)
        query = select(mailboxes).where(mailboxes.c.person_id == who.id)
        row = await self._database.read(lambda c: c.execute(query).one_or_none())
        return ("", False, self._mails) if row is None else (row.address, bool(row.wanted), self._mails)

    async def set_mailbox(self, who: Principal, address: str, *, wanted: bool) -> None:
        """Raises `Invalid` for what is no address. "" forgets it."""
        _only_people(who)
        if address and not _ADDRESS.match(address):
            raise Invalid(
                "That is no mail address.", hint="Write it as in: ada@example.org", reason="bad_address"
            )

        def work(c: Connection) -> None:
            c.execute(delete(mailboxes).where(mailboxes.c.person_id == who.id))
            if address:
                c.execute(insert(mailboxes).values(person_id=who.id, address=address, wanted=int(wanted)))

        await self._database.write(work)


def _only_people(who: Principal) -> None:
    if who.kind is not Kind.PERSON:
        raise Denied("Notifications are people's.", hint="Sign in: stratal login URL", reason="denied")
