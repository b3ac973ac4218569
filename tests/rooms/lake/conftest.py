"""A lake on a real database and a real disk, with pyiceberg writing straight into its objects."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest

from databases import copy_database
from stratal.app.tables import metadata
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place, TableName
from stratal.data.objects.service import Objects
from stratal.data.queries.engine import Limits
from stratal.data.queries.service import Ask, Warehouse
from stratal.engines.duckdb.engine import DuckDBEngine
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Project, insert_project
from stratal.kernel.database import Database
from stratal.ledger.lineage import Lineage
from stratal.stores.local import LocalBlobs

T = TypeVar("T")
LIMITS = Limits(memory_bytes=512 * 1024**2, spill_bytes=1024**3, seconds=60, threads=2)
SCHEMA = {
    "type": "struct",
    "schema-id": 0,
    "fields": [{"id": 1, "name": "x", "type": "long", "required": False}],
}


class Room:
    """The lake, two projects, and who acts in them."""

    def __init__(self, home: Path, template: Path) -> None:
        copy_database(template, home / "room.db")
        self.home = home
        self.now = 1_800_000_000_000
        self.database = Database(home / "room.db")
        self.blobs = LocalBlobs(home / "blobs")
        self.lineage = Lineage(self.database, self.clock)
        self.objects = Objects(self.database, self.blobs, self.lineage, self.clock)
        self.lake = Lake(self.database, self.objects, self.lineage, self.clock)
        self.here = Place("prj_a", "a")
        self.there = Place("prj_b", "b")
        self.ann = Principal(Kind.SERVICE, "ann", "ann", "prj_a", "a", Role.EDITOR)
        self.bob = Principal(Kind.SERVICE, "bob", "bob", "prj_b", "b", Role.EDITOR)
        self.viewer = Principal(Kind.SERVICE, "vic", "vic", "prj_a", "a", Role.VIEWER)
        self.job = Principal(Kind.WORKLOAD, "ann", "ann", "prj_a", "a", Role.EDITOR, workload="job:7")

    def clock(self) -> int:
        self.now += 1
        return self.now

    def warehouse(self) -> Warehouse:
        """Made inside the running loop, since the engine belongs to one."""
        return Warehouse(
            self.database,
            self.objects,
            self.lake,
            DuckDBEngine(self.home / "queries"),
            self.lineage,
            self.clock,
            spool=self.home / "spool",
            limits=LIMITS,
        )

    async def ask(self, warehouse: Warehouse, who: Principal, sql: str) -> bytes:
        async with warehouse.query(who, self.here, Ask(sql)) as answer:
            return b"".join([chunk async for chunk in answer.chunks()])

    async def table(self, name: str = "ns.t", rows: pa.Table | None = None) -> TableName:
        """A table in namespace ``ns``, empty or imported from rows."""
        found = TableName(tuple(name.split(".")[:-1]), name.split(".")[-1])
        if not await self.lake.namespaces.exists(self.ann, self.here, found.namespace):
            await self.lake.namespaces.create(self.ann, self.here, found.namespace, {})
        from stratal.data.lake.catalog import Definition

        await self.lake.catalog.create(self.ann, self.here, found, Definition(SCHEMA))
        return found


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
def run() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a coroutine to its end."""
    return asyncio.run
