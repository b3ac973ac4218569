"""Repositories with git itself but without a server: what a kill leaves, names, quotas, removal."""

import asyncio
import gc
import hashlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy import insert, update

from stratal.app.tables import metadata
from stratal.collab.repositories import git
from stratal.collab.repositories.checks import FILE, parse
from stratal.collab.repositories.lfs import check_pointer
from stratal.collab.repositories.model import check_path, check_patterns, check_revision
from stratal.collab.repositories.room import Shelf, furnish_repositories
from stratal.compute.model import Job, JobSpec
from stratal.compute.snapshots import Snapshots
from stratal.compute.tables import jobs
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Project, insert_project
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound, OverBudget, TooLarge
from stratal.kernel.events import Event, Events, emit
from stratal.kernel.names import check_name
from stratal.ledger.lineage import Lineage
from stratal.stores.local import LocalBlobs

OWNER = Principal(Kind.PERSON, "usr_1", "ada", "prj_a", "a", Role.OWNER)
EDITOR = Principal(Kind.SERVICE, "ci", "ci", "prj_a", "a", Role.EDITOR)
VIEWER = Principal(Kind.PERSON, "usr_3", "cleo", "prj_a", "a", Role.VIEWER)
OTHER = Principal(Kind.PERSON, "usr_2", "bob", "prj_b", "b", Role.OWNER)
ZEROS = "0" * 40
JOB = {
    "state": "queued", "argv": "[]", "env": "{}", "cpus": 1, "memory_bytes": 1, "network": "platform",
    "requirements": "", "upgrade_environment": 0, "cwd": "", "source": "{}", "created_by": "x", "creator_id": "x",
    "creator_name": "x", "creator_role": "editor", "queued_at": 1, "attempt": 0, "fence": 0, "reason": "", "usage": "{}",
}  # fmt: skip


