"""Who is told of what: follows the outbox, and writes notifications and deliveries that others send.

The cursor moves in the transaction that writes them, so each event is seen to once, whenever the server dies.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, func, insert, select, update

from stratal.collab.talk.tables import deliveries, mailboxes, notifications, talk_cursors, webhooks
from stratal.compute.model import BACKGROUND_PRIORITY
from stratal.identity.members import is_still_here
from stratal.identity.tables import members, people, projects
from stratal.kernel.clock import Clock, iso
from stratal.kernel.database import Database
from stratal.kernel.events import Event, Events, outbox
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.talk")

_CURSOR = "notices"
_CURSOR_EVERY = 200


@dataclass(frozen=True, slots=True)
class _Notice:
    """One thing that some people are to be told."""

    kind: str
    words: str
    on_kind: str
    on_id: str
    people: Sequence[str]
    owners: bool = False


_OF_HOOKS = frozenset({"webhook.created", "webhook.removed"})


@dataclass(frozen=True, slots=True)
class _Hook:
    id: str
    kinds: Sequence[str]
    since: int


def _hooks(c: Connection) -> dict[str, list[_Hook]]:
    """All webhooks, by project."""
    query = select(webhooks.c.project_id, webhooks.c.id, webhooks.c.kinds, webhooks.c.since)
    found: dict[str, list[_Hook]] = {}
    for row in c.execute(query):
        found.setdefault(row.project_id, []).append(_Hook(row.id, orjson.loads(row.kinds), row.since))
    return found


class Notices:
    """`kick` is called after something to send was written."""

    def __init__(self, database: Database, events: Events, clock: Clock, kick: Any) -> None:
        self._database = database
        self._events = events
        self._clock = clock
        self._kick = kick
        self._task: asyncio.Task[None] | None = None
        self._hooks: dict[str, list[_Hook]] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="talk: notices")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except Exception:
                log.exception("what happened could not be told")
            await asyncio.sleep(1)

    async def _follow(self) -> None:
        seq = await self._database.write(self._begin)
        self._hooks = None
        behind = 0
        async for event in self._events.follow(seq):
            behind += 1
            if event.project_id is None:
                continue
            notice = notice_of(event)
            hooked = await self._hooked(event)
            if notice is not None or hooked or behind >= _CURSOR_EVERY:
                await self._database.write(lambda c, e=event, n=notice, h=hooked: self._tell(c, e, n, h))  # type: ignore[misc]
                behind = 0
                self._kick()

    def _begin(self, c: Connection) -> int:
        """Where to go on; in a home that never told anybody, behind what happened so far."""
        known = c.execute(select(talk_cursors.c.seq).where(talk_cursors.c.name == _CURSOR)).scalar()
        if known is not None:
            return int(known)
        seq = c.execute(select(func.max(outbox.c.seq))).scalar() or 0
        c.execute(insert(talk_cursors).values(name=_CURSOR, seq=seq))
        return int(seq)

    async def _hooked(self, event: Event) -> list[str]:
        """The webhooks that are to be told. They are read again when one was made or removed: events are many, they few."""
        if self._hooks is None or event.kind in _OF_HOOKS:
            self._hooks = await self._database.read(_hooks)
        hooks = self._hooks.get(str(event.project_id), ())
        return [hook.id for hook in hooks if hook.since < event.seq and _wants(hook.kinds, event.kind)]

    def _tell(self, c: Connection, event: Event, notice: _Notice | None, hooked: Sequence[str]) -> None:
        seen = c.execute(
            update(talk_cursors)
            .where(talk_cursors.c.name == _CURSOR, talk_cursors.c.seq < event.seq)
            .values(seq=event.seq)
        )
        if seen.rowcount == 0:
            return  # another server has told it
        now = self._clock()
        if notice is not None:
            for person_id in _people(c, event, notice):
                wanted = select(mailboxes.c.wanted).where(mailboxes.c.person_id == person_id)
                c.execute(
                    insert(notifications).values(
                        id=new_id("ntf"),
                        person_id=person_id,
                        project_id=event.project_id,
                        seq=event.seq,
                        kind=notice.kind,
                        words=notice.words,
                        on_kind=notice.on_kind,
                        on_id=notice.on_id,
                        created_at=now,
                        mail="due" if c.execute(wanted).scalar() else "",
                    )
                )
        still = select(webhooks.c.id, webhooks.c.created_by).where(webhooks.c.id.in_(hooked))
        for webhook_id, maker in c.execute(still).all() if hooked else ():
            if not is_still_here(c, str(event.project_id), maker):
                continue
            project = c.execute(select(projects.c.name).where(projects.c.id == event.project_id)).scalar()
            insert_delivery(c, webhook_id, str(event.project_id), event.kind, body_of(event, project), now)


def insert_delivery(
    c: Connection, webhook_id: str, project_id: str, kind: str, body: dict[str, object], now: int
) -> str:
    """Write, in the caller's transaction, that a webhook is to be told."""
    id_ = new_id("whd")
    c.execute(
        insert(deliveries).values(
            id=id_,
            webhook_id=webhook_id,
            project_id=project_id,
            kind=kind,
            body=orjson.dumps({"id": id_, **body}).decode(),
            state="due",
            attempts=0,
            due_at=now,
            error="",
            created_at=now,
        )
    )
    return id_


