"""Artifacts: whole or absent, in their place only, and gone from the disk when nobody names them."""

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rooms.tracking.room import Room, chunks
from stratal.collab.artifacts import check_path
from stratal.kernel.errors import Denied, Invalid, NotFound
from stratal.kernel.ids import new_id

pytestmark = pytest.mark.fast


@pytest.fixture
def place(room: Room) -> str:
    """Where a run's artifacts lie."""
    return f"0/{room.run().id}/artifacts"


def test_a_file_comes_back_as_it_was_sent(room: Room, place: str) -> None:
    data = bytes(range(256)) * 11
    room.put(f"{place}/deep/er/a b+ü%20.bin", data)
    assert room.get(f"{place}/deep/er/a b+ü%20.bin") == data


def test_an_empty_file_is_a_file(room: Room, place: str) -> None:
    room.put(f"{place}/empty", b"")
    assert room.get(f"{place}/empty") == b""
    _, entries = room.do(room.artifacts.entries(room.ann, "prj_a", place))
    assert [(entry.path, entry.size) for entry in entries] == [("empty", 0)]


def test_a_directory_lists_what_lies_directly_in_it(room: Room, place: str) -> None:
    for path in ("a.txt", "d/b.txt", "d/e/c.txt", "dd/x", "D/y"):
        room.put(f"{place}/{path}", b"1")

    def listed(directory: str = "") -> list[tuple[str, bool]]:
        location = f"{place}/{directory}" if directory else place
        _, entries = room.do(room.artifacts.entries(room.ann, "prj_a", location))
        return [(entry.path, entry.is_directory) for entry in entries]

    assert listed() == [("D", True), ("a.txt", False), ("d", True), ("dd", True)]
    assert listed("d") == [("d/b.txt", False), ("d/e", True)]
    assert listed("a.txt") == []
    assert listed("nothing") == []


def test_replacing_a_file_frees_the_old_bytes(room: Room, place: str) -> None:
    room.put(f"{place}/a", b"old")
    room.put(f"{place}/a", b"new")
    assert room.get(f"{place}/a") == b"new"
    assert room.files() == 1


