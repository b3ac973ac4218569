"""Shares: one bucket, table, model or endpoint of a project that another project may read.

A share is of the thing itself (its id), not of its name: what is renamed stays shared, what is dropped and
made anew is not. Rooms ask `is_lent` or `find_lent` in the very read that looks the thing up, so a share
that has ended is refused by the next request at every door. In the receiving project a thing is called
``<project>.<name>``; a bucket, whose name is the instance's, keeps it. What the receiver itself calls
so comes first.

Who shares with a name that no project has is told the same as who shares with one: names of other projects cannot be
probed. Such an offer is listed, audited and taken back like a share, and gives nobody anything, later neither.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.tables import projects, share_offers, shares
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.kernel.names import check_name

KINDS = ("bucket", "table", "model", "endpoint")

Finder = Callable[[Connection, str, str], tuple[str, str] | None]
"""The (id, full name) of the thing that a project (by id) calls so; None: there is none."""

_GIVERS = projects.alias("givers")
_RECEIVERS = projects.alias("receivers")


@dataclass(frozen=True, slots=True)
class Share:
    """`giver` and `receiver` are projects' names, `name` is what the giver calls the thing.

    `receiver_id` is None for an offer to a name that no project has; its giver is not told so.
    """

    id: str
    kind: str
    object_id: str
    name: str
    giver_id: str
    giver: str
    receiver_id: str | None
    receiver: str
    created_at: int
    created_by: str

    @property
    def shown(self) -> str:
        """What the receiving project calls it."""
        return self.name if self.kind == "bucket" else f"{self.giver}.{self.name}"


# -- for rooms, within their own reads and writes -----------------------------------------------------------


def is_lent(connection: Connection, receiver_id: str, kind: str, object_id: str) -> bool:
    """May the receiving project read that thing of another?"""
    query = select(shares.c.id).where(
        shares.c.receiver_id == receiver_id, shares.c.kind == kind, shares.c.object_id == object_id
    )
    return connection.execute(query.limit(1)).first() is not None


def lent_as(connection: Connection, receiver_id: str, kind: str, object_id: str) -> Share | None:
    """That thing of another as the receiving project may read it; None: it may not."""
    here = (shares.c.receiver_id == receiver_id, shares.c.kind == kind, shares.c.object_id == object_id)
    row = connection.execute(_shares().where(*here)).one_or_none()
    return None if row is None else _share(row)


def lent(connection: Connection, receiver_id: str, kind: str) -> list[Share]:
    """What the project may read of others."""
    query = _shares().where(shares.c.receiver_id == receiver_id, shares.c.kind == kind)
    return [_share(row) for row in connection.execute(query)]


def find_lent(connection: Connection, receiver_id: str, kind: str, shown: str) -> Share | None:
    """The thing that the receiving project calls `shown`."""
    if "." not in shown:
        return None
    return next((share for share in lent(connection, receiver_id, kind) if share.shown == shown), None)


def end_shares(connection: Connection, kind: str, object_id: str, actor: str) -> None:
    """The thing is going: nobody reads it any more."""
    here = (shares.c.kind == kind) & (shares.c.object_id == object_id)
    for row in connection.execute(_shares().where(here)).all():
        _tell(connection, "share.removed", _share(row), actor)
    connection.execute(delete(shares).where(here))
    offered = (share_offers.c.kind == kind) & (share_offers.c.object_id == object_id)
    for row in connection.execute(_offers().where(offered)).all():
        _tell(connection, "share.removed", _offer(row), actor)
    connection.execute(delete(share_offers).where(offered))


def rename_shared(connection: Connection, kind: str, object_id: str, name: str) -> None:
    """The thing is called `name` from now on."""
    for table in (shares, share_offers):
        connection.execute(
            update(table).where(table.c.kind == kind, table.c.object_id == object_id).values(name=name)
        )


# -- for doors ------------------------------------------------------------------------------------------------


class Shares:
    """Makes, lists and ends shares. Those of endpoints are kept in memory, too: each prediction asks."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._finders: dict[str, Finder] = {}
        query = _shares().where(shares.c.kind == "endpoint")
        known = [_share(row) for row in database.read_now(lambda c: c.execute(query).all())]
        # Replaced, never changed: the writer's thread does so while requests read it.
        self._endpoints: dict[str, Share] = {share.id: share for share in known}

    def offer(self, kind: str, finder: Finder) -> None:
        """Say how things of a kind are found; each room does so for its own."""
        self._finders[kind] = finder

    def endpoint(self, receiver_id: str, shown: str) -> Share | None:
        """The endpoint that the receiving project calls `shown`, without asking the database."""
        if "." not in shown:
            return None
        return next(
            (s for s in self._endpoints.values() if s.receiver_id == receiver_id and s.shown == shown), None
        )

    def endpoints(self, receiver_id: str) -> list[Share]:
        """The endpoints of others that the project may ask."""
        return [share for share in self._endpoints.values() if share.receiver_id == receiver_id]

    async def add(self, who: Principal, project_id: str, kind: str, name: str, receiver: str) -> Share:
        """Let the project `receiver` read one thing of this project.

        Whether there is such a receiver is not told. Raises `Denied` unless the caller is an owner, `NotFound` (the thing),
        `Conflict` (``share_exists``), `Invalid`.
        """
        require(who, "shares.manage", project_id)
        finder = self._finders.get(kind)
        if finder is None:
            raise Invalid(
                f"{kind[:40]!r} cannot be shared.", hint=f"One of: {', '.join(KINDS)}.", reason="bad_kind"
            )

        check_name("project", receiver)

        def work(connection: Connection) -> Share:
            found = finder(connection, project_id, name)
            if found is None:
                raise NotFound(
                    f"There is no {kind} {name[:200]!r} in this project.", reason=f"no_such_{kind}"
                )
            row = connection.execute(
                select(projects.c.id).where(projects.c.name == receiver, projects.c.removing_at.is_(None))
            ).one_or_none()
            if row is not None and row.id == project_id:
                raise Invalid("A project reads its own things already.", reason="own_project")
            if _is_given(connection, project_id, row.id if row else None, receiver, kind, found[0]):
                raise Conflict(
                    f"{kind} {found[1]!r} is shared with {receiver!r} already.", reason="share_exists"
                )
            share_id = new_id("shr")
            made = {
                "id": share_id,
                "project_id": project_id,
                "kind": kind,
                "object_id": found[0],
                "name": found[1],
                "created_at": self._clock(),
                "created_by": who.actor,
            }
            if row is None:
                connection.execute(insert(share_offers).values(**made, offered_to=receiver))
                share = _offer(connection.execute(_offers().where(share_offers.c.id == share_id)).one())
            else:
                connection.execute(insert(shares).values(**made, receiver_id=row.id))
                share = _share(connection.execute(_shares().where(shares.c.id == share_id)).one())
                self._database.once_committed(partial(self._note, share))
            _tell(connection, "share.added", share, who.actor)
            return share

        return await self._database.write(work)

    async def list(self, who: Principal, project_id: str) -> list[Share]:
        """What the project gives and what it was given, by name."""
        require(who, "shares.read", project_id)
        query = _shares().where((shares.c.project_id == project_id) | (shares.c.receiver_id == project_id))

        def read(connection: Connection) -> list[Share]:
            offered = _offers().where(share_offers.c.project_id == project_id)
            return [_share(row) for row in connection.execute(query)] + [
                _offer(row) for row in connection.execute(offered)
            ]

        found = await self._database.read(read)
        return sorted(found, key=lambda share: (share.kind, share.shown, share.receiver))

    async def remove(self, who: Principal, project_id: str, share_id: str) -> Share:
        """End a share: an owner of the project that gives, or of the one that was given.

        Raises `NotFound`, `Denied`.
        """
        require(who, "shares.manage", project_id)

        def work(connection: Connection) -> Share:
            row = connection.execute(_shares().where(shares.c.id == share_id)).one_or_none()
            mine = (share_offers.c.id == share_id) & (share_offers.c.project_id == project_id)
            offered = connection.execute(_offers().where(mine)).one_or_none()
            if offered is not None:
                connection.execute(delete(share_offers).where(mine))
                _tell(connection, "share.removed", _offer(offered), who.actor)
                return _offer(offered)
            if row is None or project_id not in {row.project_id, row.receiver_id}:
                raise NotFound(
                    f"This project has no share {share_id[:60]!r}.",
                    hint="List them with: stratal share ls",
                    reason="no_such_share",
                )
            share = _share(row)
            connection.execute(delete(shares).where(shares.c.id == share_id))
            _tell(connection, "share.removed", share, who.actor)
            self._database.once_committed(partial(self._drop, {share_id}))
            return share

        return await self._database.write(work)

    async def purge(self, project_id: str) -> None:
        """Forget what a project gave and was given. May be repeated."""
        either = (shares.c.project_id == project_id) | (shares.c.receiver_id == project_id)

        def work(connection: Connection) -> None:
            connection.execute(delete(share_offers).where(share_offers.c.project_id == project_id))
            gone = set(connection.execute(delete(shares).where(either).returning(shares.c.id)).scalars())
            self._database.once_committed(partial(self._drop, gone))

        await self._database.write(work)

    def _note(self, share: Share) -> None:
        if share.kind == "endpoint":
            self._endpoints = {**self._endpoints, share.id: share}

    def _drop(self, gone: set[str]) -> None:
        self._endpoints = {key: share for key, share in self._endpoints.items() if key not in gone}


