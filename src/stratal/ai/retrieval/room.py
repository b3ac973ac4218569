"""The room's services, made together from what they stand on: the wiring calls `furnish` once."""

from dataclasses import dataclass

from stratal.ai.endpoints.serving import Serving
from stratal.ai.retrieval.searching import Layouts, Search
from stratal.ai.retrieval.service import Indexes
from stratal.compute.jobs import Jobs
from stratal.data.lake.lake import Lake
from stratal.data.objects.service import Objects
from stratal.data.queries.service import Warehouse
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database


@dataclass(frozen=True, slots=True)
class Room:
    indexes: Indexes
    search: Search


def furnish(
    database: Database,
    jobs: Jobs,
    objects: Objects,
    lake: Lake,
    warehouse: Warehouse,
    layouts: Layouts,
    serving: Serving,
    clock: Clock,
    *,
    program: str,
    requirements: str,
) -> Room:
    search = Search(warehouse, layouts, serving)
    indexes = Indexes(database, jobs, objects, lake, serving, search, layouts, program, requirements, clock)
    return Room(indexes, search)
