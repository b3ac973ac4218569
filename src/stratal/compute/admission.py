"""Who starts next: one pure decision over what waits, what runs and what there is.

**The order.** Those that wait stand in the order of their *turn*: when they were asked for, moved ahead by
ten minutes for each point of priority (`turn_of`). So waiting itself counts: a job of priority 0 is
overtaken by one of priority 6 for an hour, and not by any that comes later. No job is overtaken for ever.

**The ceilings.** Each job draws from *pools*: the machine, its project's quota and budget when there are such,
its array when that may have only so many members at once. It starts when all of its pools have room.

**The reservation.** The first job that finds a pool too full is that pool's *head*. Those behind it may
go first only with what the pool has beyond the head's need, counting everybody who went ahead of it: as
those before it end, what they held is left to the head, however many small jobs stand behind it. A job
held up by its quota or its array is not the machine's head: other projects need not wait for it. One held
up by the machine is the head of all of its pools, so that nothing it needs is taken while it waits for the rest.

**GPUs** of each type are a pool of the machine's. Whoever does not care for the type takes the first with room.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

POINT_MS = 600_000
"""By how much a point of priority moves a job ahead."""
_SLACK = 1e-9
_LEAST = 0.01  # the fewest processors that may be asked for


@dataclass(frozen=True, slots=True)
class Amount:
    """So many processors, bytes of memory, GPUs and jobs: what is asked, held, or a ceiling. `cost`: of a budget."""

    cpus: float = 0.0
    memory_bytes: float = 0
    gpus: float = 0
    jobs: float = 0
    cost: float = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.cpus + other.cpus,
            self.memory_bytes + other.memory_bytes,
            self.gpus + other.gpus,
            self.jobs + other.jobs,
            self.cost + other.cost,
        )

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(
            self.cpus - other.cpus,
            self.memory_bytes - other.memory_bytes,
            self.gpus - other.gpus,
            self.jobs - other.jobs,
            self.cost - other.cost,
        )

    def beyond(self, room: "Amount") -> list[str]:
        """The names of what is asked of which there is not so much in `room`."""
        return [name for name in NAMES if _SLACK < getattr(self, name) > getattr(room, name) + _SLACK]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What a pool holds in all. `kind` is ``machine``, ``gpus``, ``quota``, ``array`` or ``budget``."""

    kind: str
    limit: Amount


MACHINE = "machine"
NAMES = ("cpus", "memory_bytes", "gpus", "jobs", "cost")


@dataclass(frozen=True, slots=True)
class Asking:
    """A job that waits, or one that holds what it asked for.

    `pools` names the ceilings it is under, `choices` those of which it needs any one besides.
    """

    id: int
    turn: int
    amount: Amount
    pools: Sequence[str] = (MACHINE,)
    choices: Sequence[str] = ()

    @property
    def place(self) -> tuple[int, int]:
        return self.turn, self.id


@dataclass(frozen=True, slots=True)
class Hold:
    """Why a job may not start: what its pool lacks (`short`), or whom the room is kept for (`behind`)."""

    pool: str
    kind: str
    limit: Amount
    free: Amount
    short: Sequence[str] = ()
    behind: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """`starts` in their order; `holds` says of others what they wait for, of several alike only for the first."""

    starts: Sequence[int]
    holds: Mapping[int, Sequence[Hold]]
    looked_at: int
    picks: Mapping[int, str]
    """Of those that start and had a choice: the pool that they draw from."""


def turn_of(asked_at: int, priority: int) -> int:
    """A waiting job's place: the smaller goes first. `asked_at` in epoch milliseconds."""
    return asked_at - priority * POINT_MS


