"""An objects room on a real database and a real disk, with a clock that tests move."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from databases import copy_database
from stratal.app.tables import metadata
from stratal.data.objects.collector import Collector
from stratal.data.objects.multipart import Uploads
from stratal.data.objects.service import Objects
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Project, insert_project
from stratal.kernel.database import Database
from stratal.ledger.lineage import Lineage
from stratal.stores.local import LocalBlobs

T = TypeVar("T")


class Room:
    """The services, two projects' principals, and a clock (`now`, in ms)."""

    def __init__(self, home: Path, template: Path) -> None:
        self.now = 1_800_000_000_000
        self.root = home / "blobs"
        copy_database(template, home / "room.db")
        self.database = Database(home / "room.db")
        self.blobs = LocalBlobs(self.root)
        self.lineage = Lineage(self.database, lambda: self.now)
        self.objects = Objects(self.database, self.blobs, self.lineage, lambda: self.now)
        self.uploads = Uploads(self.database, self.blobs, self.objects, lambda: self.now)
        self.collector = Collector(self.database, self.blobs, lambda: self.now)
        self.ann = Principal(Kind.SERVICE, "ann", "ann", "prj_a", "a", Role.EDITOR)
        self.bob = Principal(Kind.SERVICE, "bob", "bob", "prj_b", "b", Role.EDITOR)
        self.viewer = Principal(Kind.SERVICE, "vic", "vic", "prj_a", "a", Role.VIEWER)
        self.job = Principal(Kind.WORKLOAD, "ann", "ann", "prj_a", "a", Role.EDITOR, workload="job:1")

    def files(self) -> int:
        """How many blobs lie on the disk."""
        return sum(1 for path in self.root.glob("*/blob_*") if path.is_file())

    def scratch(self) -> int:
        return len(list((self.root / "scratch").iterdir()))

    def later(self, ms: int = 3_600_000) -> None:
        self.now += ms


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with every table and two projects, made once."""
    path = tmp_path_factory.mktemp("template") / "room.db"
    database = Database(path)
    database.write_now(metadata.create_all)
    for name in ("a", "b"):
        project = Project(f"prj_{name}", name, 0)
        database.write_now(lambda c, p=project: insert_project(c, p, "test"))
    database.close()
    return path


@pytest.fixture
def room(tmp_path: Path, template: Path) -> Iterator[Room]:
    made = Room(tmp_path, template)
    yield made
    asyncio.run(made.blobs.close())
    made.database.close()


@pytest.fixture
def run() -> Callable[[Awaitable[T]], T]:
    """Run a coroutine to its end."""

    def runner(work: Awaitable[T]) -> T:
        async def main() -> T:
            return await work

        return asyncio.run(main())

    return runner
