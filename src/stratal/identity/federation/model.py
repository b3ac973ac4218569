"""How an instance trusts its provider, and what groups there make of people here. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stratal.identity.model import Role
from stratal.identity.permissions import RANK

_ODD = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Grant:
    """Members of `group` there are `role` here in `project`; an admin of the whole instance in none."""

    group: str
    project: str
    role: Role


@dataclass(frozen=True, slots=True)
class Trust:
    """The provider, as this instance knows it."""

    issuer: str
    client_id: str
    client_secret: str = field(repr=False)
    grants: Sequence[Grant] = ()
    groups_claim: str = "groups"
    scopes: str = "openid profile email offline_access"
    check_seconds: float = 30.0
    """How soon the provider is asked about everybody again."""

    @property
    def names_admins(self) -> bool:
        return any(grant.role is Role.ADMIN for grant in self.grants)


def grants_of(text: str) -> tuple[Grant, ...]:
    """``ml-team=lab:editor, ops=*:admin`` as grants. Raises `ValueError`."""
    found = []
    for word in filter(None, (one.strip() for one in text.split(","))):
        group, equals, place = word.rpartition("=")
        project, colon, role = place.rpartition(":")
        if not (group and equals and project and colon and role in set(Role)):
            raise ValueError(f"{word[:60]!r} is not like ml-team=lab:editor")
        if (project == "*") != (role == Role.ADMIN.value):
            raise ValueError(
                f"{word[:60]!r}: an admin is one of the whole instance, *:admin, and nobody else is"
            )
        found.append(Grant(group, project, Role(role)))
    return tuple(found)


def roles_of(trust: Trust, groups: Iterable[str]) -> tuple[Mapping[str, Role], bool]:
    """The role in each project, the strongest of several, and whether they are an admin."""
    roles: dict[str, Role] = {}
    mine, admin = set(groups), False
    for grant in trust.grants:
        if grant.group not in mine:
            continue
        if grant.role is Role.ADMIN:
            admin = True
        elif grant.project not in roles or RANK[grant.role] > RANK[roles[grant.project]]:
            roles[grant.project] = grant.role
    return roles, admin


def groups_of(claims: Mapping[str, Any], name: str) -> Sequence[str]:
    """The groups that claims tell of: a list of texts, or one text."""
    told = claims.get(name, [])
    if isinstance(told, str):
        return [told]
    return [one for one in told if isinstance(one, str)] if isinstance(told, list) else []


def name_of(claims: Mapping[str, Any]) -> str:
    """What to call somebody: a name as names are here."""
    for claim in ("preferred_username", "email", "name", "sub"):
        told = claims.get(claim)
        if isinstance(told, str):
            name = _ODD.sub("-", told.partition("@")[0])[:60].strip("._-")
            if name and ".." not in name:
                return name
    return "somebody"
