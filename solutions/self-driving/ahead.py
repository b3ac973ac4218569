"""Looking ahead: what each decision seems to lead to in a few seconds, if the others go on as they do.

Only of what is seen: the nearest cars' places and speeds. One's own car moves as the simulation moves it; another keeps
its speed and its lane, or goes on to the lane that it is on the way to, and brakes for one's own car when that is before it.
That they begin to change lanes, or brake for one another, is not foreseen; the clearance that is asked for grows with the
seconds ahead instead.
"""

from typing import Any

import numpy as np
import rules
from generator import ACTIONS, CONFIG, FASTER, LANE, LANES, LEFT, RIGHT, SLOWER

SECONDS, TRIED = 6, 2
"""Seconds looked ahead; of them, those of which every decision is tried. The rule drives the others."""
CLEAR, MORE, BESIDE = 8.0, 1.0, 3.0
"""Metres to keep to the middle of a car in the same lane, metres more for each second ahead, and metres within which
two cars are in the same lane."""
KEPT, TOUCHED = 0.95, 4.0
"""What a second later counts less by; and what a touch costs, in seconds of the best driving."""
TURNING = 0.2
"""Metres a second across the road from which on a car is on its way to another lane."""
_STEP, _PEDAL, _ACROSS = 0.2, 0.6, 3.6
"""Seconds of a step of the simulation; seconds in which a speed is taken up; metres a second from lane to lane."""
_SPEEDS = np.array([20.0, 25.0, 30.0])
_MOST = sum(KEPT**second for second in range(SECONDS))


class _World:
    """One's own car, which begins at x = 0, and the others; all in metres and metres a second."""

    __slots__ = ("lane", "others_goal", "others_speed", "others_x", "others_y", "speed", "wished", "x", "y")

    def __init__(self, own: Any, others: Any) -> None:
        self.x, self.y, self.speed = 0.0, float(own[1]), float(own[2])
        self.lane = rules.lane_of(self.y)
        self.wished = float(_SPEEDS[np.argmin(np.abs(_SPEEDS - self.speed))])
        self.others_x, self.others_y = others[:, 0].astype(float), others[:, 1] + own[1]
        self.others_speed = others[:, 2] + own[2]
        across, lanes = others[:, 3] + own[3], self.others_y / LANE
        goal = np.where(across < 0, np.floor(lanes), np.ceil(lanes)) * LANE
        self.others_goal = np.where(np.abs(across) > TURNING, goal, self.others_y)

    def copy(self) -> "_World":
        made = object.__new__(_World)
        for name in _World.__slots__:
            setattr(made, name, getattr(self, name))
        made.others_x, made.others_y = self.others_x.copy(), self.others_y.copy()
        made.others_speed = self.others_speed.copy()
        return made

    def seen(self) -> tuple[Any, Any]:
        """As `rules` takes it: one's own car, and each other from it."""
        others = [self.others_x - self.x, self.others_y - self.y, self.others_speed - self.speed]
        return np.array([0.0, self.y, self.speed]), np.stack(others, axis=1)

    def second(self, action: int, clear: float) -> tuple[float, bool]:
        """Drive for a second: its reward, and whether a car came nearer than `clear`."""
        step = int(np.argmin(np.abs(_SPEEDS - self.speed)))
        if action == FASTER:
            self.wished = float(_SPEEDS[min(step + 1, 2)])
        elif action == SLOWER:
            self.wished = float(_SPEEDS[max(step - 1, 0)])
        elif action in (LEFT, RIGHT):
            self.lane = int(np.clip(self.lane + (1 if action == RIGHT else -1), 0, LANES - 1))
        for _ in range(CONFIG["simulation_frequency"]):
            self.speed += (self.wished - self.speed) * _STEP / _PEDAL
            self.x += self.speed * _STEP
            across = _ACROSS * _STEP
            self.y += float(np.clip(self.lane * LANE - self.y, -across, across))
            self.others_x += self.others_speed * _STEP
            self.others_y += np.clip(self.others_goal - self.others_y, -across, across)
            away = self.others_x - self.x
            beside = np.abs(self.others_y - self.y) < BESIDE
            behind = beside & (away < 0) & (away > -8 - self.others_speed) & (self.others_speed > self.speed)
            self.others_speed[behind] = np.maximum(self.speed, self.others_speed[behind] - 4 * _STEP)
            if (beside & (np.abs(away) < clear)).any():
                return 0.0, True
        return self._reward(), False

    def _reward(self) -> float:
        low, high = CONFIG["reward_speed_range"]
        fast, right = CONFIG["high_speed_reward"], CONFIG["right_lane_reward"]
        earned = right * rules.lane_of(self.y) / (LANES - 1)
        earned += fast * float(np.clip((self.speed - low) / (high - low), 0, 1))
        return float((earned + 1) / (1 + fast + right))


def imagined(own: Any, others: Any) -> tuple[Any, Any]:
    """For each decision what the best that begins with it would earn (1: all there is), and whether all that do touch."""
    worth, touches = np.full(len(ACTIONS), -1.0), np.ones(len(ACTIONS), dtype=bool)

    def told(first: int, total: float, touched: bool) -> None:
        worth[first] = max(worth[first], total / _MOST)
        touches[first] &= touched

    def follow(world: _World, second: int, first: int | None, total: float) -> None:
        for action in range(len(ACTIONS)):
            if (action == LEFT and world.lane == 0) or (action == RIGHT and world.lane == LANES - 1):
                continue
            there, then = world.copy(), second
            reward, touched = there.second(action, CLEAR + MORE * then)
            earned, begun = total + KEPT**then * reward, action if first is None else first
            if not touched and then + 1 < TRIED:
                follow(there, then + 1, begun, earned)
                continue
            while not touched and then + 1 < SECONDS:
                then += 1
                reward, touched = there.second(rules.careful_at(*there.seen()), CLEAR + MORE * then)
                earned += KEPT**then * reward
            told(begun, earned - (TOUCHED * KEPT ** (then + 1) if touched else 0.0), touched)

    follow(_World(own, others), 0, None, 0.0)
    return worth, touches


def shielded(worth: Any, touches: Any, action: int) -> int:
    """The action, unless it seems to end in a touch: then the best of those that do not, or of all where all do."""
    if not touches[action]:
        return action
    return int(np.argmax(worth if touches.all() else np.where(touches, -np.inf, worth)))


def looks(own: Any, others: Any, worth: Any, touches: Any) -> Any:
    """What the network looks at: the lanes as they are, and what each decision seems to lead to."""
    return np.concatenate([rules.lanes(own, others), (worth - 0.8) * 5, touches]).astype(np.float32)


LOOKS = rules.LOOKS + 2 * len(ACTIONS)
"""How many numbers `looks` gives."""
