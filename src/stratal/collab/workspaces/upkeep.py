"""Making it so: workspaces that are to run are kept running, and those that nobody uses are stopped.

    stopped ──start, opened──▶ starting ──answers──▶ running ──stop, idle──▶ stopped
                                  └──cannot──▶ failed (tried again; `stop` ends that)

Whether a workspace is to run is a column of its row, so a server that was killed goes on with it: one that still
runs is taken over, one that died meanwhile is started again.
"""

import asyncio
import logging

from sqlalchemy import Connection

from stratal.collab.workspaces import records
from stratal.collab.workspaces.blueprint import Foundry
from stratal.collab.workspaces.model import KIND, State, Workspace
from stratal.collab.workspaces.runtime import Notebook
from stratal.compute.services.model import Condition, ServiceName
from stratal.compute.services.service import Service
from stratal.compute.services.services import Services
from stratal.identity.keys import Keys
from stratal.identity.model import Principal
from stratal.identity.visits import Visits
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import NotFound, StratalError, Unavailable
from stratal.kernel.events import emit

log = logging.getLogger("stratal.workspaces")
_LOOK_SECONDS = 5.0
_NOTE_SECONDS = 60.0


class Live:
    """A workspace in memory: its server while it is to run, and when somebody last did something in it."""

    def __init__(self, workspace: Workspace, now: float) -> None:
        self.workspace = workspace
        self.service: Service[Notebook] | None = None
        self.preparing: asyncio.Task[None] | None = None
        self.failure = ""
        self.used = now
        """The event loop's clock."""
        self.noted = now
        self.lock = asyncio.Lock()
        """Held while it is started, stopped or removed: one after the other."""

    @property
    def state(self) -> State:
        if not self.workspace.running:
            return State.STOPPED
        if self.service is None:
            return State.STARTING if self.preparing is not None else State.FAILED
        return {
            Condition.AWAKE: State.RUNNING,
            Condition.FAILING: State.FAILED,
        }.get(self.service.condition, State.STARTING)

    @property
    def why(self) -> str:
        """Why it cannot run."""
        return self.service.failure if self.service is not None and not self.failure else self.failure

    def touch(self) -> None:
        """Somebody did something."""
        self.used = asyncio.get_running_loop().time()