def decide(
    waiting: Iterable[Asking],
    holding: Iterable[Asking],
    ceilings: Mapping[str, Ceiling],
    *,
    until: int | None = None,
) -> Decision:
    """Who of `waiting` (in the order of their places) starts now beside those `holding`.

    Looks no further than anything could still start, or than the job `until`, to explain that one.
    """
    pools = {name: _Pool(name, ceiling) for name, ceiling in ceilings.items()}
    for one in holding:
        for name in one.pools:
            if name in pools:
                pools[name].give(one)
    starts: list[int] = []
    holds: dict[int, Sequence[Hold]] = {}
    picks: dict[int, str] = {}
    looked_at = 0
    refused: set[tuple[Amount, tuple[str, ...], tuple[str, ...]]] = set()
    for asking in waiting:
        looked_at += 1
        like = (asking.amount, tuple(asking.pools), tuple(asking.choices))
        if like in refused and asking.id != until:  # there is never more room further down
            continue
        refusals = _refusals(asking, asking.pools, pools)
        options = {name: _refusals(asking, [name], pools) for name in asking.choices}
        pick = next((name for name, against in options.items() if not against), None)
        if pick is None:
            refusals += [hold for against in options.values() for hold in against]
        if not refusals:
            for name in (*asking.pools, *([pick] if pick else [])):
                if name in pools:
                    pools[name].give(asking)
            starts.append(asking.id)
            if pick:
                picks[asking.id] = pick
        else:
            refused.add(like)
            holds[asking.id] = refusals
            _lead(asking, refusals, pools)
        if asking.id == until or (until is None and pools[MACHINE].spent):
            break
    return Decision(starts, holds, looked_at, picks)


def _refusals(asking: Asking, names: Iterable[str], pools: Mapping[str, "_Pool"]) -> list[Hold]:
    found = (pools[name].refusal(asking) for name in names if name in pools)
    return [hold for hold in found if hold is not None]


def _lead(asking: Asking, refusals: Sequence[Hold], pools: Mapping[str, "_Pool"]) -> None:
    """Have room kept for `asking`: in its own pools when one of these holds it up, else in all."""
    if not any(hold.short for hold in refusals):
        return  # it stands behind another, whose turn comes first
    held_up = any(hold.short and hold.kind not in _SHARED for hold in refusals)
    for name in (*asking.pools, *asking.choices):
        pool = pools.get(name)
        if pool is not None and not (held_up and pool.ceiling.kind in _SHARED):
            pool.keep_for(asking)


_SHARED = frozenset({"machine", "gpus"})


@dataclass(slots=True)
class _Pool:
    name: str
    ceiling: Ceiling
    used: Amount = Amount()
    given: list[Asking] = field(default_factory=list)
    head: Asking | None = None
    overtaking: Amount = Amount()
    """What jobs behind the head hold."""

    @property
    def spent(self) -> bool:
        """Can nothing that may be asked for start any more?"""
        taken = self.used
        if self.head is not None:
            kept = self.head.amount + self.overtaking
            taken = Amount(max(taken.cpus, kept.cpus), max(taken.memory_bytes, kept.memory_bytes))
        left = self.ceiling.limit - taken
        return left.cpus < _LEAST - _SLACK or left.memory_bytes < 1

    def give(self, asking: Asking) -> None:
        self.used += asking.amount
        self.given.append(asking)
        if self.head is not None and asking.place > self.head.place:
            self.overtaking += asking.amount

    def keep_for(self, asking: Asking) -> None:
        if self.head is None:
            self.head = asking
            for one in self.given:
                if one.place > asking.place:
                    self.overtaking += one.amount

    def refusal(self, asking: Asking) -> Hold | None:
        limit = self.ceiling.limit
        free = limit - self.used
        if short := asking.amount.beyond(free):
            return Hold(self.name, self.ceiling.kind, limit, free, short)
        if self.head is not None and asking.place > self.head.place:
            beyond_kept = limit - self.head.amount - self.overtaking
            if asking.amount.beyond(beyond_kept):
                return Hold(self.name, self.ceiling.kind, limit, free, behind=self.head.id)
        return None


def ceiling_amount(
    cpus: float | None = None,
    memory_bytes: int | None = None,
    gpus: int | None = None,
    jobs: int | None = None,
    cost: int | None = None,
) -> Amount:
    """A ceiling of these; None: none."""
    values = (inf if value is None else value for value in (cpus, memory_bytes, gpus, jobs, cost))
    return Amount(*values)
