"""Driving by rule: what the learned policy is held against."""

from typing import Any

import numpy as np
from generator import FASTER, KEEP, LANE, LANES, LEFT, REACH, RIGHT, SLOWER

SAFE, FOLLOW, OPEN, REACT = 0.7, 1.3, 2.2, 4.0
"""Seconds to the car ahead: under the first nobody goes on, under the next the rule gives way, over the third it speeds
up. The last: seconds to a touch under which the shield brakes."""


def careful(seen: Any) -> int:
    """Speed up where the lane is open; behind a slower car take the emptier lane beside, if there is room, else brake."""
    own, others = _metres(seen)
    lane, speed = int(np.clip(round(own[1] / LANE), 0, LANES - 1)), max(float(own[2]), 1.0)
    ahead = _gap(others, own, lane)
    if ahead > OPEN * speed:
        return FASTER if speed < 29.5 else KEEP
    if ahead > FOLLOW * speed:
        return KEEP
    beside = [(_gap(others, own, new), action) for new, action in ((lane - 1, LEFT), (lane + 1, RIGHT))
              if 0 <= new < LANES and _room(others, own, new, speed)]  # fmt: skip
    room, action = max(beside, default=(0.0, SLOWER))
    return action if room > ahead + 10 else SLOWER


def shielded(seen: Any, action: int) -> int:
    """The action, unless it is plainly reckless: no lane without room, not faster or on where the gap closes.

    The learned policy drives behind this, while it learns and afterwards; it may be more careful or bolder than the rule.
    """
    own, others = _metres(seen)
    lane, speed = int(np.clip(round(own[1] / LANE), 0, LANES - 1)), max(float(own[2]), 1.0)
    if action in (LEFT, RIGHT):
        new = lane + (1 if action == RIGHT else -1)
        if 0 <= new < LANES and _room(others, own, new, speed) and _seconds(others, own, new) > REACT:
            return action
        action = KEEP
    if _gap(others, own, lane) < SAFE * speed or _seconds(others, own, lane) < REACT:
        return SLOWER
    return KEEP if action == FASTER and _seconds(others, own, lane, 5.0) < REACT else action


def slow(seen: Any) -> int:
    """Always as slow as the road allows."""
    return SLOWER


def lanes(seen: Any) -> Any:
    """What the network looks at: speed, and of the left, one's own and the right lane whether it is there, and how far
    and how much faster the next car is, ahead and behind."""
    own, others = _metres(seen)
    here = int(np.clip(round(own[1] / LANE), 0, LANES - 1))
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


def _metres(seen: Any) -> tuple[Any, Any]:
    """(x, y, vx) of one's own car, and of each other one from it."""
    rows = np.asarray(seen, dtype=float).reshape(-1, 1 + len(REACH))
    told = rows[:, 1:4] * [REACH["x"], REACH["y"], REACH["vx"]]
    return told[0], told[1:][rows[1:, 0] > 0.5]


def _gap(others: Any, own: Any, lane: int) -> float:
    """Metres to the next car ahead in the lane; 100 when none is seen."""
    inside = np.abs(own[1] + others[:, 1] - lane * LANE) < LANE / 2
    ahead = others[inside & (others[:, 0] > 0), 0]
    return float(ahead.min()) if len(ahead) else 100.0


def _seconds(others: Any, own: Any, lane: int, faster: float = 0.0) -> float:
    """Until one would touch the next car ahead in the lane, or one that drifts into it, if nobody did anything."""
    near = others[(np.abs(own[1] + others[:, 1] - lane * LANE) < LANE * 0.75) & (others[:, 0] > 0)]
    closing = np.maximum(faster - near[:, 2], 0.1)
    return float(np.min(np.maximum(near[:, 0] - 5, 0) / closing, initial=99.0))


def _room(others: Any, own: Any, lane: int, speed: float) -> bool:
    """May one change into the lane: nobody beside, nobody near ahead, nobody coming up from behind?"""
    inside = np.abs(own[1] + others[:, 1] - lane * LANE) < LANE * 0.75
    for x, _, faster in others[inside]:
        if (x >= 0 and x < 10 + 0.5 * speed) or (x < 0 and -x < 12 + 2.5 * max(0.0, faster)):
            return False
    return True
