"""Daily sales of a shop's products with promotions that are planned ahead, and the distribution they are drawn from.

Each product has a level, a slow trend, a week and a year of its own, and a response to price. Promotions are planned
weeks ahead (so a forecaster may use them); what they lift is followed by a dip, since people stocked up. Sales
are negative binomial. The oracle knows the mean and the spread of every day, and so its quantiles; not the draw.

Fixed together with the oracle before any model of its data.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

SEED = 20240101
START = pd.Timestamp("2024-01-01")


@dataclass(frozen=True)
class Size:
    products: int
    days: int


SIZES = {"tiny": Size(12, 300), "default": Size(150, 730), "full": Size(600, 1095)}
QUANTILES = (0.1, 0.5, 0.9, 0.95)


def generate(size: Size, seed: int = SEED) -> pd.DataFrame:
    """One row per product and day: `price` is the share of the usual price, `mean` and `q10` … the oracle's."""
    rng = np.random.default_rng(seed)
    day = np.arange(size.days)
    weekday, season = day % 7, 2 * np.pi * day / 365.25
    frames = []
    for product in range(size.products):
        level = np.exp(rng.normal(3.0, 0.8))
        trend = np.exp(rng.normal(0, 0.15) * (day - size.days / 2) / 365.25)
        week = np.exp(rng.normal(0, 0.08, 7) + np.array([0, 0, 0, 0, 0.15, 0.3, -0.1]))[weekday]
        year = np.exp(rng.uniform(0, 0.3) * np.cos(season - rng.uniform(0, 2 * np.pi)))
        price = np.ones(size.days)
        start = int(rng.integers(5, 40))
        while start < size.days:
            length = int(rng.integers(5, 11))
            price[start : start + length] = rng.choice([0.9, 0.8, 0.7])
            start += length + int(rng.integers(14, 60))
        lift = np.exp(rng.uniform(1.5, 4.0) * (1 - price))
        stocked = np.convolve(lift - 1, np.concatenate([[0], np.full(7, 1 / 7)]))[: size.days]
        dip = np.exp(-rng.uniform(0.05, 0.2) * stocked * (price == 1))
        mean = level * trend * week * year * lift * dip
        spread = rng.uniform(4, 12)
        chance = spread / (spread + mean)
        sold = rng.negative_binomial(spread, chance)
        told = {f"q{round(q * 100)}": stats.nbinom.ppf(q, spread, chance) for q in QUANTILES}
        frame = {
            "product": product,
            "day": day,
            "date": START + pd.to_timedelta(day, unit="D"),
            "price": price,
        }
        frames.append(pd.DataFrame({**frame, "sold": sold, "mean": mean.round(6), **told}))
    found = pd.concat(frames, ignore_index=True)
    return found.rename_axis("row").reset_index()
