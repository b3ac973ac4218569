"""The room's services, made together: the wiring calls `furnish_workspaces` once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from stratal.collab.workspaces import records
from stratal.collab.workspaces.blueprint import Foundry
from stratal.collab.workspaces.departures import Departures
from stratal.collab.workspaces.files import Folders
from stratal.collab.workspaces.model import KIND, Program
from stratal.collab.workspaces.runtime import Runtime
from stratal.collab.workspaces.saves import Saves, SweptBlobs
from stratal.collab.workspaces.service import Workspaces
from stratal.collab.workspaces.upkeep import Upkeep
from stratal.compute.environments import Environments
from stratal.compute.launching import ClientEnv
from stratal.compute.services.model import ServiceName
from stratal.compute.services.services import Services
from stratal.identity.keys import Keys
from stratal.identity.visits import Visits
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.events import Events


@dataclass(frozen=True, slots=True)
class Studio:
    """Everything about workspaces."""

    workspaces: Workspaces
    upkeep: Upkeep
    visits: Visits
    saves: Saves
    departures: Departures
    fronts: Mapping[Program, str]
    """The path that people begin at."""

    async def start(self) -> None:
        await self.saves.start()
        await self.upkeep.start()
        await self.departures.start()

    async def close(self) -> None:
        """Let go; workspaces run on and are found again."""
        await self.departures.close()
        await self.upkeep.close()
        await self.saves.close()


def furnish_workspaces(
    database: Database,
    blobs: SweptBlobs,
    environments: Environments,
    services: Services,
    keys: Keys,
    visits: Visits,
    events: Events,
    runtimes: Mapping[Program, Runtime],
    client_env: ClientEnv,
    clock: Clock,
    *,
    root: Path,
) -> Studio:
    """`root` is a folder of this machine for workspaces' files; `client_env` points their clients at us."""
    folders = Folders(root)
    saves = Saves(database, blobs, folders, clock)
    foundry = Foundry(environments, folders, keys, runtimes, client_env)
    upkeep = Upkeep(database, services, foundry, keys, visits, clock)
    workspaces = Workspaces(database, services, keys, upkeep, visits, saves, folders, clock)
    services.paid_by(KIND, _payer)
    return Studio(
        workspaces,
        upkeep,
        visits,
        saves,
        Departures(database, events, upkeep),
        {name: runtime.front for name, runtime in runtimes.items()},
    )


def _payer(c: Connection, name: ServiceName) -> tuple[str, str]:
    return records.payer_of(c, name.owner) or ("", name.owner)
