"""A quadrotor in wind: rigid-body dynamics, gusts and courses, all known; no library, so that every term can be read.

Frame: x forward, y left, z up, in metres; attitude as rotation matrix. Thrust acts along the body's z axis, the
controller's commanded thrust and body rates are followed with the lag of motors and rate loop. Drag is linear in
the speed through the air (wind included). Gusts are a first-order process with the spectrum's corner at low
altitude that Dryden's model has (MIL-F-8785C), around a steady wind. A controller is told a position that wanders by a few
centimetres and a noisy speed, as an estimate from satellites and cameras is.

The oracle is the same controller told the true state and the wind's force at each moment, which no drone knows.

Fixed before any controller of it was tuned.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

SEED = 20250901
GRAVITY, STEP = 9.81, 0.01


@dataclass(frozen=True)
class Drone:
    """A 0.75 kg machine with 5 inch propellers."""

    mass: float = 0.75
    drag: float = 0.28
    """N per m/s through the air."""
    thrust_lag: float = 0.04
    rate_lag: float = 0.05
    most_thrust: float = 18.0
    most_rate: float = 6.0


@dataclass(frozen=True)
class Size:
    courses: int
    """Courses of each seed; the first half is for tuning, the second for testing."""
    seeds: int
    waypoints: int


SIZES = {"tiny": Size(2, 2, 3), "default": Size(8, 5, 8), "full": Size(30, 8, 12)}


@dataclass(frozen=True)
class Course:
    """Waypoints to be passed at their times, and the wind of that day."""

    points: Any
    times: Any
    steady: Any
    gust: float
    seed: int


@dataclass
class State:
    position: Any
    velocity: Any
    attitude: Any
    thrust: float
    rates: Any = field(default_factory=lambda: np.zeros(3))


def courses(size: Size, seed: int = SEED) -> pd.DataFrame:
    """One row per waypoint: (course, point, t, x, y, z) and the day's steady wind and strength of gusts."""
    rows = []
    for number in range(size.courses * size.seeds):
        rng = np.random.default_rng(seed + number)
        wind = rng.uniform(0, 7)
        bearing = rng.uniform(0, 2 * np.pi)
        gust = 0.12 * wind + 0.2
        at, t = np.array([0.0, 0.0, 2.0]), 0.0
        for point in range(size.waypoints + 1):
            rows.append((number, point, t, *at, wind * np.cos(bearing), wind * np.sin(bearing), gust, number))
            leg = rng.normal(0, 1, 3) * [1, 1, 0.35]
            leg *= rng.uniform(2.5, 6.0) / np.linalg.norm(leg)
            at = at + leg
            at[2] = np.clip(at[2], 1.0, 6.0)
            t += float(np.linalg.norm(leg)) / 1.9 + 0.9
    columns = ["course", "point", "t", "x", "y", "z", "wind_x", "wind_y", "gust", "day"]
    return pd.DataFrame(rows, columns=columns).round(4)


def course(rows: pd.DataFrame) -> Course:
    rows = rows.sort_values("point")
    first = rows.iloc[0]
    return Course(
        rows[["x", "y", "z"]].to_numpy(float),
        rows.t.to_numpy(float),
        np.array([first.wind_x, first.wind_y, 0.0]),
        float(first.gust),
        int(first.day),
    )


def gusts(one: Course, steps: int) -> Any:
    """(steps, 3): the wind at each step, in m/s."""
    rng = np.random.default_rng(SEED + 7919 * (one.seed + 1))
    corner, noise = 0.8, rng.normal(0, 1, (steps, 3)) * [1, 1, 0.5]
    decay = np.exp(-STEP * corner)
    wind, now = np.empty((steps, 3)), np.zeros(3)
    for i in range(steps):
        now = decay * now + np.sqrt(1 - decay**2) * one.gust * noise[i]
        wind[i] = one.steady + now
    return wind


def estimated(one: Course, steps: int) -> Any:
    """(steps, 6): by how much the told position (m) and speed (m/s) are off."""
    rng = np.random.default_rng(SEED + 104729 * (one.seed + 1))
    noise = rng.normal(0, 1, (steps, 6))
    off, now, decay = np.empty((steps, 6)), np.zeros(3), np.exp(-STEP * 1.0)
    for i in range(steps):
        now = decay * now + np.sqrt(1 - decay**2) * 0.03 * noise[i, :3]
        off[i] = [*now, *(0.05 * noise[i, 3:])]
    return off


def start(one: Course, drone: Drone) -> State:
    return State(one.points[0].copy(), np.zeros(3), np.eye(3), drone.mass * GRAVITY)


def step(state: State, drone: Drone, thrust: float, rates: Any, wind: Any) -> State:
    """One step of the machine, told a thrust (N) and body rates (rad/s)."""
    thrust = float(np.clip(thrust, 0.0, drone.most_thrust))
    rates = np.clip(rates, -drone.most_rate, drone.most_rate)
    lag_t, lag_r = STEP / drone.thrust_lag, STEP / drone.rate_lag
    thrust = state.thrust + lag_t * (thrust - state.thrust)
    rates = state.rates + lag_r * (rates - state.rates)
    force = thrust * state.attitude[:, 2] + drone.drag * (wind - state.velocity)
    acceleration = force / drone.mass - [0, 0, GRAVITY]
    velocity = state.velocity + STEP * acceleration
    position = state.position + STEP * velocity
    return State(position, velocity, state.attitude @ rotation(rates * STEP), thrust, rates)


def rotation(vector: Any) -> Any:
    """The rotation about `vector` by its length (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turned: Any = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return turned