def _shares() -> Select[Any]:
    """Shares with both projects' names; of a project that is being removed nothing is shared."""
    return (
        select(shares, _GIVERS.c.name.label("giver"), _RECEIVERS.c.name.label("receiver"))
        .join(_GIVERS, _GIVERS.c.id == shares.c.project_id)
        .join(_RECEIVERS, _RECEIVERS.c.id == shares.c.receiver_id)
        .where(_GIVERS.c.removing_at.is_(None))
    )


def _share(row: Row[Any]) -> Share:
    return Share(
        id=row.id,
        kind=row.kind,
        object_id=row.object_id,
        name=row.name,
        giver_id=row.project_id,
        giver=row.giver,
        receiver_id=row.receiver_id,
        receiver=row.receiver,
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _offers() -> Select[Any]:
    return select(share_offers, _GIVERS.c.name.label("giver")).join(
        _GIVERS, _GIVERS.c.id == share_offers.c.project_id
    )


def _offer(row: Row[Any]) -> Share:
    return Share(
        id=row.id,
        kind=row.kind,
        object_id=row.object_id,
        name=row.name,
        giver_id=row.project_id,
        giver=row.giver,
        receiver_id=None,
        receiver=row.offered_to,
        created_at=row.created_at,
        created_by=row.created_by,
    )


def _is_given(
    connection: Connection, giver_id: str, receiver_id: str | None, receiver: str, kind: str, object_id: str
) -> bool:
    """Is it shared with the project, or offered to the name, already?"""
    if receiver_id is not None and is_lent(connection, receiver_id, kind, object_id):
        return True
    query = select(share_offers.c.id).where(
        share_offers.c.project_id == giver_id,
        share_offers.c.offered_to == receiver,
        share_offers.c.kind == kind,
        share_offers.c.object_id == object_id,
    )
    return connection.execute(query).first() is not None


def _tell(connection: Connection, kind: str, share: Share, actor: str) -> None:
    """In the books of both projects."""
    for place in filter(None, (share.giver_id, share.receiver_id)):
        emit(
            connection,
            kind,
            share.id,
            actor=actor,
            project_id=place,
            what=share.kind,
            name=share.name,
            giver=share.giver,
            receiver=share.receiver,
        )
