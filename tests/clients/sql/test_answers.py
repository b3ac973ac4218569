"""SQL answers: the same as DuckDB's own over the same rows, in JSON, CSV and Arrow, through API and CLI."""

import csv
import io
import json
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platform_server import PlatformServer

N = 5_000


def rows() -> pa.Table:
    chance = random.Random(7)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return pa.table(
        {
            "id": pa.array(range(N), pa.int64()),
            "group name": pa.array([chance.choice(["a", "b", "ü", None]) for _ in range(N)]),
            "x": pa.array([None if i % 11 == 0 else chance.gauss(0, 1) for i in range(N)], pa.float64()),
            "price": pa.array(
                [Decimal(chance.randrange(10**6)) / 100 for _ in range(N)], pa.decimal128(12, 2)
            ),
            "seen": pa.array([start + timedelta(seconds=i) for i in range(N)], pa.timestamp("us", "UTC")),
            "day": pa.array([(start + timedelta(hours=i)).date() for i in range(N)]),
            "tags": pa.array(
                [[f"t{i % 3}", None] if i % 5 else None for i in range(N)], pa.list_(pa.string())
            ),
            "spot": pa.array(
                [{"lat": i / 7, "name": f"p{i}"} if i % 4 else None for i in range(N)],
                pa.struct([("lat", pa.float64()), ("name", pa.string())]),
            ),
            "raw": pa.array([bytes([i % 256]) for i in range(N)], pa.binary()),
            "flag": pa.array([i % 2 == 0 for i in range(N)]),
        }
    )


