"""``stratal tables import``: files of every format, from here and from S3, and what cannot be imported."""

import json
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from platform_server import PlatformServer, wait_until


class Shop:
    def __init__(self, server: PlatformServer, folder: Path) -> None:
        self.server = server
        self.project = server.project()
        self.env = server.env(self.project)
        self.folder = folder
        self.s3 = boto3.client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )

    def file(self, name: str, data: bytes | str | pa.Table) -> str:
        path = self.folder / name
        if isinstance(data, pa.Table):
            pq.write_table(data, path)
        else:
            path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)

    def cli(self, *arguments: str, check: bool = True) -> Any:
        return self.server.cli(*arguments, "--project", self.project, check=check)

    def rows(self, sql: str) -> Any:
        return json.loads(self.cli("sql", sql, "--json").stdout)["rows"]


@pytest.fixture(scope="module")
def shop(server: PlatformServer, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(server, tmp_path_factory.mktemp("shop"))


def test_what_cannot_be_read_or_written_is_said_without_a_traceback(shop: Shop) -> None:
    empty = shop.cli("tables", "import", "shop.none", shop.file("none.csv", ""), check=False)
    assert (empty.returncode, "is empty" in empty.stderr) == (1, True)
    assert shop.cli("tables", "show", "shop.none", check=False).returncode == 6
    nowhere = shop.cli("sql", "select 1", "-o", str(shop.folder / "no" / "o.csv"), check=False)
    assert (nowhere.returncode, "Traceback" in nowhere.stderr) == (1, False)
    assert "No such file or directory" in nowhere.stderr


def test_a_file_becomes_a_table(shop: Shop) -> None:
    file = shop.file("people.parquet", pa.table({"id": [1, 2], "full name": ["a", "ü"]}))
    made = json.loads(shop.cli("tables", "import", "shop.people", file, "--json").stdout)
    assert (made["name"], made["rows"], made["imported_rows"]) == ("shop.people", 2, 2)
    listed = json.loads(shop.cli("tables", "--json").stdout)["tables"]
    assert [(t["name"], t["rows"], t["snapshot_id"]) for t in listed] == [
        ("shop.people", 2, made["snapshot_id"])
    ]
    shown = json.loads(shop.cli("tables", "show", "shop.people", "--json").stdout)
    assert [(c["name"], c["type"]) for c in shown["columns"]] == [("id", "long"), ("full name", "string")]
    assert shop.rows('select id, "full name" from shop.people order by id') == [[1, "a"], [2, "ü"]]
    again = shop.cli("tables", "import", "shop.people", file, check=False)
    assert again.returncode == 1
    assert "--append" in again.stderr
    shop.cli("tables", "import", "shop.people", file, "--append")
    assert shop.rows("select count(*) from shop.people") == [[4]]
    shop.cli("tables", "import", "shop.people", file, "--replace")
    assert shop.rows("select count(*) from shop.people") == [[2]]
    history = json.loads(shop.cli("tables", "show", "shop.people", "--json").stdout)["snapshots"]
    assert [s["operation"] for s in history] == ["overwrite", "append", "append"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "a,b\n1,x\n2,\n"),
        ("t.tsv", "a\tb\n1\tx\n2\t\n"),
        ("t.json", '[{"a": 1, "b": "x"}, {"a": 2, "b": null}]'),
        ("t.jsonl", '{"a": 1, "b": "x"}\n{"a": 2}\n'),
    ],
)
def test_other_formats(shop: Shop, name: str, content: str) -> None:
    table = "formats." + name.replace(".", "_")
    shop.cli("tables", "import", table, shop.file(name, content))
    assert shop.rows(f"select a, b from {table} order by a") == [[1, "x"], [2, None]]


