"""A generated market with an edge that is known, so that a way of testing strategies can be seen to say yes, too.

Daily returns with volatility that comes in clusters (GARCH(1,1) with the usual parameters) and a slow drift whose
sign stays for a year or so. Who follows the past months' direction earns from it; with no drift (`edge` 0) nobody can.
The oracle knows today's drift.

Fixed before any strategy was tried on it.
"""

from typing import Any

import numpy as np
import pandas as pd

SEED = 20250901
DAYS = {"tiny": 1500, "default": 5000, "full": 10000}
EDGE = 0.002


def generate(days: int, edge: float = EDGE, seed: int = SEED) -> pd.DataFrame:
    """One row per trading day: (day, close, drift)."""
    rng = np.random.default_rng(seed)
    drift, sign = np.empty(days), 1.0
    variance, shock, returns = 1e-4, 0.0, np.empty(days)
    for day in range(days):
        if rng.random() < 1 / 250:
            sign = -sign
        drift[day] = edge * sign
        variance = 2e-6 + 0.08 * shock**2 + 0.90 * variance
        shock = float(np.sqrt(variance) * rng.normal())
        returns[day] = drift[day] + shock
    close: Any = 100 * np.exp(np.cumsum(returns))
    return pd.DataFrame({"day": np.arange(days), "close": close, "drift": drift}).round(
        {"close": 6, "drift": 6}
    )
