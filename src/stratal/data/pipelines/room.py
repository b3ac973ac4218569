"""The room's services, made together from what they stand on: the wiring calls `furnish` once."""

from dataclasses import dataclass

from stratal.compute.jobs import Jobs
from stratal.compute.snapshots import Snapshots
from stratal.data.lake.lake import Lake
from stratal.data.pipelines.deployed import Deployments
from stratal.data.pipelines.journal import Journal
from stratal.data.pipelines.service import Pipelines
from stratal.data.pipelines.staging import Stage
from stratal.data.pipelines.upkeep import Upkeep
from stratal.data.queries.service import Warehouse
from stratal.identity.keys import Keys
from stratal.identity.master import MasterKey
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.events import Events
from stratal.ledger.past import Pasts


@dataclass(frozen=True, slots=True)
class Room:
    runs: Pipelines
    deployed: Deployments

    async def start(self) -> None:
        await self.runs.start()
        await self.deployed.start()

    async def close(self) -> None:
        """Let go; what runs goes on running."""
        await self.deployed.close()
        await self.runs.close()

    async def purge(self, project_id: str) -> None:
        """Forget a project's pipelines and their runs. May be repeated."""
        await self.deployed.purge(project_id)
        await self.runs.purge(project_id)


def furnish(
    database: Database,
    keys: Keys,
    jobs: Jobs,
    snapshots: Snapshots,
    lake: Lake,
    warehouse: Warehouse,
    clock: Clock,
    pasts: Pasts,
    master: MasterKey,
) -> Room:
    """Pipelines over the jobs that run them and the tables that they write."""
    journal = Journal(keys, clock, pasts)
    stage = Stage(database, lake, warehouse, journal)
    upkeep = Upkeep(database, jobs, journal, stage)
    runs = Pipelines(database, jobs, snapshots, journal, stage, upkeep, clock)
    return Room(
        runs,
        Deployments(database, Events(database), snapshots, clock, upkeep.kick, master, runs.end),
    )
