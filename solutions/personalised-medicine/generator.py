"""Patients whose outcome with and without a treatment is known, which no real data set has.

Doctors treat those who are worse off: so the treated do worse on average although the treatment helps, and the
naive difference has the wrong sign. Whom it helps depends on age and a marker; some it harms. Each patient's chance
of being treated stays between 0.05 and 0.95 for nearly all. There is no hidden confounder: what doctors went by
is in the data. That is the assumption every such estimate rests on, and here it is true by construction.

Fixed together with the truth before any model of its data.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SEED = 20250301


@dataclass(frozen=True)
class Size:
    patients: int


SIZES = {"tiny": Size(600), "default": Size(4000), "full": Size(20000)}


def generate(size: Size, seed: int = SEED) -> pd.DataFrame:
    """One row per patient. `outcome` is a gain in function (higher is better); `effect` is the true effect for them."""
    rng = np.random.default_rng(seed)
    n = size.patients
    age = rng.normal(62, 11, n).clip(30, 90)
    severity = rng.normal(0, 1, n)
    marker = rng.normal(0, 1, n)
    kidney = rng.normal(0, 1, n) - 0.3 * (age - 62) / 11
    sex = rng.integers(0, 2, n)
    centre = rng.integers(0, 5, n)
    z = (age - 62) / 11
    effect = 0.8 + 0.9 * np.tanh(1.5 * marker) - 0.5 * np.maximum(z, 0) + 0.3 * (kidney > 0)
    untreated = -1.6 * severity - 0.4 * z + 0.3 * kidney + 0.2 * np.sin(2 * marker)
    chance = 1 / (1 + np.exp(-(0.2 + 1.3 * severity + 0.3 * z - 0.2 * (centre == 2))))
    treated = (rng.random(n) < chance).astype(int)
    outcome = untreated + treated * effect + rng.normal(0, 1, n)
    frame = {
        "age": age.round(1), "severity": severity.round(4), "marker": marker.round(4), "kidney": kidney.round(4),
        "sex": sex, "centre": centre, "treated": treated, "outcome": outcome.round(4),
        "effect": effect.round(6), "chance": chance.round(6),
    }  # fmt: skip
    return pd.DataFrame(frame).rename_axis("patient").reset_index()