def test_arrow_and_gzip(shop: Shop) -> None:
    import gzip

    sink = pa.BufferOutputStream()
    table = pa.table({"a": [1], "b": ["x"]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    shop.cli("tables", "import", "formats.arrow", shop.file("t.arrow", sink.getvalue().to_pybytes()))
    shop.cli("tables", "import", "formats.gz", shop.file("t.csv.gz", gzip.compress(b"a,b\n1,x\n")))
    for name in ("arrow", "gz"):
        assert shop.rows(f"select * from formats.{name}") == [[1, "x"]]


def test_from_an_object(shop: Shop, server: PlatformServer) -> None:
    bucket = f"{shop.project}-in"
    shop.s3.create_bucket(Bucket=bucket)
    shop.s3.put_object(Bucket=bucket, Key="in/a b+ü.csv", Body=b"x\n1\n2\n")
    shop.cli("tables", "import", "objects.t", f"s3://{bucket}/in/a b+ü.csv")
    assert shop.rows("select sum(x) from objects.t") == [[3]]
    missing = shop.cli("tables", "import", "objects.u", f"s3://{bucket}/none.csv", check=False)
    assert missing.returncode == 6
    with server.http(server.key()) as stranger:
        taken = stranger.post(
            "/api/v1/projects/default/tables/stolen/import", json={"source": f"s3://{bucket}/in/a b+ü.csv"}
        )
    assert taken.status_code == 404


def test_a_later_row_may_decide_the_type(shop: Shop) -> None:
    shop.cli("tables", "import", "late", shop.file("late.csv", "a\n" + "1\n" * 30_000 + "x\n"))
    assert shop.rows("select count(*), max(a) from late") == [[30_001, "x"]]


def test_replacing_follows_the_new_columns(shop: Shop) -> None:
    shop.cli(
        "tables", "import", "moving", shop.file("one.parquet", pa.table({"a": [1], "b": ["x"], "c": [1.5]}))
    )
    first = json.loads(shop.cli("tables", "show", "moving", "--json").stdout)["snapshot_id"]
    new = pa.table({"d": [True], "b": pa.array([7], pa.int64()), "a": pa.array([2], pa.int32())})
    shop.cli("tables", "import", "moving", shop.file("two.parquet", new), "--replace")
    assert shop.rows("select a, b, d from moving") == [[2, 7, True]]
    assert shop.rows(f"select a, b, c from moving at (version => {first})") == [[1, "x", 1.5]]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("fake.parquet", b"not parquet at all", "not a Parquet file"),
        ("empty.parquet", b"", "not a Parquet file"),
        ("cut.parquet", b"PAR1....", "not a Parquet file"),
        ("what.xyz", b"?", "--format"),
        ("bad.json", b"{", ""),
        ("bad.arrow", b"ARROW1xx", "not an Arrow file"),
    ],
)
def test_what_is_no_table(shop: Shop, name: str, content: bytes, says: str) -> None:
    done = shop.cli("tables", "import", "bad.t", shop.file(name, content), check=False)
    assert done.returncode == 1, done.stdout
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert str(shop.server.home) not in done.stderr
    assert all(t["name"] != "bad.t" for t in json.loads(shop.cli("tables", "--json").stdout)["tables"])


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "x" * 300, "new\nline"])
def test_bad_names(shop: Shop, name: str) -> None:
    done = shop.cli("tables", "import", name, shop.file("ok.csv", "a\n1\n"), check=False)
    assert done.returncode in {1, 2}
    assert "Traceback" not in done.stderr


def test_rows_that_do_not_fit(shop: Shop) -> None:
    shop.cli("tables", "import", "fit", shop.file("fit.parquet", pa.table({"a": pa.array([1], pa.int32())})))
    for name, rows in (
        ("wide", pa.table({"a": pa.array([2**40], pa.int64())})),
        ("text", pa.table({"a": ["x"]})),
        ("more", pa.table({"a": [1], "z": [1]})),
        ("other", pa.table({"z": [1]})),
    ):
        done = shop.cli(
            "tables", "import", "fit", shop.file(f"{name}.parquet", rows), "--append", check=False
        )
        assert done.returncode == 1, name
    assert shop.rows("select a from fit") == [[1]]
    shop.cli(
        "tables",
        "import",
        "fit",
        shop.file("ok.parquet", pa.table({"a": pa.array([5], pa.int64())})),
        "--append",
    )
    assert shop.rows("select a from fit order by a") == [[1], [5]]


def test_null_lists_stay_null(shop: Shop) -> None:
    kind = pa.list_(pa.struct([("k", pa.int64())]))
    rows = pa.table({"l": pa.array([[{"k": 1}], [], None], kind)})
    shop.cli("tables", "import", "nested", shop.file("nested.parquet", rows))
    assert shop.rows("select l from nested order by l nulls last") == [[[]], [[{"k": 1}]], [None]]


def test_verified_broken_and_dropped(shop: Shop) -> None:
    shop.cli("tables", "import", "proof.t", shop.file("proof.csv", "a\n1\n2\n"))
    assert json.loads(shop.cli("tables", "verify", "proof.t", "--json").stdout)["verified"] is True
    found = json.loads(shop.cli("tables", "show", "proof.t", "--files", "--json").stdout)["snapshot_files"]
    data = next(f for f in found if f["kind"] == "data")
    blob = _blob_of(shop, data["bytes"])
    body = bytearray(blob.read_bytes())
    body[len(body) // 2] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(body)
    broken = shop.cli("tables", "verify", "proof.t", "--json", check=False)
    assert broken.returncode == 1
    verdicts = {f["name"]: f["status"] for f in json.loads(broken.stdout)["files"]}
    assert verdicts.pop(data["name"]) == "broken"
    assert set(verdicts.values()) == {"verified"}
    shop.cli("tables", "drop", "proof.t", "--yes")
    wait_until(lambda: not blob.exists())
    assert shop.cli("tables", "show", "proof.t", check=False).returncode == 6


def _blob_of(shop: Shop, size: int) -> Path:
    """The newest stored blob of that size."""
    blobs = [p for p in (shop.server.home / "blobs" / "objects").rglob("blob_*") if p.stat().st_size == size]
    return max(blobs, key=lambda p: p.name)
