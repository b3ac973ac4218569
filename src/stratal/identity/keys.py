"""API keys: one key opens every door.

A key is ``<id>.<secret>``. As a bearer token it is sent whole; as HTTP basic the id is the user and
the secret the password; for S3 the id is the access key id and the secret signs. The id carries the
master key's version (``st<version>k…``) and the secret is derived from both, so the database alone
opens nothing. Revocation and expiry are columns of the key's row and are looked at on every request.
"""

import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import ColumnElement, Connection, Row, bindparam, insert, select, update

from stratal.identity.master import MasterKey
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.permissions import RANK, require
from stratal.identity.tables import keys, projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, Invalid, NotFound, Unauthenticated
from stratal.kernel.events import emit
from stratal.kernel.ids import random_token
from stratal.kernel.names import check_name

_KEY_ID = re.compile(r"st(\d{1,4})k[0-9a-z]{20}\Z")
_HINT = "Get a valid key with: stratal keys create"

# Built once: every step of every pipeline makes a key and ends it, and building costs more than running.
_INSERT = insert(keys)
_END_WORKLOADS = (
    update(keys)
    .where(keys.c.workload.in_(bindparam("whose", expanding=True)), keys.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("revoked_at"))
    .returning(keys.c.id)
)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of a key: everything but its secret. Times are epoch milliseconds."""

    id: str
    name: str
    project: str
    role: Role
    kind: Kind
    principal: str
    workload: str | None
    created_at: int
    created_by: str
    expires_at: int | None
    revoked_at: int | None
    used_at: int | None = None
    """To the minute."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A key with its secret: shown to its owner, put into a workload's environment, never stored."""

    id: str
    secret: str

    @property
    def token(self) -> str:
        return f"{self.id}.{self.secret}"


def is_key_id(word: str) -> bool:
    """Does it look like the id of a key of ours?"""
    return _KEY_ID.match(word) is not None


@dataclass(frozen=True, slots=True)
class Departed:
    """What ended with somebody's membership: `keys`, how many; `accounts`, as whom they started jobs (their own id,
    and their service accounts' names); `actors`, what the records call these."""

    keys: int
    accounts: tuple[str, ...]
    actors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Weakened:
    """What got weaker with somebody's role: `keys`, how many; `actors`, what the records call whose they were."""

    keys: int
    actors: tuple[str, ...]