class Room:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = Database(home / "room.db")
        self.database.write_now(metadata.create_all)
        for name in ("a", "b"):
            self.database.write_now(lambda c, n=name: insert_project(c, Project(f"prj_{n}", n, 0), "test"))
        self.blobs = LocalBlobs(home / "blobs")
        self.large = LocalBlobs(home / "large")
        lineage = Lineage(self.database, lambda: 1)
        snapshots = Snapshots(self.database, self.blobs, lambda: 1)
        self.root = home / "repositories"
        self.shelf: Shelf = furnish_repositories(
            self.database,
            snapshots,
            lineage,
            Events(self.database),
            self.submit,
            self.large,
            lambda: 1,
            root=self.root,
            path="/usr/local/bin:/usr/bin:/bin",
        )
        self.submitted: list[tuple[Principal, JobSpec]] = []
        self.runner = asyncio.Runner()
        self.runner.run(self.shelf.traffic.start())

    async def submit(self, who: Principal, project_id: str, spec: JobSpec) -> Job:
        """Takes the checks' jobs; that they run is the business of a journey."""
        self.submitted.append((who, spec))
        values = {**JOB, "name": spec.name, "project_id": project_id}
        number = self.database.write_now(
            lambda c: c.execute(insert(jobs).values(values).returning(jobs.c.id)).scalar_one()
        )
        return cast("Job", SimpleNamespace(id=number))

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

    def write(self, repository_id: str, branch: str, files: dict[str, str], *parents: str) -> str:
        """A commit of these files on a branch, and the push told."""
        where = self.root / f"{repository_id}.git"
        text = [f"commit refs/heads/{branch}", "committer A <a@x> 1 +0000", "data 1", "x"]
        text += [f"{'merge' if n else 'from'} {one}" for n, one in enumerate(parents)] + ["deleteall"]
        for path, body in files.items():
            text += [f"M 100644 inline {path}", f"data {len(body)}", body]
        git = ["git", f"--git-dir={where}"]
        subprocess.run(
            [*git, "fast-import", "--quiet", "--force"], input="\n".join(text) + "\n", text=True, check=True
        )
        return subprocess.check_output([*git, "rev-parse", f"refs/heads/{branch}"], text=True).strip()

    def push(self, repository_id: str, actor: str, branch: str, new: str) -> None:
        """Say that somebody pushed, as a push's end does."""
        told = {"name": "study", "ref": f"refs/heads/{branch}", "old": ZEROS, "new": new}
        self.database.write_now(
            lambda c: emit(c, "repository.pushed", repository_id, actor=actor, project_id="prj_a", **told)
        )

    def until(self, done: Callable[[], bool]) -> None:
        """Let pushes be checked until something is so."""

        async def run() -> None:
            await self.shelf.checks.start()
            async with asyncio.timeout(60):
                while not done():
                    await asyncio.sleep(0.002)
            await self.shelf.checks.close()

        self.runner.run(run())

    def events(self, kind: str) -> list[Event]:
        found = self.runner.run(Events(self.database).after(0))
        return [event for event in found if event.kind == kind]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path)
    yield made
    made.runner.run(made.shelf.traffic.close())
    made.runner.run(made.blobs.close())
    made.runner.run(made.large.close())
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
    incoming = room.root / f"{made.id}.git" / "objects" / "tmp_objdir-incoming-x"
    (incoming / "pack").mkdir(parents=True)
    (incoming / "pack" / "tmp_pack_y").write_bytes(bytes(1 << 20))
    lock = room.root / f"{made.id}.git" / "refs" / "heads" / "topic.lock"
    lock.touch()
    for left in (incoming, lock):
        os.utime(left, (1, 1))
    run(room.shelf.traffic.start())
    assert not list((room.root / "pushes").iterdir())
    assert not incoming.exists()
    assert not lock.exists()
    assert [path.name for path in room.root.glob("*.git")] == [f"{made.id}.git"]
    (event,) = room.events("repository.pushed")
    assert (event.actor, event.data["ref"], event.data["new"]) == ("service:ci", "refs/heads/topic", commit)
    found = run(repositories.get(EDITOR, "prj_a", "study"))
    assert (found.protected, found.pushed_by) == (("topic",), "service:ci")
    assert 0 < found.bytes < 1 << 20
    assert run(repositories.weighed()) == {"prj_a": found.bytes}
    refs = run(repositories.refs(found))
    assert (refs.head, refs.branches) == ("topic", {"topic": commit})


