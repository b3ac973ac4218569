"""The services of talk, made together: the wiring calls `furnish_talk` once."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete

from stratal.collab.talk.activity import Activity
from stratal.collab.talk.comments import Comments
from stratal.collab.talk.inbox import Inbox
from stratal.collab.talk.mail import Smtp
from stratal.collab.talk.model import Subjects
from stratal.collab.talk.notices import Notices
from stratal.collab.talk.outgoing import Network, Outgoing
from stratal.collab.talk.sending import Sending
from stratal.collab.talk.tables import comments, deliveries, notifications, webhooks
from stratal.collab.talk.webhooks import Webhooks
from stratal.identity.master import MasterKey
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.events import Events


@dataclass(frozen=True, slots=True)
class Talk:
    """Everything about talk. Between `start` and `close` people and webhooks are told."""

    comments: Comments
    activity: Activity
    inbox: Inbox
    webhooks: Webhooks
    notices: Notices
    sending: Sending
    database: Database

    async def start(self) -> None:
        await self.sending.start()
        await self.notices.start()

    async def close(self) -> None:
        await self.notices.close()
        await self.sending.close()

    async def purge(self, project_id: str) -> None:
        """Remove what was said in a project. May be repeated."""

        def work(c: Connection) -> None:
            for table in (comments, notifications, deliveries, webhooks):
                c.execute(delete(table).where(table.c.project_id == project_id))

        await self.database.write(work)


def furnish_talk(
    database: Database,
    master: MasterKey,
    events: Events,
    subjects: Subjects,
    clock: Clock,
    *,
    url: str,
    smtp: Smtp | None,
    networks: Sequence[Network],
) -> Talk:
    """`subjects` are what can be commented on; `networks` may be told by webhook although they are not public."""
    sending = Sending(database, master, Outgoing(networks), smtp, url, clock)
    return Talk(
        Comments(database, subjects, clock),
        Activity(database),
        Inbox(database, clock, mails=smtp is not None),
        Webhooks(database, master, clock, sending.kick, networks),
        Notices(database, events, clock, sending.kick),
        sending,
        database,
    )
