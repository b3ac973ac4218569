"""Workspaces as people see them: make, look, start, stop, remove; their saves; and how to come in."""

from collections.abc import AsyncIterator, Sequence

from sqlalchemy import Connection

from stratal.collab.workspaces import records
from stratal.collab.workspaces.files import Folders
from stratal.collab.workspaces.model import (
    KIND,
    Program,
    Save,
    Wishes,
    Workspace,
    WorkspaceView,
    check_wishes,
)
from stratal.collab.workspaces.saves import Saves, no_such_workspace
from stratal.collab.workspaces.upkeep import Live, Upkeep
from stratal.compute.requirements import canonical
from stratal.compute.services.model import ReplicaInfo
from stratal.compute.services.services import Services
from stratal.identity.keys import Keys
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.projects import Project
from stratal.identity.visits import Visits
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id, random_token
from stratal.kernel.names import check_name, label_of


class Workspaces:
    """`start` and `close` are those of the room it is made with."""

    def __init__(
        self,
        database: Database,
        services: Services,
        keys: Keys,
        upkeep: Upkeep,
        visits: Visits,
        saves: Saves,
        folders: Folders,
        clock: Clock,
    ) -> None:
        self._database = database
        self._services = services
        self._keys = keys
        self._upkeep = upkeep
        self._visits = visits
        self._saves = saves
        self._folders = folders
        self._clock = clock

    # -- wishes --------------------------------------------------------------------------------

    async def create(
        self,
        who: Principal,
        place: Project,
        name: str,
        *,
        program: Program = Program.JUPYTER,
        requirements: str = "",
        wishes: Wishes | None = None,
    ) -> WorkspaceView:
        """Make a workspace; it is started. Raises `Conflict` when there is one of that name, `Invalid`, `Denied`."""
        check_name(KIND, name)
        require(who, "workspaces.use", place.id, what=f"workspace {name!r}")
        wishes = check_wishes(wishes or Wishes())
        wanted = canonical(requirements)
        await self._services.check(wishes.scaling, wishes.needs)
        made = Workspace(
            id=new_id("ws"),
            project_id=place.id,
            project=place.name,
            name=name,
            label=label_of(name, random_token(8)),
            program=program,
            requirements=wanted,
            wishes=wishes,
            environment_id=None,
            running=False,
            stopped_why="",
            starts=0,
            key_id=None,
            used_at=None,
            created_at=self._clock(),
            created_by=who.actor,
        )

        def work(c: Connection) -> None:
            if records.is_taken(c, place.id, name):
                raise Conflict(
                    f"There is a workspace {name!r} already.",
                    hint=f"Open it with: stratal workspace open {name}",
                    reason="workspace_exists",
                )
            records.add(c, made, who.name)
            emit(c, "workspace.created", made.id, actor=who.actor, project_id=place.id, name=name)

        await self._database.write(work)
        await self._folders.make(made.id)
        live = self._upkeep.add(made)
        await self._upkeep.begin(live, who)
        return self._view(live)

    async def begin(self, who: Principal, project_id: str, name: str) -> WorkspaceView:
        """Have it run. Returns when the wish is durable."""
        live = self._get(who, "workspaces.use", project_id, name)
        await self._upkeep.begin(live, who)
        return self._view(live)

    async def halt(self, who: Principal, project_id: str, name: str) -> WorkspaceView:
        """Stop it; its files stay. Returns when its processes are gone."""
        live = self._get(who, "workspaces.use", project_id, name)
        await self._upkeep.halt(live, who.actor, f"Stopped by {who.name}.")
        return self._view(live)

    async def remove(self, who: Principal, project_id: str, name: str) -> None:
        """Remove it with its files and its saves. Returns when its processes and its bytes are gone."""
        live = self._get(who, "workspaces.use", project_id, name)
        of = live.workspace

        def work(c: Connection) -> list[str]:
            self._keys.end_workload(c, of.workload)
            emit(c, "workspace.removed", of.id, actor=who.actor, project_id=project_id, name=name)
            return records.remove(c, of, self._clock())

        keys = await self._database.write(work)
        await self._upkeep.drop(live)
        await self._folders.remove(of.id)
        await self._saves.drop(keys)

    async def open(
        self, who: Principal, project_id: str, name: str, session: str | None
    ) -> tuple[Workspace, str]:
        """Have it run, and let `who` in: the workspace, and a ticket for its host name."""
        live = self._get(who, "workspaces.use", project_id, name)
        ticket = await self._visits.invite(who, live.workspace, session)
        await self._upkeep.begin(live, who)
        return live.workspace, ticket

    # -- looking -------------------------------------------------------------------------------

    async def list(self, who: Principal, project_id: str) -> Sequence[WorkspaceView]:
        """The project's workspaces, by name."""
        require(who, "workspaces.read", project_id)
        return [self._view(live) for live in self._upkeep.of_project(project_id)]

    async def get(self, who: Principal, project_id: str, name: str) -> WorkspaceView:
        """Raises `NotFound`, also for one of another project."""
        return self._view(self._get(who, "workspaces.read", project_id, name))

    async def replicas(self, who: Principal, project_id: str, name: str) -> Sequence[ReplicaInfo]:
        """Its servers, the running one and those that ended, newest first."""
        live = self._get(who, "workspaces.read", project_id, name)
        return await self._services.replicas(KIND, live.workspace.id)

    async def logs(self, who: Principal, project_id: str, name: str) -> bytes:
        """What its newest server wrote, at most the first MiB."""
        live = self._get(who, "workspaces.use", project_id, name)
        found = await self._services.replicas(KIND, live.workspace.id, 1)
        if not found:
            return b""
        try:
            return await self._services.log(KIND, live.workspace.id, found[0].id)
        except NotFound:
            return b""

    # -- saves ---------------------------------------------------------------------------------

    async def keep(
        self,
        who: Principal,
        project_id: str,
        name: str,
        path: str,
        chunks: AsyncIterator[bytes],
        saved_at: int | None,
    ) -> Save:
        """Keep a version of a file; see `Saves.keep`."""
        live = self._get(who, "workspaces.use", project_id, name)
        return await self._saves.keep(who, live.workspace, path, chunks, saved_at)

    async def saves(
        self,
        who: Principal,
        project_id: str,
        name: str,
        *,
        path: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[Save]:
        """The saves of its files, newest first."""
        live = self._get(who, "workspaces.read", project_id, name)
        return await self._saves.list(live.workspace, path=path, before=before, limit=limit)

    async def content(
        self, who: Principal, project_id: str, name: str, seq: int
    ) -> tuple[Save, AsyncIterator[bytes]]:
        """A save and its bytes. Raises `NotFound`."""
        live = self._get(who, "workspaces.read", project_id, name)
        return await self._saves.content(live.workspace, seq)

    async def restore(
        self, who: Principal, project_id: str, name: str, seq: int, path: str | None
    ) -> tuple[Save, str]:
        """Put a save back as a file; see `Saves.restore`."""
        live = self._get(who, "workspaces.use", project_id, name)
        return await self._saves.restore(who, live.workspace, seq, path)

    # -- life ----------------------------------------------------------------------------------

    async def purge(self, project_id: str) -> None:
        """Remove everything of a project: its workspaces, their files and their saves."""
        for live in self._upkeep.of_project(project_id):
            await self._upkeep.drop(live)
            await self._folders.remove(live.workspace.id)
        await self._services.purge(project_id, KIND)
        await self._saves.drop(await self._database.write(lambda c: records.purge(c, project_id)))

    def _get(self, who: Principal, action: str, project_id: str, name: str) -> Live:
        require(who, action, project_id, what=f"workspace {name[:100]!r}")
        live = self._upkeep.get(project_id, name)
        if live is None:
            raise no_such_workspace(name)
        return live

    def _view(self, live: Live) -> WorkspaceView:
        return WorkspaceView(live.workspace, live.state, live.why, self._visits.visitors(live.workspace.id))
