"""The picture of an endpoint's last five minutes: within its frame, gaps kept, nothing drawn of nothing."""

import re
from typing import Any

import pytest

from stratal.console.latency import HEIGHT, WIDTH, drawn

pytestmark = pytest.mark.fast
NOW = 1_800_000_000


def recent(*slices: tuple[int, float | None, int]) -> dict[str, Any]:
    """Slices that ended so many seconds ago, with their p50 and failures."""
    told = [
        {
            "at": NOW - ago,
            "answered": 4,
            "failed": failed,
            "p50_ms": ms,
            "p95_ms": None if ms is None else 2 * ms,
        }
        for ago, ms, failed in slices
    ]
    return {"slice_seconds": 10, "slices": told}


def test_nothing_is_drawn_where_nothing_was_answered() -> None:
    assert drawn({}, NOW) is None
    assert drawn(recent(), NOW) is None
    assert drawn(recent((20, None, 3)), NOW) is None
    assert drawn(recent((4000, 1.0, 0)), NOW) is None


def test_slices_that_follow_one_another_are_joined_and_others_are_not() -> None:
    picture = drawn(recent((290, 1.0, 0), (100, 3.0, 0), (90, 2.0, 1), (0, 0.2, 0)), NOW)
    assert picture is not None
    assert re.sub(r"[\d. ]+", "", picture.half) == "MMLM"
    assert re.sub(r"[\d. ]+", "", picture.slow) == "MMLM"
    assert [dot.look for dot in picture.dots] == ["done", "done", "failed", "done"]
    assert all(
        picture.left <= dot.x <= picture.right and 0 <= dot.y <= picture.bottom for dot in picture.dots
    )
    assert sorted(dot.x for dot in picture.dots) == [dot.x for dot in picture.dots]
    quickest = max(picture.dots, key=lambda dot: dot.y)
    assert quickest.title == "4 answered in 10 s: half within 0.2000 ms, 95 % within 0.4000 ms"
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)


def test_answers_that_took_no_time_are_drawn_too() -> None:
    picture = drawn(recent((10, 0.0, 0)), NOW)
    assert picture is not None
    assert picture.dots[0].y == picture.bottom
