"""HTTP APIs and PostgreSQL brought in, from servers of our own; the history of rows."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import stratal
from platform_server import free_port, wait_until
from postgres_server import PostgresServer, _end_with_parent
from stratal.sdk.pipelines import lake, sources
from stratal.sdk.pipelines.local import LocalLake
from stratal.sdk.pipelines.sources import SourceFailed

ROWS = [{"id": i, "name": f"n{i}", "changed": f"2024-01-{i:02}"} for i in range(1, 8)]
Answer = Callable[[str, dict[str, str]], tuple[int, dict[str, str], Any]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lake, "_chosen", [LocalLake(tmp_path / "lake")])
    monkeypatch.setattr(sources.time, "sleep", lambda _: None)
    return tmp_path


class Api:
    """A little API; `answer` is given a path and its parameters."""

    def __init__(self, answer: Answer) -> None:
        asked = self.asked = []  # type: list[str]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                parts = urlsplit(self.path)
                given = {name: values[0] for name, values in parse_qs(parts.query).items()}
                status, headers, body = answer(parts.path, given)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def api() -> Iterator[Callable[[Answer], Api]]:
    made: list[Api] = []

    def make(answer: Answer) -> Api:
        made.append(Api(answer))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_each_way_of_paging_gives_all_rows(api: Callable[[Answer], Api]) -> None:
    def answer(path: str, given: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        start = int(given.get("from", given.get("token", (int(given.get("page", 1)) - 1) * 3)))
        some, after = ROWS[start : start + 3], start + 3
        more = after if after < len(ROWS) else None
        match path:
            case "/url":
                return 200, {}, {"data": {"items": some}, "links": {"next": more and f"/url?from={more}"}}
            case "/token":
                return 200, {}, {"items": some, "next": more}
            case "/link":
                return 200, {"Link": f'</link?from={more}>; rel="next"'} if more else {}, some
        return 200, {}, some

    made = api(answer)
    ways: list[tuple[str, dict[str, Any]]] = [
        ("/url", {"rows": "data.items", "next_url": "links.next"}),
        ("/token", {"rows": "items", "next_token": ("next", "token")}),
        ("/link", {}),
        ("/page", {"page_param": "page"}),
    ]
    for path, how in ways:
        found = [row for page in sources.pages(made.url + path, **how) for row in page]
        assert found == ROWS, path


def test_an_api_is_brought_in_by_its_cursor_and_tried_again_when_it_is_busy(
    api: Callable[[Answer], Api],
) -> None:
    rows = list(ROWS)
    busy = [503, 429]

    def answer(_path: str, given: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        if busy:
            return busy.pop(), {"Retry-After": "1"}, {}
        since = given.get("since", "")
        return 200, {}, [row for row in rows if str(row["changed"]) >= since]

    made = api(answer)
    how = {"cursor": "changed", "since_param": "since"}
    assert stratal.ingest_http(f"{made.url}/x", "raw.people", **how).rows == 7
    assert stratal.ingest_http(f"{made.url}/x", "raw.people", **how).rows == 0
    rows.append({"id": 2, "name": "new", "changed": "2024-02-01"})
    assert stratal.ingest_http(f"{made.url}/x", "raw.people", keys=["id"], **how).rows == 2
    assert "since=2024-01-07" in made.asked[-1]
    names = {row["id"]: row["name"] for row in stratal.table("raw.people").rows()}
    assert (len(names), names[2]) == (7, "new")


def test_what_an_api_must_not_do(api: Callable[[Answer], Api]) -> None:
    def answer(path: str, _given: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        return {
            "/away": (200, {}, {"rows": [], "next": "http://elsewhere.test/"}),
            "/round": (200, {}, {"rows": [], "next": "/round"}),
            "/sent": (302, {"Location": "http://elsewhere.test/"}, {}),
            "/html": (200, {}, b"<html>"),
            "/no": (403, {}, {"error": "no"}),
            "/odd": (200, {}, {"rows": 3}),
        }[path]

    made = api(answer)
    for path, words in (
        ("/away", "another host, elsewhere.test"),
        ("/round", "leads back to itself"),
        ("/sent", "another host"),
        ("/html", "did not answer with JSON"),
        ("/no", "answered 403"),
        ("/odd", "no list of objects at 'rows'"),
    ):
        with pytest.raises(SourceFailed, match=words):
            list(sources.pages(made.url + path, rows="rows", next_url="next"))
    with pytest.raises(ValueError, match="is no http"):
        list(sources.pages("file:///etc/passwd"))


def test_every_state_of_a_row_is_kept(folder: Path) -> None:
    def kept(at: str, *rows: dict[str, Any], **more: Any) -> int:
        return stratal.history("raw.customers", rows, keys=["id"], at=at, **more).rows

    assert kept("2024-01-01", {"id": 1, "town": "Ulm"}, {"id": 2, "town": "Bern"}) == 2
    assert kept("2024-01-02", {"id": 1, "town": "Ulm"}) == 0, "equal rows change nothing"
    assert kept("2024-01-03", {"id": 1, "town": "Graz"}) == 2
    assert kept("2024-01-03", {"id": 1, "town": "Graz"}) == 0, "asked again it is as it was"
    assert kept("2024-01-04", {"id": 1, "town": "Graz"}, whole=True) == 1
    rows = {
        (row["id"], row["town"]): (str(row["valid_from"])[:10], row["valid_to"] and str(row["valid_to"])[:10])
        for row in stratal.table("raw.customers").rows()
    }
    assert rows == {
        (1, "Ulm"): ("2024-01-01", "2024-01-03"),
        (1, "Graz"): ("2024-01-03", None),
        (2, "Bern"): ("2024-01-01", "2024-01-04"),
    }
    with pytest.raises(ValueError, match="Two rows have the keys"):
        kept("2024-01-05", {"id": 1}, {"id": 1})


def test_a_postgresql_table_is_brought_in_by_its_cursor(postgres: PostgresServer) -> None:
    import psycopg

    url = postgres.url(postgres.create())
    with psycopg.connect(url, autocommit=True) as database:
        database.execute("create table orders (id int, total numeric(8,2), paid bool, at timestamp)")
        database.execute(
            "insert into orders select i, i * 1.5, i % 2 = 0, timestamp '2024-01-01' + i * interval '1 day' "
            "from generate_series(1, 5) i"
        )
        how: dict[str, Any] = {"cursor": "at", "keys": ["id"]}
        assert stratal.ingest_sql(url, "orders", "raw.orders", **how).rows == 5
        assert stratal.ingest_sql(url, "public.orders", "raw.orders", **how).rows == 0
        database.execute("update orders set total = 99, at = '2024-02-01' where id = 2")
        done = stratal.ingest_sql(url, "select id, total, paid, at from orders", "raw.orders", **how)
    assert done.rows == 1
    totals = {row["id"]: row["total"] for row in stratal.table("raw.orders").rows()}
    assert totals == {1: 1.5, 2: 99, 3: 4.5, 4: 6, 5: 7.5}
    assert stratal.ingest_sql(url, "orders", "raw.copy").rows == 5
    assert stratal.ingest_sql(url, "orders", "raw.copy").rows == 5
    assert len(stratal.table("raw.copy").rows()) == 5, "without a cursor it takes the table's place"
    with pytest.raises(ValueError, match="Only postgresql:// and mysql://"):
        stratal.ingest_sql("oracle://x/y", "t", "raw.t")


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MariaDB server of this test's own, where its programs are installed."""
    import pymysql

    found = [shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") for name in ("mariadbd", "mysqld")]
    program = next((path for path in found if path), None)
    installer = shutil.which("mariadb-install-db")
    if program is None or installer is None:
        pytest.skip("MariaDB's programs (mariadbd, mariadb-install-db) are not installed")
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="stratal-my-", dir=memory if memory.is_dir() else None))
    data, port = folder / "data", free_port()
    own = [f"--datadir={data}", *(["--user=root"] if os.geteuid() == 0 else [])]
    how = [
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
    ]
    subprocess.run([installer, *how, *own], check=True, capture_output=True, timeout=300)
    words = ["--no-defaults", *own, f"--port={port}", f"--socket={folder}/socket", "--bind-address=127.0.0.1"]
    words += [
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=16M",
        f"--pid-file={folder}/pid",
    ]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen([program, *words], stdout=log, stderr=log, preexec_fn=_end_with_parent)
    try:
        connect = {"host": "127.0.0.1", "port": port, "user": "root"}
        wait_until(lambda: running.poll() is not None or _answers(pymysql, connect), seconds=120)
        assert running.poll() is None, (folder / "log").read_text()
        yield f"mysql://root@127.0.0.1:{port}/shop"
    finally:
        running.terminate()
        running.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(pymysql: Any, connect: dict[str, Any]) -> bool:
    try:
        with pymysql.connect(**connect) as database:
            database.cursor().execute("create database if not exists shop")
        return True
    except pymysql.err.OperationalError:
        return False


