"""The grammar of searching: what it reads, and that it refuses the rest clearly."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.collab.search import (
    Condition,
    Entity,
    Grammar,
    offset_of,
    page_token,
    parse_filter,
    parse_order,
)
from stratal.kernel.errors import Invalid

pytestmark = pytest.mark.fast

GRAMMAR = Grammar(
    frozenset(Entity),
    text={"run_name": "run_name", "Run name": "run_name", "status": "status"},
    numbers={"start_time": "start_time"},
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("metrics.auc > 0.9", [(Entity.METRIC, "auc", ">", 0.9)]),
        ("metric.`val/auc` <= -1e-3", [(Entity.METRIC, "val/auc", "<=", -0.001)]),
        ('params."my lr" = "0.1"', [(Entity.PARAM, "my lr", "=", "0.1")]),
        ("tags.mlflow.runName != 'it''s'", [(Entity.TAG, "mlflow.runName", "!=", "it's")]),
        ("status='FINISHED'", [(Entity.ATTRIBUTE, "status", "=", "FINISHED")]),
        ("attributes.`Run name` LIKE '%a%'", [(Entity.ATTRIBUTE, "run_name", "LIKE", "%a%")]),
        ("attr.start_time >= 12", [(Entity.ATTRIBUTE, "start_time", ">=", 12.0)]),
        ("status NOT IN ('A', 'B')", [(Entity.ATTRIBUTE, "status", "NOT IN", ("A", "B"))]),
        ("tags.x is not null", [(Entity.TAG, "x", "IS NOT NULL", None)]),
        (
            "params.a ilike 'X' and tags.b IS NULL AND metrics.c=1",
            [
                (Entity.PARAM, "a", "ILIKE", "X"),
                (Entity.TAG, "b", "IS NULL", None),
                (Entity.METRIC, "c", "=", 1.0),
            ],
        ),
        ("dataset.name = 'd'", [(Entity.DATASET, "name", "=", "d")]),
        ("", []),
    ],
)
def test_a_filter_is_its_comparisons(text: str, expected: list[tuple[object, ...]]) -> None:
    assert parse_filter(text, GRAMMAR) == [Condition(*one) for one in expected]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "metrics.x >",
        "metrics.x > 'a'",
        "params.x = 1",
        "params.x = y",
        "params.x > 'a'",
        "a OR b",
        "metrics.x > 1 OR metrics.y > 2",
        "(metrics.x > 1)",
        "status IN ()",
        "status IN ('a' 'b')",
        "status IN 'a'",
        "nothing = 'x'",
        "colour.x = 'y'",
        "metrics.x = 1 AND",
        "metrics.x = 1; DROP TABLE runs",
        "tags.`x = 'a'",
        "params.x LIKE",
        "dataset.size = 'x'",
        "\x00",
        "= 'a'",
    ],
)
def test_what_is_no_filter_is_refused_with_its_reason(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_filter(text, GRAMMAR)
    assert refused.value.reason == "bad_filter"


@given(st.text(max_size=80))
def test_any_text_is_a_filter_or_invalid(text: str) -> None:
    with contextlib.suppress(Invalid):
        parse_filter(text, GRAMMAR)


@given(st.text(st.characters(exclude_characters="`", exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_any_key_can_be_named_in_backticks(key: str) -> None:
    (condition,) = parse_filter(f"metrics.`{key}` > 1", GRAMMAR)
    assert condition.key == key
    (order,) = parse_order([f"metrics.`{key}` DESC"], GRAMMAR)
    assert (order.key, order.ascending) == (key, False)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_any_value_can_be_quoted(value: str) -> None:
    (condition,) = parse_filter("params.x = '{}'".format(value.replace("'", "''")), GRAMMAR)
    assert condition.value == value


def test_ordering_twice_by_the_same_field_is_refused() -> None:
    with pytest.raises(Invalid):
        parse_order(["metrics.x", "metric.x DESC"], GRAMMAR)


@pytest.mark.parametrize("clause", ["metrics.x DESC foo", "", "DESC", "dataset.name", "nothing"])
def test_what_is_no_order_is_refused(clause: str) -> None:
    with pytest.raises(Invalid):
        parse_order([clause], GRAMMAR)


@given(st.integers(0, 10**12))
def test_a_page_token_tells_where_the_page_begins(offset: int) -> None:
    assert offset_of(page_token(offset)) == offset


@given(st.text(min_size=1, max_size=30))
def test_a_made_up_token_is_refused_or_is_one(token: str) -> None:
    with contextlib.suppress(Invalid):
        assert page_token(offset_of(token))
