"""Webhooks: addresses that a project's owners want told of what happens, with a secret that signs what is sent.

One rests once whoever made it has left the project: the address is theirs to know, and perhaps theirs.
"""

from collections.abc import Sequence
from dataclasses import replace

import orjson
from sqlalchemy import Connection, Row, delete, func, insert, select

from stratal.collab.talk.model import Delivery, Webhook
from stratal.collab.talk.notices import insert_delivery
from stratal.collab.talk.outgoing import Network, check_public
from stratal.collab.talk.tables import deliveries, webhooks
from stratal.identity.master import MasterKey
from stratal.identity.members import is_still_here
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock, iso
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.kernel.events import emit, outbox
from stratal.kernel.ids import new_id, random_token

MOST = 20
DEFAULT_KINDS = ("job.failed", "comment.", "merge_request.", "budget.")


class Webhooks:
    """`kick` is called when there is something to send."""

    def __init__(
        self,
        database: Database,
        master: MasterKey,
        clock: Clock,
        kick: object,
        networks: Sequence[Network] = (),
    ) -> None:
        self._database = database
        self._master = master
        self._clock = clock
        self._kick = kick
        self._networks = networks

    async def create(
        self, who: Principal, project_id: str, url: str, kinds: Sequence[str]
    ) -> tuple[Webhook, str]:
        """Make one; with it comes the secret that signs, shown this once. Raises `Invalid`, `Denied`."""
        require(who, "webhooks.manage", project_id)
        check_public(url, self._networks)
        chosen = tuple(dict.fromkeys(kinds)) or DEFAULT_KINDS
        if len(chosen) > 50 or any(not 0 < len(one) <= 60 or not one.isprintable() for one in chosen):
            raise Invalid(
                "Kinds are words like job.failed, beginnings like job., or * for everything.",
                reason="bad_kinds",
            )
        secret = f"whs_{random_token(40)}"
        made = Webhook(new_id("hook"), url, chosen, self._clock(), who.actor)
        sealed = self._master.seal(secret.encode(), f"webhook:{made.id}")

        def work(c: Connection) -> None:
            count = select(func.count()).where(webhooks.c.project_id == project_id)
            if c.execute(count).scalar_one() >= MOST:
                raise Invalid(f"A project has at most {MOST} webhooks.", reason="too_many")
            c.execute(
                insert(webhooks).values(
                    id=made.id,
                    project_id=project_id,
                    url=url,
                    kinds=orjson.dumps(chosen).decode(),
                    secret=sealed,
                    since=c.execute(select(func.max(outbox.c.seq))).scalar() or 0,
                    created_at=made.created_at,
                    created_by=made.created_by,
                )
            )
            emit(
                c, "webhook.created", made.id, actor=who.actor, project_id=project_id,
                url=url.partition("?")[0], kinds=list(chosen),
            )  # fmt: skip

        await self._database.write(work)
        return made, secret

    async def list(self, who: Principal, project_id: str) -> Sequence[Webhook]:
        require(who, "webhooks.manage", project_id)
        query = select(webhooks).where(webhooks.c.project_id == project_id).order_by(webhooks.c.id)

        def read(c: Connection) -> Sequence[Webhook]:
            return [
                replace(_webhook(row), rests=not is_still_here(c, project_id, row.created_by))
                for row in c.execute(query).all()
            ]

        return await self._database.read(read)

    async def remove(self, who: Principal, project_id: str, webhook_id: str) -> None:
        """Raises `NotFound`."""
        require(who, "webhooks.manage", project_id)

        def work(c: Connection) -> None:
            _find(c, project_id, webhook_id)
            c.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
            c.execute(delete(webhooks).where(webhooks.c.id == webhook_id))
            emit(c, "webhook.removed", webhook_id, actor=who.actor, project_id=project_id)

        await self._database.write(work)

    async def test(self, who: Principal, project_id: str, webhook_id: str) -> str:
        """Send it something; the delivery's id. Raises `NotFound`."""
        require(who, "webhooks.manage", project_id)
        now = self._clock()
        body: dict[str, object] = {
            "kind": "webhook.test", "at": iso(now), "project": who.project, "actor": who.actor,
            "subject": webhook_id, "data": {},
        }  # fmt: skip

        def work(c: Connection) -> str:
            _find(c, project_id, webhook_id)
            return insert_delivery(c, webhook_id, project_id, "webhook.test", body, now)

        made = await self._database.write(work)
        assert callable(self._kick)
        self._kick()
        return made

    async def deliveries(
        self, who: Principal, project_id: str, webhook_id: str, *, limit: int = 50
    ) -> Sequence[Delivery]:
        """What was or is to be sent, newest first. Raises `NotFound`."""
        require(who, "webhooks.manage", project_id)
        query = (
            select(deliveries)
            .where(deliveries.c.webhook_id == webhook_id)
            .order_by(deliveries.c.id.desc())
            .limit(limit)
        )

        def read(c: Connection) -> Sequence[Row[tuple[object, ...]]]:
            _find(c, project_id, webhook_id)
            return c.execute(query).all()

        return [
            Delivery(r.id, r.kind, r.state, r.attempts, r.due_at, r.status, r.error, r.created_at, r.ended_at)
            for r in await self._database.read(read)
        ]


def _find(c: Connection, project_id: str, webhook_id: str) -> Webhook:
    query = select(webhooks).where(webhooks.c.id == webhook_id, webhooks.c.project_id == project_id)
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFound("There is no such webhook.", hint="List them with: stratal webhook ls")
    return _webhook(row)


def _webhook(row: Row[tuple[object, ...]]) -> Webhook:
    return Webhook(row.id, row.url, tuple(orjson.loads(row.kinds)), row.created_at, row.created_by)
