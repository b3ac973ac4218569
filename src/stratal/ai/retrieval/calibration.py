"""From which confidence on a question is answered: chosen on half of some questions, measured on the other. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from stratal.ai.retrieval.model import Calibration

LEAST = 4
"""So many questions of each kind are needed."""


@dataclass(frozen=True, slots=True)
class Scored:
    """`group` names what it shares with others, like the sentence that it was made of; "" is nothing."""

    confidence: float
    answerable: bool
    group: str = ""


def calibrate(
    scored: Sequence[Scored], source: str, at_most_wrong: float | None = None
) -> Calibration | None:
    """The threshold that best tells answerable questions from others; None when there are too few of a kind.

    With `at_most_wrong` it is the lowest at which no greater share of the others is answered: what a wrong answer costs
    beside none, only people know.

    Every second question of each kind chooses; the others are what it is measured on. Those of a group are all on one
    side, so that what is measured was not seen by the choice in other words. Of thresholds that are equally good the
    lowest is taken: a real question says things in other words than the documents do.
    """
    kinds = [[one for one in scored if one.answerable is wanted] for wanted in (True, False)]
    if any(len(kind) < LEAST for kind in kinds):
        return None
    choosing, held_out = _halves(scored)
    if any({one.answerable for one in half} != {True, False} for half in (choosing, held_out)):
        return None
    candidates = _candidates(choosing)
    if at_most_wrong is None:
        threshold = max(candidates, key=lambda at: (_youden(choosing, at), -at))
    else:
        threshold = next(
            at for at in candidates if 1 - (_rates(choosing, at)[1] or 0.0) <= at_most_wrong + 1e-9
        )
    answered, refused = _rates(held_out, threshold)
    return Calibration(round(threshold, 6), len(scored), answered, refused, source, at_most_wrong)


def _halves(scored: Sequence[Scored]) -> tuple[list[Scored], list[Scored]]:
    """Groups by turns, those of each kind (answerable, not, both) by themselves."""
    groups: dict[str, list[Scored]] = {}
    for number, one in enumerate(scored):
        groups.setdefault(one.group or f"\0{number}", []).append(one)
    halves: tuple[list[Scored], list[Scored]] = ([], [])
    turns: dict[frozenset[bool], int] = {}
    for group in groups.values():
        kind = frozenset(one.answerable for one in group)
        turn = turns[kind] = turns.get(kind, -1) + 1
        halves[turn % 2].extend(group)
    return halves


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
