"""Tables through pyiceberg: written, changed, read back, and read by SQL to the same effect."""

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.expressions import EqualTo, GreaterThan
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import BucketTransform, DayTransform, IdentityTransform, TruncateTransform
from pyiceberg.types import DoubleType, LongType, NestedField, StringType, TimestampType

from clients.iceberg.conftest import Place, properties

ROWS = pa.table(
    {"id": pa.array([1, 2, 3], pa.int64()), "name": ["a", "ü", None], "mean size": [1.5, None, -2.0]}
)


@pytest.fixture(scope="module")
def catalog(place: Place) -> Catalog:
    place.catalog.create_namespace("lab")
    return place.catalog


def made(catalog: Catalog, name: str, rows: pa.Table = ROWS) -> Table:
    table = catalog.create_table(("lab", name), schema=rows.schema)
    table.append(rows)
    return table


def by_sql(place: Place, statement: str) -> list[list[Any]]:
    return list(place.sql(statement)["rows"])


def test_a_script_with_nothing_but_the_variables(place: Place, tmp_path: Path) -> None:
    """pyiceberg finds the catalogue ``default`` from the environment alone."""
    script = """
import pyarrow as pa
from pyiceberg.catalog import load_catalog
catalog = load_catalog("default")
catalog.create_namespace("script")
table = catalog.create_table("script.points", schema=pa.schema([("x", pa.float64()), ("y", pa.int64())]))
table.append(pa.table({"x": [0.5, 1.5], "y": [1, 2]}))
print(catalog.load_table("script.points").scan().to_arrow().to_pylist())
"""
    clean = {k: v for k, v in place.server.environ().items() if not k.startswith("PYICEBERG")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**clean, **place.env},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[{'x': 0.5, 'y': 1}, {'x': 1.5, 'y': 2}]"


def test_what_was_appended_is_read_by_everybody(place: Place, catalog: Catalog) -> None:
    table = made(catalog, "appended")
    table.append(ROWS)
    assert catalog.load_table("lab.appended").scan().to_arrow().num_rows == 6
    assert by_sql(
        place, 'select id, name, "mean size" from lab.appended where id < 3 order by id limit 2'
    ) == [
        [1, "a", 1.5],
        [1, "a", 1.5],
    ]
    snapshots = catalog.load_table("lab.appended").snapshots()
    assert [s.summary.operation.value for s in snapshots if s.summary] == ["append", "append"]


def test_overwrite_delete_and_upsert(place: Place, catalog: Catalog) -> None:
    table = made(catalog, "changed")
    table.delete(EqualTo("id", 1))
    assert by_sql(place, "select id from lab.changed order by id") == [[2], [3]]
    changes = pa.table(
        {"id": pa.array([3, 4], pa.int64()), "name": ["three", "four"], "mean size": [3.0, 4.0]}
    )
    done = table.upsert(changes, join_cols=["id"])
    assert (done.rows_updated, done.rows_inserted) == (1, 1)
    assert by_sql(place, "select id, name from lab.changed order by id") == [
        [2, "ü"],
        [3, "three"],
        [4, "four"],
    ]
    table.overwrite(ROWS, overwrite_filter=GreaterThan("id", 2))
    assert by_sql(place, "select count(*) from lab.changed") == [[4]]
    table.overwrite(ROWS)
    assert by_sql(place, "select sum(id) from lab.changed") == [[6]]


def test_the_past_stays_readable(place: Place, catalog: Catalog) -> None:
    table = made(catalog, "past")
    first = table.current_snapshot()
    assert first is not None
    table.manage_snapshots().create_tag(first.snapshot_id, "before").commit()
    table.overwrite(ROWS.slice(0, 1))
    assert catalog.load_table("lab.past").scan(snapshot_id=first.snapshot_id).to_arrow().num_rows == 3
    assert by_sql(place, f"select count(*) from lab.past at (version => {first.snapshot_id})") == [[3]]
    assert by_sql(place, f"select count(*) from lab.past for version as of {first.snapshot_id}") == [[3]]
    assert by_sql(place, "select count(*) from lab.past p at (version => 'before')") == [[3]]
    moment = table.history()[0].timestamp_ms / 1000 + 0.0005
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment)) + f".{int(moment * 1e6) % 1_000_000:06d}"
    assert by_sql(place, f"select count(*) from lab.past at (timestamp => '{stamp}')") == [[3]]
    joined = f"select count(*) from lab.past now, lab.past old at (version => {first.snapshot_id})"
    assert by_sql(place, joined) == [[3]]


