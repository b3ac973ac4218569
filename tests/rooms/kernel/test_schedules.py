"""Times that come again: across daylight saving, restarts, and a clock that is set."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.kernel.errors import Invalid
from stratal.kernel.schedules import check_schedule, due_between, next_due

pytestmark = pytest.mark.fast
BERLIN = ZoneInfo("Europe/Berlin")
DAILY = ("30 2 * * *", "Europe/Berlin")


def at(text: str) -> int:
    """Epoch milliseconds of a time in Berlin; ``+`` behind it: the second time of an hour that comes twice."""
    moment = datetime.fromisoformat(text.rstrip("+")).replace(tzinfo=BERLIN, fold=int(text.endswith("+")))
    return round(moment.timestamp() * 1000)


def test_the_latest_time_behind_the_last_look() -> None:
    assert due_between(*DAILY, at("2026-06-01T00:00"), at("2026-06-01T02:29:59")) is None
    assert due_between(*DAILY, at("2026-06-01T00:00"), at("2026-06-01T02:30")) == at("2026-06-01T02:30")
    assert due_between(*DAILY, at("2026-06-01T02:30"), at("2026-06-01T02:30:01")) is None
    assert due_between(*DAILY, at("2026-06-01T00:00"), at("2026-06-09T12:00")) == at("2026-06-09T02:30")
    assert next_due(*DAILY, at("2026-06-01T02:30")) == at("2026-06-02T02:30")
    assert next_due(*DAILY, at("2026-06-01T02:29:59") + 999) == at("2026-06-01T02:30")


def test_the_hour_that_is_left_out_and_the_one_that_comes_twice() -> None:
    spring = due_between(*DAILY, at("2026-03-29T00:00"), at("2026-03-29T12:00"))
    assert spring == at("2026-03-29T03:00")
    once = at("2026-10-25T02:30")
    assert due_between(*DAILY, at("2026-10-25T00:00"), at("2026-10-25T12:00")) == once
    assert due_between(*DAILY, once, at("2026-10-25T02:45+")) is None
    hourly = ("0 * * * *", "Europe/Berlin")
    assert due_between(*hourly, at("2026-10-25T02:00"), at("2026-10-25T02:10+")) == at("2026-10-25T02:00+")


@given(
    st.integers(0, 2**41),
    st.integers(-(10**9), 10**9),
    st.sampled_from(["* * * * *", "*/7 3 * * *", "0 0 29 2 *"]),
)
def test_what_is_due_lies_behind_the_last_look_and_not_ahead(looked_at: int, passed: int, cron: str) -> None:
    schedule, now = (cron, "America/New_York"), looked_at + passed
    if now < 0:
        return
    due = due_between(*schedule, looked_at, now)
    if due is None:
        following = next_due(*schedule, looked_at)
        assert now <= looked_at or following > now
    else:
        assert looked_at < due <= now
        assert next_due(*schedule, due) > now


@pytest.mark.parametrize(
    "cron", ["", "x", "* * * *", "* * * * * *", "61 * * * *", "0 0 31 2 *", "@daily", "0 0 * * 9"]
)
def test_what_is_no_schedule(cron: str) -> None:
    with pytest.raises(Invalid):
        check_schedule(cron, "UTC")


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../etc/passwd", "Europe", "\0"])
def test_what_is_no_zone(zone: str) -> None:
    with pytest.raises(Invalid):
        check_schedule("* * * * *", zone)
