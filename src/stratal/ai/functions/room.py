"""The room's services, made together from what they stand on: the wiring calls `furnish` once."""

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from stratal.ai.functions import records
from stratal.ai.functions.blueprint import Foundry
from stratal.ai.functions.calling import Calling
from stratal.ai.functions.departures import Departures
from stratal.ai.functions.invocations import Invocations
from stratal.ai.functions.journal import Journal
from stratal.ai.functions.later import Later
from stratal.ai.functions.layout import Layouts
from stratal.ai.functions.live import Registry
from stratal.ai.functions.model import APP, KIND
from stratal.ai.functions.rollout import Rollouts
from stratal.ai.functions.runtime import AppReplica, FunctionReplica, Program
from stratal.ai.functions.service import Functions
from stratal.ai.functions.sources import Sources
from stratal.ai.functions.visiting import Visiting
from stratal.compute.environments import Environments
from stratal.compute.launching import ClientEnv
from stratal.compute.services.model import ServiceName
from stratal.compute.services.services import Services
from stratal.compute.snapshots import Snapshots
from stratal.identity.keys import Keys
from stratal.identity.visits import Visits
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.events import Events


@dataclass(frozen=True, slots=True)
class Room:
    functions: Functions
    calling: Calling
    invocations: Invocations
    registry: Registry
    rollouts: Rollouts
    later: Later
    journal: Journal
    sources: Sources
    departures: Departures

    async def start(self) -> None:
        await self.rollouts.start()
        await self.departures.start()
        await self.later.start()
        await self.sources.start()

    async def close(self) -> None:
        """Let go; replicas go on and are found again."""
        await self.sources.close()
        await self.departures.close()
        await self.later.close()
        await self.rollouts.close()
        await self.journal.flush()


def furnish(
    database: Database,
    keys: Keys,
    environments: Environments,
    snapshots: Snapshots,
    services: Services,
    program: Program[FunctionReplica],
    events: Events,
    client_env: ClientEnv,
    clock: Clock,
    *,
    layouts: Path,
) -> Room:
    """`layouts` is a folder of this machine for functions' code; `client_env` points a function's clients at us."""
    registry = Registry()
    laid_out = Layouts(layouts, snapshots)
    foundry = Foundry(environments, laid_out, keys, program, client_env)
    rollouts = Rollouts(KIND, database, services, foundry, registry, clock)
    journal = Journal(database)
    calling = Calling(journal, clock)
    later = Later(database, registry, clock)
    invocations = Invocations(database, registry, journal, later, clock)
    functions = Functions(KIND, database, keys, snapshots, services, registry, rollouts, journal, clock)
    sources = Sources(database, events, registry, later, clock)
    rollouts.switched = sources.kick
    services.paid_by(KIND, _payer)
    departures = Departures(database, events, registry)
    return Room(functions, calling, invocations, registry, rollouts, later, journal, sources, departures)


@dataclass(frozen=True, slots=True)
class Apps:
    """Everything about apps."""

    apps: Functions
    registry: Registry
    visiting: Visiting
    rollouts: Rollouts
    journal: Journal
    departures: Departures

    async def start(self) -> None:
        await self.rollouts.start()
        await self.departures.start()

    async def close(self) -> None:
        """Let go; replicas go on and are found again."""
        await self.departures.close()
        await self.rollouts.close()
        await self.journal.flush()


def furnish_apps(
    database: Database,
    keys: Keys,
    environments: Environments,
    snapshots: Snapshots,
    services: Services,
    visits: Visits,
    program: Program[AppReplica],
    events: Events,
    client_env: ClientEnv,
    clock: Clock,
    *,
    layouts: Path,
) -> Apps:
    """As `furnish`, for apps: the same rows, revisions and rollouts, with another program in the replicas."""
    registry = Registry(APP)
    foundry = Foundry(environments, Layouts(layouts, snapshots), keys, program, client_env)
    rollouts = Rollouts(APP, database, services, foundry, registry, clock)
    journal = Journal(database)
    apps = Functions(APP, database, keys, snapshots, services, registry, rollouts, journal, clock)
    services.paid_by(APP, _payer)
    visiting = Visiting(database, registry, visits, journal, clock)
    return Apps(apps, registry, visiting, rollouts, journal, Departures(database, events, registry))


def _payer(c: Connection, name: ServiceName) -> tuple[str, str]:
    return records.payer_of(c, name.owner) or ("", name.owner)
