"""Code snapshots: sent once, laid out as they were, proven byte for byte."""

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from stratal.compute.manifest import FILE, LINK, PROGRAM, CodeFile
from stratal.kernel.errors import Denied, Invalid, NotFound

from .room import Room

pytestmark = pytest.mark.fast
InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


def entry(path: str, data: bytes, mode: str = FILE) -> CodeFile:
    return CodeFile(path, mode, hashlib.sha256(data).hexdigest(), len(data))


def packed(*contents: bytes) -> bytes:
    return b"".join(hashlib.sha256(d).digest() + len(d).to_bytes(8, "big") + d for d in contents)


async def in_pieces(data: bytes, size: int = 997) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def stored(room: Room, files: Sequence[tuple[str, bytes, str]]) -> str:
    await room.snapshots.receive(room.ann, "prj_a", in_pieces(packed(*(data for _, data, _ in files))))
    listed = [entry(path, data, mode) for path, data, mode in files]
    offer = await room.snapshots.offer(room.ann, "prj_a", listed)
    assert not offer.missing
    return offer.id


FILES = [
    ("train.py", b"print('hi')\n", FILE),
    ("bin/go", b"#!/bin/sh\n", PROGRAM),
    ("empty", b"", FILE),
    ("pkg/\u00fc b.py", b"x" * 100_000, FILE),
    ("pkg/link", b"../train.py", LINK),
]


def test_only_what_is_missing_is_sent_and_all_is_laid_out(in_room: InRoom, tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        listed = [entry(path, data, mode) for path, data, mode in FILES]
        first = await room.snapshots.offer(room.ann, "prj_a", listed)
        assert set(first.missing) == {file.sha256 for file in listed}
        id_ = await stored(room, FILES)
        assert id_ == first.id
        changed = [*listed[1:], entry("train.py", b"new")]
        assert (await room.snapshots.offer(room.ann, "prj_a", changed)).missing == [entry("", b"new").sha256]
        folder = tmp_path / "out"
        folder.mkdir()
        await room.snapshots.lay_out("prj_a", id_, folder)
        for path, data, mode in FILES:
            if mode == LINK:
                assert (folder / path).readlink() == Path(data.decode())
            else:
                assert (folder / path).read_bytes() == data
                assert os.access(folder / path, os.X_OK) is (mode == PROGRAM)
        proof = await room.snapshots.prove("prj_a", id_)
        assert (proof.ok, proof.files) == (True, 5)

    in_room(story)


def test_one_flipped_byte_is_found_and_never_run(in_room: InRoom, tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        id_ = await stored(room, FILES)
        for blob in (room.home / "blobs").glob("*/blob_*"):
            data = bytearray(blob.read_bytes())
            where = data.find(b"print('hi')")
            if where >= 0:
                data[where] ^= 1
                blob.chmod(0o600)
                blob.write_bytes(data)
        proof = await room.snapshots.prove("prj_a", id_)
        assert (proof.ok, proof.broken) == (False, ["train.py"])
        (tmp_path / "out").mkdir()
        with pytest.raises(Invalid, match=r"train\.py") as caught:
            await room.snapshots.lay_out("prj_a", id_, tmp_path / "out")
        assert caught.value.reason == "code_damaged"
        job = await room.submit(snapshot_id=id_)
        assert (await room.until(job, "failed")).exit_code is None
        assert room.engine.starts == []

    in_room(story)


@pytest.mark.parametrize(
    "pack",
    [
        packed(b"abc")[:-1],
        packed(b"abc")[:20],
        hashlib.sha256(b"abc").digest() + (3).to_bytes(8, "big") + b"abd",
    ],
)
def test_wrong_and_broken_packs_leave_nothing(in_room: InRoom, pack: bytes) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(Invalid):
            await room.snapshots.receive(room.ann, "prj_a", in_pieces(pack))
        offer = await room.snapshots.offer(room.ann, "prj_a", [entry("a", b"abc")])
        assert offer.missing
        assert not list((room.home / "blobs").glob("*/*"))

    in_room(story)


def test_contents_and_snapshots_are_a_projects_own(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        id_ = await stored(room, FILES)
        theirs = await room.snapshots.offer(room.bob, "prj_b", [entry("a", FILES[0][1])])
        assert theirs.missing, "that another project has these bytes must not show"
        with pytest.raises(NotFound):
            await room.snapshots.get("prj_b", id_)
        with pytest.raises(NotFound):
            await room.snapshots.offer(room.bob, "prj_a", [])
        with pytest.raises(Denied):
            await room.snapshots.receive(room.viewer, "prj_a", in_pieces(packed(b"x")))

    in_room(story)


def test_links_are_checked_by_where_they_lead(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        for target in (b"/etc/passwd", b"../x", b"a/../../x", b""):
            await room.snapshots.receive(room.ann, "prj_a", in_pieces(packed(target)))
            with pytest.raises(Invalid):
                await room.snapshots.offer(room.ann, "prj_a", [entry("link", target, LINK)])

    in_room(story)


def test_a_wrong_size_is_refused(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        await stored(room, FILES)
        wrong = CodeFile("a", FILE, hashlib.sha256(FILES[0][1]).hexdigest(), 3)
        with pytest.raises(Invalid):
            await room.snapshots.offer(room.ann, "prj_a", [wrong])

    in_room(story)


def test_the_working_folder_must_be_one(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        id_ = await stored(room, FILES)
        inside = await room.submit(snapshot_id=id_, cwd="pkg/")
        await room.until(inside, "running")
        assert room.engine.specs["job-1-1"].cwd.name == "pkg"
        wrong = await room.submit(snapshot_id=id_, cwd="train.py")
        assert "no folder" in (await room.until(wrong, "failed")).reason

    in_room(story)


def test_purge_removes_the_bytes(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        await stored(room, FILES)
        await room.snapshots.purge("prj_a")
        assert not list((room.home / "blobs").glob("*/blob_*"))
        assert (await room.snapshots.offer(room.ann, "prj_a", [entry("a", FILES[0][1])])).missing

    in_room(story)
