"""What happened in a project, newest first: the outbox, as its members may read it."""

from collections.abc import Sequence

import orjson
from sqlalchemy import or_, select

from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.database import Database
from stratal.kernel.events import DENIED, Event, outbox

_QUIET = ("object.", "code.", "key.used", "session.")
"""Kinds of which there are too many to be news."""


class Activity:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self,
        who: Principal,
        project_id: str,
        *,
        kind: str = "",
        actor: str = "",
        before: int | None = None,
        limit: int = 50,
    ) -> Sequence[Event]:
        """Events before `before`, newest first; `kind` is a kind or its beginning (``job.``).

        Without a kind, what happens all the time (single objects, uploads of code) is left out.
        """
        require(who, "events.read", project_id)
        query = (
            select(outbox)
            .where(outbox.c.project_id == project_id, outbox.c.kind != DENIED)
            .order_by(outbox.c.seq.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(outbox.c.seq < before)
        if actor:
            query = query.where(outbox.c.actor == actor)
        if kind:
            query = query.where(outbox.c.kind.startswith(kind, autoescape=True))
        else:
            quiet = [outbox.c.kind.startswith(one, autoescape=True) for one in _QUIET]
            query = query.where(~or_(*quiet))
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [
            Event(r.seq, r.at, r.project_id, r.actor, r.kind, r.subject, orjson.loads(r.data)) for r in rows
        ]
