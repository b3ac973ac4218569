"""The repositories' services, made together: the wiring calls `furnish_repositories` once."""

from dataclasses import dataclass
from pathlib import Path

from stratal.collab.repositories.checkout import Checkout
from stratal.collab.repositories.reading import Reading
from stratal.collab.repositories.service import Repositories, Store
from stratal.collab.repositories.traffic import Traffic
from stratal.compute.snapshots import Snapshots
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.ledger.lineage import Lineage


@dataclass(frozen=True, slots=True)
class Shelf:
    """Everything about repositories. `start` and `close` are the traffic's."""

    repositories: Repositories
    reading: Reading
    checkout: Checkout
    traffic: Traffic


def furnish_repositories(
    database: Database, snapshots: Snapshots, lineage: Lineage, clock: Clock, *, root: Path, path: str
) -> Shelf:
    """`root` is the folder that repositories lie in, `path` where git is looked for."""
    store = Store(root, path)
    repositories = Repositories(database, store, clock)
    reading = Reading(store)
    return Shelf(
        repositories,
        reading,
        Checkout(store, repositories, reading, snapshots, lineage),
        Traffic(database, store, repositories, lineage, clock),
    )
