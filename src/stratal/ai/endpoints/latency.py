"""How quick answers were of late: a count per step of a scale, per slice of time. Cheap to add to, bounded to keep."""

import math
from collections import deque
from dataclasses import dataclass

SLICE_SECONDS = 10
SLICES = 30
_STEPS_PER_DOUBLING = 4
_LEAST_MS = 0.05
_STEPS = 96


@dataclass(frozen=True, slots=True)
class Slice:
    """What happened in `SLICE_SECONDS` seconds from `at` (epoch seconds): answers, failures, and half of them took `p50`."""

    at: int
    answered: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """The last `SLICES` slices together, and each that had requests, oldest first. Latencies are within 20 %."""

    answered: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    slices: tuple[Slice, ...]


class Latencies:
    """`now` is in seconds of the clock that readers understand (epoch)."""

    def __init__(self) -> None:
        self._slices: deque[tuple[int, list[int]]] = deque(maxlen=SLICES)

    def add(self, now: float, ms: float) -> None:
        """A request was answered in `ms`."""
        step = int(math.log2(ms / _LEAST_MS) * _STEPS_PER_DOUBLING) if ms > _LEAST_MS else 0
        self._slice(now)[step if step < _STEPS else _STEPS - 1] += 1

    def fail(self, now: float) -> None:
        """A request got no answer: the model failed, or its replica."""
        self._slice(now)[_STEPS] += 1

    def _slice(self, now: float) -> list[int]:
        at = int(now) // SLICE_SECONDS
        if not self._slices or self._slices[-1][0] != at:
            self._slices.append((at, [0] * (_STEPS + 1)))
        return self._slices[-1][1]

    def summary(self, now: float) -> Summary:
        oldest = int(now) // SLICE_SECONDS - SLICES + 1
        kept = [(at, counts) for at, counts in self._slices if at >= oldest]
        total = [sum(counts) for counts in zip(*(counts for _, counts in kept), strict=True)] or [0] * (
            _STEPS + 1
        )
        return Summary(
            answered=sum(total[:_STEPS]),
            failed=total[_STEPS],
            p50_ms=_quantile(total, 0.5),
            p95_ms=_quantile(total, 0.95),
            p99_ms=_quantile(total, 0.99),
            slices=tuple(
                Slice(
                    at * SLICE_SECONDS,
                    sum(counts[:_STEPS]),
                    counts[_STEPS],
                    _quantile(counts, 0.5),
                    _quantile(counts, 0.95),
                )
                for at, counts in kept
            ),
        )


def _quantile(counts: list[int], share: float) -> float | None:
    """The middle of the step in which that share of the answers was reached; None without answers."""
    rank = math.ceil(sum(counts[:_STEPS]) * share)
    if not rank:
        return None
    seen = 0
    for step, count in enumerate(counts[:_STEPS]):
        seen += count
        if seen >= rank:
            return float(f"{_LEAST_MS * 2 ** ((step + 0.5) / _STEPS_PER_DOUBLING):.3g}")
    return None