def test_an_upload_that_breaks_off_leaves_what_was(room: Room, place: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 100
        raise ConnectionError

    room.put(f"{place}/a", b"old")
    with pytest.raises(ConnectionError):
        room.do(room.artifacts.put(room.ann, "prj_a", f"{place}/a", broken()))
    assert room.get(f"{place}/a") == b"old"
    assert room.files() == 1
    assert list((room.root / "scratch").iterdir()) == []


def test_a_file_is_no_directory_and_the_other_way_round(room: Room, place: str) -> None:
    room.put(f"{place}/a", b"1")
    room.put(f"{place}/d/x", b"1")
    for path in ("a/b", "a/b/c", "d"):
        with pytest.raises(Invalid):
            room.put(f"{place}/{path}", b"2")
    assert room.files() == 2


def test_removing_a_directory_removes_what_is_in_it_and_nothing_beside_it(room: Room, place: str) -> None:
    for path in ("d/a", "d/e/b", "dd", "c"):
        room.put(f"{place}/{path}", path.encode())
    room.do(room.artifacts.delete(room.ann, "prj_a", f"{place}/d"))
    assert (room.get(f"{place}/dd"), room.get(f"{place}/c"), room.files()) == (b"dd", b"c", 2)
    with pytest.raises(NotFound):
        room.do(room.artifacts.delete(room.ann, "prj_a", f"{place}/d"))


def test_nobody_reaches_another_projects_files(room: Room, place: str) -> None:
    room.put(f"{place}/secret", b"1")
    with pytest.raises(NotFound):
        room.get(f"{place}/secret", who=room.bob)
    for call in (
        room.artifacts.put(room.bob, "prj_b", f"{place}/secret", chunks(b"2")),
        room.artifacts.delete(room.bob, "prj_b", f"{place}/secret"),
        room.artifacts.entries(room.bob, "prj_b", place),
    ):
        with pytest.raises(NotFound):
            room.do(call)
    with pytest.raises(Denied):
        room.do(room.artifacts.put(room.viewer, "prj_a", f"{place}/secret", chunks(b"2")))
    assert room.get(f"{place}/secret", who=room.viewer) == b"1"


def test_only_what_a_workload_really_read_is_recorded(room: Room, place: str) -> None:
    with pytest.raises(NotFound):
        room.get(f"{place}/a", who=room.job)
    assert room.do(room.lineage.of_workload("job:12")) == []
    room.put(f"{place}/a", b"1")
    room.get(f"{place}/a", who=room.job)
    (edge,) = room.do(room.lineage.of_workload("job:12", "read"))
    assert (edge.kind, edge.version) == ("run", place.split("/")[1])


def test_a_run_has_one_place(room: Room) -> None:
    run = room.run()
    room.put(f"0/{run.id}/artifacts/a", b"1")
    for place in (f"1/{run.id}/artifacts", f"0/models/{run.id}/artifacts", f"0/{run.id}", "0", "x/y/z"):
        with pytest.raises(NotFound):
            room.get(f"{place}/a")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "..",
        "a/../b",
        "../../etc/passwd",
        "/etc/passwd",
        "a//b",
        "./a",
        "a/.",
        "a\\..\\b",
        "a\x00b",
        "a\nb",
        "%2e%2e/a",
        "%252e%252e/a",
        "a%2f..%2fb",
        "a%00b",
        "a%5cb",
        "x" * 1001,
        "\ud800",
    ],
)
def test_a_path_that_could_mean_another_place_is_refused(shared: Room, path: str) -> None:
    with pytest.raises(Invalid) as refused:
        check_path(path)
    assert refused.value.reason == "bad_path"
    location = f"0/{shared.run().id}/artifacts/{path}"
    with pytest.raises(Invalid):
        shared.do(shared.artifacts.put(shared.ann, "prj_a", location, chunks(b"1")))
    assert shared.files() == 0


NAME = st.text(st.characters(exclude_characters="/\\%\x7f", exclude_categories=["Cs", "Cc"]), min_size=1)


@given(st.lists(NAME.filter(lambda part: part not in {".", ".."}), min_size=1, max_size=5))
def test_ordinary_names_are_paths_also_when_quoted(parts: list[str]) -> None:
    path = "/".join(parts)
    if len(path) <= 1000:
        assert check_path(path) == path
    if len(quote(path)) <= 1000:
        assert check_path(quote(path)) == quote(path)


@given(st.text(max_size=60))
def test_an_accepted_path_stays_inside(path: str) -> None:
    try:
        kept = check_path(path)
    except Invalid:
        return
    assert ".." not in kept.split("/")
    assert not kept.startswith("/")


def test_bytes_that_a_killed_server_left_are_swept_at_the_next_start(room: Room, place: str) -> None:
    room.do(room.collector.sweep(new_id("blob")))  # the first start has nothing to be left over from
    room.put(f"{place}/a", b"1")

    async def killed() -> None:  # bytes whose row never committed
        await room.blobs.put(b"orphan")

    room.do(killed())
    assert room.files() == 2
    room.do(room.collector.sweep("blob_" + "z" * 26))
    assert room.files() == 1
    assert room.get(f"{place}/a") == b"1"


def test_removing_a_project_removes_its_bytes_and_rows(room: Room, place: str) -> None:
    other = room.do(room.experiments.get(room.bob, "prj_b", "0"))
    room.put(f"{place}/a", b"1")
    run = room.run("logged")
    room.log(run, loss=1.0)
    for _ in range(2):
        room.do(room.collector.purge("prj_a"))
    assert room.files() == 0
    with pytest.raises(NotFound):
        room.do(room.runs.get(room.ann, "prj_a", run.id))
    assert room.do(room.experiments.get(room.bob, "prj_b", "0")).name == other.name
