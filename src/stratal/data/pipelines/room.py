"""The room's services, made together from what they stand on: the wiring calls `furnish` once."""

from stratal.compute.jobs import Jobs
from stratal.compute.snapshots import Snapshots
from stratal.data.lake.lake import Lake
from stratal.data.pipelines.journal import Journal
from stratal.data.pipelines.service import Pipelines
from stratal.data.pipelines.staging import Stage
from stratal.data.pipelines.upkeep import Upkeep
from stratal.data.queries.service import Warehouse
from stratal.identity.keys import Keys
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database


def furnish(
    database: Database,
    keys: Keys,
    jobs: Jobs,
    snapshots: Snapshots,
    lake: Lake,
    warehouse: Warehouse,
    clock: Clock,
) -> Pipelines:
    """Pipelines over the jobs that run them and the tables that they write."""
    journal = Journal(keys, clock)
    stage = Stage(database, lake, warehouse, journal)
    upkeep = Upkeep(database, jobs, journal, stage)
    return Pipelines(database, jobs, snapshots, journal, stage, upkeep, clock)
