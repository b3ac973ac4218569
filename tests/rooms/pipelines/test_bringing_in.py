"""Files and databases brought in, and features as they were known. No server: tables are files."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import stratal
from stratal.sdk.pipelines import lake
from stratal.sdk.pipelines.authoring import StepFailed
from stratal.sdk.pipelines.ingestion import TooManyBadRows
from stratal.sdk.pipelines.local import LocalLake

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lake, "_chosen", [LocalLake(tmp_path / "lake")])
    return tmp_path


def test_types_are_found_out_and_bad_rows_kept_aside_with_reasons() -> None:
    lines = ["id,km,day,open,zip"]
    lines += [f"{i},{i / 2},2024-01-{i:02},{'true' if i % 2 else 'false'},0{i}" for i in range(1, 29)]
    lines += ["x,1.0,2024-01-01,true,01", "30,1.0", "31,,2024-01-31,,099"]
    done = stratal.ingest("\n".join(lines).encode(), "raw.trips", format="csv", columns={"zip": "text"})
    assert (done.rows, done.bad) == (29, 2)
    rows = {row["id"]: row for row in stratal.table("raw.trips").rows()}
    assert rows[3] == {"id": 3, "km": 1.5, "day": "2024-01-03", "open": True, "zip": "03"}
    assert rows[31] == {"id": 31, "km": None, "day": "2024-01-31", "open": None, "zip": "099"}
    assert done.bad_table is not None
    assert [(row["line"], row["reason"]) for row in done.bad_table.rows()] == [
        (30, "column id: 'x' is no int"),
        (31, "it has 2 fields, not 5"),
    ]
    assert json.loads(done.bad_table.rows()[1]["row"]) == ["30", "1.0"]


def test_too_many_bad_rows_write_nothing() -> None:
    data = b'{"a": 1}\nnot json\n[1]\n{"a": 2}\n'
    with pytest.raises(
        TooManyBadRows, match="2 of 4 rows of bytes are bad, for example line 2: it is not JSON"
    ):
        stratal.ingest(data, "raw.lines", format="json")
    assert not list(Path(lake.current()._folder("tables")).glob("*"))  # type: ignore[attr-defined]
    done = stratal.ingest(data, "raw.lines", format="json", most_bad=0.5)
    assert (done.rows, done.bad) == (2, 2)
    with pytest.raises(ValueError, match="cannot be told"):
        stratal.ingest(b"x", "raw.lines")
    with pytest.raises(ValueError, match="no type 'number'"):
        stratal.ingest(b'{"a": 1}', "raw.lines", format="json", columns={"a": "number"})


def test_a_database_is_brought_in_by_its_cursor(folder: Path) -> None:
    path = folder / "shop.db"
    with sqlite3.connect(path) as database:
        database.execute("create table orders (id integer, total real, changed text)")
        database.executemany(
            "insert into orders values (?, ?, ?)", [(i, i * 1.5, f"2024-01-0{i}") for i in (1, 2, 3)]
        )
    bring = {"cursor": "changed", "keys": ["id"]}
    assert stratal.ingest_sqlite(path, "orders", "raw.orders", **bring).rows == 3
    assert stratal.ingest_sqlite(path, "orders", "raw.orders", **bring).rows == 0
    with sqlite3.connect(path) as database:
        database.execute("update orders set total = 99, changed = '2024-01-05' where id = 2")
        database.execute("insert into orders values (4, 4, '2024-01-04')")
    done = stratal.ingest_sqlite(path, "select id, total, changed from orders", "raw.orders", **bring)
    assert done.rows == 2
    assert {row["id"]: row["total"] for row in stratal.table("raw.orders").rows()} == {
        1: 1.5,
        2: 99,
        3: 4.5,
        4: 4,
    }


def test_features_are_those_known_at_the_moment_where_a_naive_join_leaks() -> None:
    labels = stratal.table("raw.labels").replace(
        [
            {"user": 1, "at": "2024-01-02 00:00:00", "bought": False},
            {"user": 1, "at": "2024-01-10 00:00:00", "bought": True},
            {"user": 2, "at": "2024-01-01 00:00:00", "bought": False},
        ]
    )
    seen = stratal.table("raw.visits").replace(
        [
            {"user": 1, "known": "2024-01-01 00:00:00", "visits": 1},
            {"user": 1, "known": "2024-01-05 00:00:00", "visits": 7},
            {"user": 1, "known": "2024-01-11 00:00:00", "visits": 50},  # because they bought
            {"user": 2, "known": "2024-01-03 00:00:00", "visits": 9},
        ]
    )
    joined = stratal.features.join(labels, seen, on="user", at="at", known_at="known")
    assert sorted((row["user"], str(row["at"])[:10], row["visits"]) for row in joined) == [
        (1, "2024-01-02", 1),
        (1, "2024-01-10", 7),
        (2, "2024-01-01", None),
    ]

    def leaks(rows: list[dict[str, Any]]) -> bool:
        """Does any label know a number that came to be known after it?"""
        came = {9: "2024-01-03", 7: "2024-01-05", 50: "2024-01-11", 1: "2024-01-01"}
        return any(row["visits"] is not None and came[row["visits"]] > str(row["at"])[:10] for row in rows)

    naive = stratal.sql(
        "select l.*, f.visits from raw.labels l left join "
        "(select user, max_by(visits, known) as visits from raw.visits group by user) f using (user)"
    )
    assert leaks(naive)
    assert not leaks(joined)
    made = stratal.features.join(labels, seen, on=["user"], at="at", known_at="known", into="ml.training")
    assert len(made.rows()) == 3

    view = stratal.features.view("visits", "raw.visits", on="user", known_at="known", features=["visits"])
    later = stratal.table("raw.now").replace([{"user": u, "at": "2030-01-01 00:00:00"} for u in (1, 2)])
    offline = {row["user"]: row["visits"] for row in view.join(later, at="at")}
    assert view.publish()["keys"] == 2
    online = {user: (view.lookup(user=user) or {}).get("visits") for user in (1, 2)}
    assert online == offline == {1: 50, 2: 9}, "one definition, both ways"
    assert view.lookup(user=3) is None
    with pytest.raises(ValueError, match=r"View visits is of raw.visits, not of raw.labels"):
        view.publish(labels)


def test_checks_are_of_the_table_not_of_what_was_kept_aside() -> None:
    @stratal.step(checks=[stratal.not_null("id"), stratal.unique("id")])
    def load() -> int:
        rows = "".join(f'{{"id": {i}}}\n' for i in range(40))
        return stratal.ingest(f"{rows}nonsense\n".encode(), "raw.numbers", format="json").bad

    @stratal.step(checks=[stratal.between("id", 0, 10)])
    def wrong() -> None:
        stratal.table("raw.more").replace([{"id": 11}])

    @stratal.pipeline
    def both() -> int:
        wrong()
        return int(load().result())

    with pytest.raises(StepFailed, match=r"wrong: CheckFailed: check between\(id, 0, 10\)"):
        both()
    assert len(stratal.table("raw.numbers").rows()) == 40
