"""The repositories' services, made together: the wiring calls `furnish_repositories` once."""

from dataclasses import dataclass
from pathlib import Path

from stratal.collab.collector import SweptBlobs
from stratal.collab.repositories.checkout import Checkout
from stratal.collab.repositories.checks import Checks, Submit
from stratal.collab.repositories.lfs import Lfs
from stratal.collab.repositories.merges import Merges
from stratal.collab.repositories.merging import Merging
from stratal.collab.repositories.reading import Reading
from stratal.collab.repositories.service import Repositories, Store
from stratal.collab.repositories.traffic import Traffic
from stratal.compute.snapshots import Snapshots
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.events import Events
from stratal.ledger.lineage import Lineage


@dataclass(frozen=True, slots=True)
class Shelf:
    """Everything about repositories. `start` before use: pushes that were cut off are recorded, then pushes checked."""

    repositories: Repositories
    reading: Reading
    checkout: Checkout
    traffic: Traffic
    checks: Checks
    merges: Merges
    lfs: Lfs

    async def start(self) -> None:
        await self.traffic.start()
        await self.lfs.start()
        await self.checks.start()

    async def close(self) -> None:
        await self.checks.close()
        await self.traffic.close()

    async def purge(self, project_id: str) -> None:
        """Remove a project's repositories with everything in them. May be repeated."""
        await self.repositories.purge(project_id)
        await self.lfs.collect()


def furnish_repositories(
    database: Database,
    snapshots: Snapshots,
    lineage: Lineage,
    events: Events,
    submit: Submit,
    large: SweptBlobs,
    clock: Clock,
    *,
    root: Path,
    path: str,
) -> Shelf:
    """`large` keeps large files, `root` is the folder that repositories lie in, `path` where git is looked for."""
    store = Store(root, path)
    repositories = Repositories(database, store, clock)
    reading = Reading(store)
    checkout = Checkout(store, repositories, reading, snapshots, lineage)
    checks = Checks(database, events, repositories, reading, checkout, submit, clock)
    return Shelf(
        repositories,
        reading,
        checkout,
        Traffic(database, store, repositories, lineage, clock),
        checks,
        Merges(database, repositories, reading, Merging(store, reading), checks, clock),
        Lfs(database, repositories, large, lineage, clock),
    )
