"""Sends what is due: deliveries of webhooks, tried again with growing pauses, and mail. At least once, each with its id."""

import asyncio
import contextlib
import hmac
import logging
from typing import Protocol

from sqlalchemy import Connection, Row, delete, func, select, update

from stratal.collab.talk.mail import Refused
from stratal.collab.talk.outgoing import Forbidden, Outgoing
from stratal.collab.talk.tables import deliveries, mailboxes, notifications, webhooks
from stratal.identity.master import MasterKey
from stratal.identity.members import is_still_here
from stratal.identity.tables import projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Unavailable

log = logging.getLogger("stratal.talk")

PAUSES = (10, 60, 300, 1800, 7200)
"""Seconds between attempts; after the last pause one more is made."""
KEPT_MS = 14 * 24 * 3600 * 1000
_AT_ONCE = 16
_IDLE_SECONDS = 30.0
_MAILS_AN_HOUR = 30
MAIL_PAUSE_MS = 60_000
"""How long a mail server that is busy or away is left alone."""
_MAIL_TRIED_MS = 24 * 3600 * 1000


class Mail(Protocol):
    """Sends one message; raises `OSError` when it was not taken, `Refused` when it never will be."""

    async def send(self, address: str, title: str, text: str) -> None: ...


class Sending:
    """`mail` None: this instance sends none. `url` is its address, for links in mail."""

    def __init__(
        self,
        database: Database,
        master: MasterKey,
        outgoing: Outgoing,
        mail: Mail | None,
        url: str,
        clock: Clock,
    ) -> None:
        self._database = database
        self._master = master
        self._outgoing = outgoing
        self._mail = mail
        self._url = url
        self._clock = clock
        self._due = asyncio.Event()
        self._mail_again = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        before = self._clock() - KEPT_MS
        old = delete(deliveries).where(deliveries.c.state != "due", deliveries.c.created_at < before)
        await self._database.write(lambda c: c.execute(old))
        self._task = asyncio.create_task(self._run(), name="talk: sending")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def kick(self) -> None:
        """There is something new to be sent."""
        self._due.set()

    async def _run(self) -> None:
        while True:
            self._due.clear()
            try:
                pause = await self._send_due()
                await self._mail_due()
            except Exception:
                log.exception("what is due could not be sent")
                pause = 5.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._due.wait()

    async def _send_due(self) -> float:
        """Send what may go now; returns for how many seconds nothing needs to be looked at."""
        while True:
            now = self._clock()
            query = (
                select(deliveries, webhooks.c.url, webhooks.c.secret, webhooks.c.created_by)
                .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
                .where(deliveries.c.state == "due", deliveries.c.due_at <= now)
                .order_by(deliveries.c.due_at)
                .limit(_AT_ONCE)
            )
            rows = await self._database.read(lambda c, q=query: c.execute(q).all())  # type: ignore[misc]
            if not rows:
                break
            await asyncio.gather(*(self._deliver(row) for row in rows))
        soonest = select(func.min(deliveries.c.due_at)).where(deliveries.c.state == "due")
        at = await self._database.read(lambda c: c.execute(soonest).scalar())
        return _IDLE_SECONDS if at is None else min(max((at - self._clock()) / 1000, 0.05), _IDLE_SECONDS)

    async def _deliver(self, row: Row[tuple[object, ...]]) -> None:
        body = str(row.body).encode()
        status, error, final = None, "", False
        try:
            if not await self._database.read(lambda c: is_still_here(c, row.project_id, row.created_by)):
                raise Forbidden(f"{row.created_by}, who made this webhook, has left the project")
            secret = self._master.open(row.secret, f"webhook:{row.webhook_id}")
            headers = {
                "Content-Type": "application/json",
                "User-Agent": "Stratal",
                "X-Stratal-Delivery": str(row.id),
                "X-Stratal-Event": str(row.kind),
                "X-Stratal-Signature": signature(secret, self._clock() // 1000, body),
            }
            status = await self._outgoing.post(str(row.url), body, headers)
            if not 200 <= status < 300:
                error = "It sends elsewhere; redirects are not followed." if 300 <= status < 400 else ""
                error = error or f"It answered {status}."
        except Forbidden as forbidden:
            error, final = f"{forbidden}.", True
        except Unavailable as unavailable:
            error = unavailable.message
        except Exception as defect:  # one webhook must not keep all others from being told
            log.exception("delivery %s could not be sent", row.id)
            error = f"It could not be sent: {type(defect).__name__}."
        attempts = int(row.attempts) + 1
        now = self._clock()
        values: dict[str, object] = {"attempts": attempts, "status": status, "error": error[:500]}
        if not error:
            values |= {"state": "delivered", "ended_at": now}
        elif final or attempts > len(PAUSES):
            values |= {"state": "dead", "ended_at": now}
        else:
            values["due_at"] = now + PAUSES[attempts - 1] * 1000
        change = update(deliveries).where(deliveries.c.id == row.id).values(values)
        await self._database.write(lambda c: c.execute(change))

    # -- mail ----------------------------------------------------------------------------------

    async def _mail_due(self) -> None:
        if self._mail is None or self._clock() < self._mail_again:
            return
        query = (
            select(notifications, mailboxes.c.address, projects.c.name.label("project"))
            .join(mailboxes, mailboxes.c.person_id == notifications.c.person_id)
            .join(projects, projects.c.id == notifications.c.project_id)
            .where(notifications.c.mail == "due", mailboxes.c.wanted == 1)
            .order_by(notifications.c.id)
            .limit(_AT_ONCE)
        )
        for row in await self._database.read(lambda c: c.execute(query).all()):
            state = await self._mail_one(row)
            if state == "due":  # the server is away: the others wait with it
                self._mail_again = self._clock() + MAIL_PAUSE_MS
                return
            change = update(notifications).where(notifications.c.id == row.id).values(mail=state)
            await self._database.write(lambda c, s=change: c.execute(s))  # type: ignore[misc]

    async def _mail_one(self, row: Row[tuple[object, ...]]) -> str:
        """``sent``; ``due`` when the server is busy or away, for a day; or ``failed``: it is in the console still."""
        assert self._mail is not None
        if await self._database.read(lambda c: _sent_lately(c, row, self._clock())) >= _MAILS_AN_HOUR:
            return "failed"
        text = f"{row.words}\n\n{self._url}/projects/{row.project}/inbox\n"
        try:
            await self._mail.send(str(row.address), f"[{row.project}] {row.words}", text)
        except Refused as error:
            log.warning("mail was refused: %s", error)
            return "failed"
        except OSError as error:
            log.warning("mail was not taken: %s", error)
            return "due" if row.created_at > self._clock() - _MAIL_TRIED_MS else "failed"
        except Exception:
            log.exception("mail could not be written")
            return "failed"
        return "sent"


def signature(secret: bytes, at: int, body: bytes) -> str:
    """``t=<epoch seconds>,v1=<hex HMAC-SHA256 of "<t>.<body>">``: who has the secret can tell what we sent, and when."""
    return f"t={at},v1={hmac.digest(secret, b'%d.' % at + body, 'sha256').hex()}"


def _sent_lately(c: Connection, row: Row[tuple[object, ...]], now: int) -> int:
    query = select(func.count()).where(
        notifications.c.person_id == row.person_id,
        notifications.c.mail == "sent",
        notifications.c.created_at > now - 3_600_000,
    )
    return c.execute(query).scalar_one()
