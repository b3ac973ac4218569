"""From which confidence on a question is answered: chosen on half of some questions, measured on the other. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from stratal.ai.retrieval.model import Calibration

LEAST = 4
"""So many questions of each kind are needed."""


@dataclass(frozen=True, slots=True)
class Scored:
    confidence: float
    answerable: bool


def calibrate(scored: Sequence[Scored], source: str) -> Calibration | None:
    """The threshold that best tells answerable questions from others; None when there are too few of a kind.

    Every second question of each kind chooses; the others are what it is measured on. Of thresholds that are
    equally good the lowest is taken: a real question says things in other words than the documents do.
    """
    kinds = [[one for one in scored if one.answerable is wanted] for wanted in (True, False)]
    if any(len(kind) < LEAST for kind in kinds):
        return None
    choosing = [one for kind in kinds for one in kind[::2]]
    held_out = [one for kind in kinds for one in kind[1::2]]
    threshold = max(_candidates(choosing), key=lambda at: (_youden(choosing, at), -at))
    answered, refused = _rates(held_out, threshold)
    return Calibration(round(threshold, 6), len(scored), answered, refused, source)


def _candidates(scored: Sequence[Scored]) -> list[float]:
    """Thresholds between neighbours, and one below and above all."""
    values = sorted({one.confidence for one in scored})
    between = [(a + b) / 2 for a, b in pairwise(values)]
    return [values[0] - 1e-6, *between, values[-1] + 1e-6]


def _youden(scored: Sequence[Scored], threshold: float) -> float:
    answered, refused = _rates(scored, threshold)
    return round((answered or 0.0) + (refused or 0.0), 9)


def _rates(scored: Sequence[Scored], threshold: float) -> tuple[float | None, float | None]:
    good = [one.confidence >= threshold for one in scored if one.answerable]
    bad = [one.confidence < threshold for one in scored if not one.answerable]
    return (sum(good) / len(good) if good else None, sum(bad) / len(bad) if bad else None)
