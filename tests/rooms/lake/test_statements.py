"""Which tables a statement names, and which statements are let through: from the parse tree alone."""

import contextlib
import json
from collections.abc import Iterator

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratal.engines.duckdb.render import json_value
from stratal.engines.duckdb.statement import Refused, parse, quote, runnable

pytestmark = pytest.mark.fast


@pytest.fixture(scope="module")
def parser() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(config={"enable_external_access": False})
    yield connection
    connection.close()


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("select 1", []),
        ("from ns.t", ["ns.t"]),
        ("table ns.t", ["ns.t"]),
        ("select * from default.t, Default . u", ["default.t", "Default.u"]),
        ("select default.t.x from default.t", ["default.t"]),
        ("select * from a.b.c.d", ["a.b.c.d"]),
        ('select * from "n s"."t""q" as default_', ['n s.t"q']),
        ("with u as (select * from t) select * from u", ["t"]),
        ("with u as (select 1), v as (select * from u) select * from v, U, x.u", ["x.u"]),
        ("with t as (select * from t) select * from t", ["t"]),
        ("with recursive u as (select 1 a union all select a + 1 from u) select * from u", []),
        ("select * from (with u as (select 1) select * from u), u", ["u"]),
        ("select (select max(x) from a) from b where exists (from c)", ["a", "b", "c"]),
        ("select * from a union all (select * from b intersect select * from c)", ["a", "b", "c"]),
        ("explain analyze select * from ns.t", ["ns.t"]),
        ("-- from no.where\nselect 'from no.where' /* from no.where */ from ns.t", ["ns.t"]),
        ("describe ns.t", ["ns.t"]),
        ("summarize ns.t", ["ns.t"]),
        ("select * from '/etc/passwd'", ["/etc/passwd"]),
        ("pivot ns.t on x in (1, 2) using sum(y)", ["ns.t"]),
        ("unpivot ns.t on x", ["ns.t"]),
        ("select * from ns.t asof join ns.u using (k, ts)", ["ns.t", "ns.u"]),
        ("select * from a, lateral (select * from b where b.x = a.x)", ["a", "b"]),
        ("insert into ns.t select * from ns.u", ["ns.u"]),
        ("create table ns.n as with q as (from ns.a) from q, ns.b", ["ns.a", "ns.b"]),
        ("select * from range(3) r, unnest([1])", []),
    ],
)
def test_tables_named(parser: duckdb.DuckDBPyConnection, sql: str, tables: list[str]) -> None:
    assert [".".join(r.path) for r in parse(parser, sql).tables] == tables


@pytest.mark.parametrize(
    ("sql", "target", "columns"),
    [
        ("insert into ns.t values (1)", ("ns", "t"), None),
        ('insert into "n s".t (a, "b c") select 1, 2', ("n s", "t"), ["a", "b c"]),
        ("insert into t (select 1)", ("t",), None),
        ("insert /* x */ into -- y\n ns.t by name select 1 a", ("ns", "t"), None),
        ("create or replace table ns.t as select 1", ("ns", "t"), None),
    ],
)
def test_targets(
    parser: duckdb.DuckDBPyConnection, sql: str, target: tuple[str, ...], columns: list[str] | None
) -> None:
    statement = parse(parser, sql)
    assert (statement.target, statement.columns) == (target, columns)
    assert duckdb.connect().execute(statement.sql).fetchall()


@pytest.mark.parametrize(
    ("sql", "runs"),
    [
        ("select * from ns.t at (version => 5) where x", 'select * from "ns"."t@1" AS "t" where x'),
        ("select * from ns.t y at (version => 5)", 'select * from "ns"."t@1" AS "y"'),
        ("select 'é' from é.t for version as of 5 -- é", 'select \'é\' from "é"."t@1" AS "t" -- é'),
        (
            "explain select 1 from ns.t for timestamp as of '2026-01-01'",
            'explain select 1 from "ns"."t@1" AS "t"',
        ),
    ],
)
def test_time_travel(parser: duckdb.DuckDBPyConnection, sql: str, runs: str) -> None:
    statement = parse(parser, sql)
    moved = [
        {"path": r.path, "location": r.location, "length": r.length, "alias": r.alias,
         "view": (*r.path[:-1], r.path[-1] + "@1")}
        for r in statement.tables if r.at
    ]  # fmt: skip
    assert runnable({"sql": statement.sql, "moved": moved}) == runs


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_taken_or_refused(parser: duckdb.DuckDBPyConnection, text: str) -> None:
    with contextlib.suppress(Refused, duckdb.Error, UnicodeEncodeError):
        parse(parser, text)


@settings(max_examples=60, deadline=None)
@given(
    st.text(
        alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
    )
)
def test_quoted_names_come_back(parser: duckdb.DuckDBPyConnection, name: str) -> None:
    statement = parse(parser, f"select * from {quote(name)}.{quote(name)}")
    assert [r.path for r in statement.tables] in ([(name, name)], [])


VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.decimals(),
        st.datetimes(), st.dates(), st.times(), st.timedeltas(), st.uuids(),
    ),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(VALUES)
def test_every_value_becomes_json(value: object) -> None:
    text = json.dumps(json_value(value), allow_nan=False)
    assert all(abs(number) <= 2**53 for number in _integers(json.loads(text)))


def _integers(value: object) -> list[int]:
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value]
    if isinstance(value, list):
        return [n for item in value for n in _integers(item)]
    if isinstance(value, dict):
        return [n for item in value.values() for n in _integers(item)]
    return []
