"""``kill -9`` of the server while tables are written: what was acknowledged is there, whole, and nothing half."""

import threading
from typing import Any

import pyarrow as pa
from pyiceberg.catalog import Catalog, load_catalog

from clients.iceberg.conftest import properties
from platform_server import PlatformServer, wait_until


def test_acknowledged_commits_survive_and_no_table_is_torn(fresh_server: PlatformServer) -> None:
    env = fresh_server.env()
    catalog = load_catalog("default", **properties(env))
    catalog.create_namespace("kill")
    acknowledged: dict[str, list[int]] = {}

    def write(name: str, stop: threading.Event) -> None:
        """Append single rows until the server is gone; remember those that were answered."""
        try:
            table = load_catalog("default", **properties(env)).load_table(f"kill.{name}")
            for number in range(10_000):
                if stop.is_set():
                    return
                table.append(pa.table({"x": pa.array([number], pa.int64())}))
                acknowledged[name].append(number)
        except Exception:
            return

    for round_ in range(2):
        stop = threading.Event()
        names = [f"t{round_}{n}" for n in range(3)]
        for name in names:
            catalog.create_table(f"kill.{name}", pa.schema([("x", pa.int64())]))
            acknowledged[name] = []
        threads = [threading.Thread(target=write, args=(name, stop)) for name in names]
        for thread in threads:
            thread.start()
        wait_until(lambda names=names: all(len(acknowledged[name]) >= 2 for name in names))
        fresh_server.kill()
        stop.set()
        fresh_server.up()
        for thread in threads:
            thread.join()
        for name in acknowledged:
            _check(fresh_server, catalog, name, acknowledged[name])


def _check(server: PlatformServer, catalog: Catalog, name: str, sure: list[int]) -> None:
    table = catalog.load_table(f"kill.{name}")
    rows = sorted(table.scan().to_arrow()["x"].to_pylist())
    assert rows in (sure, [*sure, len(sure)])  # the last one may have been committed, but not answered
    assert len(table.snapshots()) == len(rows)
    with server.http() as client:
        proof: Any = client.get(f"/api/v1/projects/default/tables/kill.{name}/verify").json()
        assert proof["verified"] is True
        shown = client.get(f"/api/v1/projects/default/tables/kill.{name}").json()
        assert len(shown["snapshots"]) == len(rows)
        counted = client.post("/api/v1/sql", json={"sql": f"select count(*), max(x) from kill.{name}"}).json()
    assert counted["rows"] == [[len(rows), rows[-1]]]
