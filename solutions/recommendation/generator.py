"""What people watched, drawn from tastes that are known; so the best possible ranking is known, too.

People and items lie in a space of tastes; items have an appeal of their own and a day on which they appear. Each event
picks an item by taste, appeal and novelty. Tastes drift slowly. The oracle ranks by the very probabilities that
the events of the test period were drawn from, at its first day.

Fixed together with the oracle before any model of its data.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

SEED = 20250901
TASTES = 8


@dataclass(frozen=True)
class Size:
    people: int
    items: int
    days: int
    events: int


SIZES = {
    "tiny": Size(150, 120, 60, 6_000),
    "default": Size(2000, 800, 180, 120_000),
    "full": Size(8000, 2000, 365, 600_000),
}


@dataclass(frozen=True)
class World:
    """What the events are drawn from."""

    people: Any
    drift: Any
    items: Any
    appeal: Any
    since: Any
    days: int

    def scores(self, day: int) -> Any:
        """(people, items): log odds of the next event on that day; what has not appeared yet cannot be picked."""
        tastes = self.people + self.drift * (day / self.days)
        found = tastes @ self.items.T + self.appeal - 0.3 * np.log1p(np.maximum(day - self.since, 0) / 30)
        return np.where(self.since <= day, found, -np.inf)


def world(size: Size, seed: int = SEED) -> World:
    rng = np.random.default_rng(seed)
    items = rng.normal(0, 1, (size.items, TASTES)) / np.sqrt(TASTES)
    people = rng.normal(0, 1.9, (size.people, TASTES))
    drift = rng.normal(0, 0.5, (size.people, TASTES))
    appeal = rng.gumbel(0, 0.5, size.items)
    since = np.where(rng.random(size.items) < 0.6, 0, rng.integers(0, int(size.days * 0.8), size.items))
    return World(people, drift, items, appeal, since, size.days)


def generate(size: Size, seed: int = SEED) -> pd.DataFrame:
    """One row per event: (event, day, person, item), oldest first; nobody picks an item twice."""
    made = world(size, seed)
    rng = np.random.default_rng(seed + 1)
    activity = rng.gamma(1.2, 1.0, size.people) + 0.15
    activity /= activity.sum()
    per_day = np.full(size.days, size.events // size.days)
    taken = np.zeros((size.people, size.items), dtype=bool)
    rows = []
    for day, count in enumerate(per_day):
        people = rng.choice(size.people, count, p=activity)
        scores = made.scores(day)
        noise = rng.gumbel(0, 1, (count, size.items))
        for person, drawn in zip(people, noise, strict=True):
            item = int(np.argmax(np.where(taken[person], -np.inf, scores[person] + drawn)))
            if taken[person, item] or not np.isfinite(scores[person, item]):
                continue
            taken[person, item] = True
            rows.append((day, int(person), item))
    frame = pd.DataFrame(rows, columns=["day", "person", "item"])
    return frame.rename_axis("event").reset_index()
