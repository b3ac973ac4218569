"""Repositories with git itself but without a server: what a kill leaves, names, quotas, removal."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratal.app.tables import metadata
from stratal.collab.repositories.model import check_path, check_patterns, check_revision
from stratal.collab.repositories.room import Shelf, furnish_repositories
from stratal.compute.snapshots import Snapshots
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Project, insert_project
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound
from stratal.kernel.events import Event, Events
from stratal.ledger.lineage import Lineage
from stratal.stores.local import LocalBlobs

OWNER = Principal(Kind.PERSON, "usr_1", "ada", "prj_a", "a", Role.OWNER)
EDITOR = Principal(Kind.SERVICE, "ci", "ci", "prj_a", "a", Role.EDITOR)
OTHER = Principal(Kind.PERSON, "usr_2", "bob", "prj_b", "b", Role.OWNER)
ZEROS = "0" * 40


class Room:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        for name in ("a", "b"):
            self.database.write_now(lambda c, n=name: insert_project(c, Project(f"prj_{n}", n, 0), "test"))
        self.blobs = LocalBlobs(home / "blobs")
        lineage = Lineage(self.database, lambda: 1)
        snapshots = Snapshots(self.database, self.blobs, lambda: 1)
        self.root = home / "repositories"
        self.shelf: Shelf = furnish_repositories(
            self.database, snapshots, lineage, lambda: 1, root=self.root, path="/usr/local/bin:/usr/bin:/bin"
        )
        self.runner = asyncio.Runner()
        self.runner.run(self.shelf.traffic.start())

    def commit(self, repository_id: str, branch: str) -> str:
        """An empty commit on a branch, made behind the platform's back."""
        git = [
            "git",
            f"--git-dir={self.root / repository_id}.git",
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@x",
        ]
        tree = subprocess.check_output([*git, "mktree"], stdin=subprocess.DEVNULL, text=True).strip()
        made = subprocess.check_output([*git, "commit-tree", "-m", "x", tree], text=True).strip()
        subprocess.run([*git, "update-ref", f"refs/heads/{branch}", made], check=True)
        return made

    def events(self, kind: str) -> list[Event]:
        found = self.runner.run(Events(self.database).after(0))
        return [event for event in found if event.kind == kind]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.runner.run(made.shelf.traffic.close())
    made.runner.run(made.blobs.close())
    made.runner.close()
    made.database.close()


def test_a_start_records_the_pushes_that_a_kill_cut_off_and_removes_what_no_row_knows(room: Room) -> None:
    run, repositories = room.runner.run, room.shelf.repositories
    made = run(repositories.create(EDITOR, "prj_a", "study"))
    commit = room.commit(made.id, "topic")
    note = room.root / "pushes" / "push_1"
    note.write_text(
        f'{{"repository": "{made.id}", "actor": "service:ci", "workload": null}}\n'
        f"{ZEROS} {commit} refs/heads/topic\n"
    )
    nothing = room.root / "pushes" / "push_2"
    nothing.write_text(f'{{"repository": "{made.id}", "actor": "service:ci", "workload": null}}\n')
    (room.root / "repo_lost.git" / "objects").mkdir(parents=True)
    run(room.shelf.traffic.start())
    assert not list((room.root / "pushes").iterdir())
    assert [path.name for path in room.root.glob("*.git")] == [f"{made.id}.git"]
    (event,) = room.events("repository.pushed")
    assert (event.actor, event.data["ref"], event.data["new"]) == ("service:ci", "refs/heads/topic", commit)
    found = run(repositories.get(EDITOR, "prj_a", "study"))
    assert (found.protected, found.pushed_by) == (("topic",), "service:ci")
    assert found.bytes > 0
    assert run(repositories.weighed()) == {"prj_a": found.bytes}
    refs = run(repositories.refs(found))
    assert (refs.head, refs.branches) == ("topic", {"topic": commit})


def test_names_roles_and_other_projects(room: Room) -> None:
    run, repositories = room.runner.run, room.shelf.repositories
    made = run(repositories.create(EDITOR, "prj_a", "study", description="For all"))
    with pytest.raises(Conflict):
        run(repositories.create(EDITOR, "prj_a", "study"))
    assert run(repositories.create(OTHER, "prj_b", "study")).id != made.id
    for name in ("../x", "a/b", "x.git", "", ".", "-x"):
        with pytest.raises(Invalid):
            run(repositories.create(EDITOR, "prj_a", name))
    with pytest.raises(NotFound):
        run(repositories.get(OTHER, "prj_a", "study"))
    with pytest.raises(Denied):
        run(repositories.remove(EDITOR, "prj_a", "study"))
    with pytest.raises(Denied):
        run(repositories.change(EDITOR, "prj_a", "study", protected=[]))
    with pytest.raises(Denied):
        run(repositories.set_quota(OWNER, "prj_a", 5))
    run(repositories.remove(OWNER, "prj_a", "study"))
    assert not (room.root / f"{made.id}.git").exists()
    run(repositories.purge("prj_b"))
    assert list(room.root.glob("*.git")) == []


@pytest.mark.parametrize(
    "text", ["", "-x", "--all", "a..b", "a:b", "HEAD@{1}", "a b", "a//b", "a\nb", "ä", "x" * 251, ":/fix"]
)
def test_what_is_no_revision(text: str) -> None:
    with pytest.raises(Invalid):
        check_revision(text)


@pytest.mark.parametrize("text", ["main", "v1.2", "3f2a91c", "feature/x", "HEAD~2", "main^", "a-b_c+d"])
def test_what_is_a_revision(text: str) -> None:
    assert check_revision(text) == text


@pytest.mark.parametrize("text", ["/", "/a", "a/", "..", "a/../b", "./a", "a//b", "a\0b", "a\nb"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(Invalid):
        check_path(text)


def test_what_can_be_protected() -> None:
    assert check_patterns(["main", "main", "release/*"]) == ["main", "release/*"]
    for pattern in ("a b", "$(x)", "", "-x", "a;b", "a\nb"):
        with pytest.raises(Invalid):
            check_patterns([pattern])
