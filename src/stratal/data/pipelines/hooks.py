"""Webhooks that run deployed pipelines: who signs with the pipeline's secret may, and each delivery counts once.

The signature is that of Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over ``id.timestamp.body``. A
delivery is refused when its time is over five minutes away; its id is remembered for a day, and one that comes again, as
senders do that got no answer, is told the run that it made. A secret that was replaced is good for a while yet.
"""

import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from stratal.data.pipelines.tables import deliveries, hooks, pipelines
from stratal.identity.master import MasterKey
from stratal.identity.members import is_still_here
from stratal.identity.tables import projects
from stratal.kernel.errors import Invalid, Unauthenticated

TOLERANCE_SECONDS = 300
REMEMBERED_MS = 86_400_000
MOST_GRACE_SECONDS = 30 * 86_400
PREFIX = "whsec_"
_SECRET_BYTES = 32
_LONGEST_ID = 200


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came: its id, when it was sent (seconds), its signatures, and its body."""

    id: str
    at: int
    signatures: list[bytes]
    body: bytes


def delivery_of(headers: Mapping[str, str], body: bytes) -> Delivery:
    """Raises `Unauthenticated` for headers that are no delivery's."""
    id_, at, said = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not id_ or len(id_) > _LONGEST_ID or not at.isdecimal() or len(at) > 12 or not said:
        raise Unauthenticated(
            "This is no signed delivery.",
            hint="Send webhook-id, webhook-timestamp and webhook-signature, as Standard Webhooks has it.",
            reason="no_signature",
        )
    found = []
    for one in said.split()[:10]:
        version, _, text = one.partition(",")
        if version == "v1":
            try:
                found.append(b64decode(text, validate=True))
            except ValueError:
                continue
    return Delivery(id_, int(at), found, body)


def signed(secret: str, id_: str, at: int, body: bytes) -> bytes:
    """The signature of a delivery. Raises `Invalid` for a secret that is none."""
    try:
        key = b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError as error:
        raise Invalid("That is no secret of a webhook.", reason="bad_secret") from error
    return hmac.digest(key, f"{id_}.{at}.".encode() + body, "sha256")


def made(
    c: Connection, master: MasterKey, project_id: str, name: str, now: int, grace_seconds: int, by: str
) -> str:
    """Within a write: a new secret for the pipeline's hook, told to `by`; one that there was is good for `grace_seconds`
    yet."""
    secret = PREFIX + b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
    here = (hooks.c.project_id == project_id, hooks.c.name == name)
    before = c.execute(select(hooks).where(*here)).one_or_none()
    c.execute(delete(hooks).where(*here))
    kept = before is not None and grace_seconds > 0
    c.execute(
        insert(hooks).values(
            project_id=project_id,
            name=name,
            secret=master.seal(secret.encode(), _purpose(project_id, name)),
            before=before.secret if kept and before is not None else None,
            before_until=now + grace_seconds * 1000 if kept else None,
            made_at=now,
            made_by=by,
            before_by=before.made_by if kept and before is not None else None,
        )
    )
    return secret


def find(c: Connection, project: str, name: str) -> Row[Any] | None:
    """The hook's row with its deployed pipeline's; None when there is none."""
    query = (
        select(
            pipelines,
            hooks.c.secret,
            hooks.c.before,
            hooks.c.before_until,
            hooks.c.made_by,
            hooks.c.before_by,
        )
        .join(projects, projects.c.id == pipelines.c.project_id)
        .join(hooks, (hooks.c.project_id == pipelines.c.project_id) & (hooks.c.name == pipelines.c.name))
        .where(projects.c.name == project, pipelines.c.name == name)
    )
    return c.execute(query).one_or_none()


def check(c: Connection, master: MasterKey, row: Row[Any] | None, delivery: Delivery, now: int) -> None:
    """Raises `Unauthenticated`, with the same words whatever is wrong with it but its time.

    A secret that somebody was told who has left the project is good no more.
    """
    refused = Unauthenticated(
        "Nothing is signed so that it may be run here.",
        hint="Sign with the secret that `stratal pipeline hook NAME` gave; a new one ends those before it.",
        reason="bad_signature",
    )
    if row is None:
        raise refused
    sealed = [(row.secret, row.made_by)]
    if row.before is not None and row.before_until > now:
        sealed.append((row.before, row.before_by))
    good = False
    for one, by in sealed:
        if not is_still_here(c, row.project_id, by or row.deployed_by):
            continue
        secret = master.open(one, _purpose(row.project_id, row.name)).decode()
        wanted = signed(secret, delivery.id, delivery.at, delivery.body)
        good = any(hmac.compare_digest(wanted, given) for given in delivery.signatures) or good
    if not good:
        raise refused
    if abs(now // 1000 - delivery.at) > TOLERANCE_SECONDS:
        raise Unauthenticated(
            f"The delivery is of another time: {delivery.at} is over {TOLERANCE_SECONDS} s from now.",
            hint="Look at the clocks of both machines; a delivery cannot be sent again later.",
            reason="stale_delivery",
        )


def known(c: Connection, row: Row[Any], delivery: Delivery) -> Row[Any] | None:
    """The delivery, if it came before."""
    query = select(deliveries).where(
        deliveries.c.project_id == row.project_id,
        deliveries.c.name == row.name,
        deliveries.c.delivery == delivery.id,
    )
    return c.execute(query).one_or_none()


def remember(c: Connection, row: Row[Any], delivery: Delivery, run_id: int | None, now: int) -> None:
    """Within the write that makes the run: this delivery came. Those of yesterday are forgotten."""
    c.execute(delete(deliveries).where(deliveries.c.at < now - REMEMBERED_MS))
    c.execute(
        insert(deliveries).values(
            project_id=row.project_id, name=row.name, delivery=delivery.id, at=now, run_id=run_id
        )
    )


def forget(c: Connection, project_id: str, name: str | None = None) -> None:
    """Within a write: the pipeline (all of the project's) has no hook any more."""
    for table in (hooks, deliveries):
        here = table.c.project_id == project_id
        c.execute(delete(table).where(here if name is None else here & (table.c.name == name)))


def _purpose(project_id: str, name: str) -> str:
    return f"pipeline hook:{project_id}/{name}"
