"""Time, passed in: rooms ask a `Clock`, so that tests can move it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]
"""Returns the wall-clock time in milliseconds since 1970-01-01 UTC."""


def system_clock() -> int:
    """The machine's wall clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


_FIRST, _LAST = -30_610_224_000_000, 253_402_300_799_999
"""The years 1000 to 9999, which RFC 3339 and every reader of it can say."""


def iso(milliseconds: int) -> str:
    """Format epoch milliseconds as RFC 3339 in UTC with milliseconds, e.g. 2026-01-31T08:00:00.000Z.

    What clients say of their times is as it may be (nanoseconds, for one): what no calendar has is told as its end.
    """
    at = min(max(milliseconds, _FIRST), _LAST)
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at % 1000:03d}Z"
