"""What --download fetches: the hourly series of the M4 competition, and what is measured on them."""

import io
from typing import Any

import numpy as np
import pandas as pd

DAY, AHEAD = 24, 48
"""Season and horizon of the competition's hourly series."""
LAGS = (48, 72, 96, 120, 144, 168, 192, 216, 336)


def hourly(data: bytes) -> dict[str, Any]:
    """Series by name: a row each, its name first, the values behind it, empty where it has ended."""
    frame = pd.read_csv(io.BytesIO(data))
    if frame.columns[0] != "V1" or frame.shape[1] < 2:
        raise ValueError("The file does not begin with the column V1: it is not the M4 competition's.")
    values = frame.iloc[:, 1:].to_numpy(dtype=float)
    return {str(name): row[np.isfinite(row)] for name, row in zip(frame["V1"], values, strict=True)}


def naive(past: Any) -> Any:
    """The last day, again and again."""
    return np.tile(past[-DAY:], AHEAD // DAY)


def mase(past: dict[str, Any], future: dict[str, Any], said: dict[str, Any]) -> float:
    """Mean absolute error by that of yesterday's value within the past, averaged over series (the competition's)."""
    errors = [
        np.abs(future[name] - said[name]).mean() / np.abs(past[name][DAY:] - past[name][:-DAY]).mean()
        for name in future
    ]
    return float(np.mean(errors))


def rows(past: dict[str, Any], weeks: int = 3) -> tuple[Any, Any]:
    """(features, targets) of the last weeks: values two days and more ago, by the level of the week before those."""
    x, y = [], []
    for values in past.values():
        first = max(LAGS[-1] + 168, len(values) - weeks * 168)
        for at in range(first, len(values)):
            features, level = described(values[:at], at, len(values[:at]))
            x.append(features)
            y.append(values[at] / level)
    return np.array(x), np.array(y)


def described(values: Any, at: int, known: int) -> tuple[list[float], float]:
    """Features of hour `at` from what is known `AHEAD` hours before it at the latest, and the level they are shares of."""
    until = min(known, at - AHEAD + 1)
    week = values[until - 168 : until]
    level = float(max(np.abs(week).mean(), 1e-9))
    lags = [float(values[at - lag]) / level for lag in LAGS]
    return [*lags, float(week[-DAY:].mean()) / level, float(week.std()) / level], level


def forecast(model: Any, past: dict[str, Any]) -> dict[str, Any]:
    said = {}
    for name, values in past.items():
        made = [described(values, len(values) + step, len(values)) for step in range(AHEAD)]
        levels = np.array([level for _, level in made])
        said[name] = model.predict(np.array([features for features, _ in made])) * levels
    return said
