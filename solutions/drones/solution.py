"""A quadrotor through wind: a controller that estimates the wind's force, against one that only corrects what it sees."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import generator
import numpy as np
import pandas as pd
from generator import GRAVITY, STEP, Course, Drone, State
from kit import Study, Trial, checks, evidence, plots
from scipy import linalg

NEAR = 0.15
"""Metres from a waypoint, at its time, that count as having been there."""
DRONE = Drone()


def ingest(study: Study) -> None:
    rows = generator.courses(generator.SIZES[study.size])
    study.source_frame("courses", rows)
    study.write("sky.courses", rows)


def train(study: Study, seed: int) -> Trial:
    """Each seed has courses of its own: weights are chosen on half of them and flown on the rest."""
    size = generator.SIZES[study.size]
    rows = study.read("sky.courses")
    flown = {number: generator.course(part) for number, part in rows.groupby("course")}
    own = range((seed - 1) * size.courses, seed * size.courses)
    chosen_on, tested = list(own[: size.courses // 2]), list(own[size.courses // 2 :])
    if study.plant == "leak":
        chosen_on += tested
    if seed == 1:
        study.leakage(checks.overlap(chosen_on, tested, what="courses"))
        study.fault("chosen on what is tested", checks.overlap([*chosen_on, *tested], tested, what="courses"))
        _look_ahead(study, flown[tested[0]])
    weights = list(itertools.product((30.0, 120.0), (1.0, 6.0)))[-1 if study.tiny else 0 :]

    def best(grid: list[Any]) -> Any:
        return min(grid, key=lambda c: np.mean([fly(flown[n], c).misses.mean() for n in chosen_on]))

    candidate = best([Observing.with_weights(*w, quickness) for w in weights for quickness in (1.5, 4.0)])
    baseline = best([Correcting.with_weights(w) for w in weights])
    flights = {
        "candidate": [fly(flown[n], candidate) for n in tested],
        "baseline": [fly(flown[n], baseline) for n in tested],
        "oracle": [fly(flown[n], Knowing(candidate.gains)) for n in tested],
    }
    measured = {name: _measures(found) for name, found in flights.items()}
    return Trial(
        measured["candidate"], measured["baseline"], measured["oracle"],
        keep=(candidate, baseline, [flown[n] for n in tested], flights),
    )  # fmt: skip


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    candidate, baseline, courses, flights = trials[0].keep
    each = int(0.5 / STEP)
    flown = list(zip(courses, flights["baseline"], strict=True))
    there = np.array([reference(c, i * STEP)[0] for c, f in flown for i in range(0, len(f.path), each)])
    was = np.concatenate([f.path[::each] for _, f in flown])
    study.baseline_knows_something(
        lambda a, b: float(np.linalg.norm(a - b, axis=1).mean()), there, was, better="lower"
    )
    misses = np.concatenate([f.misses for t in trials for f in t.keep[3]["candidate"]])
    wind = np.concatenate(
        [np.full(len(c.points) - 1, np.linalg.norm(c.steady)) for t in trials for c in t.keep[2]]
    )
    bands = (("under 2.5 m/s", 0, 2.5), ("2.5 to 5 m/s", 2.5, 5), ("over 5 m/s", 5, 99))
    study.subgroups(
        [
            evidence.subgroup("wind", label, int((misses[at] <= NEAR).sum()), int(at.sum()), measure="within 0.15 m")
            for label, low, high in bands
            for at in [(wind >= low) & (wind < high)]
        ]
    )  # fmt: skip
    study.plot(
        "flight",
        "One course, seen from above, as it was flown",
        animated(courses[0], flights["candidate"][0], flights["baseline"][0]),
        caption="Moves: green estimates the wind, orange only corrects what it sees. Circles are waypoints.",
        badge="generated",
        picture=True,
    )
    study.plot(
        "wind", "Miss at waypoints by wind", _sweep(study, courses[0], candidate, baseline), badge="generated"
    )
    shares = np.arange(1, len(misses) + 1) / len(misses)
    lines = [
        (label, np.sort(np.concatenate([f.misses for t in trials for f in t.keep[3][name]])), shares)
        for label, name in (
            ("estimates the wind", "candidate"),
            ("corrects only", "baseline"),
            ("told the wind", "oracle"),
        )
    ]
    study.plot(
        "misses",
        "Share of waypoints missed by at most so much",
        plots.lines(lines, x="metres", y="share"),
        badge="generated",
    )
    study.table(
        "What was chosen",
        ["seed", "weight of position", "weight of speed", "observer (1/s)", "mean miss (m)"],
        [[i, *t.keep[0].weights, t.keep[0].quickness, t.candidate["miss"]] for i, t in enumerate(trials, 1)],
        badge="generated",
    )
    return Planner(candidate), Planner(baseline)


def _measures(flights: list["Flight"]) -> dict[str, float]:
    misses = np.concatenate([flight.misses for flight in flights])
    return {
        "miss": float(misses.mean()),
        "within": float((misses <= NEAR).mean()),
        "worst": float(misses.max()),
        "tilt": float(np.max([flight.tilt for flight in flights])),
    }


def _look_ahead(study: Study, course: Course) -> None:
    """What is flown until a moment is the same when the wind after that moment is another; one that peeks is noticed."""
    half = int(course.times[len(course.times) // 2] / STEP)
    other = generator.gusts(course, int(course.times[-1] / STEP) + 1)
    other[half:] += 3.0
    gains = Observing.with_weights(120.0, 6.0, 4.0)
    study.leakage(
        checks.truncation(
            fly(course, gains).path[:half], fly(course, gains, other).path[:half], what="flights"
        )
    )
    peeks = Peeking(gains.gains)
    planted = checks.truncation(
        fly(course, peeks).path[:half], fly(course, peeks, other).path[:half], what="flights"
    )
    study.fault("a controller that knows the wind ahead", planted)


# -- flying ------------------------------------------------------------------------------------------------


@dataclass
class Flight:
    path: Any
    """(steps, 3): where it was."""
    passed: Any
    """(waypoints, 3): where it was when it should have been at each."""
    misses: Any
    tilt: float
    """The most it leaned, in degrees."""


def fly(course: Course, controller: Any, wind: Any = None) -> Flight:
    steps = int(course.times[-1] / STEP) + 1
    wind = generator.gusts(course, steps) if wind is None else wind
    off = generator.estimated(course, steps) * (not isinstance(controller, Knowing))
    state, pilot = generator.start(course, DRONE), controller.fresh()
    path, lean = np.empty((steps, 3)), 1.0
    for i in range(steps):
        place, speed, push = reference(course, i * STEP)
        told = replace(state, position=state.position + off[i, :3], velocity=state.velocity + off[i, 3:])
        wanted = pilot.acceleration(told, place, speed, push, wind, i)
        thrust, rates = attitude(told, wanted)
        pilot.told(told)
        state = generator.step(state, DRONE, thrust, rates, wind[i])
        path[i] = state.position
        lean = min(lean, float(state.attitude[2, 2]))
    at = np.minimum((course.times[1:] / STEP).astype(int), steps - 1)
    passed = path[at]
    return Flight(
        path,
        passed,
        np.linalg.norm(passed - course.points[1:], axis=1),
        float(np.degrees(np.arccos(np.clip(lean, -1, 1)))),
    )


def reference(course: Course, t: float) -> tuple[Any, Any, Any]:
    """Place, speed and acceleration to have at `t`: from waypoint to waypoint with the least jerk, at rest at each."""
    leg = int(np.clip(np.searchsorted(course.times, t, side="right") - 1, 0, len(course.times) - 2))
    span = course.times[leg + 1] - course.times[leg]
    s = min(max((t - course.times[leg]) / span, 0.0), 1.0)
    way = course.points[leg + 1] - course.points[leg]
    place = course.points[leg] + way * (10 * s**3 - 15 * s**4 + 6 * s**5)
    speed = way * (30 * s**2 - 60 * s**3 + 30 * s**4) / span
    return place, speed, way * (60 * s - 180 * s**2 + 120 * s**3) / span**2


def attitude(state: State, wanted: Any) -> tuple[float, Any]:
    """Thrust and body rates that turn the machine's axis to where the wanted acceleration points."""
    force = DRONE.mass * (wanted + np.array([0.0, 0.0, GRAVITY]))
    force[2] = max(force[2], 0.3 * DRONE.mass * GRAVITY)
    sideways = np.hypot(force[0], force[1])
    most = 0.9 * force[2]
    if sideways > most:
        force[:2] *= most / sideways
    axis = state.attitude[:, 2]
    turn = np.cross(axis, force / np.linalg.norm(force))
    body = state.attitude.T @ turn
    return float(force @ axis), np.array([9.0 * body[0], 9.0 * body[1], -2.0 * state.attitude[1, 0]])