class Upkeep:
    """`start` before use; `close` lets go, and workspaces run on until the next start."""

    def __init__(
        self,
        database: Database,
        services: Services,
        foundry: Foundry,
        keys: Keys,
        visits: Visits,
        clock: Clock,
    ) -> None:
        self._database = database
        self._services = services
        self._foundry = foundry
        self._keys = keys
        self._visits = visits
        self._clock = clock
        self._live: dict[str, Live] = {}
        self._labels: dict[str, Live] = {}
        self._task: asyncio.Task[None] | None = None

    # -- finding -------------------------------------------------------------------------------

    def get(self, project_id: str, name: str) -> Live | None:
        for live in self._live.values():
            if live.workspace.project_id == project_id and live.workspace.name == name:
                return live
        return None

    def labelled(self, label: str) -> Live | None:
        """The workspace with this label in its host name."""
        return self._labels.get(label)

    def of_project(self, project_id: str) -> list[Live]:
        mine = [live for live in self._live.values() if live.workspace.project_id == project_id]
        return sorted(mine, key=lambda live: live.workspace.name)

    def running(self, project_id: str | None) -> list[Live]:
        """Those that are to run, of one project or of all."""
        return [
            live
            for live in self._live.values()
            if live.workspace.running and project_id in {None, live.workspace.project_id}
        ]

    def add(self, workspace: Workspace) -> Live:
        live = Live(workspace, asyncio.get_running_loop().time())
        self._live[workspace.id] = self._labels[workspace.label] = live
        return live

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        for workspace in await self._database.read(records.live_workspaces):
            live = self.add(workspace)
            if workspace.running:
                self._run(live)
        self._task = asyncio.create_task(self._look(), name="workspaces: upkeep")

    async def close(self) -> None:
        tasks = [self._task, *(live.preparing for live in self._live.values())]
        begun = [task for task in tasks if task is not None]
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)

    # -- wishes --------------------------------------------------------------------------------

    async def begin(self, live: Live, who: Principal) -> None:
        """Have the workspace run, with a credential that has `who`'s role, editor at most. Nothing to do when it is."""
        async with live.lock:
            live.touch()
            if live.workspace.running:
                if live.service is None and live.preparing is None:
                    self._run(live)
                return

            def work(c: Connection) -> Workspace | None:
                now = records.workspace(c, live.workspace.id)
                if now is None:
                    return None
                self._keys.end_workload(c, now.workload)
                key = self._keys.insert_for_workload(c, who, now.project_id, now.workload)
                emit(
                    c,
                    "workspace.started",
                    now.id,
                    actor=who.actor,
                    project_id=now.project_id,
                    name=now.name,
                )
                return records.change(
                    c, now.id, running=1, stopped_why="", starts=now.starts + 1, key_id=key.id
                )

            live.workspace = _there(await self._database.write(work), live)
            live.failure = ""
            self._run(live)

    async def halt(self, live: Live, actor: str, why: str) -> None:
        """Stop it; returns when its processes are gone. Whatever is open in it is saved first."""
        async with live.lock:
            if not live.workspace.running:
                return
            used_at = self._used_at(live)

            def work(c: Connection) -> Workspace | None:
                now = records.workspace(c, live.workspace.id)
                if now is None:
                    return None
                emit(
                    c,
                    "workspace.stopped",
                    now.id,
                    actor=actor,
                    project_id=now.project_id,
                    name=now.name,
                    why=why,
                )
                return records.change(c, now.id, running=0, stopped_why=why, used_at=used_at)

            live.workspace = _there(await self._database.write(work), live)
            await self._end(live)
            # Ended after its processes: what they saved on their way out was still brought here.
            await self._database.write(lambda c: self._keys.end_workload(c, live.workspace.workload))

    async def drop(self, live: Live) -> None:
        """Forget it, whose row says so already. Returns when its processes are gone."""
        async with live.lock:
            self._live.pop(live.workspace.id, None)
            self._labels.pop(live.workspace.label, None)
            await self._end(live)
            await self._services.forget(KIND, live.workspace.id)

    async def _end(self, live: Live) -> None:
        self._visits.end_all(live.workspace.id)
        preparing, live.preparing = live.preparing, None
        if preparing is not None:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
        service, live.service = live.service, None
        if service is not None:
            await self._services.end(service)

    # -- running -------------------------------------------------------------------------------

    def _run(self, live: Live) -> None:
        if live.workspace.environment_id is not None:
            self._keep(live)
        else:
            live.preparing = asyncio.create_task(
                self._prepare(live), name=f"environment of workspace {live.workspace.id}"
            )

    def _keep(self, live: Live) -> None:
        of = live.workspace
        name = ServiceName(KIND, of.id, str(of.starts), of.project_id)
        live.touch()
        live.service = self._services.keep(
            name, self._foundry.blueprint(of), of.wishes.scaling, of.wishes.needs
        )

    async def _prepare(self, live: Live) -> None:
        try:
            wanted = self._foundry.runtimes[live.workspace.program].requirements + live.workspace.requirements
            environment = await self._foundry.environments.for_requirements(wanted)

            def work(c: Connection) -> Workspace | None:
                return records.change(c, live.workspace.id, environment_id=environment.id)

            live.workspace = _there(await self._database.write(work), live)
            self._keep(live)
        except StratalError as error:
            live.failure = str(error)
            log.warning("workspace %s cannot run: %s", live.workspace.id, error)
        except Exception as error:
            live.failure = f"{type(error).__name__}: {error}"
            log.exception("preparing workspace %s failed", live.workspace.id)
        finally:
            live.preparing = None

    async def answering(self, live: Live, seconds: float) -> Notebook:
        """The workspace's server, waited for a while. Raises `Unavailable` when it is not there by then."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    if not live.workspace.running:
                        raise Unavailable(
                            f"Workspace {live.workspace.name!r} is stopped.",
                            hint=f"Start it with: stratal workspace start {live.workspace.name}",
                            reason="workspace_stopped",
                        )
                    service = live.service
                    if service is None:
                        if live.preparing is None:
                            raise Unavailable(live.failure or "It cannot run.", reason="workspace_failed")
                        await asyncio.sleep(0.1)
                        continue
                    async with service.claim() as replica:
                        return replica
        except TimeoutError:
            raise Unavailable(
                f"Workspace {live.workspace.name!r} is starting.",
                hint="Try again in a moment.",
                reason="workspace_starting",
                retry_after_seconds=2,
            ) from None

    # -- idleness ------------------------------------------------------------------------------

    async def _look(self) -> None:
        settled = False
        while True:
            try:
                if not settled:
                    await self._services.settle(KIND)
                    settled = True
                for live in list(self._live.values()):
                    await self._look_at(live)
            except Exception:
                log.exception("looking after workspaces failed")
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look_at(self, live: Live) -> None:
        of, now = live.workspace, asyncio.get_running_loop().time()
        if live.state is not State.RUNNING or live.service is None:
            return
        one = live.service.one
        if one is not None and one.busy:
            live.touch()
        if of.wishes.idle_seconds and now - live.used > of.wishes.idle_seconds:
            await self.halt(live, "system", "Nobody used it for a while.")
        elif live.used > live.noted and now - live.noted > _NOTE_SECONDS:
            live.noted = now
            used_at = self._used_at(live)
            await self._database.write(lambda c: records.change(c, of.id, used_at=used_at))

    def _used_at(self, live: Live) -> int:
        return self._clock() - round(1000 * (asyncio.get_running_loop().time() - live.used))


def _there(workspace: Workspace | None, live: Live) -> Workspace:
    if workspace is None:
        raise NotFound(f"Workspace {live.workspace.name!r} was removed.", reason="no_such_workspace")
    return workspace
