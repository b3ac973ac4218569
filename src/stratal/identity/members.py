"""Members: which people belong to a project and as what; invitations by link; how leaving ends every key at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from stratal.identity.keys import Keys
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.passwords import Passwords
from stratal.identity.people import insert_person
from stratal.identity.permissions import RANK, require
from stratal.identity.sessions import Sessions, hashed
from stratal.identity.tables import invitations, members, people, projects
from stratal.identity.tables import keys as key_rows
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id, random_token
from stratal.kernel.names import check_name

INVITED_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Member:
    person: str
    role: Role
    added_at: int
    added_by: str
    admin: bool


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation that was not taken up yet; its token was shown once."""

    id: str
    project: str
    role: Role
    note: str
    created_at: int
    created_by: str
    expires_at: int


class Members:
    def __init__(
        self, database: Database, service: Keys, signing_in: Sessions, clock: Clock, passwords: Passwords
    ) -> None:
        self._database = database
        self._keys = service
        self._sessions = signing_in
        self._clock = clock
        self._passwords = passwords

    async def list(self, who: Principal, project_id: str) -> list[Member]:
        """The project's members, by name (instance admins need not be among them)."""
        require(who, "members.read", project_id)
        query = (
            select(members, people.c.name, people.c.admin)
            .join(people, people.c.id == members.c.person_id)
            .where(members.c.project_id == project_id)
            .order_by(people.c.name)
        )
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [Member(r.name, Role(r.role), r.added_at, r.added_by, bool(r.admin)) for r in rows]

    async def put(self, who: Principal, project_id: str, person: str, role: Role) -> int:
        """Make somebody a member, or change what they are; returns how many keys of theirs got weaker.

        Raises `NotFound` for nobody of that name, `Denied` beyond one's own role, `Conflict` for the last owner.
        """
        self._may(who, project_id, role)

        def work(c: Connection) -> int:
            person_id = _person_id(c, person)
            before = _role(c, project_id, person_id)
            if before is None:
                made = {"project_id": project_id, "person_id": person_id, "role": role.value}
                c.execute(insert(members).values(**made, added_at=self._clock(), added_by=who.actor))
            else:
                self._not_above(who, project_id, before)
                if before is Role.OWNER and role is not Role.OWNER and not who.is_admin:
                    _check_not_last(c, project_id, person_id)
                c.execute(update(members).where(*_is(project_id, person_id)).values(role=role.value))
            weaker = weaken(c, self._keys, project_id, person_id, person, role)
            kind = "member.added" if before is None else "member.changed"
            emit(c, kind, person_id, actor=who.actor, project_id=project_id, name=person, role=role.value)
            return weaker

        return await self._database.write(work)

    async def remove(self, who: Principal, project_id: str, person: str) -> int:
        """Take somebody out of the project; returns how many keys ended with that, all at once and at every door.

        These are the keys that speak for the person, and those that the person made: they know their secrets. For
        the same reason the invitations end that they made. Jobs of theirs lose their credentials, and are stopped.
        Raises `NotFound`, `Conflict` for the last owner (an admin may).
        """
        require(who, "members.manage", project_id)

        def work(c: Connection) -> int:
            person_id = _person_id(c, person)
            before = _role(c, project_id, person_id)
            if before is None:
                raise NotFound(f"{person!r} is no member of this project.", reason="no_such_member")
            self._not_above(who, project_id, before)
            if before is Role.OWNER and not who.is_admin:
                _check_not_last(c, project_id, person_id)
            return take_out(c, self._keys, project_id, person_id, person, by=who.actor)

        return await self._database.write(work)

    # -- invitations ---------------------------------------------------------------------------

    async def invite(self, who: Principal, project_id: str, role: Role, note: str) -> tuple[str, str]:
        """A new invitation's id and token: whoever brings the token within a week becomes a member. Once."""
        self._may(who, project_id, role)
        if len(note) > 200:
            raise Invalid("A note has at most 200 characters.", reason="bad_note")
        id_, token = new_id("inv"), random_token(32)

        def work(c: Connection) -> None:
            now = self._clock()
            c.execute(delete(invitations).where(invitations.c.expires_at <= now))
            c.execute(
                insert(invitations).values(
                    id=id_,
                    token_sha256=hashed(token),
                    project_id=project_id,
                    role=role.value,
                    note=note,
                    created_at=now,
                    created_by=who.actor,
                    expires_at=now + INVITED_MS,
                )
            )
            emit(c, "invitation.created", id_, actor=who.actor, project_id=project_id, role=role.value)

        await self._database.write(work)
        return id_, token

    async def invited(self, who: Principal, project_id: str) -> Sequence[Invitation]:
        """The project's open invitations, newest first."""
        require(who, "members.manage", project_id)
        query = _open(self._clock()).where(invitations.c.project_id == project_id)
        rows = await self._database.read(
            lambda c: c.execute(query.order_by(invitations.c.created_at.desc())).all()
        )
        return [_invitation(row) for row in rows]

    async def withdraw(self, who: Principal, project_id: str, invitation_id: str) -> None:
        """Raises `NotFound`."""
        require(who, "members.manage", project_id)
        mine = (invitations.c.id == invitation_id) & (invitations.c.project_id == project_id)

        def work(c: Connection) -> None:
            if not c.execute(delete(invitations).where(mine)).rowcount:
                raise NotFound("There is no such invitation.", reason="no_such_invitation")
            emit(c, "invitation.withdrawn", invitation_id, actor=who.actor, project_id=project_id)

        await self._database.write(work)

    async def invitation(self, token: str) -> Invitation:
        """What a token invites to. Raises `Unauthenticated` when it was taken up, withdrawn, or is too old."""
        query = _open(self._clock()).where(invitations.c.token_sha256 == hashed(token))
        row = await self._database.read(lambda c: c.execute(query).one_or_none())
        if row is None:
            raise _spent()
        return _invitation(row)

    async def accept(self, token: str, name: str, password: str, *, address: str, agent: str) -> str:
        """Take up an invitation with a new account; returns a session's token.

        Raises `Unauthenticated` for a spent token, `Conflict` for a name that is taken, `Invalid`.
        """
        check_name("person", name)
        await self.invitation(token)
        made = await self._passwords.hash(password)
        person_id = new_id("usr")

        def work(c: Connection) -> None:
            row = self._spend(c, token)
            if c.execute(select(people.c.id).where(people.c.name == name)).scalar() is not None:
                raise _taken(name)
            insert_person(c, person_id, name, self._clock(), password=made, actor=f"{Kind.PERSON}:{name}")
            _join(c, row, person_id, name, self._clock())

        try:
            await self._database.write(work)
        except IntegrityError as error:
            raise _taken(name) from error
        return await self._sessions.begin(person_id, address=address, agent=agent, by="invitation")

    async def join(self, who: Principal, token: str) -> str:
        """Take up an invitation as somebody who has an account; returns the project's name."""
        if who.kind is not Kind.PERSON:
            raise Denied("An invitation is for a person.", hint="Open its link in a browser.")

        def work(c: Connection) -> str:
            row = self._spend(c, token)
            _join(c, row, who.id, who.name, self._clock())
            return str(row.project)

        return await self._database.write(work)

    def _spend(self, c: Connection, token: str) -> Row[tuple[object, ...]]:
        row = c.execute(_open(self._clock()).where(invitations.c.token_sha256 == hashed(token))).one_or_none()
        if row is None:
            raise _spent()
        c.execute(delete(invitations).where(invitations.c.id == row.id))
        return row

    # -- rules ---------------------------------------------------------------------------------

    def _may(self, who: Principal, project_id: str, role: Role) -> None:
        require(who, "members.manage", project_id)
        if role is Role.ADMIN:
            raise Invalid("A member is viewer, editor or owner.", reason="bad_role")
        self._not_above(who, project_id, role)

    @staticmethod
    def _not_above(who: Principal, project_id: str, role: Role) -> None:
        own = who.role_in(project_id)
        if own is None or RANK[role] > RANK[own]:
            raise Denied(f"Only an owner says who is {role.value}.")