@pytest.mark.soak
def test_a_mysql_table_is_brought_in_by_its_cursor(mariadb: str) -> None:
    import pymysql

    port = urlsplit(mariadb).port
    database = pymysql.connect(host="127.0.0.1", port=port, user="root", database="shop", autocommit=True)
    with database, database.cursor() as ask:
        ask.execute(
            "create table orders (id int, total decimal(8,2), paid bool, at datetime, `a name` text, raw blob)"
        )
        for i in range(1, 6):
            ask.execute(
                f"insert into orders values ({i}, {i * 1.5}, {i % 2}, '2024-01-0{i} 10:00:00', '50% ü', x'00ff')"
            )
        how: dict[str, Any] = {"cursor": "at", "keys": ["id"]}
        assert stratal.ingest_sql(mariadb, "orders", "raw.orders", at_once=2, **how).rows == 5
        assert stratal.ingest_sql(mariadb, "shop.orders", "raw.orders", **how).rows == 0
        ask.execute("update orders set total = 99, at = '2024-02-01' where id = 2")
        some = "select * from orders where `a name` like '50%' and at is not null"
        done = stratal.ingest_sql(mariadb, some, "raw.orders", **how)
    assert done.rows == 1
    found = {row["id"]: row for row in stratal.table("raw.orders").rows()}
    assert {id_: row["total"] for id_, row in found.items()} == {1: 1.5, 2: 99, 3: 4.5, 4: 6, 5: 7.5}
    assert (found[1]["a name"], found[1]["raw"], found[1]["at"]) == ("50% ü", "00ff", "2024-01-01T10:00:00")
