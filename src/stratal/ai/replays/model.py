"""Values of a replay. Pure."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = Any


class State(StrEnum):
    """checking ──▶ running ──▶ comparing ──▶ ended"""

    CHECKING = "checking"
    RUNNING = "running"
    COMPARING = "comparing"
    ENDED = "ended"


class Verdict(StrEnum):
    """`ALTERED`: bytes that were read then are not those that lie there now, or are gone: nothing could be repeated."""

    REPRODUCED = "reproduced"
    DIFFERS = "differs"
    ALTERED = "altered"
    FAILED = "failed"


class InputState(StrEnum):
    """`SAME`: the name still means what was read. `CHANGED`: it means something newer; what was read is whole, and
    was read again. `BROKEN`, `GONE`: what was read is not there as it was. `OTHER`: the replay read what the work
    that it repeats had not read."""

    SAME = "same"
    CHANGED = "changed"
    BROKEN = "broken"
    GONE = "gone"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Input:
    kind: str
    name: str
    version: str
    state: InputState
    note: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """One thing that was made then and now. `of` is the step that made it, "" for a job."""

    of: str
    kind: str
    name: str
    before: str
    after: str
    same: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay as recorded. Times are epoch milliseconds."""

    id: int
    project_id: str
    project: str
    asked: str
    kind: str
    of_id: int
    by_id: int | None
    tolerance: float
    ignored: Sequence[str]
    state: State
    verdict: Verdict | None
    reason: str
    inputs: Sequence[Input]
    results: Sequence[Result]
    created_at: int
    ended_at: int | None
    created_by: str
    creator_id: str
    creator_name: str
    creator_role: str

    @property
    def unchanged(self) -> bool:
        """Is everything that was read still what its name means?"""
        return all(one.state is InputState.SAME for one in self.inputs)

    @property
    def differing(self) -> list[Result]:
        return [one for one in self.results if not one.same]


@dataclass(frozen=True, slots=True)
class Limits:
    """How near is the same: numbers within `tolerance` (a part of the larger); names like `ignored` are passed over."""

    tolerance: float = 0.0
    ignored: Sequence[str] = field(default_factory=tuple)

    def passes_over(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.ignored)

    def close(self, before: float, after: float) -> bool:
        if math.isnan(before) or math.isnan(after):
            return math.isnan(before) and math.isnan(after)
        return before == after or math.isclose(before, after, rel_tol=self.tolerance)


def same_value(before: Json, after: Json, limits: Limits) -> bool:
    """Are two encoded values the same, numbers within the limits?"""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return before.keys() == after.keys() and all(same_value(before[k], after[k], limits) for k in before)
    if isinstance(before, list) and isinstance(after, list):
        return len(before) == len(after) and all(
            same_value(one, other, limits) for one, other in zip(before, after, strict=True)
        )
    if isinstance(before, bool) or isinstance(after, bool):
        return before is after
    if isinstance(before, int | float) and isinstance(after, int | float):
        return limits.close(before, after)
    return bool(before == after)
