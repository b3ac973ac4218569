"""Tracking and the registry on a real database and a real disk, with a clock that tests move."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

from databases import copy_database
from stratal.ai.models.logged import LoggedModels, NewLoggedModel
from stratal.ai.models.model import ModelVersion
from stratal.ai.models.pinning import NewVersion
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.collab.artifacts import Artifacts
from stratal.collab.collector import Collector
from stratal.collab.experiments import Experiments
from stratal.collab.model import Metric, Run
from stratal.collab.run_search import Query, RunSearch
from stratal.collab.runs import Batch, NewRun, Runs
from stratal.identity.model import Kind, Principal, Role
from stratal.kernel.database import Database
from stratal.ledger.lineage import Lineage
from stratal.stores.local import LocalBlobs

T = TypeVar("T")

MLMODEL = b"""
flavors:
  python_function:
    loader_module: mlflow.sklearn
    python_version: 3.11.9
  sklearn:
    serialization_format: skops
    pickled_model: model.skops
signature:
  inputs: '[{"type": "double", "name": "x", "required": true}]'
  outputs: '[{"type": "long", "required": true}]'
"""


class Room:
    """The services of one instance with the projects ``prj_a`` and ``prj_b``."""

    def __init__(self, home: Path, template: Path) -> None:
        self.now = 1_800_000_000_000
        self.root = home / "blobs"
        self.held: set[str] = set()
        copy_database(template, home / "room.db")
        self.database = Database(home / "room.db")
        self.blobs = LocalBlobs(self.root)
        self.lineage = Lineage(self.database, self.clock)
        self.experiments = Experiments(self.database, self.clock)
        self.runs = Runs(self.database, self.experiments, self.lineage, self.clock)
        self.search = RunSearch(self.database, self.experiments)
        self.artifacts = Artifacts(self.database, self.blobs, self.lineage, self.clock)
        self.models = Models(
            self.database, self.artifacts, self.lineage, self.clock, is_held=lambda _, id: id in self.held
        )
        self.names = RegisteredModels(self.database, self.models, self.clock)
        self.logged = LoggedModels(self.database, self.experiments, self.clock)
        self.collector = Collector(self.database, self.blobs)
        self.ann = Principal(Kind.SERVICE, "ann", "ann", "prj_a", "a", Role.EDITOR)
        self.bob = Principal(Kind.SERVICE, "bob", "bob", "prj_b", "b", Role.EDITOR)
        self.viewer = Principal(Kind.SERVICE, "vic", "vic", "prj_a", "a", Role.VIEWER)
        self.job = Principal(Kind.WORKLOAD, "ann", "ann", "prj_a", "a", Role.EDITOR, workload="job:12")

    def clock(self) -> int:
        self.now += 1
        return self.now

    def do(self, work: Awaitable[T]) -> T:
        """Run a coroutine to its end."""

        async def main() -> T:
            return await work

        return asyncio.run(main())

    def files(self) -> int:
        """How many blobs lie on the disk."""
        return sum(1 for path in self.root.glob("*/blob_*") if path.is_file())

    # -- shorthands, as `ann` of project a --------------------------------------------------------

    def run(self, name: str = "", who: Principal | None = None, **tags: str) -> Run:
        return self.do(self.runs.create(who or self.ann, "prj_a", "0", NewRun(name, tags=tags)))

    def log(self, run: Run, **metrics: float) -> None:
        batch = Batch([Metric(key, value, self.clock(), 0) for key, value in metrics.items()])
        self.do(self.runs.log(self.ann, "prj_a", run.id, batch))

    def found(self, text: str = "", *order: str, **more: object) -> list[str]:
        """The names of the runs that a search finds, in its order."""
        page = self.do(
            self.search.search(self.ann, "prj_a", Query(["0"], text, order_by=order, **more))  # type: ignore[arg-type]
        )
        return [run.name for run in page.items]

    def put(self, location: str, data: bytes, who: Principal | None = None) -> None:
        self.do(self.artifacts.put(who or self.ann, "prj_a", location, chunks(data)))

    def get(self, location: str, who: Principal | None = None) -> bytes:
        who = who or self.ann

        async def main() -> bytes:
            found = await self.artifacts.get(who, who.project_id, location)
            return b"".join([chunk async for chunk in found.body])

        return self.do(main())

    def model(self, run: Run, who: Principal | None = None, weights: bytes = b"weights") -> str:
        """Log a model into `run`; returns its ``m-…``."""
        who = who or self.ann
        made = self.do(self.logged.create(who, "prj_a", "0", NewLoggedModel("model", source_run_id=run.id)))
        for path, data in (
            ("MLmodel", MLMODEL),
            ("model.skops", weights),
            ("requirements.txt", b"scikit-learn==1.9.1\n"),
        ):
            self.put(f"{made.location}/{path}", data, who)
        return made.id

    def register(self, name: str, source: str, who: Principal | None = None) -> ModelVersion:
        return self.do(self.models.create(who or self.ann, "prj_a", name, NewVersion(source)))


async def chunks(data: bytes, size: int = 7) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
