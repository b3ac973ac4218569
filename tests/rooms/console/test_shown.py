"""How values are shown."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.console import shown

pytestmark = pytest.mark.fast
NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("back", "text"),
    [
        (timedelta(seconds=1), "just now"),
        (timedelta(seconds=59), "59 s ago"),
        (timedelta(minutes=3, seconds=59), "3 min ago"),
        (timedelta(hours=23), "23 h ago"),
        (timedelta(days=29), "29 d ago"),
        (timedelta(days=60), "24 Sep 2026"),
    ],
)
def test_ago(back: timedelta, text: str) -> None:
    at = NOW - back
    assert shown.ago(at.isoformat(), NOW) == text
    assert shown.ago(int(at.timestamp() * 1000), NOW) == text


@pytest.mark.parametrize("value", [None, "", 0, "yesterday", True, 10**30, {}])
def test_what_is_no_time_shows_nothing(value: Any) -> None:
    assert shown.ago(value, NOW) == ""
    assert shown.exact(value) == ""
    assert shown.between(value, None, NOW) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "40ms"),
        (4.25, "4.2s"),
        (42, "42s"),
        (626, "10m 26s"),
        (11100, "3h 05m"),
        (187_200, "2d 04h"),
        (None, ""),
        (float("nan"), ""),
    ],
)
def test_duration(seconds: Any, text: str) -> None:
    assert shown.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.28531, "0.2853"),
        (1e-4, "1e-04"),
        (1.5e-7, "1.5e-07"),
        (12.3456789, "12.3457"),
        (512, "512"),
        (1_234_567, "1\u2009234\u2009567"),
        (float("nan"), "NaN"),
        (float("-inf"), "-∞"),
        ("NaN", "NaN"),
        (None, ""),
        ("rbf", "rbf"),
    ],
)
def test_number(value: Any, text: str) -> None:
    assert shown.number(value) == text


@given(st.one_of(st.integers(), st.floats(), st.text(), st.none(), st.booleans()))
def test_nothing_that_an_api_sends_breaks_a_page(value: Any) -> None:
    for show in (
        shown.number,
        shown.size,
        shown.duration,
        shown.exact,
        shown.state_name,
        shown.shape,
        shown.short,
    ):
        assert isinstance(show(value), str)
    assert isinstance(shown.ago(value, NOW), str)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (None, "")]
)
def test_size(count: Any, text: str) -> None:
    assert shown.size(count) == text


def test_every_state_of_a_job_has_a_shape_of_its_own_meaning() -> None:
    shapes = {
        s: shown.shape(s)
        for s in ["queued", "starting", "running", "succeeded", "failed", "stopped", "unknown"]
    }
    assert shapes == {
        "queued": "wait",
        "starting": "run",
        "running": "run",
        "succeeded": "done",
        "failed": "fail",
        "stopped": "off",
        "unknown": "off",
    }
    assert shown.state_name("FINISHED") == shown.state_name("succeeded") == "Done"


def test_a_long_value_is_cut_and_a_short_one_is_json() -> None:
    assert json.loads(shown.written([{"a": 1}, {"b": "</script>"}])) == [{"a": 1}, {"b": "</script>"}]
    assert shown.written(["x" * 100_000]).endswith("…")
