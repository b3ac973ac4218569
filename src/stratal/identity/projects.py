"""Projects: the tenant boundary. Everything that is stored or run belongs to exactly one."""

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.tables import projects
from stratal.kernel.asking import note_denied
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.kernel.names import check_name

_CALLED = select(projects).where(projects.c.name == bindparam("called"))


@dataclass(frozen=True, slots=True)
class Project:
    id: str
    name: str
    created_at: int


class Projects:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def create(self, who: Principal, name: str) -> Project:
        """Make a project. Raises `Denied` unless the caller is admin, `Conflict` when the name is taken."""
        check_name("project", name)
        require(who, "project.create", who.project_id)
        project = Project(new_id("prj"), name, self._clock())
        try:
            await self._database.write(lambda c: insert_project(c, project, who.actor))
        except IntegrityError as error:
            raise Conflict(f"There is a project {name!r} already.", reason="project_exists") from error
        return project

    async def list(self, who: Principal) -> list[Project]:
        """Every project for an admin; else the caller's own: a key's one, a person's all."""
        query = select(projects).where(projects.c.removing_at.is_(None)).order_by(projects.c.name)
        if not who.is_admin:
            query = query.where(projects.c.id.in_([who.project_id, *who.elsewhere]))
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [Project(r.id, r.name, r.created_at) for r in rows]

    async def get(self, who: Principal, name: str) -> Project:
        """The project called `name`. Raises `NotFound`, also for a project that is not the caller's."""
        row = await self._database.read(lambda c: c.execute(_CALLED, {"called": name}).one_or_none())
        if row is None or row.removing_at is not None or who.role_in(row.id) is None:
            note_denied("project.read")
            raise NotFound(
                f"There is no project {name!r} for this key.", hint="List them with: stratal projects list"
            )
        return Project(row.id, row.name, row.created_at)

    async def name_of(self, project_id: str) -> str:
        """The project's name; its id where it is gone. For services that have authorised their caller."""
        query = select(projects.c.name).where(projects.c.id == project_id)
        return await self._database.read(lambda c: c.execute(query).scalar()) or project_id


def insert_project(connection: Connection, project: Project, actor: str) -> None:
    """Insert the row, in the caller's write transaction."""
    connection.execute(
        insert(projects).values(
            id=project.id, name=project.name, created_at=project.created_at, created_by=actor
        )
    )
    emit(connection, "project.created", project.id, actor=actor, project_id=project.id, name=project.name)