def take_out(c: Connection, keys: Keys, project_id: str, person_id: str, name: str, *, by: str) -> int:
    """End somebody's membership with all that it gave them, in the caller's transaction; how many keys ended."""
    c.execute(delete(members).where(*_is(project_id, person_id)))
    departed = keys.revoke_of_person(c, project_id, person_id, f"{Kind.PERSON}:{name}")
    made = invitations.c.created_by.in_(departed.actors)
    c.execute(delete(invitations).where(invitations.c.project_id == project_id, made))
    told = {"name": name, "keys": departed.keys, "accounts": list(departed.accounts)}
    emit(c, "member.removed", person_id, actor=by, project_id=project_id, **told)
    return departed.keys


def take_out_everywhere(c: Connection, keys: Keys, person_id: str, name: str, *, by: str) -> None:
    """End what an admin of old had in projects that they are no member of: they could do everything in each."""
    inside = select(members.c.project_id).where(members.c.person_id == person_id)
    for project_id in c.execute(select(projects.c.id).where(projects.c.id.not_in(inside))).scalars().all():
        take_out(c, keys, str(project_id), person_id, name, by=by)


def weaken(c: Connection, keys: Keys, project_id: str, person_id: str, name: str, role: Role) -> int:
    """Take from somebody's keys, those they made, jobs and invitations what goes beyond `role`; how many keys had more."""
    above = [other.value for other in Role if RANK[other] > RANK[role]]
    weaker = keys.weaken(c, project_id, person_id, f"{Kind.PERSON}:{name}", role)
    c.execute(
        delete(invitations).where(
            invitations.c.project_id == project_id,
            invitations.c.created_by.in_(weaker.actors),
            invitations.c.role.in_(above),
        )
    )
    return weaker.keys