def test_columns_are_told_apart_by_id(place: Place, catalog: Catalog) -> None:
    """Renamed, added, dropped and widened columns: old files and new ones make one table."""
    rows = pa.table(
        {
            "a": pa.array([1], pa.int32()),
            "b": ["old b"],
            "s": pa.array([{"x": 1, "y": "q"}], pa.struct([("x", pa.int32()), ("y", pa.string())])),
            "l": pa.array([[1, None]], pa.list_(pa.int32())),
        }
    )
    table = made(catalog, "evolved", rows)
    with table.update_schema(allow_incompatible_changes=True) as update:
        update.rename_column("b", "renamed")
        update.delete_column("l")
        update.add_column(("s", "z"), StringType())
        update.rename_column(("s", "x"), "x2")
        update.delete_column(("s", "y"))
        update.update_column("a", LongType())
    with table.update_schema() as update:
        update.add_column("b", LongType())
    new = pa.table(
        {
            "a": pa.array([2**40], pa.int64()),
            "renamed": ["new"],
            "s": pa.array([{"x2": 7, "z": "zz"}], pa.struct([("x2", pa.int32()), ("z", pa.string())])),
            "b": pa.array([5], pa.int64()),
        }
    )
    table.append(new)
    expected = [
        [1, "old b", {"x2": 1, "z": None}, None],
        [2**40, "new", {"x2": 7, "z": "zz"}, 5],
    ]
    assert by_sql(place, "select a, renamed, s, b from lab.evolved order by a") == expected
    scanned = catalog.load_table("lab.evolved").scan().to_arrow().sort_by("a").to_pylist()
    assert [[r["a"], r["renamed"], r["s"], r["b"]] for r in scanned] == expected
    first = table.snapshots()[0].snapshot_id
    assert by_sql(place, f"select b, l from lab.evolved at (version => {first})") == [["old b", [1, None]]]


def test_partitions(place: Place, catalog: Catalog) -> None:
    schema = Schema(
        NestedField(1, "region", StringType(), required=False),
        NestedField(2, "seen", TimestampType(), required=False),
        NestedField(3, "id", LongType(), required=False),
        NestedField(4, "v", DoubleType(), required=False),
    )
    spec = PartitionSpec(
        PartitionField(1, 1000, IdentityTransform(), "region"),
        PartitionField(2, 1001, DayTransform(), "day"),
        PartitionField(3, 1002, BucketTransform(4), "bucket"),
    )
    table = catalog.create_table("lab.parted", schema, partition_spec=spec)
    micros = pa.array([0, 86_400_000_000, None, 5], pa.timestamp("us"))
    table.append(
        pa.table(
            {
                "region": ["a/b c", "ü", None, "ü"],
                "seen": micros,
                "id": [1, 2, 3, 4],
                "v": [1.0, 2.0, 3.0, 4.0],
            }
        )
    )
    place.sql("insert into lab.parted select 'ü', timestamp '1970-01-01 10:00:00', 5, 5.0")
    assert by_sql(place, "select region, sum(v) from lab.parted group by all order by 1 nulls last") == [
        ["a/b c", 1],
        ["ü", 11],
        [None, 3],
    ]
    found = catalog.load_table("lab.parted").scan(row_filter=EqualTo("region", "ü")).to_arrow()
    assert sorted(found["id"].to_pylist()) == [2, 4, 5]
    with table.refresh().update_spec() as update:
        update.remove_field("bucket")
        update.add_field("id", TruncateTransform(10), "tens")
    table.append(pa.table({"region": ["xyz"], "seen": micros[:1], "id": [9], "v": [9.0]}))
    assert by_sql(place, "select count(*), sum(id) from lab.parted") == [[6, 24]]


