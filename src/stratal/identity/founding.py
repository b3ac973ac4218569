"""The first start: the admin, the project ``default``, and the admin's key."""

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from stratal.identity.keys import Credential, Keys
from stratal.identity.model import Role
from stratal.identity.projects import Project, insert_project
from stratal.identity.tables import keys, people, projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.ids import new_id

ADMIN = "admin"
DEFAULT_PROJECT = "default"


@dataclass(frozen=True, slots=True)
class Founded:
    """The admin's credential, and whether this start was the instance's first."""

    credential: Credential
    first: bool


def found(database: Database, service: Keys, clock: Clock) -> Founded:
    """Make what a new instance needs, once; on later starts find it again. One transaction, so never half."""

    def work(connection: Connection) -> Founded:
        existing = connection.execute(
            select(keys.c.id)
            .where(keys.c.name == ADMIN, keys.c.role == Role.ADMIN.value, keys.c.revoked_at.is_(None))
            .order_by(keys.c.created_at)
            .limit(1)
        ).scalar()
        first = connection.execute(select(people.c.id).limit(1)).scalar() is None
        if first:
            connection.execute(
                insert(people).values(id=new_id("usr"), name=ADMIN, admin=1, created_at=clock())
            )
            insert_project(connection, Project(new_id("prj"), DEFAULT_PROJECT, clock()), "system")
        if existing is not None:
            return Founded(Credential(existing, service.secret_of(existing)), first)
        home = connection.execute(
            select(projects.c.id).where(projects.c.name == DEFAULT_PROJECT)
        ).scalar_one()
        made = service.insert_service(
            connection, name=ADMIN, project_id=home, role=Role.ADMIN, created_by="system"
        )
        return Founded(made, first)

    return database.write_now(work)
