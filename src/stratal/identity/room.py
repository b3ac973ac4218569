"""Services about people, made together: the wiring calls `furnish_people` once."""

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field

from stratal.identity.devices import Devices
from stratal.identity.keys import Keys
from stratal.identity.master import MasterKey
from stratal.identity.members import Members
from stratal.identity.passwords import Passwords
from stratal.identity.people import People
from stratal.identity.sessions import Sessions
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database

log = logging.getLogger("stratal.identity")
_USES_SECONDS = 30.0


@dataclass(slots=True)
class Folk:
    """Everything about people. Between `start` and `close` it writes down when keys were used."""

    people: People
    members: Members
    devices: Devices
    sessions: Sessions
    keys: Keys
    _task: "asyncio.Task[None] | None" = field(default=None)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._note_uses(), name="identity: uses of keys")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self.keys.write_uses()

    async def _note_uses(self) -> None:
        while True:
            await asyncio.sleep(_USES_SECONDS)
            try:
                await self.keys.write_uses()
            except Exception:
                log.exception("when keys were used could not be written down")


def furnish_people(
    database: Database, keys: Keys, master: MasterKey, sessions: Sessions, clock: Clock
) -> Folk:
    passwords = Passwords()
    return Folk(
        People(database, master, sessions, clock, passwords),
        Members(database, keys, sessions, clock, passwords),
        Devices(database, keys, clock),
        sessions,
        keys,
    )
