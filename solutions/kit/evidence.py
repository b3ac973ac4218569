"""Numbers with their uncertainty: intervals over seeds, over rows, and of proportions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Json = dict[str, Any]


def interval(values: Sequence[float], *, overlap: float = 0.0, confidence: float = 0.95) -> Json:
    """Mean and t interval over seeds. `overlap` is test rows / train rows where the seeds resplit the same rows.

    Resplits share training rows, so the plain standard error is too small; the correction is that of Nadeau
    and Bengio, "Inference for the Generalization Error" (Machine Learning 52, 2003). 0: independent seeds.
    """
    from scipy import (
        stats,
    )  # where it is used: half of the steps need no statistics, and SciPy takes half a second

    found = np.asarray(values, dtype=float)
    mean = float(found.mean())
    if len(found) < 2:
        return {"values": [mean], "mean": mean, "low": None, "high": None}
    spread = math.sqrt((1 / len(found) + overlap) * float(found.var(ddof=1)))
    half = float(stats.t.ppf((1 + confidence) / 2, len(found) - 1)) * spread
    return {"values": [float(v) for v in found], "mean": mean, "low": mean - half, "high": mean + half}


def proportion(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """A share and Wilson's interval: right also for few rows and shares near 0 or 1."""
    from scipy import stats

    if n == 0:
        return float("nan"), 0.0, 1.0
    z = float(stats.norm.ppf((1 + confidence) / 2))
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return share, max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    measure: Callable[..., float], *columns: Any, seed: int = 0, rounds: int = 400, confidence: float = 0.95
) -> tuple[float, float, float]:
    """`measure` of the rows, and its percentile interval when whole rows are drawn again."""
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(column) for column in columns]
    n = len(arrays[0])
    found = []
    for _ in range(rounds):
        rows = rng.integers(0, n, n)
        try:
            found.append(float(measure(*[array[rows] for array in arrays])))
        except ValueError:
            continue  # a resample with one class only says nothing about ranking
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(measure(*arrays)), float(low), float(high)


def subgroup(label: str, group: str, hits: int, n: int, *, measure: str = "share") -> Json:
    """One row of the table of subgroups, for a measure that is a share of the group's rows."""
    share, low, high = proportion(hits, n)
    return {
        "label": label,
        "group": group,
        "measure": measure,
        "n": int(n),
        "value": None if n == 0 else share,
        "low": low,
        "high": high,
    }


def calibration(probability: Any, outcome: Any, *, bins: int = 10) -> Json:
    """How far probabilities can be taken at their word: error over equal-count bins, slope and intercept.

    `slope` and `intercept` are those of a logistic regression of the outcome on the log odds: 1 and 0 when
    calibrated, a slope under 1 means too sure.
    """
    p = np.clip(np.asarray(probability, dtype=float), 1e-6, 1 - 1e-6)
    y = np.asarray(outcome, dtype=float)
    order = np.argsort(p, kind="stable")
    curve = []
    error = 0.0
    for rows in np.array_split(order, min(bins, max(2, len(p) // 20))):
        said, was = float(p[rows].mean()), float(y[rows].mean())
        error += len(rows) / len(p) * abs(said - was)
        share, low, high = proportion(int(y[rows].sum()), len(rows))
        curve.append({"said": said, "was": share, "low": low, "high": high, "n": len(rows)})
    slope, intercept = _logistic(np.log(p / (1 - p)), y)
    return {"error": error, "slope": slope, "intercept": intercept, "curve": curve}


def _logistic(x: Any, y: Any) -> tuple[float, float]:
    """Slope and intercept of a one-variable logistic regression, with a touch of ridge."""
    from scipy import optimize, special

    design = np.column_stack([x, np.ones_like(x)])

    def loss(weights: Any) -> tuple[float, Any]:
        score = design @ weights
        value = np.logaddexp(0, score) - y * score
        slope = design.T @ (special.expit(score) - y)
        return float(value.sum() + 5e-5 * weights @ weights), slope + 1e-4 * weights

    found = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    return float(found[0]), float(found[1])
