"""Driving by rule: what the learned policy is held against."""

from typing import Any

import numpy as np
from generator import FASTER, KEEP, LANE, LANES, LEFT, REACH, RIGHT, SLOWER

FOLLOW, OPEN = 1.3, 2.2
"""Seconds to the car ahead: under the first the rule gives way, over the second it speeds up."""


def careful(seen: Any) -> int:
    """Speed up where the lane is open; behind a slower car take the emptier lane beside, if there is room, else brake."""
    return careful_at(*metres(seen))


def careful_at(own: Any, others: Any) -> int:
    lane, speed = lane_of(own[1]), max(float(own[2]), 1.0)
    ahead = gap(others, own, lane)
    if ahead > OPEN * speed:
        return FASTER if speed < 29.5 else KEEP
    if ahead > FOLLOW * speed:
        return KEEP
    beside = [(gap(others, own, new), action) for new, action in ((lane - 1, LEFT), (lane + 1, RIGHT))
              if 0 <= new < LANES and _room(others, own, new, speed)]  # fmt: skip
    room, action = max(beside, default=(0.0, SLOWER))
    return action if room > ahead + 10 else SLOWER


def lane_of(y: float) -> int:
    return int(np.clip(round(y / LANE), 0, LANES - 1))


def slow(seen: Any) -> int:
    """Always as slow as the road allows."""
    return SLOWER


def lanes(own: Any, others: Any) -> Any:
    """Speed, and of the left, one's own and the right lane whether it is there, and how far and how much faster the next
    car is, ahead and behind."""
    here = lane_of(own[1])
    told = [(own[2] - 25) / 5]
    for lane in (here - 1, here, here + 1):
        inside = others[np.abs(own[1] + others[:, 1] - lane * LANE) < LANE * 0.6]
        told.append(float(0 <= lane < LANES))
        for side in (inside[inside[:, 0] >= 0], inside[inside[:, 0] < 0]):
            near = side[np.argmin(np.abs(side[:, 0]))] if len(side) else (100.0, 0.0, 0.0)
            told += [min(abs(near[0]), 100.0) / 50 - 1, near[2] / 10]
    return np.array(told, dtype=np.float32)


LOOKS = 1 + 3 * 5
"""How many numbers `lanes` gives."""


def metres(seen: Any) -> tuple[Any, Any]:
    """(x, y, vx, vy) of one's own car, and of each other one from it."""
    rows = np.asarray(seen, dtype=float).reshape(-1, 1 + len(REACH))
    told = rows[:, 1:] * list(REACH.values())
    return told[0], told[1:][rows[1:, 0] > 0.5]


def gap(others: Any, own: Any, lane: int) -> float:
    """Metres to the next car ahead in the lane; 100 when none is seen."""
    inside = np.abs(own[1] + others[:, 1] - lane * LANE) < LANE / 2
    ahead = others[inside & (others[:, 0] > 0), 0]
    return float(ahead.min()) if len(ahead) else 100.0


def _room(others: Any, own: Any, lane: int, speed: float) -> bool:
    """May one change into the lane: nobody beside, nobody near ahead, nobody coming up from behind?"""
    inside = np.abs(own[1] + others[:, 1] - lane * LANE) < LANE * 0.75
    for x, _, faster, *_ in others[inside]:
        if (x >= 0 and x < 10 + 0.5 * speed) or (x < 0 and -x < 12 + 2.5 * max(0.0, faster)):
            return False
    return True
