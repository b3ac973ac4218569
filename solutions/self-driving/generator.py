"""The road that is driven on: highway-env's motorway, with its traffic and its reward fixed here, before any policy.

Three lanes, ten cars ahead that keep their distance and change lanes as the intelligent driver model and MOBIL
say, half a minute, one decision a second. A decision is tactical: keep on, faster, slower, a lane to the left or
right; steering and pedals are the simulation's. The reward of a second lies between 0 (a crash, which ends the
drive) and 1 (30 m/s in the right-hand lane), so that a drive has at most 30.

The oracle may do what no driver can: it tries each decision on a copy of the whole world, with every other driver's
mind in it, goes on there for some seconds by the rule, and takes what came out best.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
from highway_env.envs.common.observation import KinematicObservation
from highway_env.envs.highway_env import HighwayEnvFast

LANES, LANE, SEEN, SECONDS = 3, 4.0, 7, 30
"""Lanes and their width in metres; cars in an observation, one's own first; seconds of a drive."""
REACH = {"x": 100.0, "y": 16.0, "vx": 40.0, "vy": 40.0}
"""What 1 means in an observation: metres, metres, metres a second, metres a second."""
ACTIONS = ("lane left", "keep on", "lane right", "faster", "slower")
_REACH = np.array(list(REACH.values()), dtype=np.float32)
LEFT, KEEP, RIGHT, FASTER, SLOWER = range(5)
CONFIG = {
    "lanes_count": LANES,
    "vehicles_count": 10,
    "vehicles_density": 1,
    "ego_spacing": 1.5,
    "duration": SECONDS,
    "simulation_frequency": 5,
    "policy_frequency": 1,
    "collision_reward": -1,
    "right_lane_reward": 0.1,
    "high_speed_reward": 0.4,
    "lane_change_reward": 0,
    "reward_speed_range": [20, 30],
    "normalize_reward": True,
}
FORESEEN, TRIED = 5, 3
"""Seconds the oracle looks ahead; every so many seconds' decision is tried, the others follow the rule."""
Policy = Callable[[Any], int]


@dataclass(frozen=True)
class Size:
    drives: int
    """Test drives of each seed."""
    known: int
    """Of them, those that the oracle drives, too."""
    steps: int
    """Seconds that a policy learns from, beside those of the drives that it begins with."""
    shown: int
    """Drives that learning begins with."""
    chosen: int
    """Drives of training traffic by which, now and then, what was learned so far is held against what was best before."""


SIZES = {
    "tiny": Size(2, 1, 40, 2, 1),
    "default": Size(30, 4, 8_000, 40, 20),
    "full": Size(200, 20, 40_000, 200, 60),
}


class Seen(KinematicObservation):  # type: ignore[misc]
    """The nearest cars, also behind: [there, x, y, vx, vy], one's own first, others' from it, in parts of `REACH`."""

    def space(self) -> Any:
        return gymnasium.spaces.Box(-1, 1, (SEEN, 5), np.float32)

    def observe(self) -> Any:
        own = self.env.vehicle
        here, pace = own.position, own.velocity
        told = np.zeros((SEEN, 5), dtype=np.float32)
        told[0] = 1, 0, here[1], *pace
        others = [v for v in self.env.road.vehicles if v is not own]
        away = np.array([v.position for v in others]) - here
        near = [i for i in np.argsort(np.abs(away[:, 0])) if abs(away[i, 0]) <= REACH["x"]]
        for row, i in enumerate(near[: SEEN - 1], 1):
            told[row] = 1, *away[i], *(others[i].velocity - pace)
        told[:, 1:] = np.clip(told[:, 1:] / _REACH, -1, 1)
        return told


class Road(HighwayEnvFast):  # type: ignore[misc]
    def define_spaces(self) -> None:
        super().define_spaces()
        self.observation_type = Seen(self)
        self.observation_space = self.observation_type.space()


def world() -> Any:
    return gymnasium.wrappers.TimeLimit(Road(config=CONFIG), SECONDS + 1)


def test_seed(seed: int, drive: int) -> int:
    """The number that a test drive's traffic is drawn by; no training drive has it."""
    return 1_000_000 * seed + drive


def training_seed(seed: int, drive: int) -> int:
    return 1_000_000 * seed + 500_000 + drive


def starts(size: Size, seeds: int) -> pd.DataFrame:
    """Where every car is when a test drive begins: one row per drive and car, one's own is number 0."""
    env, rows = world(), []
    for seed in range(1, seeds + 1):
        for drive in range(size.drives):
            env.reset(seed=test_seed(seed, drive))
            road = env.unwrapped
            own = road.vehicle
            others = [v for v in road.road.vehicles if v is not own]
            for car, v in enumerate([own, *others]):
                x, y = v.position
                rows.append((test_seed(seed, drive), car, x - own.position[0], y, v.speed))
    return pd.DataFrame(rows, columns=["drive", "car", "x", "y", "speed"]).round(3)


@dataclass
class Drive:
    """What came of one drive, second by second."""

    rewards: list[float]
    speeds: list[float]
    crashed: bool
    seen: list[Any]
    actions: list[int]

    @property
    def reward(self) -> float:
        return float(sum(self.rewards))


def drive(env: Any, number: int, policy: Policy) -> Drive:
    told = Drive([], [], False, [], [])
    seen, _ = env.reset(seed=number)
    over = False
    while not over:
        action = int(policy(seen))
        told.seen.append(seen)
        told.actions.append(action)
        seen, reward, ended, cut, more = env.step(action)
        told.rewards.append(float(reward))
        told.speeds.append(float(more["speed"]))
        over = ended or cut
    told.crashed = bool(env.unwrapped.vehicle.crashed)
    return told


def foreseeing(env: Any, rule: Policy) -> Policy:
    """The oracle of `env`; see the module's words."""
    moment = 0

    def decide(seen: Any) -> int:
        nonlocal moment
        moment += 1
        usual = rule(seen)
        if moment % TRIED and usual != SLOWER:
            return usual
        best, most = usual, -np.inf
        for action in [usual, *(a for a in range(len(ACTIONS)) if a != usual)]:
            found = _tried(env, action, rule)
            if found > most + 1e-9:
                best, most = action, found
        return best

    return decide


def _tried(env: Any, action: int, rule: Policy) -> float:
    there = copy.deepcopy(env.unwrapped)
    total = 0.0
    for ahead in range(FORESEEN):
        seen, reward, ended, cut, _ = there.step(action)
        total += float(reward)
        if ended:
            return total - (FORESEEN - ahead)
        if cut:
            break
        action = rule(seen)
    return total