def test_properties_tags_and_branches(place: Place, catalog: Catalog) -> None:
    table = made(catalog, "labelled")
    with table.transaction() as transaction:
        transaction.set_properties({"owner": "lab", "write.metadata.previous-versions-max": "5"})
    with place.client() as client:  # pyiceberg itself would not send this, others do
        path = f"/iceberg/v1/{place.name}/namespaces/lab/tables/labelled"
        gone = {"action": "remove-properties", "removals": ["never there"]}
        assert client.post(path, json={"requirements": [], "updates": [gone]}).status_code == 200
    table.refresh()
    assert catalog.load_table("lab.labelled").properties["owner"] == "lab"
    first = table.refresh().current_snapshot()
    assert first is not None
    table.manage_snapshots().create_branch(first.snapshot_id, "dev").commit()
    table.append(ROWS, branch="dev")
    loaded = catalog.load_table("lab.labelled")
    assert loaded.scan().to_arrow().num_rows == 3
    assert loaded.scan().use_ref("dev").to_arrow().num_rows == 6
    assert by_sql(place, "select count(*) from lab.labelled at (version => 'dev')") == [[6]]
    assert by_sql(place, "select count(*) from lab.labelled") == [[3]]


def test_a_table_made_and_filled_in_one_commit(place: Place, catalog: Catalog) -> None:
    with catalog.create_table_transaction("lab.at_once", schema=ROWS.schema) as transaction:
        transaction.append(ROWS)
        assert not catalog.table_exists("lab.at_once")
    assert len(catalog.load_table("lab.at_once").snapshots()) == 1
    assert by_sql(place, "select count(*) from lab.at_once") == [[3]]


def test_renamed_dropped_registered(place: Place, catalog: Catalog) -> None:
    table = made(catalog, "first name")
    catalog.rename_table("lab.first name", "lab.second")
    assert not catalog.table_exists("lab.first name")
    assert by_sql(place, "select count(*) from lab.second") == [[3]]
    with pytest.raises(TableAlreadyExistsError):
        catalog.create_table("lab.second", schema=ROWS.schema)
    metadata = catalog.load_table("lab.second").metadata_location
    catalog.drop_table("lab.second")
    with pytest.raises(NoSuchTableError):
        catalog.load_table("lab.second")
    again = catalog.register_table("lab.third", metadata)
    assert again.scan().to_arrow().num_rows == 3
    assert by_sql(place, "select count(*) from lab.third") == [[3]]
    catalog.purge_table("lab.third")
    bucket = table.location().split("/")[2]
    prefix = table.location().split("/", 3)[3]
    with place.client() as client:
        left = client.get(
            f"/api/v1/projects/{place.name}/buckets/{bucket}/objects", params={"prefix": prefix}
        )
    assert left.json()["objects"] == []


def test_writers_at_once_lose_nothing(place: Place, catalog: Catalog) -> None:
    catalog.create_table("lab.crowded", schema=ROWS.schema, properties={"commit.retry.num-retries": "20"})
    failures: list[BaseException] = []

    def write() -> None:
        try:
            mine = load_catalog("default", **properties(place.env))
            for _ in range(4):
                mine.load_table("lab.crowded").append(ROWS)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    table = catalog.load_table("lab.crowded")
    assert table.scan().to_arrow().num_rows == 16 * 3
    assert len(table.snapshots()) == 16
    assert by_sql(place, "select count(*) from lab.crowded") == [[48]]


def test_a_stale_commit_is_refused(catalog: Catalog) -> None:
    table = made(catalog, "stale")
    catalog.load_table("lab.stale").append(ROWS)
    update = table.update_schema()
    update.add_column("one", LongType())
    catalog.load_table("lab.stale").update_schema().add_column("two", LongType()).commit()
    with pytest.raises(CommitFailedException):
        update.commit()
    assert [f.name for f in catalog.load_table("lab.stale").schema().fields][-1] == "two"


def test_files_brought_by_name(place: Place, catalog: Catalog) -> None:
    """`add_files`: Parquet that no Iceberg writer made, so without field ids, in a bucket of the project."""
    import boto3
    import pyarrow.parquet as pq

    s3 = boto3.client("s3", endpoint_url=place.env["AWS_ENDPOINT_URL"],
                      aws_access_key_id=place.env["AWS_ACCESS_KEY_ID"],
                      aws_secret_access_key=place.env["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")  # fmt: skip
    bucket = f"{place.name}-files"
    s3.create_bucket(Bucket=bucket)
    sink = pa.BufferOutputStream()
    pq.write_table(ROWS, sink)
    s3.put_object(Bucket=bucket, Key="in/rows.parquet", Body=sink.getvalue().to_pybytes())
    table = catalog.create_table("lab.brought", schema=ROWS.schema)
    table.add_files([f"s3://{bucket}/in/rows.parquet"])
    with table.update_schema() as update:
        update.rename_column("name", "label")
    assert by_sql(place, "select id, label from lab.brought order by id") == [[1, "a"], [2, "ü"], [3, None]]