def body_of(event: Event, project: str | None) -> dict[str, object]:
    """What a webhook is sent."""
    return {
        "kind": event.kind,
        "at": iso(event.at),
        "project": project,
        "actor": event.actor,
        "subject": event.subject,
        "seq": event.seq,
        "data": event.data,
    }


def notice_of(event: Event) -> _Notice | None:
    """What people are told of an event; None for what is no news for anybody in particular."""
    data = event.data
    if event.kind in {"comment.created", "comment.edited"} and data.get("mentions"):
        on, of = str(data.get("on")), str(data.get("of"))
        what = f"{on.replace('_', ' ')} {of}"
        told = [name for name in data["mentions"] if f"person:{name}" != event.actor]
        return _Notice("mention", f"{_name(event.actor)} mentioned you on {what}.", on, of, told)
    if event.kind == "job.failed":
        if int(data.get("priority") or 0) <= BACKGROUND_PRIORITY:
            return None  # nobody waits for it
        name, reason = str(data.get("name") or ""), str(data.get("reason") or "")
        words = f"Job {event.subject} {name}".strip() + f" failed: {reason}"
        return _Notice("job_failed", words[:500], "job", event.subject, _person(event.actor))
    if event.kind in {"budget.warned", "budget.used_up"}:
        spent = f"{data.get('spent')} of {data.get('budget')} {data.get('currency')}"
        words = (
            f"The budget is used up: {spent}; new work is refused."
            if event.kind == "budget.used_up"
            else f"Most of the budget is spent: {spent}."
        )
        return _Notice("budget", words, "project", "", (), owners=True)
    return None


def _people(c: Connection, event: Event, notice: _Notice) -> Iterable[str]:
    """Ids of those to be told who see the project now."""
    belongs = (members.c.person_id == people.c.id) & (members.c.project_id == event.project_id)
    query = select(people.c.id).outerjoin(members, belongs)
    if notice.owners:
        query = query.where((members.c.role == "owner") | (people.c.admin == 1))
    else:
        inside = (members.c.person_id.is_not(None)) | (people.c.admin == 1)
        query = query.where(people.c.name.in_(notice.people), inside)
    return list(c.execute(query).scalars())


def _wants(kinds: Sequence[str], kind: str) -> bool:
    return any(kind == one or (one.endswith(".") and kind.startswith(one)) or one == "*" for one in kinds)


def _person(actor: str) -> Sequence[str]:
    what, _, name = actor.partition(":")
    return [name] if what == "person" else []


def _name(actor: str) -> str:
    what, _, name = actor.partition(":")
    return name if what in {"person", "service"} else actor
