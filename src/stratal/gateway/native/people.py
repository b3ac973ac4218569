"""``/api/v1``: members, invitations, sessions, one's own account, and signing a command line in."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from stratal.gateway.native.bodies import Strict
from stratal.gateway.native.door import caller, session_of
from stratal.identity.members import Invitation, Member
from stratal.identity.model import Principal, Role
from stratal.identity.people import Person
from stratal.identity.projects import Projects
from stratal.identity.room import Folk
from stratal.identity.sessions import SessionInfo
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
MemberRole = Literal["viewer", "editor", "owner"]


class NewMember(Strict):
    person: str = Field(max_length=100)
    role: MemberRole


class NewRole(Strict):
    role: MemberRole


class NewInvitation(Strict):
    role: MemberRole = "editor"
    note: str = ""


class Token(Strict):
    token: str = Field(max_length=200)


class NewPassword(Strict):
    old: str = Field("", max_length=1000)
    new: str = Field(max_length=1000)


class Code(Strict):
    code: str = Field("", max_length=20)
    sealed: str = Field("", max_length=400, description="As `POST /account/totp` answered it.")


class Machine(Strict):
    machine: str = Field("a command line", max_length=100)


class DeviceCode(Strict):
    device_code: str = Field(max_length=100)


class Approval(Strict):
    user_code: str = Field(max_length=20)


def router(folk: Folk, projects: Projects, address: str) -> APIRouter:
    """`address` is what the instance is called in people's authenticator apps."""
    api = APIRouter(tags=["people"])
    members = folk.members

    @api.get("/projects/{project}/members")
    async def list_members(who: Who, project: str) -> dict[str, object]:
        """The project's members and what they are."""
        place = await projects.get(who, project)
        return {"members": [_member(one) for one in await members.list(who, place.id)]}

    @api.post("/projects/{project}/members", status_code=201)
    async def add_member(who: Who, project: str, body: NewMember) -> dict[str, object]:
        """Make somebody who has an account a member, or change what they are."""
        place = await projects.get(who, project)
        await members.put(who, place.id, body.person, Role(body.role))
        return {"person": body.person, "role": body.role, "project": place.name}

    @api.put("/projects/{project}/members/{person}")
    async def change_member(who: Who, project: str, person: str, body: NewRole) -> dict[str, object]:
        """Change what a member is; keys of theirs that may more get weaker at once."""
        place = await projects.get(who, project)
        weaker = await members.put(who, place.id, person, Role(body.role))
        return {"person": person, "role": body.role, "project": place.name, "weakened_keys": weaker}

    @api.delete("/projects/{project}/members/{person}")
    async def remove_member(who: Who, project: str, person: str) -> dict[str, object]:
        """Take somebody out: their keys of the project, and those they made, stop at every door at once."""
        place = await projects.get(who, project)
        ended = await members.remove(who, place.id, person)
        return {"person": person, "removed": True, "ended_keys": ended}

    @api.get("/projects/{project}/invitations")
    async def list_invitations(who: Who, project: str) -> dict[str, object]:
        """Invitations that nobody has taken up yet."""
        place = await projects.get(who, project)
        return {"invitations": [_invitation(one) for one in await members.invited(who, place.id)]}

    @api.post("/projects/{project}/invitations", status_code=201)
    async def invite(who: Who, project: str, body: NewInvitation) -> dict[str, object]:
        """A link that makes whoever opens it first a member, within a week. It is in this answer and nowhere else."""
        place = await projects.get(who, project)
        id_, token = await members.invite(who, place.id, Role(body.role), body.note)
        return {"id": id_, "path": f"/invite?token={token}", "role": body.role, "project": place.name}

    @api.delete("/projects/{project}/invitations/{invitation}", status_code=204)
    async def withdraw(who: Who, project: str, invitation: str) -> None:
        place = await projects.get(who, project)
        await members.withdraw(who, place.id, invitation)

    @api.post("/invitations/join")
    async def join(who: Who, body: Token) -> dict[str, object]:
        """Take up an invitation with the account one has."""
        return {"project": await members.join(who, body.token)}

    @api.get("/people")
    async def list_people(who: Who) -> dict[str, object]:
        """Everybody with an account. Admins only."""
        return {"people": [_person(one) for one in await folk.people.list(who)]}

    @api.get("/sessions")
    async def list_sessions(request: Request, who: Who, everybody: bool = False) -> dict[str, object]:
        """Where one is signed in; with `everybody` where anybody is (admins)."""
        cookie = session_of(request)
        found = await folk.sessions.list(who, everybody=everybody, current=cookie)
        return {"sessions": [_session(one) for one in found]}

    @api.delete("/sessions/{session}", status_code=204)
    async def revoke_session(who: Who, session: str) -> None:
        """Sign a browser out: one's own, or as an admin anybody's."""
        await folk.sessions.revoke(who, session)

    @api.get("/account")
    async def account(who: Who) -> dict[str, object]:
        """One's own account."""
        return _person(await folk.people.me(who))

    @api.post("/account/password", status_code=204)
    async def change_password(request: Request, who: Who, body: NewPassword) -> None:
        """Set one's password; everywhere else one is signed out."""
        cookie = session_of(request)
        await folk.people.change_password(who, body.old, body.new, session=cookie)

    @api.post("/account/totp", status_code=201)
    async def begin_totp(who: Who) -> dict[str, object]:
        """A secret for an authenticator app; nothing changes until `PUT` brings a code and `sealed`."""
        uri, sealed = await folk.people.begin_totp(who, address)
        return {"uri": uri, "sealed": sealed}

    @api.put("/account/totp", status_code=204)
    async def confirm_totp(who: Who, body: Code) -> None:
        """From now on a code is asked for at sign-in."""
        await folk.people.confirm_totp(who, body.sealed, body.code)

    @api.post("/account/totp/drop", status_code=204)
    async def drop_totp(who: Who, body: Code) -> None:
        """Ask for no code any more."""
        await folk.people.drop_totp(who, body.code)

    # -- signing a command line in -------------------------------------------------------------

    @api.post("/device", status_code=201)
    async def begin_device(body: Machine) -> dict[str, object]:
        """A code to keep and one to show to a person, who says yes at `path`. For anybody."""
        device, user = await folk.devices.begin(body.machine)
        return {
            "device_code": device,
            "user_code": user,
            "path": f"/device?code={user}",
            "interval_seconds": 2,
            "expires_seconds": 600,
        }

    @api.post("/device/token")
    async def take_device(body: DeviceCode) -> dict[str, object]:
        """The key, once somebody said yes; else `{"pending": true}`. For whoever has the code."""
        granted = await folk.devices.take(body.device_code)
        if granted is None:
            return {"pending": True}
        return {
            "pending": False,
            "token": granted.credential.token,
            "id": granted.credential.id,
            "person": granted.person,
            "project": granted.project,
        }

    @api.get("/device/{code}")
    async def asked_device(who: Who, code: str) -> dict[str, object]:
        """What the command line that shows this code calls itself."""
        return {"machine": await folk.devices.asked(code)}

    @api.post("/projects/{project}/device", status_code=204)
    async def approve_device(who: Who, project: str, body: Approval) -> None:
        """Say yes: the command line gets a key that speaks for oneself in this project."""
        await projects.get(who, project)
        await folk.devices.approve(who, body.user_code)

    return api


def _member(one: Member) -> dict[str, object]:
    return {
        "person": one.person,
        "role": one.role,
        "admin": one.admin,
        "added_at": iso(one.added_at),
        "added_by": one.added_by,
    }


def _invitation(one: Invitation) -> dict[str, object]:
    return {
        "id": one.id,
        "role": one.role,
        "note": one.note,
        "created_at": iso(one.created_at),
        "created_by": one.created_by,
        "expires_at": iso(one.expires_at),
    }


def _person(one: Person) -> dict[str, object]:
    return {
        "name": one.name,
        "id": one.id,
        "admin": one.admin,
        "has_password": one.has_password,
        "has_totp": one.has_totp,
        "created_at": iso(one.created_at),
        "projects": [{"name": name, "role": role} for name, role in one.places],
    }


def _session(one: SessionInfo) -> dict[str, object]:
    return {
        "id": one.id,
        "person": one.person,
        "created_at": iso(one.created_at),
        "expires_at": iso(one.expires_at),
        "seen_at": iso(one.seen_at) if one.seen_at is not None else None,
        "address": one.address,
        "agent": one.agent,
        "current": one.current,
    }
