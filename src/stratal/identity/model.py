"""Who is asking. Every request is made by a `Principal`; nothing in the platform runs without one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What somebody is in a project, weakest first; `ADMIN` is of the whole instance."""

    VIEWER = "viewer"
    EDITOR = "editor"
    OWNER = "owner"
    ADMIN = "admin"


class Kind(StrEnum):
    """What sort of somebody: a person, a service account, a running workload, or the platform itself."""

    PERSON = "person"
    SERVICE = "service"
    WORKLOAD = "workload"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller.

    `project_id`/`project` is the project of the credential: what a door without a project in its
    path serves. `workload` is set when a running workload asks (``job:12``): reads and writes are
    attributed to it.
    """

    kind: Kind
    id: str
    name: str
    project_id: str
    project: str
    role: Role
    key_id: str | None = None
    workload: str | None = None
    elsewhere: Mapping[str, Role] = field(default_factory=dict)
    """A signed-in person's roles in their other projects, by project id; a key opens one project only."""

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN

    def role_in(self, project_id: str) -> Role | None:
        """What the caller is in a project; None: nobody."""
        if self.is_admin:
            return Role.ADMIN
        return self.role if project_id == self.project_id else self.elsewhere.get(project_id)

    @property
    def actor(self) -> str:
        """What events and the audit log call this caller."""
        return self.workload or f"{self.kind}:{self.name}"


def system_principal(project_id: str, project: str) -> Principal:
    """The platform acting by itself (reconcilers), in one project."""
    return Principal(Kind.SYSTEM, "system", "system", project_id, project, Role.OWNER)