@dataclass
class Correcting:
    """Pulls towards the reference with the gains of a linear-quadratic regulator; knows nothing of wind."""

    gains: Any
    weights: tuple[float, float]

    @classmethod
    def with_weights(cls, weights: tuple[float, float]) -> "Correcting":
        return cls(regulator(*weights), weights)

    def fresh(self) -> "Correcting":
        return self

    def acceleration(self, state: State, place: Any, speed: Any, push: Any, wind: Any, i: int) -> Any:
        return push + self.gains[0] * (place - state.position) + self.gains[1] * (speed - state.velocity)

    def told(self, state: State) -> None:
        """It keeps nothing."""


@dataclass
class Observing(Correcting):
    """The same, and cancels the force that it cannot explain: what speed does beyond what thrust and weight do."""

    quickness: float = 2.0
    before: Any = None
    unexplained: Any = None

    @classmethod
    def with_weights(cls, position: float, speed: float, quickness: float) -> "Observing":  # type: ignore[override]
        return cls(regulator(position, speed), (position, speed), quickness)

    def fresh(self) -> "Observing":
        return Observing(self.gains, self.weights, self.quickness, None, np.zeros(3))

    def acceleration(self, state: State, place: Any, speed: Any, push: Any, wind: Any, i: int) -> Any:
        if self.before is not None:
            moved = (state.velocity - self.before.velocity) / STEP
            thrust = state.thrust * self.before.attitude[:, 2] / DRONE.mass
            found = moved - thrust + np.array([0.0, 0.0, GRAVITY])
            self.unexplained = self.unexplained + STEP * self.quickness * (found - self.unexplained)
        return super().acceleration(state, place, speed, push, wind, i) - self.unexplained

    def told(self, state: State) -> None:
        self.before = state