def test_a_start_waits_for_git_that_outlived_a_kill(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be about to move a ref, with what lies in the folder of what comes in."""
    monkeypatch.setattr("stratal.collab.repositories.traffic._OUTLIVED_SECONDS", 0.01)
    run = room.runner.run
    made = run(room.shelf.repositories.create(EDITOR, "prj_a", "study"))
    place = room.root / f"{made.id}.git"
    note, incoming = room.root / "pushes" / "push_1", place / "objects" / "tmp_objdir-incoming-x"
    note.write_text(f'{{"repository": "{made.id}", "actor": "service:ci", "workload": null}}\n')
    incoming.mkdir()
    os.utime(incoming, (1, 1))
    git = ["git", "cat-file", "--batch"]
    with subprocess.Popen(git, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as outlives:
        run(room.shelf.traffic.start())
        assert incoming.exists()
        commit = room.commit(made.id, "topic")
        with note.open("a") as told:
            told.write(f"{ZEROS} {commit} refs/heads/topic\n")
        assert outlives.stdin is not None
        outlives.stdin.close()
    run(asyncio.wait_for(asyncio.gather(*room.shelf.traffic._tasks), 60))
    assert not incoming.exists()
    (event,) = room.events("repository.pushed")
    assert event.data["new"] == commit


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
    "text",
    [
        "",
        "-x",
        "--all",
        "a..b",
        "a:b",
        "HEAD@{1}",
        "a b",
        "a//b",
        "a\nb",
        "\ud800",
        "x" * 251,
        ":/fix",
        "^a",
        "a^{/x}",
    ],
)
def test_what_is_no_revision(text: str) -> None:
    with pytest.raises(Invalid):
        check_revision(text)


@pytest.mark.parametrize(
    "text",
    ["main", "v1.2", "3f2a91c", "feature/x", "HEAD~2", "main^", "a-b_c+d", "größe", "fix/#7", 'say"(it)"'],
)
def test_what_is_a_revision(text: str) -> None:
    assert check_revision(text) == text


@pytest.mark.parametrize("text", ["/", "/a", "a/", "..", "a/../b", "./a", "a//b", "a\0b", "a\nb"])
def test_what_is_no_path(text: str) -> None:
    with pytest.raises(Invalid):
        check_path(text)


def test_what_can_be_protected() -> None:
    assert check_patterns(["main", "main", "release/*", "größe/#*"]) == ["main", "release/*", "größe/#*"]
    for pattern in ("a b", "$(x)", "", "-x", "a;b", "a\nb"):
        with pytest.raises(Invalid):
            check_patterns([pattern])


def test_branches_are_merged_by_moving_on_or_by_a_commit_and_conflicts_are_named(room: Room) -> None:
    run, merges = room.runner.run, room.shelf.merges
    made = run(room.shelf.repositories.create(EDITOR, "prj_a", "study"))
    base = room.write(made.id, "main", {"a": "1\n", "b": "1\n"})
    ahead = room.write(made.id, "ahead", {"a": "2\n", "b": "1\n"}, base)

    def ask(source: str, target: str = "main") -> int:
        return run(
            merges.create(EDITOR, "prj_a", "study", source=source, target=target, title="T", text="")
        ).number

    assert ask("ahead") == 1
    with pytest.raises(Conflict, match="1 asks the same"):
        ask("ahead")
    with pytest.raises(NotFound):
        ask("none")
    with pytest.raises(Conflict, match="everything"):
        ask("main", "ahead")
    with pytest.raises(Denied):
        run(merges.create(VIEWER, "prj_a", "study", source="ahead", target="", title="T", text=""))
    with pytest.raises(NotFound):
        run(merges.get(OTHER, "prj_a", "study", 1))
    commits, changes, diff, cut = run(merges.changes(VIEWER, "prj_a", "study", 1))
    assert ([one.id for one in commits], [one.path for one in changes], cut) == ([ahead], ["a"], False)
    assert "+2" in diff
    with pytest.raises(Denied):
        run(merges.merge(VIEWER, "prj_a", "study", 1))
    done = run(merges.merge(EDITOR, "prj_a", "study", 1))
    assert (done.state, done.merge_commit, done.ended_by) == ("merged", ahead, "service:ci")
    with pytest.raises(Conflict, match="merged already"):
        run(merges.merge(EDITOR, "prj_a", "study", 1))

    side = room.write(made.id, "side", {"a": "1\n", "b": "2\n"}, base)
    assert ask("side") == 2
    with pytest.raises(Conflict, match="lacks"):
        run(merges.merge(EDITOR, "prj_a", "study", 2, method="fast_forward"))
    joined = run(merges.merge(OWNER, "prj_a", "study", 2)).merge_commit
    assert joined is not None
    (told,) = run(
        room.shelf.reading.log(run(room.shelf.repositories.get(EDITOR, "prj_a", "study")), joined, limit=1)
    )
    assert (told.parents, told.author) == ([ahead, side], "ada")
    assert [e.data["new"] for e in room.events("repository.pushed")] == [ahead, joined]

    room.write(made.id, "clash", {"a": "3\n", "b": "1\n"}, base)
    assert ask("clash") == 3
    assert run(merges.get(VIEWER, "prj_a", "study", 3))[1].joined.conflicts == ["a"]  # type: ignore[union-attr]
    with pytest.raises(Conflict, match="conflict in a") as refused:
        run(merges.merge(EDITOR, "prj_a", "study", 3))
    assert refused.value.details["conflicts"] == ["a"]
    assert run(merges.close(EDITOR, "prj_a", "study", 3)).state == "closed"
    room.write(made.id, "alone", {"z": "1\n"})
    assert ask("alone") == 4
    with pytest.raises(Conflict, match="in common"):
        run(merges.merge(EDITOR, "prj_a", "study", 4))
    assert [one.number for one in run(merges.list(VIEWER, "prj_a", "study"))] == [4, 3, 2, 1]
    assert run(merges.named(VIEWER, "prj_a", "study!2")).number == 2
    for wrong in ("study!9", "study!x", "study", "none!1"):
        with pytest.raises(NotFound):
            run(merges.named(VIEWER, "prj_a", wrong))
    run(room.shelf.repositories.remove(OWNER, "prj_a", "study"))
    assert room.database.read_now(lambda c: c.exec_driver_sql("select * from merge_requests").all()) == []


def test_a_push_is_checked_once_as_its_pusher_and_a_merge_waits_for_that(room: Room) -> None:
    run, made = room.runner.run, room.runner.run(room.shelf.repositories.create(EDITOR, "prj_a", "study"))
    base = room.write(made.id, "main", {"a": "1\n"})
    room.until(
        lambda: bool(room.database.read_now(lambda c: c.exec_driver_sql("select 1 from check_cursors").all()))
    )
    asked = '[[check]]\nname = "tests"\ncommand = ["sh", "run.sh"]\nmemory_mib = 64\n'
    asked += '[[check]]\nname = "main only"\ncommand = ["true"]\nbranches = ["main"]\n'
    topic = room.write(made.id, "topic", {"a": "1\n", FILE: asked, "run.sh": "true\n"}, base)
    room.push(made.id, "job:7", "topic", topic)  # a workload's: not checked
    room.push(made.id, "person:nobody", "main", topic)
    room.push(made.id, "service:ci", "topic", topic)
    room.push(made.id, "service:ci", "other", topic)  # the same commit again
    checks = lambda: {one.name: one for one in run(room.shelf.checks.of_commit(made.id, topic))}  # noqa: E731
    count = "select count(*) from commit_checks where job_id is not null or error <> ''"
    room.until(lambda: room.database.read_now(lambda c: c.exec_driver_sql(count).scalar()) == 2)
    assert {name: one.state for name, one in checks().items()} == {"tests": "failed", "main only": "failed"}
    assert "no editor" in checks()["tests"].words  # the first push of the commit was nobody's
    good = room.write(made.id, "good", {"a": "2\n", FILE: asked, "run.sh": "true\n"}, base)
    room.push(made.id, "service:ci", "good", good)
    room.until(lambda: len(room.submitted) == 1)
    who, spec = room.submitted[0]
    assert (who.actor, who.role, who.project) == ("service:ci", Role.EDITOR, "a")
    assert check_name("job", str(spec.name)).startswith("tests-chk_")
    assert (spec.argv, spec.memory_bytes, spec.source.commit) == (["sh", "run.sh"], 64 << 20, good)
    assert (spec.env["STRATAL_CI_BRANCH"], spec.snapshot_id is not None) == ("good", True)

    merges = room.shelf.merges
    number = run(
        merges.create(EDITOR, "prj_a", "study", source="good", target="main", title="T", text="")
    ).number
    room.until(lambda: len(queued_checks(room)) == 1)
    with pytest.raises(Conflict, match=r"tests \(queued\)"):
        run(merges.merge(EDITOR, "prj_a", "study", number))
    room.database.write_now(lambda c: c.execute(update(jobs).values(state="failed")))
    with pytest.raises(Conflict, match=r"tests \(failed\)"):
        run(merges.merge(EDITOR, "prj_a", "study", number))
    room.database.write_now(lambda c: c.execute(update(jobs).values(state="succeeded")))
    assert run(merges.merge(EDITOR, "prj_a", "study", number)).merge_commit == good


def test_a_commit_that_cannot_be_checked_keeps_no_other_from_being_checked(room: Room) -> None:
    """Ten trees of ten can hold more files than there is memory for: told so, and the next push is checked."""
    run, made = room.runner.run, room.runner.run(room.shelf.repositories.create(EDITOR, "prj_a", "study"))
    room.until(
        lambda: bool(room.database.read_now(lambda c: c.exec_driver_sql("select 1 from check_cursors").all()))
    )
    asked = '[[check]]\nname = "tests"\ncommand = ["true"]\n'
    plain = room.write(made.id, "plain", {FILE: asked, "a": "x"})
    bomb = _bomb(room, made.id, plain, 4)
    room.push(made.id, "service:ci", "bomb", bomb)
    room.push(made.id, "service:ci", "plain", plain)
    room.until(lambda: len(queued_checks(room)) == 1)
    (told,) = run(room.shelf.checks.of_commit(made.id, bomb))
    assert (told.state, "20000 files" in told.words) == ("failed", True), told
    assert room.submitted[0][1].source.commit == plain


def _bomb(room: Room, repository_id: str, of: str, levels: int) -> str:
    """A commit with the folder of another very many times below its own."""
    git = ["git", f"--git-dir={room.root / repository_id}.git", "-c", "user.name=A", "-c", "user.email=a@x"]
    ask = lambda *more, text="": subprocess.check_output([*git, *more], input=text, text=True).strip()  # noqa: E731
    checks, tree = ask("rev-parse", f"{of}:.stratal"), ask("rev-parse", f"{of}^{{tree}}")
    for _ in range(levels):
        tree = ask("mktree", text="".join(f"040000 tree {tree}\td{n}\n" for n in range(10)))
    tree = ask(
        "mktree", text=f"040000 tree {checks}\t.stratal\n040000 tree {tree}\td\n040000 tree {tree}\te\n"
    )
    return ask("commit-tree", "-m", "x", tree)


def test_what_git_needs_too_much_memory_for_is_refused(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    run, made = room.runner.run, room.runner.run(room.shelf.repositories.create(EDITOR, "prj_a", "study"))
    bomb = _bomb(room, made.id, room.write(made.id, "plain", {FILE: "", "a": "x"}), 4)
    monkeypatch.setattr(git, "_BOUNDED", 'ulimit -d 8192; exec "$0" "$@"')
    with pytest.raises(TooLarge, match="memory"):
        run(room.shelf.reading.commit(made, bomb))


def test_nothing_is_merged_before_it_is_known_what_checks_it(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, made = room.runner.run, room.runner.run(room.shelf.repositories.create(EDITOR, "prj_a", "study"))
    base = room.write(made.id, "main", {"a": "1\n"})
    room.until(
        lambda: bool(room.database.read_now(lambda c: c.exec_driver_sql("select 1 from check_cursors").all()))
    )
    asked = '[[check]]\nname = "tests"\ncommand = ["false"]\n'
    new = room.write(made.id, "topic", {"a": "1\n", FILE: asked}, base)
    merges = room.shelf.merges
    with pytest.raises(Invalid, match="NUL"):
        run(merges.create(EDITOR, "prj_a", "study", source="topic", target="main", title="T\0", text=""))
    asked_for = run(
        merges.create(EDITOR, "prj_a", "study", source="topic", target="main", title="T", text="")
    )
    monkeypatch.setattr("stratal.collab.repositories.merges._LOOKS", 1)
    note = room.root / "pushes" / "push_1"  # git has moved the branch, and nothing is recorded yet
    note.write_text(
        f'{{"repository":"{made.id}","actor":"service:ci","workload":null}}\n{base} {new} refs/heads/topic\n'
    )
    with pytest.raises(Conflict, match="looked at"):
        run(merges.merge(EDITOR, "prj_a", "study", asked_for.number))
    note.unlink()
    room.push(made.id, "service:ci", "topic", new)
    with pytest.raises(Conflict, match="looked at"):
        run(merges.merge(EDITOR, "prj_a", "study", asked_for.number))
    room.until(lambda: len(room.submitted) == 1)
    with pytest.raises(Conflict, match=r"tests \(queued\)"):
        run(merges.merge(EDITOR, "prj_a", "study", asked_for.number))


def test_whoever_is_let_go_while_git_is_asked_leaves_no_process(room: Room) -> None:
    """At whatever step: pipes that nobody closed would be told, too."""
    env, started = git.environment("/usr/local/bin:/usr/bin:/bin", room.home), []
    spawned = git.Process.__init__

    def noted(self: git.Process, process: "subprocess.Popen[bytes]") -> None:
        spawned(self, process)
        started.append(process)

    async def leave(steps: int) -> None:
        asked = asyncio.create_task(git.run(["cat-file", "--batch"], env, cwd=room.root, most=9))
        for _ in range(steps):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(git.Process, "__init__", noted)
        for steps in range(14):
            room.runner.run(leave(steps))
    with pytest.raises(NotFound, match="removed"):
        room.runner.run(git.start(["--version"], env, cwd=room.root / "gone"))
    assert len(started) > 10
    assert all(one.returncode is not None for one in started)
    gc.collect()


def test_whatever_a_commit_says_of_itself_can_be_looked_at(room: Room) -> None:
    """Its time and its names are its author's to write; git's own checks let these pass."""
    run, made = room.runner.run, room.runner.run(room.shelf.repositories.create(EDITOR, "prj_a", "study"))
    reading, where = room.shelf.reading, room.root / f"{made.id}.git"
    git = ["git", f"--git-dir={where}"]
    base = room.write(made.id, "main", {"a": "1\n"})
    tree = subprocess.check_output([*git, "rev-parse", f"{base}^{{tree}}"], text=True).strip()
    for at in (99_999_999_999_999, 253_402_300_800, 2**63 - 1):
        who = f"A\x1eB <a@x> {at} +0000"
        text = f"tree {tree}\nparent {base}\nauthor {who}\ncommitter {who}\n\nx\x1e{base}\n\x1ey\n"
        new = subprocess.check_output(
            [*git, "hash-object", "-t", "commit", "-w", "--stdin"], input=text, text=True
        ).strip()
        found, changes, _, _ = run(reading.commit(made, new))
        assert (found.id, found.author, found.message.count("\x1e"), changes) == (new, "A\x1eB", 2, [])
        assert found.authored_at == found.committed_at == 253_402_300_799_000
        assert [one.id for one in run(reading.log(made, new))] == [new, base]
        assert run(reading.blame(made, new, "a"))[0].at == 1000
    long = room.write(made.id, "long", {"a": "\n" * 20_001})
    with pytest.raises(Invalid, match="too long"):
        run(reading.blame(made, long, "a"))


def queued_checks(room: Room) -> list[str]:
    query = "select id from commit_checks where job_id is not null"
    return [row[0] for row in room.database.read_now(lambda c: c.exec_driver_sql(query).all())]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("check = 1", "tables"),
        ("[[check]]\nname = 'a'", "command"),
        ("[[check]]\ncommand = ['a']", "name"),
        ("[[check]]\nname = 'a'\ncommand = 'rm'", "command"),
        ("[[check]]\nname = 'a'\ncommand = ['a']\ncpus = -1", "cpus"),
        ("[[check]]\nname = 'a'\ncommand = ['a']\nrequirements = 'x'", "requirements"),
        ("[[check]]\nname = 'a'\ncommand = ['a']\nsecret = 'x'", "nothing else"),
        ("[[check]]\nname = 'a'\ncommand = ['a']\n" * 2, "alike"),
        ("[[check]]\nname = 'a'\ncommand = ['a']\nmemory_mib = inf", "memory_mib"),
        ("[[check]]\nname = 'a'\ncommand = ['a']\nmemory_mib = 1e30", "memory_mib"),
        ("[[check]]\nname = 'a'\ncommand = ['a']\ncpus = nan", "cpus"),
        ("[[check]]\nname = 'a'\ncommand = ['a']\ntimeout_seconds = 99999999999999999999", "timeout_seconds"),
        ("x = " + "[" * 20_000, "too deep|no TOML"),
        ("x = [", "no TOML"),
        ("[other]", "nothing but"),
    ],
)
def test_a_file_of_checks_that_is_wrong_is_told_what_is(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        parse(text.encode())


def test_a_large_file_is_what_its_name_says_counts_and_goes_with_its_repository(room: Room) -> None:
    run, lfs, repositories = room.runner.run, room.shelf.lfs, room.shelf.repositories
    made = run(repositories.create(EDITOR, "prj_a", "study"))
    data = b"large" * 1000
    oid = hashlib.sha256(data).hexdigest()

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 999):
            yield data[start : start + 999]

    async def read(who: Principal) -> bytes:
        size, chunks = await lfs.read(who, "prj_a", "study", oid)
        found = b"".join([chunk async for chunk in chunks])
        assert len(found) == size
        return found

    def files() -> int:
        return sum(path.is_file() for path in (room.home / "large").rglob("*"))

    asked = [check_pointer(oid, len(data))]
    assert run(lfs.there(VIEWER, "prj_a", "study", asked)) == set()
    with pytest.raises(Denied):
        run(lfs.write(VIEWER, "prj_a", "study", oid, body()))
    with pytest.raises(NotFound):
        run(lfs.there(OTHER, "prj_a", "study", asked))
    with pytest.raises(Invalid, match="not the file"):
        run(lfs.write(EDITOR, "prj_a", "study", "0" * 64, body()))
    run(lfs.write(EDITOR, "prj_a", "study", oid, body()))
    run(lfs.write(EDITOR, "prj_a", "study", oid, body()))  # twice: one of them goes again
    assert files() == 1
    assert run(lfs.there(VIEWER, "prj_a", "study", asked)) == {oid}
    assert run(read(VIEWER)) == data
    with pytest.raises(NotFound):
        run(read(OTHER))
    assert run(repositories.quota(VIEWER, "prj_a"))[1] == len(data)
    assert run(repositories.weighed())["prj_a"] == len(data)
    admin = replace(OWNER, role=Role.ADMIN)
    run(repositories.set_quota(admin, "prj_a", len(data) + 10))
    with pytest.raises(OverBudget):
        run(lfs.write(EDITOR, "prj_a", "study", hashlib.sha256(data[1:]).hexdigest(), body()))

    async def at_once() -> list[BaseException | None]:
        """Two files of which the quota holds either: at most one of them comes in."""

        async def halves(half: bytes) -> AsyncIterator[bytes]:
            for _ in range(2):
                yield half
                await asyncio.sleep(0)

        both = [bytes([n]) * 2000 for n in range(2)]
        named = [(hashlib.sha256(half * 2).hexdigest(), halves(half)) for half in both]
        writes = [lfs.write(EDITOR, "prj_a", "study", name, parts) for name, parts in named]
        return await asyncio.gather(*writes, return_exceptions=True)

    run(repositories.set_quota(admin, "prj_a", len(data) + 4000))
    outcome = run(at_once())
    assert OverBudget in [type(one) for one in outcome]
    kept = 1 + outcome.count(None)
    assert (files(), run(repositories.quota(VIEWER, "prj_a"))[1]) == (kept, len(data) + 4000 * (kept - 1))
    run(room.large.put(b"left by a kill"))
    time.sleep(
        0.002
    )  # keys of one millisecond are in no order, and what is younger than the start is left alone
    assert files() == kept + 1
    run(lfs.start())
    assert files() == kept
    run(repositories.remove(OWNER, "prj_a", "study"))
    run(lfs.collect())
    assert files() == 0
    assert made.name == "study"


@pytest.mark.parametrize(
    ("oid", "size"), [("x", 1), ("0" * 64, -1), ("0" * 64, "1"), (None, 1), ("A" * 64, 1), ("0" * 64, True)]
)
def test_what_names_no_large_file_is_refused(oid: object, size: object) -> None:
    with pytest.raises(Invalid):
        check_pointer(oid, size)
