"""The room's services, made together from what they stand on: the wiring calls `furnish` once."""

from dataclasses import dataclass

from stratal.ai.replays.comparing import Comparing
from stratal.ai.replays.conductor import Conductor
from stratal.ai.replays.inputs import Inputs
from stratal.ai.replays.service import Replays
from stratal.collab.runs import Runs
from stratal.compute.environments import Environments
from stratal.compute.jobs import Jobs
from stratal.compute.snapshots import Snapshots
from stratal.data.lake.lake import Lake
from stratal.data.objects.service import Objects
from stratal.data.pipelines.service import Pipelines
from stratal.data.queries.service import Warehouse
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.ledger.past import Pasts


@dataclass(frozen=True, slots=True)
class Room:
    replays: Replays
    conductor: Conductor


def furnish(
    database: Database,
    jobs: Jobs,
    snapshots: Snapshots,
    environments: Environments,
    objects: Objects,
    lake: Lake,
    warehouse: Warehouse,
    pipelines: Pipelines,
    runs: Runs,
    blobs: BlobStore,
    pasts: Pasts,
    clock: Clock,
) -> Room:
    inputs = Inputs(database, objects, lake, snapshots, environments)
    comparing = Comparing(database, runs, blobs, lake, warehouse)
    conductor = Conductor(database, jobs, pipelines, runs, lake, inputs, comparing, pasts, clock)
    return Room(Replays(database, jobs, pipelines, runs, conductor, clock), conductor)
