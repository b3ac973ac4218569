"""Filtering, sorting and paging by the address."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.console.listing import PAGE_ROWS, Column, arrange

pytestmark = pytest.mark.fast

COLUMNS = (
    Column("name", "Name", lambda item: item["name"]),
    Column("state", "State", lambda item: item.get("state")),
    Column("loss", "Loss", lambda item: item.get("loss"), numeric=True),
)
ITEMS = [
    {"name": "resnet-wide", "state": "running", "loss": 0.28},
    {"name": "tcn-small", "state": "succeeded", "loss": 0.43},
    {"name": "mlp", "state": "failed"},
    {"name": "resnet-deep", "state": "succeeded", "loss": float("nan")},
]


def names(**address: str) -> list[str]:
    return [item["name"] for item in arrange(ITEMS, COLUMNS, address).rows]


def test_without_anything_said_the_order_is_kept() -> None:
    assert names() == ["resnet-wide", "tcn-small", "mlp", "resnet-deep"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("resnet", ["resnet-wide", "resnet-deep"]),
        ("RESNET deep", ["resnet-deep"]),
        ("state:running", ["resnet-wide"]),
        ("state:done", ["tcn-small", "resnet-deep"]),
        ("loss<0.3", ["resnet-wide"]),
        ("loss>=2.8e-1", ["resnet-wide", "tcn-small"]),
        ("state:failed resnet", []),
        ("nothing:here", []),
        ("loss<", []),
    ],
)
def test_the_filter(query: str, found: list[str]) -> None:
    assert names(q=query) == found


def test_sorting_puts_what_has_no_value_last_both_ways() -> None:
    assert names(sort="loss")[:2] == ["resnet-wide", "tcn-small"]
    assert names(sort="-loss")[:2] == ["tcn-small", "resnet-wide"]
    assert set(names(sort="-loss")[2:]) == {"mlp", "resnet-deep"}
    assert names(sort="-name")[0] == "tcn-small"
    assert names(sort="nonsense") == names()


def test_paging_shows_every_row_once() -> None:
    items = [{"name": f"run-{i}"} for i in range(2 * PAGE_ROWS + 1)]
    pages = [arrange(items, COLUMNS, {"page": str(p)}) for p in (1, 2, 3)]
    assert [item for page in pages for item in page.rows] == items
    assert {page.pages for page in pages} == {3}
    assert arrange(items, COLUMNS, {"page": "99"}).page == 3
    assert arrange(items, COLUMNS, {"page": "-1"}).page == 1


@given(st.dictionaries(st.sampled_from(["q", "sort", "page"]), st.text()), st.lists(st.text(), max_size=3))
def test_no_address_breaks_a_list(address: dict[str, str], words: list[str]) -> None:
    items: list[dict[str, Any]] = [{"name": word, "loss": 1.0} for word in words]
    listing = arrange(items, COLUMNS, address)
    assert listing.matched <= listing.total == len(words)
