from collections.abc import Iterator
from pathlib import Path

import pytest

from rooms.tracking.room import Room
from stratal.app.tables import metadata
from stratal.identity.projects import Project, insert_project
from stratal.kernel.database import Database


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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Room]:
    """One room for the cases of many: each makes what it needs and counts only that."""
    made = Room(tmp_path_factory.mktemp("shared"), template)
    yield made
    made.do(made.blobs.close())
    made.database.close()


@pytest.fixture
def room(tmp_path: Path, template: Path) -> Iterator[Room]:
    made = Room(tmp_path, template)
    yield made
    made.do(made.blobs.close())
    made.database.close()