def role_now(c: Connection, who: Principal, project_id: str) -> Role:
    """What a principal that was written down may now: a member never more than their membership says."""
    found = _role(c, project_id, who.id)
    return who.role if found is None or who.is_admin or RANK[who.role] <= RANK[found] else found


def is_still_here(c: Connection, project_id: str, actor: str) -> bool:
    """Is whoever did something as `actor` somebody of the project still?

    A person is who is a member or an admin; a service account of which somebody who is here made a key, even if that has
    ended since; a workload whose starter is. The platform itself always is.
    """
    asked, waiting = {actor}, [actor]
    while waiting:
        one = waiting.pop()
        kind, _, name = one.partition(":")
        if kind == Kind.PERSON:
            if _is_inside(c, project_id, people.c.name == name):
                return True
            continue
        mine = (key_rows.c.project_id == project_id) | (key_rows.c.role == Role.ADMIN.value)
        if kind == Kind.SERVICE:
            mine &= (key_rows.c.kind == Kind.SERVICE.value) & (key_rows.c.principal_name == name)
        else:
            mine &= key_rows.c.workload == one
        makers = set(c.execute(select(key_rows.c.created_by).where(mine)).scalars())
        if not makers:
            return True
        waiting += makers - asked
        asked |= makers
    return False


def _is_inside(c: Connection, project_id: str, who: ColumnElement[bool]) -> bool:
    belongs = (members.c.person_id == people.c.id) & (members.c.project_id == project_id)
    inside = (people.c.admin == 1) | members.c.person_id.is_not(None)
    return c.execute(select(people.c.id).outerjoin(members, belongs).where(who, inside)).first() is not None


def _is(project_id: str, person_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return members.c.project_id == project_id, members.c.person_id == person_id


def _person_id(c: Connection, name: str) -> str:
    found = c.execute(select(people.c.id).where(people.c.name == name)).scalar()
    if found is None:
        raise NotFound(
            f"There is nobody called {name[:100]!r}.",
            hint="Invite them: stratal members invite",
            reason="no_such_person",
        )
    return str(found)


_ROLE = select(members.c.role).where(
    members.c.project_id == bindparam("place"), members.c.person_id == bindparam("person")
)


def _role(c: Connection, project_id: str, person_id: str) -> Role | None:
    found = c.execute(_ROLE, {"place": project_id, "person": person_id}).scalar()
    return None if found is None else Role(found)


def _check_not_last(c: Connection, project_id: str, person_id: str) -> None:
    others = select(members.c.person_id).where(
        members.c.project_id == project_id,
        members.c.role == Role.OWNER.value,
        members.c.person_id != person_id,
    )
    if c.execute(others.limit(1)).scalar() is None:
        raise Conflict(
            "That is the project's last owner.", hint="Make somebody else owner first.", reason="last_owner"
        )


def _join(c: Connection, row: Row[tuple[object, ...]], person_id: str, name: str, now: int) -> None:
    before = _role(c, row.project_id, person_id)
    role = Role(row.role)
    if before is None:
        made = {"project_id": row.project_id, "person_id": person_id, "role": role.value}
        c.execute(insert(members).values(**made, added_at=now, added_by=row.created_by))
    elif RANK[role] > RANK[before]:
        c.execute(update(members).where(*_is(row.project_id, person_id)).values(role=role.value))
    emit(
        c,
        "member.joined",
        person_id,
        actor=f"{Kind.PERSON}:{name}",
        project_id=row.project_id,
        name=name,
        role=role.value,
        invited_by=row.created_by,
    )


def _open(now: int) -> Select[Any]:
    return (
        select(invitations, projects.c.name.label("project"))
        .join(projects, projects.c.id == invitations.c.project_id)
        .where(invitations.c.expires_at > now, projects.c.removing_at.is_(None))
    )


def _invitation(row: Row[tuple[object, ...]]) -> Invitation:
    return Invitation(
        row.id, row.project, Role(row.role), row.note, row.created_at, row.created_by, row.expires_at
    )


def _spent() -> Unauthenticated:
    return Unauthenticated(
        "This invitation was taken up, withdrawn, or is too old.",
        hint="Ask whoever invited you for a new one.",
        reason="spent_invitation",
    )


def _taken(name: str) -> Conflict:
    return Conflict(f"The name {name!r} is taken.", hint="Choose another.", reason="name_taken")


def purge_members(c: Connection, project_id: str) -> None:
    """Forget a project's members and invitations, in the transaction that removes its row."""
    c.execute(delete(members).where(members.c.project_id == project_id))
    c.execute(delete(invitations).where(invitations.c.project_id == project_id))
