"""What SQL may not do, and what happens when a query asks for too much or its worker dies."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, is_gone, wait_until


class Bench:
    def __init__(self, server: PlatformServer) -> None:
        self.server = server
        self.project = server.project()
        self.key = server.key(self.project)

    def post(self, sql: str, **more: Any) -> httpx.Response:
        with self.server.http(self.key) as client:
            return client.post("/api/v1/sql", json={"sql": sql, **more})

    def workers(self) -> list[int]:
        return workers_of(self.server)


def workers_of(server: PlatformServer) -> list[int]:
    """The query workers of the server: its children that run the worker module."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == server.pid() and b"stratal.engines.duckdb.worker" in command:
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def bench(server: PlatformServer) -> Bench:
    made = Bench(server)
    assert made.post("create table kept as select i as x from range(100) t(i)").status_code == 200
    return made


@pytest.mark.parametrize(
    "sql",
    [
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/passwd')",
        "select * from read_blob('/etc/passwd')",
        "select * from read_parquet('/etc/passwd')",
        "select * from read_json('/etc/passwd')",
        "select * from '/etc/passwd'",
        'select * from "/etc/passwd"',
        "select * from 'file.csv'",
        "select * from glob('/**')",
        "select * from sniff_csv('/etc/passwd')",
        "select * from parquet_metadata('/etc/passwd')",
        "select * from query('select 1')",
        "select * from query_table('kept')",
        "select * from json_execute_serialized_sql(json_serialize_sql('select 1'))",
        "select * from arrow_scan(1::pointer, 1::pointer, 1::pointer)",
        "select * from duckdb_settings()",
        "select * from duckdb_views()",
        "select * from duckdb_secrets()",
        "with a as (select * from (select * from glob('/etc/*'))) select * from a",
        "select (select count(*) from read_text('/etc/passwd'))",
        "copy kept to '/tmp/stolen.csv'",
        "copy (select 1) to '/tmp/stolen.csv'",
        "copy kept from '/etc/passwd'",
        "export database '/tmp/stolen'",
        "import database '/tmp/stolen'",
        "attach '/tmp/stolen.db'",
        "attach ':memory:' as other",
        "install httpfs",
        "load httpfs",
        "set memory_limit = '100GB'",
        "reset enable_external_access",
        "pragma database_list",
        "pragma enable_profiling",
        "call enable_logging()",
        "create secret s (type s3)",
        "create table t (x int)",
        "create view v as select 1",
        "create temp table t as select 1",
        "create macro m() as 1",
        "create schema s",
        "drop table kept",
        "alter table kept add column y int",
        "update kept set x = 0",
        "delete from kept",
        "truncate kept",
        "use kept",
        "begin",
        "checkpoint",
        "vacuum",
        "prepare p as select 1",
        "explain copy kept to '/tmp/stolen.csv'",
        "explain analyze copy (select 1) to '/tmp/stolen.csv'",
        "insert into kept select x from read_csv('/etc/passwd') t(x)",
        "create table stolen as select * from read_text('/etc/passwd')",
        "insert or replace into kept values (1)",
    ],
)
def test_refused(bench: Bench, sql: str) -> None:
    answer = bench.post(sql)
    assert answer.status_code in {400, 403, 404}, answer.text
    error = answer.json()["error"]
    assert error["message"]
    assert "root:" not in answer.text
    assert not Path("/tmp/stolen.csv").exists()
    assert bench.post("select count(*), sum(x) from kept").json()["rows"] == [[100, 4950]]


def test_a_query_over_its_time_ends(bench: Bench) -> None:
    answer = bench.post("select count(*) from range(100000000000)", timeout_seconds=0.5)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "query_timeout")
    assert bench.post("select 1").json()["rows"] == [[1]]


def test_a_query_over_its_memory_ends_alone(bench: Bench) -> None:
    """Values that cannot spill: refused by the engine, or its worker killed, but nobody else is touched."""
    server = bench.server.pid()
    answer = bench.post(
        "select sum(length(s)) from (select string_agg(repeat('x', 100000), '') s from range(1000000))"
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "query_out_of_memory")
    assert not is_gone(server)
    assert bench.server.pid() == server
    assert bench.post("select count(*) from kept").json()["rows"] == [[100]]


def test_a_killed_worker_is_said_to_be_lost(bench: Bench) -> None:
    answers: list[httpx.Response] = []
    before = set(bench.workers())
    thread = threading.Thread(
        target=lambda: answers.append(bench.post("select count(*) from range(100000000000)"))
    )
    thread.start()
    wait_until(lambda: _busy(bench.workers()))
    for pid in bench.workers():
        os.kill(pid, signal.SIGKILL)
    thread.join()
    assert (answers[0].status_code, answers[0].json()["error"]["code"]) == (503, "query_worker_lost")
    assert "again" in answers[0].json()["error"]["hint"].lower()
    assert bench.post("select count(*) from kept").json()["rows"] == [[100]]
    assert before.isdisjoint(bench.workers())


def _busy(pids: list[int]) -> bool:
    def ticks(pid: int) -> int:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0
        return int(fields[11]) + int(fields[12])

    start = {pid: ticks(pid) for pid in pids}
    return any(ticks(pid) - start[pid] > 0 for _ in range(10_000) for pid in pids)


@pytest.mark.parametrize("format", ["json", "arrow"])
def test_a_client_that_leaves_ends_its_query(bench: Bench, format: str) -> None:
    sql = "select count(*) from range(100000000000)"
    if format == "arrow":
        sql = "select a.range, b.range from range(10000000) a, range(10000000) b"
    with bench.server.http(bench.key) as client:
        try:
            with client.stream(
                "POST", "/api/v1/sql", json={"sql": sql, "format": format}, timeout=1.0
            ) as answer:
                next(answer.iter_raw())
        except httpx.ReadTimeout:
            pass
    wait_until(lambda: not _busy(bench.workers()))

    def logged() -> list[str]:
        with bench.server.http(bench.key) as client:
            found = client.get(f"/api/v1/projects/{bench.project}/queries").json()["queries"]
        return [query["state"] for query in found if query["sql"] == sql]

    assert wait_until(logged)[0] in {"cancelled", "failed"}


def test_workers_are_released_and_die_with_the_server(fresh_server: PlatformServer) -> None:
    with fresh_server.http() as client:
        assert client.post("/api/v1/sql", json={"sql": "select 1"}).status_code == 200
    (worker,) = workers_of(fresh_server)
    command = Path(f"/proc/{worker}/environ").read_bytes()
    assert b"STRATAL" not in command
    assert b"AWS" not in command
    wait_until(lambda: is_gone(worker), seconds=60)
    with fresh_server.http() as client:
        assert client.post("/api/v1/sql", json={"sql": "select 1"}).status_code == 200
    (worker,) = workers_of(fresh_server)
    fresh_server.kill()
    wait_until(lambda: is_gone(worker))


def test_a_viewer_reads_but_does_not_write(bench: Bench) -> None:
    viewer = bench.server.key(bench.project, role="viewer")
    with bench.server.http(viewer) as client:
        assert client.post("/api/v1/sql", json={"sql": "select count(*) from kept"}).json()["rows"] == [[100]]
        for sql in ("insert into kept values (1)", "create table mine as select 1 a"):
            assert client.post("/api/v1/sql", json={"sql": sql}).status_code == 403
        sent = client.put(f"/api/v1/projects/{bench.project}/tables/mine/import", content=b"a\n1\n",
                          params={"filename": "x.csv"})  # fmt: skip
        assert sent.status_code == 403