class Lab:
    """A project with the table ``lab.points`` and DuckDB over the very same file."""

    def __init__(self, server: PlatformServer, folder: Path) -> None:
        self.server = server
        self.project = server.project()
        self.key = server.key(self.project)
        self.file = folder / "points.parquet"
        pq.write_table(rows(), self.file)
        self.cli("tables", "import", "lab.points", str(self.file))
        self.direct = duckdb.connect()
        self.direct.execute("SET TimeZone = 'UTC'; CREATE SCHEMA lab")
        self.direct.execute(f"CREATE VIEW lab.points AS SELECT * FROM read_parquet('{self.file}')")

    def cli(self, *arguments: str, check: bool = True, **options: Any) -> Any:
        return self.server.cli(*arguments, "--project", self.project, check=check, **options)

    def post(self, sql: str, **more: Any) -> Any:
        accept = {"Accept": more.pop("accept")} if "accept" in more else {}
        with self.server.http(self.key) as client:
            return client.post("/api/v1/sql", json={"sql": sql, **more}, headers=accept)

    def ask(self, sql: str, **more: Any) -> dict[str, Any]:
        answer = self.post(sql, **more)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def lab(server: PlatformServer, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(server, tmp_path_factory.mktemp("lab"))


QUERIES = [
    "select count(*), count(x), sum(id), min(seen), max(day) from lab.points",
    'select "group name" g, count(*), avg(x), sum(price) from lab.points group by 1 order by 1 nulls last',
    "select id, price, seen, day, flag from lab.points where id % 997 = 0 order by id",
    "select id, tags, spot, spot.name from lab.points where id < 20 order by id",
    "with p as (select id, x from lab.points where x > 1), q as (select * from p where id > 10) "
    "select count(*), sum(q.x) from q join lab.points using (id)",
    "select id, row_number() over (partition by flag order by x desc nulls last, id) r from lab.points "
    "qualify r <= 3 order by 1",
    "select day, count(*) from lab.points group by day having count(*) > 20 order by day",
    "select unnest(tags) t, count(*) from lab.points group by 1 order by 1 nulls last",
    'select * from (pivot lab.points on flag in (true, false) using count(*) group by "group name") order by all',
    "select id from lab.points where spot.lat > (select avg(spot.lat) from lab.points) order by id limit 5 offset 3",
    "select count(*) from lab.points a where exists (from lab.points b where b.id = a.id + 1 and b.flag)",
    "from lab.points select approx_count_distinct(id) > 4000, median(id), quantile_cont(x, [0.25, 0.75])",
    "values (1, 'a'), (2, null)",
]


def plain(value: Any) -> Any:
    """A Python value of DuckDB's as the documented JSON has it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("sql", QUERIES)
def test_the_same_as_duckdb(lab: Lab, sql: str) -> None:
    found = lab.ask(sql)
    expected = [plain(row) for row in lab.direct.execute(sql).fetchall()]
    assert found["row_count"] == len(expected)
    for got, wanted in zip(found["rows"], expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-12) if _flat(wanted) else got == wanted


def _flat(row: list[Any]) -> bool:
    return not any(isinstance(value, list | dict | str | None.__class__) for value in row)


def test_what_json_cannot_say(lab: Lab) -> None:
    found = lab.ask(
        "select 9007199254740991 a, 9007199254740993 b, -9007199254740993 c, 0.1::decimal(4,2) d, "
        "0.1234567890123456789::decimal(38,19) e, 'nan'::double f, '-inf'::double g, '\\x00\\xff'::blob h, "
        "{'k': [1, null]} i, map {'k': 1} j, map {1: 'x'} k, uuid '00000000-0000-0000-0000-000000000001' l, "
        "timestamptz '2026-01-01 00:00:00+02' m, time '12:00:00.5' n, null o, date '290000-01-01' p, "
        "12345678901234567890123456789::hugeint q, 'é\"\\' r"
    )
    assert found["rows"] == [
        [
            9007199254740991, "9007199254740993", "-9007199254740993", 0.1,
            "0.1234567890123456789", "NaN", "-Infinity", "AP8=",
            {"k": [1, None]}, {"k": 1}, [{"key": 1, "value": "x"}], "00000000-0000-0000-0000-000000000001",
            "2025-12-31T22:00:00Z", "12:00:00.500000", None, "290000-01-01",
            "12345678901234567890123456789", 'é"\\',
        ]
    ]  # fmt: skip
    assert found["columns"][1] == {"name": "b", "type": "BIGINT"}


def test_csv_and_arrow(lab: Lab) -> None:
    sql = 'select id, "group name", price, day, tags from lab.points order by id'
    text = lab.post(sql, format="csv")
    assert text.headers["content-type"].startswith("text/csv")
    lines = list(csv.reader(io.StringIO(text.text)))
    assert lines[0] == ["id", "group name", "price", "day", "tags"]
    assert len(lines) == N + 1
    assert lines[2][0] == "1"
    assert json.loads(lines[2][4]) == ["t1", None]
    for answer in (
        lab.post(sql, format="arrow"),
        lab.post(sql, accept="application/vnd.apache.arrow.stream"),
    ):
        table = pa.ipc.open_stream(answer.content).read_all()
        assert table.num_rows == N
        assert table["price"].to_pylist() == rows()["price"].to_pylist()
        assert json.loads(answer.headers["x-stratal-snapshots"])[0]["table"] == "lab.points"
    nothing = pa.ipc.open_stream(
        lab.post("select id from lab.points where false", format="arrow").content
    ).read_all()
    assert (nothing.num_rows, nothing.schema.names) == (0, ["id"])


def test_long_answers_are_cut_and_say_so(lab: Lab) -> None:
    found = lab.ask("select * from range(20000)")
    assert (found["row_count"], found["truncated"], len(found["rows"])) == (10_000, True, 10_000)
    exact = lab.ask("select * from range(10000)")
    assert (exact["row_count"], exact["truncated"]) == (10_000, False)
    more = lab.ask("select * from range(20000)", limit=15_000)
    assert (more["row_count"], more["truncated"]) == (15_000, True)
    none = lab.ask("select * from range(3)", limit=0)
    assert (none["rows"], none["truncated"], none["columns"][0]["name"]) == ([], True, "range")
    heavy = lab.ask("select repeat('x', 1000000) from range(1000)")
    assert heavy["truncated"]
    assert heavy["row_count"] < 1000


def test_parameters(lab: Lab) -> None:
    sql = 'select count(*) from lab.points where id < ? and "group name" = ?'
    expected = lab.direct.execute(sql, [100, "ü"]).fetchone()
    assert lab.ask(sql, params=[100, "ü"])["rows"] == [list(expected or ())]


def test_names_are_found_however_they_are_spelt(lab: Lab) -> None:
    for name in ("LAB.Points", '"lab"."points"', "lab . points"):
        assert lab.ask(f"select count(*) from {name}")["rows"] == [[N]]
    assert lab.ask("select lab.points.id from lab.points where lab.points.id = 3")["rows"] == [[3]]
    lab.cli("tables", "import", "plain", str(lab.file))
    assert lab.ask("select count(*) from plain")["rows"] == [[N]]
    assert lab.ask("select count(*) from default.plain")["rows"] == [[N]]
    assert lab.ask("with plain as (select 1 a) select * from plain")["rows"] == [[1]]


def test_what_there_is(lab: Lab) -> None:
    assert ["lab.points"] in lab.ask("show tables")["rows"]
    described = {row[0]: row[1] for row in lab.ask("describe lab.points")["rows"]}
    assert described["price"] == "DECIMAL(12,2)"
    assert described["seen"] == "TIMESTAMP WITH TIME ZONE"
    columns = lab.ask(
        "select column_name from information_schema.columns where table_schema = 'lab' and table_name = 'points'"
    )
    assert {row[0] for row in columns["rows"]} == set(rows().schema.names)
    assert "READ_PARQUET" in lab.ask("explain select id from lab.points")["rows"][0][1].upper()
    assert lab.ask("summarize lab.points")["row_count"] == len(rows().schema.names)


def test_new_tables_and_more_rows_by_sql(lab: Lab) -> None:
    made = lab.ask(
        "create table lab.sums as select flag, sum(price) as total, max(seen) as last from lab.points group by 1"
    )
    assert made["rows"] == [[2]]
    assert {item["table"] for item in made["snapshots"]} == {"lab.points", "lab.sums"}
    expected = lab.direct.execute(
        "select flag, sum(price), max(seen) from lab.points group by 1 order by 1"
    ).fetchall()
    assert lab.ask("select * from lab.sums order by flag")["rows"] == [plain(row) for row in expected]
    assert lab.ask("insert into lab.sums (total, flag) values (1.5, null)")["rows"] == [[1]]
    assert lab.ask("insert into lab.sums by name select true as flag")["rows"] == [[1]]
    assert lab.ask("select total, last from lab.sums where flag is null")["rows"] == [[1.5, None]]
    assert lab.post("create table lab.sums as select 1").status_code == 409
    assert lab.ask("create table if not exists lab.sums as select 1 a")["rows"] == [[0]]
    assert lab.ask("create or replace table lab.sums as select 7 as seven")["rows"] == [[1]]
    assert lab.ask("select * from lab.sums")["rows"] == [[7]]
    for wrong in (
        "insert into lab.sums values (1, 2)",
        "insert into lab.sums select 'text'",
        "insert into lab.sums by name select 1 as eight",
        "insert into lab.nothing values (1)",
        "create table lab.two as select 1 as a, 2 as a",
    ):
        assert lab.post(wrong).status_code in {400, 404}, wrong
    assert lab.ask("select * from lab.sums")["rows"] == [[7]]


def test_a_mistake_is_shown_where_it_is(lab: Lab) -> None:
    answer = lab.post("select id,\n       nonsense\nfrom lab.points")
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "LINE 2:        nonsense\n" in message
    assert message.splitlines()[-1].strip("^ ") == ""
    assert str(lab.server.home) not in answer.text
    for sql, status in (("selct 1", 400), ("", 400), ("  ", 400), ("select 1; select 2", 400), ("select 1/*", 400),
                        ("select \0 1", 400), ("select * from lab.nope", 404), ("select * from nope.points", 404),
                        ("select error('boom')", 400), ("select 'x'::int", 400)):  # fmt: skip
        assert lab.post(sql).status_code == status, sql
    with lab.server.http(lab.key) as client:
        for body in (b"{", b"{}", b'{"sql": 5}', b'{"sql": "select 1", "limit": -1}', b'{"sql": "select \\ud800"}',
                     b'{"sql": "select 1", "timeout_seconds": 0}', b'{"sql": "select 1", "format": "xml"}'):  # fmt: skip
            assert client.post("/api/v1/sql", content=body).status_code == 400, body
        assert client.post("/api/v1/sql", json={"sql": "select " + "1+" * 600_000 + "1"}).status_code == 413


@pytest.mark.parametrize("format", ["json", "csv", "arrow"])
def test_a_mistake_in_the_data_is_an_error_in_every_format(lab: Lab, format: str) -> None:
    answer = lab.post(
        "select case when id = 5 then error('row 5') else id end from lab.points", format=format
    )
    assert answer.status_code == 400
    assert "row 5" in answer.json()["error"]["message"]


def test_from_the_command_line(lab: Lab, tmp_path: Path) -> None:
    assert json.loads(lab.cli("sql", "select 1 as one", "--json").stdout)["rows"] == [[1]]
    shown = lab.cli("sql", "select id, x from lab.points where id in (0, 1) order by id").stdout
    assert "NULL" in shown
    assert lab.cli("sql", "-", "--csv", input="select 'a,b' as t").stdout.split() == ["t", '"a,b"']
    for name in ("out.csv", "out.json", "out.arrow", "out.parquet"):
        lab.cli("sql", "select id, price from lab.points order by id", "-o", str(tmp_path / name))
    assert pq.read_table(tmp_path / "out.parquet")["price"].to_pylist() == rows()["price"].to_pylist()
    assert len((tmp_path / "out.csv").read_text().splitlines()) == N + 1
    assert json.loads((tmp_path / "out.json").read_text())["row_count"] == N
    wrong = lab.cli("sql", "select * from lab.nope", check=False)
    assert (wrong.returncode, "lab.nope" in wrong.stderr) == (6, True)
    assert "Traceback" not in wrong.stderr
    assert lab.cli("sql", "selct", check=False).returncode == 1


def test_queries_are_logged(lab: Lab) -> None:
    lab.ask("select 42 as logged from lab.points limit 1")
    lab.post("select broken from lab.points")
    with lab.server.http(lab.key) as client:
        found = client.get(f"/api/v1/projects/{lab.project}/queries").json()["queries"]
    broken, good = found[0], found[1]
    assert (good["state"], good["rows"], good["snapshots"][0]["table"]) == ("succeeded", 1, "lab.points")
    assert broken["state"] == "failed"
    assert "broken" in broken["error"]
