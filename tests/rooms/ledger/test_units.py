"""Whole numbers: what is said, shown and rounded."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.kernel.errors import Invalid
from stratal.ledger.units import MOST_MONEY, RESOURCES, check_price_name, cost_of, money, share, shown

pytestmark = pytest.mark.fast


@given(st.integers(0, MOST_MONEY))
def test_an_amount_is_read_as_it_was_shown(nano: int) -> None:
    assert money(shown(nano), "price") == nano


@pytest.mark.parametrize(
    "text", ["", "-1", "1e3", "0.0000000001", "NaN", "1,5", " 1", "1000000.1", "٣", "1\n"]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        money(text, "price")


def test_amounts_are_shown_exactly() -> None:
    assert [shown(n) for n in (0, 1, 10**7, 5 * 10**9, 37_500_000, -(10**9))] == [
        "0.00",
        "0.000000001",
        "0.01",
        "5.00",
        "0.0375",
        "-1.00",
    ]


@given(st.sampled_from(sorted(RESOURCES)), st.integers(0, 10**20), st.integers(0, MOST_MONEY))
def test_a_cost_is_the_exact_product_rounded_once(resource: str, quantity: int, nano: int) -> None:
    exact = Fraction(quantity * nano, RESOURCES[resource].per)
    assert abs(cost_of(resource, quantity, nano) - exact) <= Fraction(1, 2)


def test_an_hour_costs_what_an_hour_costs() -> None:
    assert cost_of("cpu", 3600 * 10**6, money("0.04", "price")) == 40_000_000
    assert cost_of("memory", 3600 * 2**20, money("0.005", "price")) == 5_000_000
    assert cost_of("gpu:h100", 1800 * 10**6, money("3", "price")) == 1_500_000_000
    assert cost_of("sent", 2**30, money("0.01", "price")) == 10_000_000
    assert cost_of("stored", 730 * 3600 * 2**10, money("0.02", "price")) == 20_000_000


@given(st.integers(0, 10**15), st.lists(st.integers(0, 10**9), min_size=1, max_size=8))
def test_shares_add_up(quantity: int, lengths: list[int]) -> None:
    whole, done, given_ = sum(lengths), 0, 0
    for length in lengths:
        done += length
        given_ += share(quantity, done, whole) - given_
    assert given_ == quantity


def test_only_what_there_is_has_a_price() -> None:
    assert check_price_name("gpu_hour:h100") == "gpu_hour:h100"
    for name in ("", "cpu", "cpu_hour:x", "gpu_hour:", "gpu_hour:H 100", "gpu_hour:a:b"):
        with pytest.raises(Invalid):
            check_price_name(name)
