"""However often rows are added, and whatever happens in between, merged manifests name the files that there are, once."""

import json
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.table.metadata import TableMetadataUtil

from stratal.data.lake import metadata as lake
from stratal.data.lake.manifests import read_files, read_list
from stratal.engines.duckdb import write as module

pytestmark = pytest.mark.filterwarnings("ignore:Arrow output")
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "extend", "replace"]), st.integers(1, 3), st.booleans()
    ),
    min_size=4,
    max_size=14,
)


class Table:
    """A table written as the engine writes it, and its rows as they must be. Files stay where they were made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metadata: bytes | None = None
        self.files: dict[str, str] = {}
        self.rows: list[dict[str, Any]] = []
        self.database = duckdb.connect()
        self.next = 0

    def commit(self, mode: str, count: int, wide: bool) -> None:
        rows = [{"x": self.next + number} for number in range(count)]
        self.next += count
        if wide and (mode != "append" or "y" in self.columns()):
            rows = [{**row, "y": -row["x"]} for row in rows]
        source = self.folder / f"{self.next}.json"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        request = {
            **{"sql": None, "params": None, "source": str(source), "source_format": "json", "target": None},
            **{"metadata": self.metadata, "location": "s3://b/t", "known": dict(self.files), "mode": mode},
            **{"columns": None, "by_name": False, "keys": [], "where": {}, "branch": None, "properties": {}},
        }
        done = module.write(self.database, request, self.folder)
        self.files |= done["files"]
        facts = lake.apply(self.metadata, None, done["requirements"], done["updates"])
        assert facts is not None
        self.metadata = facts.data
        self.rows = rows if mode == "replace" else self.rows + rows

    def columns(self) -> set[str]:
        if self.metadata is None:
            return set()
        return {column.name for column in TableMetadataUtil.parse_raw(self.metadata.decode()).schema().fields}

    def listed(self) -> tuple[int, list[str]]:
        """How many manifests the newest snapshot has, and the data files that they name."""
        assert self.metadata is not None
        snapshot = TableMetadataUtil.parse_raw(self.metadata.decode()).current_snapshot()
        assert snapshot is not None
        manifests = read_list(Path(self.files[snapshot.manifest_list]).read_bytes(), snapshot.manifest_list)
        found = [
            file.location
            for manifest in manifests
            for file in read_files(manifest, Path(self.files[manifest.location]).read_bytes(), None)
        ]
        return len(manifests), found

    def held(self) -> list[tuple[Any, Any]]:
        _, data = self.listed()
        assert len(set(data)) == len(data), "each file is named once"
        relation = self.database.read_parquet([self.files[one] for one in data], union_by_name=True)
        y = "y" if "y" in relation.columns else "NULL"
        return sorted(relation.query("r", f"SELECT x, {y} FROM r").fetchall(), key=lambda row: row[0])


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_rows_are_the_same_however_manifests_are_merged(
    operations: list[tuple[str, int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MANIFESTS", 3)
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        for mode, count, wide in operations:
            table.commit(mode, count, wide)
            wanted = [(row["x"], row.get("y")) for row in table.rows]
            assert table.held() == sorted(wanted, key=lambda row: row[0])
            assert table.listed()[0] <= 4


def test_many_small_appends_are_planned_from_few_manifests(tmp_path: Path) -> None:
    table = Table(tmp_path)
    most = 0
    for _ in range(40):
        table.commit("append", 1, False)
        most = max(most, table.listed()[0])
    assert most <= module._MANIFESTS
    assert len(table.held()) == 40