class Keys:
    """Makes, checks and revokes keys.

    Rows of keys in use are kept in memory (`_cache`); every change goes through this object and drops
    the entry, so a revoked key stops at every door with the next request.
    """

    def __init__(self, database: Database, master: MasterKey, clock: Clock) -> None:
        self._database = database
        self._master = master
        self._clock = clock
        self._cache: dict[str, tuple[Principal, int | None]] = {}
        self._used: dict[str, int] = {}
        self._revocations = 0  # a row read before a revocation must not be cached after it

    # -- checking ----------------------------------------------------------------------------

    def secret_of(self, key_id: str) -> str:
        """The derived secret of a well-formed key id, whether or not its row exists (see `principal_of`)."""
        match = _KEY_ID.match(key_id)
        if match is None:
            raise Unauthenticated("That is not the id of a Stratal key.", hint=_HINT, reason="malformed_key")
        return self._master.secret_of(key_id, int(match[1]))

    async def authenticate(self, key_id: str, secret: str) -> Principal:
        """Return whose key it is. Raises `Unauthenticated`: malformed, wrong, unknown, revoked or expired."""
        if not hmac.compare_digest(self.secret_of(key_id).encode(), secret.encode()):
            raise Unauthenticated("The key's secret is wrong.", hint=_HINT, reason="wrong_secret")
        return await self.principal_of(key_id)

    async def principal_of(self, key_id: str) -> Principal:
        """Whose key `key_id` is, when its proof was checked elsewhere (a SigV4 signature). Raises as `authenticate`."""
        cached = self._cache.get(key_id)
        if cached is None:
            revocations = self._revocations
            query = (
                select(keys, projects.c.name.label("project"))
                .join(projects, keys.c.project_id == projects.c.id)
                .where(keys.c.id == key_id)
            )
            row = await self._database.read(lambda c: c.execute(query).one_or_none())
            if row is None:
                raise Unauthenticated("There is no such key.", hint=_HINT, reason="unknown_key")
            if row.revoked_at is not None:
                raise Unauthenticated("This key was revoked.", hint=_HINT, reason="revoked_key")
            cached = (_principal(row), row.expires_at)
            if len(self._cache) > 10_000:
                self._cache.clear()
            if revocations == self._revocations:
                self._cache[key_id] = cached
        principal, expires_at = cached
        if expires_at is not None and expires_at <= self._clock():
            raise Unauthenticated("This key has expired.", hint=_HINT, reason="expired_key")
        if principal.workload is None:
            self._used[key_id] = self._clock()
        return principal

    # -- people's keys -----------------------------------------------------------------------

    async def create(
        self, who: Principal, project_id: str, *, name: str, role: Role, expires_at: int | None = None
    ) -> Credential:
        """Make a key of the project for a service account called `name`.

        Raises `Denied` for a role above the caller's own, `Invalid` for an expiry in the past.
        """
        check_name("key", name)
        if expires_at is not None and expires_at <= self._clock():
            raise Invalid("That expiry lies in the past.", hint="Give a time to come, e.g. --expires 30d.")

        def work(connection: Connection) -> str:
            require(who, "keys.manage", project_id)
            own = who.role_in(project_id) or who.role
            if RANK[role] > RANK[own]:
                raise Denied(f"A key cannot have more rights ({role.value}) than its maker ({own.value}).")
            key_id = self._insert(
                connection,
                self._row(
                    name=name,
                    project_id=project_id,
                    role=role,
                    kind=Kind.SERVICE,
                    principal=(name, name),
                    created_by=who.actor,
                    expires_at=expires_at,
                ),
            )
            emit(
                connection,
                "key.created",
                key_id,
                actor=who.actor,
                project_id=project_id,
                name=name,
                role=role,
            )
            return key_id

        key_id = await self._database.write(work)
        return Credential(key_id, self.secret_of(key_id))

    async def list(self, who: Principal, project_id: str) -> list[KeyInfo]:
        """The project's keys of people and services, newest first (workloads' keys come and go unlisted)."""
        require(who, "keys.read", project_id)
        query = (
            select(keys, projects.c.name.label("project"))
            .join(projects, keys.c.project_id == projects.c.id)
            .where(keys.c.project_id == project_id, keys.c.kind != Kind.WORKLOAD)
            .order_by(keys.c.created_at.desc(), keys.c.id)
        )
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [_info(row) for row in rows]

    async def revoke(self, who: Principal, key_id: str) -> None:
        """End a key for every door at once.

        A person may always end a key that speaks for them.
        Raises `NotFound` for one that is not the caller's to end, `Denied` for one with more rights than theirs.
        """

        def work(connection: Connection) -> None:
            row = connection.execute(select(keys).where(keys.c.id == key_id)).one_or_none()
            if row is None:
                raise NotFound("There is no such key.", hint="List them with: stratal keys list")
            if (row.kind, row.principal_id) != (Kind.PERSON.value, who.id) or who.kind is not Kind.PERSON:
                require(who, "keys.manage", row.project_id, what="such key")
            own = who.role_in(row.project_id) or who.role
            if RANK[Role(row.role)] > RANK[own]:
                raise Denied(
                    f"A key with more rights ({row.role}) than yours ({own.value}) is not yours to end."
                )
            connection.execute(
                update(keys)
                .where(keys.c.id == key_id, keys.c.revoked_at.is_(None))
                .values(revoked_at=self._clock())
            )
            emit(connection, "key.revoked", key_id, actor=who.actor, project_id=row.project_id, name=row.name)

        await self._database.write(work)
        self._forget(key_id)

    # -- workloads' keys ---------------------------------------------------------------------

    def insert_for_workload(
        self,
        connection: Connection,
        who: Principal,
        project_id: str,
        workload: str,
        *,
        expires_at: int | None = None,
    ) -> Credential:
        """Make the credential of one workload, in the caller's write transaction.

        It has its maker's role but never more than editor, and dies with `end_workload`.
        """
        (made,) = self.insert_for_workloads(connection, who, project_id, [workload], expires_at=expires_at)
        return made

    def insert_for_workloads(
        self,
        connection: Connection,
        who: Principal,
        project_id: str,
        workloads: Sequence[str],
        *,
        expires_at: int | None = None,
    ) -> Sequence[Credential]:
        """`insert_for_workload` for each of them, in one statement."""
        role = who.role if RANK[who.role] <= RANK[Role.EDITOR] else Role.EDITOR
        rows = [
            self._row(
                name=workload,
                project_id=project_id,
                role=role,
                kind=Kind.WORKLOAD,
                principal=(who.id, who.name),
                created_by=who.actor,
                expires_at=expires_at,
                workload=workload,
            )
            for workload in workloads
        ]
        if rows:
            connection.execute(_INSERT, rows)
        ids = [str(row["id"]) for row in rows]
        return [Credential(key_id, self.secret_of(key_id)) for key_id in ids]

    def end_workload(self, connection: Connection, workload: str) -> None:
        """Revoke every credential of the workload, in the caller's write transaction."""
        self.end_workloads(connection, [workload])

    def end_workloads(self, connection: Connection, workloads: Sequence[str]) -> None:
        """Revoke every credential of these, of a thousand at most, in one statement."""
        if not workloads:
            return
        told = {"whose": list(workloads), "revoked_at": self._clock()}
        for key_id in list(connection.execute(_END_WORKLOADS, told).scalars()):
            self._database.once_committed(partial(self._forget, key_id))  # as in `_revoke_where`

    def end_parts(self, connection: Connection, workload: str) -> None:
        """Revoke every credential of the workload's parts (``job:12/…``), not its own, in the caller's write transaction."""
        first = f"{workload}/"
        if (
            connection.dialect.name == "sqlite"
        ):  # which finds these by the index; elsewhere order is not by bytes
            parts: ColumnElement[bool] = keys.c.workload.between(first, f"{workload}0")
        else:
            parts = keys.c.workload.startswith(first, autoescape=True)
        self._revoke_where(connection, parts)

    def revoke_all_of(self, connection: Connection, project_id: str) -> None:
        """Revoke every key of a project, in the caller's write transaction."""
        self._revoke_where(connection, keys.c.project_id == project_id)

    def revoke_of_person(
        self, connection: Connection, project_id: str, person_id: str, actor: str
    ) -> "Departed":
        """End every key of the project that speaks for a person or was made by them (as `actor`), keys made by such
        keys included, and the credentials of jobs that they started by any of these.

        A service account stays of which somebody else made a key that is good still.
        """
        here = keys.c.project_id == project_id
        service = here & (keys.c.kind == Kind.SERVICE.value)
        living = keys.c.revoked_at.is_(None)
        theirs = (keys.c.kind == Kind.PERSON.value) & (keys.c.principal_id == person_id)
        ended = self._revoke_where(connection, here & theirs)
        actors, accounts, makers = [actor], list[str](), [actor]
        while makers:
            made = service & keys.c.created_by.in_(makers)
            names = set(connection.execute(select(keys.c.name).where(made, living)).scalars())
            ended += self._revoke_where(connection, made)
            stay = connection.execute(select(keys.c.name).where(service, living, keys.c.name.in_(names)))
            gone = sorted(names - set(stay.scalars()) - set(accounts))
            makers = [f"{Kind.SERVICE}:{name}" for name in gone]
            accounts += gone
            actors += makers
        started = keys.c.principal_id.in_([person_id, *accounts]) & keys.c.workload.startswith("job:")
        self._revoke_where(connection, here & (keys.c.kind == Kind.WORKLOAD.value) & started)
        return Departed(ended, (person_id, *accounts), tuple(actors))

    def weaken(
        self, connection: Connection, project_id: str, person_id: str, actor: str, role: Role
    ) -> "Weakened":
        """Take what goes beyond `role` from a person's own keys of the project, from those that they made (as `actor`;
        they know their secrets), keys made by such keys included, and from jobs that run by any of these."""
        above = [other.value for other in Role if RANK[other] > RANK[role]]
        here = (keys.c.project_id == project_id) & keys.c.revoked_at.is_(None) & keys.c.role.in_(above)
        theirs = (keys.c.kind == Kind.PERSON.value) & (keys.c.principal_id == person_id)
        changed = [*self._weaken_where(connection, here & theirs, role)]
        actors, accounts, makers = [actor], set[str](), [actor]
        while makers:
            service = here & (keys.c.kind == Kind.SERVICE.value)
            weaker = self._weaken_where(connection, service & keys.c.created_by.in_(makers), role)
            changed += weaker
            others = connection.execute(select(keys.c.name).where(service, keys.c.name.in_(weaker)))
            names = sorted(set(weaker) - set(others.scalars()) - accounts)
            makers = [f"{Kind.SERVICE}:{name}" for name in names]
            accounts |= set(names)
            actors += makers
        jobs = (keys.c.kind == Kind.WORKLOAD.value) & keys.c.workload.startswith("job:")
        by_them = keys.c.principal_id.in_([person_id, *accounts])
        changed += self._weaken_where(connection, here & jobs & by_them, role)
        return Weakened(len(changed), tuple(actors))

    def _weaken_where(
        self, connection: Connection, condition: ColumnElement[bool], role: Role
    ) -> Sequence[str]:
        """The names of the keys."""
        rows = connection.execute(
            update(keys).where(condition).values(role=role.value).returning(keys.c.id, keys.c.name)
        ).all()
        for row in rows:
            self._database.once_committed(partial(self._forget, row.id))
        return [str(row.name) for row in rows]

    def insert_for_person(
        self, connection: Connection, who: Principal, *, name: str, expires_at: int | None
    ) -> Credential:
        """Make a key that speaks for a person in the project they act in, with their role, in the caller's transaction."""
        key_id = self._insert(
            connection,
            self._row(
                name=name,
                project_id=who.project_id,
                role=who.role,
                kind=Kind.PERSON,
                principal=(who.id, who.name),
                created_by=who.actor,
                expires_at=expires_at,
            ),
        )
        emit(
            connection,
            "key.created",
            key_id,
            actor=who.actor,
            project_id=who.project_id,
            name=name,
            role=who.role.value,
        )
        return Credential(key_id, self.secret_of(key_id))

    async def write_uses(self) -> None:
        """Write down when keys were last used; called now and then."""
        taken, self._used = self._used, {}
        if not taken:
            return

        def work(connection: Connection) -> None:
            for key_id, at in taken.items():
                connection.execute(update(keys).where(keys.c.id == key_id).values(used_at=at))

        await self._database.write(work)

    def _revoke_where(self, connection: Connection, condition: ColumnElement[bool]) -> int:
        """How many."""
        ended = connection.execute(
            update(keys)
            .where(condition, keys.c.revoked_at.is_(None))
            .values(revoked_at=self._clock())
            .returning(keys.c.id)
        ).scalars()
        ids = list(ended)
        for key_id in ids:
            # Dropped from memory only when durable: a request in between would cache the old row again.
            self._database.once_committed(partial(self._forget, key_id))
        return len(ids)

    def _forget(self, key_id: str) -> None:
        self._revocations += 1
        self._cache.pop(key_id, None)

    # -- rows --------------------------------------------------------------------------------

    def insert_service(
        self, connection: Connection, *, name: str, project_id: str, role: Role, created_by: str
    ) -> Credential:
        """Make a service account's key in the caller's transaction (the instance's own first key, `stratal env`'s)."""
        key_id = self._insert(
            connection,
            self._row(
                name=name,
                project_id=project_id,
                role=role,
                kind=Kind.SERVICE,
                principal=(name, name),
                created_by=created_by,
                expires_at=None,
            ),
        )
        return Credential(key_id, self.secret_of(key_id))

    def _insert(self, connection: Connection, row: Mapping[str, object]) -> str:
        connection.execute(_INSERT, row)
        return str(row["id"])

    def _row(
        self,
        *,
        name: str,
        project_id: str,
        role: Role,
        kind: Kind,
        principal: tuple[str, str],
        created_by: str,
        expires_at: int | None,
        workload: str | None = None,
    ) -> dict[str, object]:
        return {
            "id": f"st{self._master.current}k{random_token(20)}",
            "name": name,
            "project_id": project_id,
            "role": role.value,
            "kind": kind.value,
            "principal_id": principal[0],
            "principal_name": principal[1],
            "workload": workload,
            "created_at": self._clock(),
            "created_by": created_by,
            "expires_at": expires_at,
        }


def _principal(row: Row[tuple[object, ...]]) -> Principal:
    return Principal(
        kind=Kind(row.kind),
        id=row.principal_id,
        name=row.principal_name,
        project_id=row.project_id,
        project=row.project,
        role=Role(row.role),
        key_id=row.id,
        workload=row.workload,
    )


def _info(row: Row[tuple[object, ...]]) -> KeyInfo:
    return KeyInfo(
        id=row.id,
        name=row.name,
        project=row.project,
        role=Role(row.role),
        kind=Kind(row.kind),
        principal=row.principal_name,
        workload=row.workload,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        used_at=row.used_at,
    )
