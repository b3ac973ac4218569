"""Customers of a shop with habits of a known kind: what they did in a year, and what they spent in the half year after.

There are five kinds; each customer's habits scatter around those of its kind, and a tenth are of none. Orders are drawn
day by day from the habits, before and after the cut alike, and some customers leave. `kind` is the truth; no shop has it.

Fixed together with the truth before any model of its data.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SEED = 20251001
BEFORE, AFTER = 365, 180
# orders a year, basket, share bought on discount, share returned, chance of leaving within the half year
KINDS = {
    "regulars": (36.0, 45.0, 0.15, 0.03, 0.05),
    "big baskets": (7.0, 260.0, 0.10, 0.06, 0.10),
    "bargain hunters": (18.0, 28.0, 0.80, 0.05, 0.15),
    "returners": (20.0, 95.0, 0.30, 0.45, 0.10),
    "occasional": (3.5, 55.0, 0.25, 0.08, 0.35),
}
SHARES = (0.22, 0.13, 0.25, 0.12, 0.28)


@dataclass(frozen=True)
class Size:
    customers: int


SIZES = {"tiny": Size(800), "default": Size(6000), "full": Size(40000)}


def generate(size: Size, seed: int = SEED) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(orders, customers): an order per row with its day (negative before the cut), and each customer's true kind."""
    rng = np.random.default_rng(seed)
    n = size.customers
    kind = rng.choice(len(KINDS), n, p=SHARES)
    table = np.array(list(KINDS.values()))[kind]
    strange = rng.random(n) < 0.1
    scatter = np.where(strange, 1.0, 0.25)
    rate = table[:, 0] * np.exp(rng.normal(0, scatter))
    basket = table[:, 1] * np.exp(rng.normal(0, scatter))
    discount, returned = ((table[:, i] + rng.normal(0, 0.3 * scatter)).clip(0.01, 0.99) for i in (2, 3))
    joined = -rng.integers(30, BEFORE + 1, n)
    leaves = np.where(rng.random(n) < table[:, 4], rng.integers(0, AFTER, n), AFTER)
    orders = []
    for customer in range(n):
        count = rng.poisson(rate[customer] * (leaves[customer] - joined[customer]) / 365)
        day = np.sort(rng.integers(joined[customer], leaves[customer], count)) if count else np.zeros(0, int)
        value = (basket[customer] * np.exp(rng.normal(0, 0.35, count))).round(2)
        on_offer, back = (rng.random(count) < share[customer] for share in (discount, returned))
        orders.append(
            pd.DataFrame(
                {
                    "customer": customer,
                    "day": day,
                    "value": value,
                    "on_offer": on_offer.astype(int),
                    "returned": back.astype(int),
                }
            )
        )
    names = np.array(list(KINDS))
    customers = pd.DataFrame(
        {"customer": np.arange(n), "joined": joined, "kind": np.where(strange, "none", names[kind])}
    )
    found = pd.concat(orders, ignore_index=True).rename_axis("order").reset_index()
    return found, customers
