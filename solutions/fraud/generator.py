"""Card transactions with three kinds of fraud, and what somebody who sees the fraudsters' plans could know.

Written anew after the published description of the simulator in Le Borgne, Siblini, Lebichot and Bontempi,
"Reproducible Machine Learning for Credit Card Fraud Detection: Practical Handbook" (Université Libre de
Bruxelles, 2022), chapter 3: customers pay at terminals within reach; (1) amounts over 220 are fraud; (2) each
day two terminals are compromised for 28 days, and every payment there is fraud; (3) each day three customers'
cards are stolen for 14 days, and a third of the payments are fraud with five times the amount.

Fixed together with the oracle before any model of its data; parameters are in `SIZES` and below.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

SEED = 20180401
START = pd.Timestamp("2018-04-01")
REACH = 5.0
BIG_AMOUNT = 220.0
TERMINAL_DAYS = 28
CARD_DAYS, STOLEN_SHARE, STOLEN_FACTOR = 14, 1 / 3, 5.0


@dataclass(frozen=True)
class Size:
    customers: int
    terminals: int
    days: int
    terminals_a_day: int = 2
    cards_a_day: int = 3
    reach: float = REACH


SIZES = {
    "tiny": Size(400, 800, 80, 1, 1, 10.0),
    "default": Size(5000, 10000, 183),
    "full": Size(10000, 20000, 183, 4, 6),
}


def generate(size: Size, seed: int = SEED) -> pd.DataFrame:
    """One row per payment, oldest first. `oracle` is the probability of fraud for one who knows the plans."""
    rng = np.random.default_rng(seed)
    homes = rng.uniform(0, 100, (size.customers, 2))
    places = rng.uniform(0, 100, (size.terminals, 2))
    mean = rng.uniform(5, 100, size.customers)
    rate = rng.uniform(0, 4, size.customers)
    near = [np.flatnonzero(((places - home) ** 2).sum(1) < size.reach**2) for home in homes]

    count = rng.poisson(np.where([len(n) > 0 for n in near], rate, 0)[:, None], (size.customers, size.days))
    customer, day = (np.repeat(index.ravel(), count.ravel()) for index in np.indices(count.shape))
    second = rng.normal(43_200, 20_000, len(customer))
    inside = (second > 0) & (second < 86_400)
    customer, day, second = customer[inside], day[inside], second[inside].astype(int)
    amount = rng.normal(mean[customer], mean[customer] / 2)
    amount = np.where(amount < 0, rng.uniform(0, 2 * mean[customer]), amount).round(2)
    pick = rng.random(len(customer))
    reach = np.array([len(n) for n in near])
    offset = np.concatenate([[0], np.cumsum(reach)[:-1]])
    flat = np.concatenate(near)
    terminal = flat[offset[customer] + (pick * reach[customer]).astype(int)]

    bad_terminal = _windows(rng, size.terminals, size.days, size.terminals_a_day, TERMINAL_DAYS)[
        terminal, day
    ]
    stolen = _windows(rng, size.customers, size.days, size.cards_a_day, CARD_DAYS)[customer, day]
    misused = stolen & (rng.random(len(customer)) < STOLEN_SHARE)
    honest = amount
    amount = np.where(misused, honest * STOLEN_FACTOR, honest).round(2)
    fraud = (amount > BIG_AMOUNT) | bad_terminal | misused

    known = (amount > BIG_AMOUNT) | bad_terminal
    oracle = np.where(known, 1.0, np.where(stolen, _misuse(amount, mean[customer]), 0.0))
    kind = np.where(bad_terminal, "terminal", np.where(misused, "card", np.where(fraud, "amount", "none")))
    frame = pd.DataFrame(
        {
            "moment": START + pd.to_timedelta(day * 86_400 + second, unit="s"),
            "day": day,
            "customer": customer,
            "terminal": terminal,
            "amount": amount,
            "fraud": fraud.astype(int),
            "kind": kind,
            "oracle": oracle.round(6),
        }
    )
    frame = frame.sort_values(["moment", "customer"], kind="stable", ignore_index=True)
    return frame.rename_axis("payment").reset_index()


def _windows(rng: Any, things: int, days: int, a_day: int, length: int) -> Any:
    """(things, days): is it compromised on that day? Each day `a_day` are drawn, from then on for `length` days."""
    found = np.zeros((things, days), dtype=bool)
    for day in range(days):
        for thing in rng.choice(things, a_day, replace=False):
            found[thing, day : day + length] = True
    return found


def _misuse(amount: Any, mean: Any) -> Any:
    """Of a stolen card's payment: how likely is it the thief's, given the amount? By Bayes, from both densities."""
    honest = _density(amount, mean)
    thief = _density(amount / STOLEN_FACTOR, mean) / STOLEN_FACTOR
    return STOLEN_SHARE * thief / (STOLEN_SHARE * thief + (1 - STOLEN_SHARE) * honest)


def _density(amount: Any, mean: Any) -> Any:
    """Of an honest amount: normal, with what falls below nothing dealt evenly between nothing and twice the mean."""
    below = 0.022750131948179195  # the standard normal's mass below -2
    normal = np.exp(-0.5 * ((amount - mean) / (mean / 2)) ** 2) / (mean / 2 * np.sqrt(2 * np.pi))
    even = np.where(amount <= 2 * mean, below / (2 * mean), 0.0)
    return normal + even + 1e-300
