"""The warehouse over a real worker: what it reads is exactly a snapshot, and is attributed to who asked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rooms.lake.conftest import Room
from stratal.data.lake.model import parse_table_name
from stratal.data.queries.service import Ask
from stratal.engines.duckdb.write import _Scratch
from stratal.kernel.errors import Internal, Invalid, NotFound, StratalError, Unavailable

Run = Callable[[Any], Any]


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_reads_and_writes_of_a_workload_are_recorded(room: Room, run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        warehouse = room.warehouse()
        await warehouse.start()
        try:
            file = parquet(tmp_path / "in.parquet", x=[1, 2])
            await room.objects.create_bucket(room.ann, "in-bucket")
            source = await room.objects.put_bytes(room.ann, "in-bucket", "in.parquet", file.read_bytes())
            name = parse_table_name("ns.t")
            made = await warehouse.import_object(
                room.job, room.here, name, "s3://in-bucket/in.parquet", None, "create"
            )
            await room.ask(warehouse, room.ann, "select * from ns.t")
            first = f"{made.table.id}@{made.table.snapshot_id}"
            reads = await room.lineage.of_workload("job:7", "read")
            assert [(a.kind, a.version) for a in reads] == [("object", source.id)]
            writes = await room.lineage.of_workload("job:7", "write")
            assert ("snapshot", first, "ns.t") in [(a.kind, a.version, a.name) for a in writes]
            assert orjson.loads(await room.ask(warehouse, room.job, "select sum(x) from ns.t")) == [[3]]
            reads = await room.lineage.of_workload("job:7", "read")
            assert [(a.kind, a.version, a.name) for a in reads if a.kind == "snapshot"] == [
                ("snapshot", first, "ns.t")
            ]
            snapshot = (await room.lake.snapshots.of_table(made.table))[0]
            assert (snapshot.committed_by, snapshot.workload) == ("job:7", "job:7")
            found = await room.lake.snapshot_of_object(snapshot.version_id)
            assert found is not None
            assert (found.table_id, found.snapshot_id) == (made.table.id, made.table.snapshot_id)
            assert await room.lake.snapshot_of_object(source.id) is None
        finally:
            await warehouse.close()

    run(story())


def test_a_snapshot_is_the_bytes_that_were_committed(room: Room, run: Run, tmp_path: Path) -> None:
    """Overwriting a data file at its own key changes neither what SQL reads nor what the snapshot is."""

    async def story() -> None:
        warehouse = room.warehouse()
        await warehouse.start()
        try:
            file = parquet(tmp_path / "in.parquet", x=[1, 2])
            made = await warehouse.import_upload(
                room.job, room.here, parse_table_name("ns.t"), _body(file), "in.parquet", None, "create"
            )
            assert await room.ask(warehouse, room.job, "select sum(x) from ns.t") == b"[[3]]"
            assert made.table.snapshot_id is not None
            verdicts = await room.lake.verify_snapshot(made.table.id, made.table.snapshot_id)
            assert [v.status for v in verdicts] == ["verified"] * 3
            assert [v.file.kind for v in verdicts] == ["manifest list", "manifest", "data"]
            data = verdicts[2].file
            bucket, key = data.location.removeprefix("s3://").split("/", 1)
            other = parquet(tmp_path / "other.parquet", x=[100])
            await room.objects.put_bytes(room.ann, bucket, key, other.read_bytes())
            assert await room.ask(warehouse, room.ann, "select sum(x) from ns.t") == b"[[3]]"
            assert [
                v.status for v in await room.lake.verify_snapshot(made.table.id, made.table.snapshot_id)
            ] == ["verified"] * 3
            assert data.version_id is not None
            version = await room.objects.by_id(data.version_id)
            assert version is not None
            path = room.objects.local_path(version)
            assert path is not None
            await asyncio.to_thread(path.write_bytes, b"x")
            broken = await room.lake.verify_snapshot(made.table.id, made.table.snapshot_id)
            assert [v.status for v in broken] == ["verified", "verified", "broken"]
            await asyncio.to_thread(path.unlink)
            missing = await room.lake.verify_snapshot(made.table.id, made.table.snapshot_id)
            assert [v.status for v in missing] == ["verified", "verified", "missing"]
            with pytest.raises((Unavailable, Internal, Invalid)) as caught:
                await room.ask(warehouse, room.ann, "select sum(x) from ns.t")
            assert str(room.home) not in str(caught.value)
        finally:
            await warehouse.close()

    run(story())


def test_imports_at_once_lose_nothing(room: Room, run: Run, tmp_path: Path) -> None:
    async def story() -> None:
        warehouse = room.warehouse()
        await warehouse.start()
        try:
            files = [parquet(tmp_path / f"{n}.parquet", x=[n]) for n in range(5)]
            name = parse_table_name("ns.t")
            await warehouse.import_upload(
                room.ann, room.here, name, _body(files[0]), "0.parquet", None, "create"
            )
            await asyncio.gather(
                *(
                    warehouse.import_upload(room.ann, room.here, name, _body(f), f.name, None, "append")
                    for f in files[1:]
                )
            )
            assert await room.ask(warehouse, room.ann, "select count(*), sum(x) from ns.t") == b"[[5,10]]"
            assert list((room.home / "spool").iterdir()) == []
        finally:
            await warehouse.close()

    run(story())


def test_a_table_that_is_rewritten_holds_its_rows_once_and_drags_no_dead_files_along(
    room: Room, run: Run, tmp_path: Path
) -> None:
    async def story() -> None:
        warehouse = room.warehouse()
        await warehouse.start()
        try:
            name = parse_table_name("ns.t")
            for number in range(12):
                file = parquet(tmp_path / "in.parquet", x=list(range(number + 1)))
                await warehouse.import_upload(
                    room.ann, room.here, name, one_chunk(file), "in.parquet", None, "replace"
                )
                assert await room.ask(warehouse, room.ann, "select count(*) as n from ns.t") == b"[[%d]]" % (
                    number + 1
                )
            info = await room.lake.catalog.find(room.ann, room.here, name)
            assert info.snapshot_id is not None
            snapshot = await room.lake.snapshots.get(info.id, info.snapshot_id)
            kinds = [file.kind for file in await room.lake.snapshots.files(info, snapshot)]
            assert sorted(kinds) == ["data", "manifest", "manifest", "manifest list"]
        finally:
            await warehouse.close()

    run(story())


def test_files_of_a_write_never_share_a_place(tmp_path: Path) -> None:
    """pyiceberg writes a commit's manifests in threads; two once got one place, and rows were there twice."""
    scratch = _Scratch(tmp_path, {})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: scratch.new_output(f"s3://b/{i}"), range(2000)))
    assert len(set(scratch.written.values())) == 2000
    scratch.delete("s3://b/7")
    scratch.new_output("s3://b/new")
    assert len(set(scratch.written.values())) == 2000


