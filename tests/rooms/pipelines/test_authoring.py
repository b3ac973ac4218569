"""Writing pipelines: what calling steps means, what values may pass, what counts as a step's code. No server."""

import datetime
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stratal
from stratal.data.pipelines import model
from stratal.sdk import pipeline_runs
from stratal.sdk.pipelines import authoring, lake, values
from stratal.sdk.pipelines.authoring import StepFailed
from stratal.sdk.pipelines.execution import refs, rendered
from stratal.sdk.pipelines.fingerprint import fingerprint
from stratal.sdk.pipelines.local import LocalLake

pytestmark = pytest.mark.fast

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text().filter(lambda k: "$" not in k), inner)
    ),
    max_leaves=12,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lake, "_chosen", [LocalLake(tmp_path / "lake")])
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # a module is written twice in a second, of the same size
    return tmp_path


def load(folder: Path, name: str, text: str) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


def test_a_pipeline_runs_without_a_server_and_a_step_outside_of_one_is_its_function() -> None:
    @stratal.step
    def ingest(day: str) -> stratal.Table:
        return stratal.table("raw.trips").replace([{"day": day, "km": km} for km in (1, 2, 3)])

    @stratal.step
    def square(x: int) -> int:
        return x * x

    @stratal.step
    def count(trips: stratal.Table, extra: list[int]) -> int:
        return len(trips.rows()) + sum(extra)

    @stratal.pipeline
    def nightly(day: str = "2024-01-01") -> Any:
        raw = ingest(day)
        squares = square.map([1, 2])
        n = count(raw, squares)
        return {"n": n, "more": square(7) if n.result() == 8 else None}

    assert nightly() == {"n": 8, "more": 49}
    assert square(3) == 9
    assert stratal.table("raw.trips").rows()[0] == {"day": "2024-01-01", "km": 1}


def test_what_depends_on_a_failed_step_is_not_run_and_the_rest_is() -> None:
    done = []

    @stratal.step(retries=1)
    def fail() -> int:
        done.append("fail")
        raise ValueError("no")

    @stratal.step
    def after(x: int) -> int:
        done.append("after")
        return x

    @stratal.step
    def other() -> None:
        done.append("other")

    @stratal.pipeline
    def broken() -> None:
        after(fail())
        other()

    with pytest.raises(StepFailed, match="fail: ValueError: no; after: fail failed before it"):
        broken()
    assert done == ["fail", "fail", "other"]


def test_writes_append_replace_upsert_and_overwrite() -> None:
    table = stratal.table("a.b")
    table.replace([{"id": 1, "v": "x", "day": "m"}, {"id": 2, "v": "y", "day": "t"}])
    table.append([{"id": 3, "v": "z", "day": "t"}])
    table.upsert([{"id": 2, "v": "Y", "day": "t"}, {"id": 4, "v": "w", "day": "w"}], keys=["id"])
    assert sorted((row["id"], row["v"]) for row in table.rows()) == [(1, "x"), (2, "Y"), (3, "z"), (4, "w")]
    table.overwrite([{"id": 9, "v": "n", "day": "t"}], where={"day": "t"})
    assert sorted(row["id"] for row in table.rows()) == [1, 4, 9]
    with pytest.raises(ValueError, match="key columns"):
        table.upsert([{"id": 1}], keys=[])
    with pytest.raises(TypeError, match="Each row must be a dict"):
        table.append([1])


def test_what_is_given_as_text_is_what_the_signature_says() -> None:
    def made(
        day: datetime.date,
        at: "datetime.datetime | None" = None,
        code: str = "",
        rate: float = 0,
        either: int | str = 0,
        names: list[str] | None = None,
        any_: Any = None,
    ) -> None: ...

    given = {
        "day": "2026-01-05",
        "at": "2026-01-05T18:30",
        "code": 7,
        "rate": 2,
        "either": 5,
        "names": ["a"],
        "any_": 1,
    }
    moment = datetime.datetime(2026, 1, 5, 18, 30)
    found = authoring.typed(made, given)
    assert list(found.values()) == [moment.date(), moment, "7", 2.0, 5, ["a"], 1]
    assert type(found["rate"]) is float
    assert authoring.typed(made, {"at": None, "day": moment.date()}) == {"at": None, "day": moment.date()}
    with pytest.raises(TypeError, match="day is a date, such as 2026-01-31, and not 'monday'"):
        authoring.typed(made, {"day": "monday"})


def test_whatever_streams_arrow_is_written() -> None:
    rows = pa.table({"id": [1, 2]})
    for data in (rows, rows.to_batches()[0], rows.to_reader(), Streaming(rows)):
        assert stratal.table("a.arrow").replace(data).rows() == [{"id": 1}, {"id": 2}]


