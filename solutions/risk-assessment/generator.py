"""Loan applicants and whether they default, drawn from a known probability; and a group that must not matter.

`group` stands for a protected attribute: it moves incomes (as in the world) but has no effect of its own on
default. The oracle is the probability that each default was drawn with.

Fixed together with the oracle before any model of its data.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SEED = 20250601


@dataclass(frozen=True)
class Size:
    applicants: int


SIZES = {"tiny": Size(3000), "default": Size(30000), "full": Size(150000)}


def generate(size: Size, seed: int = SEED) -> pd.DataFrame:
    """One row per applicant, in the order of application. `oracle` is the probability of default."""
    rng = np.random.default_rng(seed)
    n = size.applicants
    group = (rng.random(n) < 0.3).astype(int)
    income = np.exp(rng.normal(10.4 - 0.15 * group, 0.5, n))
    age = rng.normal(42, 12, n).clip(18, 80)
    employed = rng.exponential(6, n).clip(0, np.maximum(age - 18, 0.1))
    amount = income * rng.beta(1.5, 4, n)
    months = rng.choice([12, 24, 36, 48, 60], n)
    late = rng.poisson(np.exp(rng.normal(-1.2, 0.9, n)))
    used = rng.beta(2, 3, n)
    inquiries = rng.poisson(1.2, n)
    burden = amount / months * 12 / income
    score = (
        -3.0 + 2.2 * np.tanh(2.5 * burden) + 0.55 * np.minimum(late, 4) + 1.8 * np.maximum(used - 0.5, 0)
        - 0.06 * np.minimum(employed, 10) + 0.18 * np.minimum(inquiries, 5) - 0.5 * (np.log(income) - 10.4)
        + 1.2 * (used > 0.6) * (late > 0)
    )  # fmt: skip
    chance = 1 / (1 + np.exp(-score))
    default = (rng.random(n) < chance).astype(int)
    frame = {
        "income": income.round(0), "age": age.round(1), "employed_years": employed.round(2), "amount": amount.round(0),
        "months": months, "late_payments": late, "credit_used": used.round(4), "inquiries": inquiries,
        "group": group, "default": default, "oracle": chance.round(6),
    }  # fmt: skip
    return pd.DataFrame(frame).rename_axis("applicant").reset_index()
