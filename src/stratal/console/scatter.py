"""Plots of a search, drawn on the server as points of an SVG: what each trial came to, and over which parameters."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from stratal.console.native import Json
from stratal.console.shown import number

WIDTH, HEIGHT = 400, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 24
_MOST_CHOICES_NAMED = 6


@dataclass(frozen=True, slots=True)
class Mark:
    x: float
    y: float
    look: str
    """``best``, ``done`` or ``pruned``."""
    title: str


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Plot:
    """`line` is an SVG path, "" for none. Coordinates are within `WIDTH` by `HEIGHT`."""

    name: str
    over: str
    marks: Sequence[Mark]
    across: Sequence[Tick]
    up: Sequence[Tick]
    line: str = ""
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels."""

    place: Callable[[Any], float]
    ticks: Sequence[Tick]


def plots_of(sweep: Json) -> list[Plot]:
    """The metric by trial with the best so far, then by each parameter; none while no trial has come to a value."""
    tried = [one for one in sweep.get("tried", ()) if _real(one.get("value"))]
    if not tried:
        return []
    metric = str(sweep["metric"])
    up = _linear([one["value"] for one in tried], HEIGHT - _BOTTOM, _TOP)
    best = (sweep.get("best") or {}).get("number")
    sign = 1 if sweep.get("direction") == "maximize" else -1

    def marks(across: _Scale, value: Callable[[Json], Any]) -> list[Mark]:
        drawn = sorted(tried, key=lambda one: one["number"] == best)  # the best over all others
        return [
            Mark(across.place(value(one)), up.place(one["value"]), _look(one, best), _title(one, metric))
            for one in drawn
        ]

    by_trial = _linear([1, max(len(sweep["tried"]), 2)], _LEFT, WIDTH - _RIGHT, whole=True)
    found = [
        Plot(
            metric,
            "trial",
            marks(by_trial, lambda one: one["number"]),
            by_trial.ticks,
            up.ticks,
            _best_so_far(tried, by_trial, up, sign),
        )
    ]
    for parameter in sweep.get("space", ()):
        name = str(parameter["name"])
        if all(name in one["params"] for one in tried):
            across = _across(parameter)
            found.append(Plot(metric, name, marks(across, partial(_param, name)), across.ticks, up.ticks))
    return found


def _param(name: str, one: Json) -> Any:
    return one["params"][name]


def _across(parameter: Mapping[str, Any]) -> _Scale:
    if parameter["kind"] == "choice":
        return _choices([str(one) for one in parameter["choices"]])
    ends = [float(parameter["low"]), float(parameter["high"])]
    if parameter["kind"] in {"log", "intlog"}:
        return _logarithmic(ends[0], ends[1], _LEFT, WIDTH - _RIGHT)
    return _linear(ends, _LEFT, WIDTH - _RIGHT, whole=parameter["kind"] == "int")


def _linear(values: Sequence[float], start: float, end: float, *, whole: bool = False) -> _Scale:
    low, high = min(values), max(values)
    if low == high:
        around = max(abs(low) * 0.5, 0.5)
        low, high = low - around, high + around

    def place(value: Any) -> float:
        share = (float(value) / 2 - low / 2) / (
            high / 2 - low / 2
        )  # halves: the whole span may be beyond a float
        return round(start + (end - start) * min(max(share, 0.0), 1.0), 1)

    at = [low, low / 2 + high / 2, high]
    if whole:
        at = sorted({round(value) for value in at})
    return _Scale(place, [Tick(place(value), _on_axis(value)) for value in at])


def _logarithmic(low: float, high: float, start: float, end: float) -> _Scale:
    inner = _linear([math.log10(low), math.log10(high)], start, end)

    def place(value: Any) -> float:
        return inner.place(math.log10(max(float(value), 1e-300)))

    at = [low, math.sqrt(low * high), high]
    return _Scale(place, [Tick(place(value), _on_axis(value)) for value in at])


def _choices(choices: Sequence[str]) -> _Scale:
    room = (WIDTH - _RIGHT - _LEFT) / len(choices)
    places = {choice: round(_LEFT + room * (index + 0.5), 1) for index, choice in enumerate(choices)}
    named = choices if len(choices) <= _MOST_CHOICES_NAMED else [choices[0], choices[-1]]
    most = max(4, int(room // 7)) if len(choices) <= _MOST_CHOICES_NAMED else 12
    ticks = [Tick(places[one], one if len(one) <= most else one[: most - 1] + "…") for one in named]
    return _Scale(lambda value: places.get(str(value), float(_LEFT)), ticks)


def _best_so_far(tried: Sequence[Json], across: _Scale, up: _Scale, sign: int) -> str:
    steps: list[str] = []
    best: float | None = None
    for one in tried:
        if one["state"] != "succeeded" or (best is not None and sign * one["value"] <= sign * best):
            continue
        best = one["value"]
        x, y = across.place(one["number"]), up.place(best)
        steps.append(f"H{x} V{y}" if steps else f"M{x} {y}")
    return " ".join([*steps, f"H{WIDTH - _RIGHT}"]) if steps else ""


def _look(one: Json, best: object) -> str:
    if one["number"] == best:
        return "best"
    return "done" if one["state"] == "succeeded" else "pruned"


def _title(one: Json, metric: str) -> str:
    params = ", ".join(f"{name} {number(value)}" for name, value in one["params"].items())
    return f"Trial {one['number']}, {one['state']}: {metric} {number(one['value'])} with {params}"


def _on_axis(value: float) -> str:
    return f"{value:.3g}"


def _real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
