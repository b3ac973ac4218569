"""Commits: all or nothing, in whatever order they come, and never in doubt."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from rooms.lake.conftest import SCHEMA, Room
from stratal.data.lake import rows
from stratal.data.lake.catalog import Definition
from stratal.data.lake.model import Change, TableName
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound, StratalError, Unavailable

pytestmark = pytest.mark.fast
Run = Callable[[Any], Any]


def props(**updates: str) -> dict[str, Any]:
    return {"action": "set-properties", "updates": updates}


def column(name: str, schema_id: int, field_id: int) -> list[dict[str, Any]]:
    fields = [*SCHEMA["fields"], {"id": field_id, "name": name, "type": "string", "required": False}]
    schema = {"type": "struct", "schema-id": schema_id, "fields": fields}
    return [
        {"action": "add-schema", "schema": schema, "last-column-id": field_id},
        {"action": "set-current-schema", "schema-id": -1},
    ]


async def stored(room: Room, suffix: str = ".metadata.json") -> list[str]:
    bucket = await room.lake.files.bucket(room.here)
    assert bucket is not None
    return [o.key for o in (await room.objects.list(room.ann, bucket)).objects if o.key.endswith(suffix)]


def test_commits_at_once_all_happen(room: Room, run: Run) -> None:
    """Changes that do not exclude one another: each is applied to what the others made."""

    async def story() -> None:
        name = await room.table()
        await asyncio.gather(
            *(
                room.lake.catalog.commit(room.ann, room.here, [Change(name, [], [props(**{f"k{n}": "v"})])])
                for n in range(8)
            )
        )
        loaded = await room.lake.catalog.load(room.ann, room.here, name)
        assert all(f'"k{n}":"v"'.encode() in loaded.metadata for n in range(8))
        assert loaded.info.version == 8
        assert len(await stored(room)) == 9  # what lost a race left nothing behind

    run(story())


def test_commits_that_exclude_one_another(room: Room, run: Run) -> None:
    async def story() -> None:
        name = await room.table()
        needs = [{"type": "assert-current-schema-id", "current-schema-id": 0}]
        done = await asyncio.gather(
            *(
                room.lake.catalog.commit(room.ann, room.here, [Change(name, needs, column(f"c{n}", 1, 2))])
                for n in range(4)
            ),
            return_exceptions=True,
        )
        lost = [one for one in done if isinstance(one, Conflict)]
        assert len(lost) == 3
        assert {error.reason for error in lost} == {"commit_failed"}
        info = await room.lake.catalog.find(room.ann, room.here, name)
        assert len(info.fields) == 2

    run(story())


def test_several_tables_or_none(room: Room, run: Run) -> None:
    async def story() -> None:
        one, two = await room.table("ns.one"), await room.table("ns.two")
        wrong = [{"type": "assert-current-schema-id", "current-schema-id": 5}]
        with pytest.raises(Conflict):
            await room.lake.catalog.commit(
                room.ann, room.here, [Change(one, [], [props(a="b")]), Change(two, wrong, [props(a="b")])]
            )
        for name in (one, two):
            assert (await room.lake.catalog.find(room.ann, room.here, name)).version == 0
        assert len(await stored(room)) == 2
        await room.lake.catalog.commit(
            room.ann, room.here, [Change(one, [], [props(a="b")]), Change(two, [], [props(a="b")])]
        )
        for name in (one, two):
            assert (await room.lake.catalog.find(room.ann, room.here, name)).version == 1

    run(story())


def test_a_commit_that_could_not_be_written_did_not_happen(
    room: Room, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        name = await room.table()

        def broken(connection: Connection, *_: object) -> bool:
            raise OSError("disk gone")

        with monkeypatch.context() as patched:
            patched.setattr(rows, "swap_metadata", broken)
            with pytest.raises(OSError, match="disk gone"):
                await room.lake.catalog.commit(room.ann, room.here, [Change(name, [], [props(a="b")])])
        assert (await room.lake.catalog.find(room.ann, room.here, name)).version == 0
        assert len(await stored(room)) == 1
        await room.lake.catalog.commit(room.ann, room.here, [Change(name, [], [props(a="b")])])

    run(story())


def test_lost_metadata_is_said_before_anything_changes(room: Room, run: Run) -> None:
    async def story() -> None:
        name = await room.table()
        for path in (room.home / "blobs").glob("*/blob_*"):
            path.unlink()
        with pytest.raises((NotFound, Unavailable)):
            await room.lake.catalog.commit(room.ann, room.here, [Change(name, [], [props(a="b")])])

    run(story())


def test_a_commit_that_changes_nothing(room: Room, run: Run) -> None:
    async def story() -> None:
        name = await room.table()
        await room.lake.catalog.commit(room.ann, room.here, [Change(name, [], [])])
        gone = {"action": "remove-properties", "removals": ["never"]}
        await room.lake.catalog.commit(room.ann, room.here, [Change(name, [], [gone])])
        assert (await room.lake.catalog.find(room.ann, room.here, name)).version == 0

    run(story())


@pytest.mark.parametrize(
    "update",
    [
        {"action": "set-location", "location": "s3://elsewhere/x"},
        props(**{"write.data.path": "s3://elsewhere/data"}),
    ],
)
def test_places_outside_the_project(room: Room, run: Run, update: dict[str, Any]) -> None:
    async def story() -> None:
        name = await room.table()
        with pytest.raises(Denied):
            await room.lake.catalog.commit(room.ann, room.here, [Change(name, [], [update])])
        assert (await room.lake.catalog.find(room.ann, room.here, name)).version == 0

    run(story())


@pytest.mark.parametrize(
    "update",
    [
        {"action": "set-location", "location": "file:///etc"},
        props(**{"write.metadata.path": "/tmp/x"}),
        {"action": "remove-snapshots", "snapshot-ids": [1]},
        {"action": "set-current-schema", "schema-id": 9},
        {"action": "upgrade-format-version", "format-version": 99},
        {"action": "unknown"},
        {},
    ],
)
def test_updates_that_make_no_sense(room: Room, run: Run, update: dict[str, Any]) -> None:
    async def story() -> None:
        name = await room.table()
        with pytest.raises(Invalid):
            await room.lake.catalog.commit(room.ann, room.here, [Change(name, [], [update])])
        assert (await room.lake.catalog.find(room.ann, room.here, name)).version == 0

    run(story())


def test_everyone_keeps_to_their_own(room: Room, run: Run) -> None:
    async def story() -> None:
        name = await room.table()
        catalog = room.lake.catalog
        for who, place, error in ((room.bob, room.here, NotFound), (room.viewer, room.here, Denied)):
            for call in (
                catalog.create(who, place, TableName(("ns",), "new"), Definition(SCHEMA)),
                catalog.commit(who, place, [Change(name, [], [props(a="b")])]),
                catalog.rename(who, place, name, TableName(("ns",), "other")),
                catalog.drop(who, place, name, purge=True),
                room.lake.namespaces.create(who, place, ("mine",), {}),
                room.lake.namespaces.drop(who, place, ("ns",)),
            ):
                with pytest.raises(error):
                    await call
        with pytest.raises(NotFound):
            await catalog.load(room.bob, room.here, name)
        with pytest.raises(NotFound):
            await catalog.load(room.bob, room.there, name)
        info = await catalog.find(room.ann, room.here, name)
        await room.lake.namespaces.create(room.bob, room.there, ("ns",), {})
        with pytest.raises(Denied):
            await catalog.create(room.bob, room.there, name, Definition(SCHEMA, location=info.location))
        with pytest.raises(Denied):
            await catalog.register(room.bob, room.there, name, info.metadata_location)
        assert (await catalog.load(room.viewer, room.here, name)).info.id == info.id

    run(story())


def test_a_dropped_name_is_free_again_and_the_past_is_kept(room: Room, run: Run) -> None:
    async def story() -> None:
        name = await room.table()
        first = await room.lake.catalog.find(room.ann, room.here, name)
        await room.lake.drop(room.ann, room.here, name, purge=False)
        with pytest.raises(NotFound):
            await room.lake.catalog.find(room.ann, room.here, name)
        await room.table()
        second = await room.lake.catalog.find(room.ann, room.here, name)
        assert second.id != first.id
        assert second.location != first.location
        assert (await room.lake.by_id(first.id)).dropped_at is not None
        again = TableName(("ns",), "again")
        await room.lake.catalog.register(room.ann, room.here, again, first.metadata_location)
        await room.lake.drop(room.ann, room.here, name, purge=True)
        assert len(await stored(room)) == 1

    run(story())


def test_an_interrupted_purge_goes_on(room: Room, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        name = await room.table()
        await room.lake.catalog.drop(room.ann, room.here, name, purge=True)  # and then the server was killed
        assert len(await stored(room)) == 1
        await room.lake.start()
        assert room.lake._resuming is not None
        await room.lake._resuming
        assert await stored(room) == []

    run(story())


def test_a_project_is_forgotten_whole(room: Room, run: Run) -> None:
    async def story() -> None:
        await room.table()
        await room.lake.purge("prj_a")
        await room.lake.purge("prj_a")
        await room.objects.purge("prj_a")
        assert await room.lake.catalog.all(room.ann, room.here) == []
        assert await room.lake.namespaces.below(room.ann, room.here) == []

    run(story())


@pytest.mark.parametrize(
    "levels", [(), ("",), ("a", ""), ("a/b",), ("x\x1fy",), ("é" * 200,), tuple("a" * 20)]
)
def test_names_of_namespaces(room: Room, run: Run, levels: tuple[str, ...]) -> None:
    with pytest.raises(StratalError) as caught:
        run(room.lake.namespaces.create(room.ann, room.here, levels, {}))
    assert caught.value.reason == "bad_name"
