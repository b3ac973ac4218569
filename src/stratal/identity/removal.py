"""Removing a project and everything in it, bytes included, however often that is interrupted.

First the project's row is marked and its keys are revoked, in one transaction: from then on no door
opens it. Then each room removes what it holds, highest room first; each of these steps can be
repeated. Last, keys and the row itself go. A removal that was cut off goes on at the next start.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy import Connection, delete, select, update

from stratal.identity.keys import Keys
from stratal.identity.members import purge_members
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.projects import Projects
from stratal.identity.tables import device_logins, keys, projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict
from stratal.kernel.events import emit

log = logging.getLogger("stratal.identity")

Purge = Callable[[str], Awaitable[None]]
"""Removes everything a room holds of the project with this id; may be called again."""


class Removal:
    """`purges` are the rooms', in the order in which they must run."""

    def __init__(
        self, database: Database, service: Keys, places: Projects, clock: Clock, purges: Sequence[Purge]
    ) -> None:
        self._database = database
        self._keys = service
        self._projects = places
        self._clock = clock
        self._purges = purges

    async def remove(self, who: Principal, name: str) -> None:
        """Remove the project `name`. Returns when its bytes are gone.

        Raises `NotFound`, `Denied` unless the caller is an owner, `Conflict` for ``default``.
        """
        project = await self._projects.get(who, name)
        require(who, "project.remove", project.id)
        if name == "default":
            raise Conflict(
                "The project 'default' cannot be removed.", hint="Remove the whole data directory instead."
            )

        def mark(connection: Connection) -> None:
            connection.execute(
                update(projects).where(projects.c.id == project.id).values(removing_at=self._clock())
            )
            self._keys.revoke_all_of(connection, project.id)
            emit(connection, "project.removed", project.id, actor=who.actor, project_id=project.id, name=name)

        await self._database.write(mark)
        await self._finish(project.id)

    async def resume(self) -> None:
        """Finish removals that were cut off; called at start."""
        query = select(projects.c.id).where(projects.c.removing_at.is_not(None))
        for project_id in await self._database.read(lambda c: list(c.execute(query).scalars())):
            log.info("going on with the removal of project %s", project_id)
            await self._finish(project_id)

    async def _finish(self, project_id: str) -> None:
        for purge in self._purges:
            await purge(project_id)

        def last(connection: Connection) -> None:
            connection.execute(delete(keys).where(keys.c.project_id == project_id))
            connection.execute(delete(device_logins).where(device_logins.c.project_id == project_id))
            purge_members(connection, project_id)
            connection.execute(delete(projects).where(projects.c.id == project_id))

        await self._database.write(last)