class Streaming:
    """What every library of columns has, and nothing else."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._rows.__arrow_c_stream__(requested_schema)


def test_an_object_is_put_once(folder: Path) -> None:
    place = stratal.object_at("s3://bucket/a/b.bin")
    assert place.put(b"one").read() == b"one"
    assert place.put(b"one").read() == b"one"
    with pytest.raises(FileExistsError, match="never overwrite"):
        place.put(b"two")


def test_sql_refs_are_pinned_and_words_are_literals() -> None:
    text = "select * from {{ ref('raw.trips') }} where day = {{ day }} and n in {{ ns }} and x = {{ none }}"
    assert refs(text) == ["raw.trips"]
    got = rendered(text, {"day": "it's", "ns": [1, 2.5], "none": None})
    assert got == """select * from "raw"."trips" where day = 'it''s' and n in [1, 2.5] and x = NULL"""
    with pytest.raises(KeyError, match="day"):
        rendered(text, {})


@given(PLAIN)
def test_values_survive_the_journal(value: Any) -> None:
    assert values.decode(values.encode(value)) == value


def test_references_and_dates_survive_and_other_things_are_refused() -> None:
    given = {
        "t": stratal.table("a.b", 7),
        "o": stratal.Object("b", "k/ü", "etag"),
        "m": stratal.model("m", 3),
        "d": datetime.date(2024, 2, 29),
        "at": datetime.datetime(2024, 1, 1, 2, tzinfo=datetime.UTC),
        "list": [stratal.table("x")],
    }
    assert values.decode(values.encode(given)) == given
    for bad in (object(), {1: 2}, float("nan"), b"bytes", {"$table": 1}):
        with pytest.raises(values.NotAValue):
            values.encode(bad)
    with pytest.raises(values.NotAValue, match="too long"):
        values.dumped("x" * 2_000_000)


@given(PLAIN, st.integers(0, 5))
def test_the_platform_and_the_sdk_reduce_arguments_alike(value: Any, snapshot: int) -> None:
    encoded = values.encode(
        {"v": value, "t": stratal.table("a.b", snapshot), "o": [stratal.Object("b", "k", "e")]}
    )
    assert model.without_moments(encoded) == values.without_moments(encoded)
    assert list(model.moments(encoded["t"])) == [("a.b", str(snapshot))]


def test_a_steps_code_is_what_its_function_leads_to(folder: Path) -> None:
    (folder / "helper_a.py").write_text("def twice(x):\n    return 2 * x\n\ndef unused():\n    return 1\n")
    text = """
import stratal
from helper_a import twice
RATE = 3

def inner(x):
    return x + 1

@stratal.step
def one(x):
    return twice(inner(x)) * RATE

@stratal.step
def two(x):
    return x
"""

    def prints(text: str) -> tuple[str, str]:
        sys.modules.pop("helper_a", None)
        module = load(folder, "pipeline_file", text)
        return fingerprint(module.one.function, folder), fingerprint(module.two.function, folder)

    first = prints(text)
    commented = text.replace("    return x + 1", "    # a comment\n\n    return x + 1").replace(
        "@stratal.step\ndef one", "@stratal.step(retries=3)\ndef one"
    )
    assert prints(commented) == first
    for change in (("x + 1", "x + 2"), ("RATE = 3", "RATE = 4"), ("twice(inner(x))", "inner(twice(x))")):
        changed = prints(text.replace(*change))
        assert (changed[0] != first[0], changed[1] == first[1]) == (True, True), change
    (folder / "helper_a.py").write_text("def twice(x):\n    return x + x\n")
    changed = prints(text)
    assert (changed[0] != first[0], changed[1] == first[1]) == (True, True)


def test_a_report_is_one_page_that_runs_and_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from stratal.sdk.pipelines import reports

    asked: list[str] = []

    def rows(text: str) -> list[dict[str, object]]:
        asked.append(text)
        return [{"week": f"2024-01-0{i}", "ppm": i * 1.5, "who": "<b>&"} for i in range(1, 4)]

    monkeypatch.setattr(reports.lake, "read_sql", rows)
    text = """# Air on {{ day }}

Some *words*, **bold** and `code` <script>alert(1)</script>

- one
- two

```sql line x=week y=ppm title="By week"
select 1
```
```sql
select 2
```
```sql chart=bar x=who y=ppm
select 3
```
"""
    page = reports.sql_report(text, lambda query: f"[{query.strip()}]", {"day": "Monday"}, "Air")
    assert asked == ["[select 1]", "[select 2]", "[select 3]"]
    assert "<h1>Air on Monday</h1>" in page
    assert "<em>words</em>, <strong>bold</strong> and <code>code</code> &lt;script&gt;" in page
    assert "<ul><li>one</li><li>two</li></ul>" in page
    assert page.count("<svg ") == 2
    assert "<figcaption>By week</figcaption>" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<script" not in page
    assert "http" not in page
    with pytest.raises(ValueError, match="Query 1 is to be shown as 'pie': there is table, line"):
        reports.sql_report("```sql pie\nselect 1\n```", str, {}, "x")
    with pytest.raises(ValueError, match="Query 1 has no column nothing; it has week, ppm, who"):
        reports.sql_report("```sql line y=nothing\nselect 1\n```", str, {}, "x")
    monkeypatch.setattr(reports.lake, "read_sql", lambda _: [])
    assert "No rows." in reports.sql_report("```sql line\nselect 1\n```", str, {}, "x")


@pytest.mark.parametrize(("low", "high"), [(0, 0), (0, 1), (-3, 7), (1e-9, 3e-9), (99, 101), (-5e6, 12e6)])
def test_scales_have_round_numbers_that_hold_all(low: float, high: float) -> None:
    from stratal.sdk.pipelines.reports import _ticks

    ticks = _ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9


def test_what_a_worker_is_sent_needs_nothing_else(folder: Path) -> None:
    for entry in pipeline_runs._sdk():
        place = folder / entry.path.removeprefix(f"{pipeline_runs.CARRIED}/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(entry.place.read_bytes())
    names = [f"stratal.sdk.pipelines.{path.stem}" for path in (folder / "stratal/sdk/pipelines").glob("*.py")]
    assert "stratal.sdk.pipelines.worker" in names
    program = f"import sys; sys.path.insert(0, sys.argv[1]); import {', '.join(names)}"
    subprocess.run([sys.executable, "-I", "-S", "-c", program, str(folder)], check=True)