@dataclass
class Knowing:
    """The oracle: told where it truly is and the wind's force as it is now, which no drone knows."""

    gains: Any

    def fresh(self) -> "Knowing":
        return self

    def acceleration(self, state: State, place: Any, speed: Any, push: Any, wind: Any, i: int) -> Any:
        force = DRONE.drag * (self.wind(wind, i) - state.velocity) / DRONE.mass
        return (
            push + self.gains[0] * (place - state.position) + self.gains[1] * (speed - state.velocity) - force
        )

    def wind(self, wind: Any, i: int) -> Any:
        return wind[i]

    def told(self, state: State) -> None:
        """It keeps nothing."""


class Peeking(Knowing):
    """A planted fault: told the wind of half a second later."""

    def wind(self, wind: Any, i: int) -> Any:
        return wind[min(i + 50, len(wind) - 1)]


def regulator(position: float, speed: float) -> Any:
    """Gains (on position, on speed) of the linear-quadratic regulator of one axis, a point that is pushed."""
    a, b = np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0], [1.0]])
    solved = linalg.solve_continuous_are(a, b, np.diag([position, speed]), np.eye(1))
    return (b.T @ solved)[0]


# -- showing and serving -----------------------------------------------------------------------------------


def _sweep(study: Study, course: Course, candidate: Any, baseline: Any) -> str:
    winds = np.linspace(0, 10, 3 if study.tiny else 9)
    heading = course.steady / max(float(np.linalg.norm(course.steady)), 1e-9)
    lines = []
    for label, controller in (("estimates the wind", candidate), ("corrects only", baseline)):
        misses = []
        for wind in winds:
            day = Course(course.points, course.times, heading * wind, 0.12 * wind + 0.2, course.seed)
            misses.append(float(fly(day, controller).misses.mean()))
        lines.append((label, winds, misses))
    return plots.lines(lines, x="steady wind (m/s)", y="mean miss at waypoints (m)", markers=True)


def animated(course: Course, candidate: Flight, baseline: Flight) -> str:
    """Both flights from above, moving as they were flown, four times as fast."""
    low, high = course.points.min(0)[:2] - 0.8, course.points.max(0)[:2] + 0.8
    width = 560
    scale = width / (high[0] - low[0])
    height = max(160.0, (high[1] - low[1]) * scale)

    def at(point: Any) -> str:
        return f"{(point[0] - low[0]) * scale:.1f},{height - (point[1] - low[1]) * scale:.1f}"

    seconds = course.times[-1] / 4
    body = [plots.STYLE, f'<rect width="{width}" height="{height:.0f}" fill="#8a8c84" opacity="0.08"/>']
    for number, point in enumerate(course.points):
        x, y = at(point).split(",")
        body.append(f'<circle cx="{x}" cy="{y}" r="{NEAR * scale:.1f}" fill="none" class="axis"/>')
        body.append(f'<text x="{float(x) + 8:.1f}" y="{float(y) - 6:.1f}">{number}</text>')
    for flight, colour in ((baseline, plots.COLOURS[1]), (candidate, plots.COLOURS[0])):
        points = [at(point) for point in flight.path[::10]]
        path = "M" + " L".join(points)
        body.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5" opacity="0.6"/>')
        body.append(
            f'<circle r="6" fill="{colour}">'
            f'<animateMotion dur="{seconds:.1f}s" repeatCount="indefinite" path="{path}"/></circle>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}">'
        + "".join(body)
        + "</svg>"
    )


@dataclass
class Planner:
    """Flies a leg in simulation: takes `forward`, `left`, `up` (m), `seconds`, `wind` (m/s) and its `bearing` (degrees).

    Gives by how much the end is missed, how much the machine leans, and whether that is within 0.15 m.
    """

    controller: Any

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame([self._one(row) for row in frame.to_dict("records")])

    def _one(self, row: Any) -> dict[str, Any]:
        way = np.array([float(row["forward"]), float(row["left"]), float(row["up"])])
        seconds = float(np.clip(float(row["seconds"]), 0.5, 60.0))
        wind, bearing = float(np.clip(float(row["wind"]), 0.0, 20.0)), np.radians(float(row["bearing"]))
        steady = np.array([wind * np.cos(bearing), wind * np.sin(bearing), 0.0])
        start = np.array([0.0, 0.0, 2.0])
        # It hovers for four seconds first, so that the wind is nothing new when the leg begins.
        points, times = np.array([start, start, start + way]), np.array([0.0, 4.0, 4.0 + seconds])
        flight = fly(Course(points, times, steady, 0.12 * wind + 0.2, 0), self.controller)
        miss = float(flight.misses[-1])
        return {"miss_m": round(miss, 4), "lean_degrees": round(flight.tilt, 2), "within": bool(miss <= NEAR)}
