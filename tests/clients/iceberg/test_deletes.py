"""Delete files, as engines that merge on read write them: applied where positions say, refused where not known."""

import uuid
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from clients.iceberg.conftest import Place


class _Deletes(ManifestWriterV2):
    """pyiceberg writes no delete manifests; this is its own writer with another label."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def commit_deletes(
    place: Place, table: Table, rows: pa.Table, content: DataFileContent, ids: list[int] | None
) -> None:
    """Commit a snapshot that adds one delete file with these rows, through the protocol as any engine would."""
    current = table.current_snapshot()
    assert current is not None
    snapshot_id = uuid.uuid4().int >> 66
    where = f"{table.location()}/metadata/{uuid.uuid4()}"
    file = table.io.new_output(f"{where}.parquet")
    with file.create() as out:
        pq.write_table(rows, out)
    entry = DataFile.from_args(
        content=content, file_path=file.location, file_format=FileFormat.PARQUET, partition=Record(),
        record_count=rows.num_rows, file_size_in_bytes=len(file), equality_ids=ids, column_sizes={},
        value_counts={}, null_value_counts={}, nan_value_counts={}, lower_bounds={}, upper_bounds={},
        split_offsets=None, sort_order_id=None, key_metadata=None,
    )  # fmt: skip
    entry.spec_id = 0
    manifest = _Deletes(
        table.spec(), table.schema(), table.io.new_output(f"{where}-m.avro"), snapshot_id, "deflate"
    )
    with manifest:
        manifest.add(
            ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED, snapshot_id=snapshot_id, data_file=entry
            )
        )
    sequence = table.metadata.last_sequence_number + 1
    listing = table.io.new_output(f"{where}-list.avro")
    with write_manifest_list(2, listing, snapshot_id, current.snapshot_id, sequence, "deflate") as writer:
        writer.add_manifests([*current.manifests(table.io), manifest.to_manifest_file()])
    snapshot = {
        "snapshot-id": snapshot_id, "parent-snapshot-id": current.snapshot_id, "sequence-number": sequence,
        "timestamp-ms": current.timestamp_ms + 1, "manifest-list": listing.location, "schema-id": 0,
        "summary": {"operation": "delete"},
    }  # fmt: skip
    ref = {"action": "set-snapshot-ref", "ref-name": "main", "type": "branch", "snapshot-id": snapshot_id}
    body: dict[str, Any] = {
        "requirements": [],
        "updates": [{"action": "add-snapshot", "snapshot": snapshot}, ref],
    }
    namespace, name = table.name()
    with place.client() as client:
        answer = client.post(f"/iceberg/v1/{place.name}/namespaces/{namespace}/tables/{name}", json=body)
    assert answer.status_code == 200, answer.text


def filled(place: Place, name: str) -> Table:
    place.catalog.create_namespace_if_not_exists("mor")
    table = place.catalog.create_table(
        f"mor.{name}", schema=pa.schema([("id", pa.int64()), ("s", pa.string())])
    )
    for start in (0, 10):
        table.append(
            pa.table({"id": pa.array(range(start, start + 10), pa.int64()), "s": [str(i) for i in range(10)]})
        )
    return table


def test_rows_deleted_by_position_are_gone(place: Place) -> None:
    table = filled(place, "by_position")
    first = next(
        t.file for t in table.scan().plan_files() if t.file.lower_bounds[1] == (10).to_bytes(8, "little")
    )
    rows = pa.table({"file_path": [first.file_path] * 3, "pos": pa.array([0, 4, 9], pa.int64())})
    commit_deletes(place, table, rows, DataFileContent.POSITION_DELETES, None)
    expected = [i for i in range(20) if i not in {10, 14, 19}]
    assert sorted(place.catalog.load_table("mor.by_position").scan().to_arrow()["id"].to_pylist()) == expected
    found = place.sql("select id from mor.by_position order by id")["rows"]
    assert [row[0] for row in found] == expected
    assert place.sql("select count(*), sum(id) from mor.by_position where s = '4'")["rows"] == [[1, 4]]
    later = place.catalog.load_table("mor.by_position")
    later.append(pa.table({"id": pa.array([100], pa.int64()), "s": ["x"]}))
    assert place.sql("select count(*) from mor.by_position")["rows"] == [[18]]
    with place.client() as client:
        assert client.get(f"/api/v1/projects/{place.name}/tables/mor.by_position/verify").json()["verified"]


def test_deletes_by_value_are_refused_not_ignored(place: Place) -> None:
    table = filled(place, "by_value")
    commit_deletes(
        place, table, pa.table({"id": pa.array([3], pa.int64())}), DataFileContent.EQUALITY_DELETES, [1]
    )
    with place.client() as client:
        answer = client.post("/api/v1/sql", json={"sql": "select count(*) from mor.by_value"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "table_unreadable")
    assert "equality deletes" in answer.json()["error"]["message"]
    before = table.snapshots()[-1].snapshot_id
    assert place.sql(f"select count(*) from mor.by_value at (version => {before})")["rows"] == [[20]]


def test_a_manifest_that_is_none_is_refused(place: Place) -> None:
    table = filled(place, "nonsense")
    listing = table.io.new_output(f"{table.location()}/metadata/nonsense.avro")
    with listing.create() as out:
        out.write(b"this is no Avro")
    snapshot = {
        "snapshot-id": 99, "sequence-number": 9, "timestamp-ms": 1_900_000_000_000, "schema-id": 0,
        "manifest-list": listing.location, "summary": {"operation": "append"},
    }  # fmt: skip
    with place.client() as client:
        answer = client.post(
            f"/iceberg/v1/{place.name}/namespaces/mor/tables/nonsense",
            json={"requirements": [], "updates": [{"action": "add-snapshot", "snapshot": snapshot}]},
        )
    assert answer.status_code == 400
    assert place.sql("select count(*) from mor.nonsense")["rows"] == [[20]]