async def one_chunk(path: Path) -> AsyncIterator[bytes]:
    yield path.read_bytes()


def test_names_that_differ_in_case_only(room: Room, run: Run) -> None:
    async def story() -> None:
        warehouse = room.warehouse()
        await warehouse.start()
        try:
            for name in ("ns.Same", "ns.same"):
                await room.table(name)
            assert await room.ask(warehouse, room.ann, 'select count(*) from ns."Same"') == b"[[0]]"
            with pytest.raises(Invalid) as caught:
                await room.ask(warehouse, room.ann, "select count(*) from NS.SAME")
            assert caught.value.reason == "ambiguous_table"
            with pytest.raises(NotFound):
                await room.ask(warehouse, room.bob, "select 1")
        finally:
            await warehouse.close()

    run(story())


def test_a_failed_write_leaves_nothing(room: Room, run: Run) -> None:
    async def story() -> None:
        warehouse = room.warehouse()
        await warehouse.start()
        try:
            with pytest.raises(StratalError):
                await room.ask(
                    warehouse, room.ann, "create table ns.bad as "
                    "select case when i = 200000 then error('x') else i end as y from range(300000) t(i)",
                )  # fmt: skip
            with pytest.raises(NotFound):
                await room.lake.catalog.find(room.ann, room.here, parse_table_name("ns.bad"))
            bucket = await room.lake.files.bucket(room.here)
            assert bucket is not None
            assert (await room.objects.list(room.ann, bucket)).objects == []
            log = await warehouse.log(room.ann, room.here)
            assert [entry.state for entry in log] == ["failed"]
        finally:
            await warehouse.close()

    run(story())


def test_the_log_is_bounded(room: Room, run: Run) -> None:
    async def story() -> None:
        warehouse = room.warehouse()
        await warehouse.start()
        try:
            async with warehouse.query(room.ann, room.here, Ask("select 1")) as answer:
                _ = [chunk async for chunk in answer.chunks()]
            assert len(await warehouse.log(room.ann, room.here)) == 1
            room.now += 31 * 86_400_000
            await warehouse.start()
            assert await warehouse.log(room.ann, room.here) == []
        finally:
            await warehouse.close()

    run(story())


async def _body(path: Path) -> Any:
    yield await asyncio.to_thread(path.read_bytes)
