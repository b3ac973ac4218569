"""Who starts next, as a pure decision: ceilings hold, the order holds, and nobody is overtaken for ever."""

from collections.abc import Sequence
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.compute.admission import MACHINE, POINT_MS, Amount, Asking, Ceiling, decide, turn_of

pytestmark = pytest.mark.fast

MEMORY = 8.0


def ceilings(cpus: float = 4, **jobs: int) -> dict[str, Ceiling]:
    """The machine, and pools that limit the number of jobs."""
    limits = {name: Ceiling("quota", Amount(inf, inf, inf, most)) for name, most in jobs.items()}
    return {MACHINE: Ceiling("machine", Amount(cpus, MEMORY, 2, inf)), **limits}


def ask(id_: int, cpus: float = 1, *, turn: int | None = None, pool: str = "", gpus: int = 0) -> Asking:
    pools = (MACHINE, pool) if pool else (MACHINE,)
    return Asking(id_, id_ if turn is None else turn, Amount(cpus, 0.1, gpus, 1), pools)


def starts(waiting: Sequence[Asking], holding: Sequence[Asking] = (), **limits: int) -> list[int]:
    ordered = sorted(waiting, key=lambda one: one.place)
    return list(decide(ordered, holding, ceilings(**limits)).starts)


def test_those_who_fit_start_in_their_order() -> None:
    assert starts([ask(1), ask(2, 2), ask(3), ask(4)]) == [1, 2, 3]


def test_a_point_of_priority_is_worth_ten_minutes_of_waiting() -> None:
    old, urgent = turn_of(0, 0), turn_of(POINT_MS * 5, 6)
    assert urgent < old
    assert turn_of(POINT_MS * 7, 6) > old


def test_small_ones_go_ahead_of_a_big_one_only_with_what_it_leaves() -> None:
    running = [ask(1, 3)]
    assert starts([ask(2, 3), ask(3, 1), ask(4, 1)], running) == [3]
    assert starts([ask(2, 4), ask(3, 1)], running) == []
    # 3 went ahead and still runs: as 1 ends, what it held is left to 2
    assert starts([ask(2, 3), ask(4, 1)], [ask(1, 2), ask(3, 1)]) == []


def test_who_waits_for_a_gpu_does_not_hold_up_who_needs_none() -> None:
    running = [ask(1, 1, gpus=2)]
    assert starts([ask(2, 1, gpus=1), ask(3, 2), ask(4, 1, gpus=1)], running) == [3]


def test_a_full_quota_holds_up_its_own_project_alone() -> None:
    running = [ask(1, 1, pool="a")]
    assert starts([ask(2, 4, pool="a"), ask(3, 2, pool="a"), ask(4, 2)], running, a=1) == [4]


def test_the_holds_say_what_is_short_and_whom_room_is_kept_for() -> None:
    waiting = [ask(2, 3), ask(3, 2), ask(4, 0.1, pool="a")]
    decision = decide(waiting, [ask(1, 2), ask(9, 0.1, turn=0, pool="a")], ceilings(a=1), until=4)
    (first,), (second,) = decision.holds[2], decision.holds[3]
    assert (first.short, first.free.cpus) == (["cpus"], pytest.approx(1.9))
    assert second.short == ["cpus"]
    assert {(hold.kind, hold.behind) for hold in decision.holds[4]} == {("quota", None)}
    (kept,) = decide([ask(2, 3), ask(3, 1.5)], [ask(1, 2)], ceilings(), until=3).holds[3]
    assert (kept.behind, kept.short) == (2, ())


amounts = st.builds(
    Amount,
    st.sampled_from([0.5, 1.0, 2.0, 4.0]),
    st.sampled_from([0.5, 2.0, 8.0]),
    st.integers(0, 2),
    st.just(1),
)
pool_names = st.sampled_from([(MACHINE,), (MACHINE, "a"), (MACHINE, "b"), (MACHINE, "a", "b")])


@st.composite
def queues(draw: st.DrawFn) -> tuple[list[Asking], list[Asking]]:
    """Some that wait and some that hold, those within the ceilings."""
    made = [
        Asking(id_, draw(st.integers(0, 5)), draw(amounts), draw(pool_names))
        for id_ in range(1, draw(st.integers(1, 14)))
    ]
    holding = decide(made[::2], [], LIMITS).starts
    waiting = [one for one in made if one.id not in holding]
    return sorted(waiting, key=lambda one: one.place), [one for one in made if one.id in holding]


LIMITS = ceilings(a=3, b=2)


@given(queues())
def test_no_ceiling_is_ever_passed(queue: tuple[list[Asking], list[Asking]]) -> None:
    waiting, holding = queue
    decision = decide(waiting, holding, LIMITS)
    held = holding + [one for one in waiting if one.id in decision.starts]
    for name, ceiling in LIMITS.items():
        total = sum((one.amount for one in held if name in one.pools), Amount())
        assert total.beyond(ceiling.limit) == []


@given(queues())
def test_the_first_who_fits_everywhere_starts_and_nobody_like_it_goes_before_it(
    queue: tuple[list[Asking], list[Asking]],
) -> None:
    waiting, holding = queue
    decision = decide(waiting, holding, LIMITS)
    first = waiting[0] if waiting else None
    if first is not None:
        fits = all(
            not first.amount.beyond(
                LIMITS[name].limit - sum((o.amount for o in holding if name in o.pools), Amount())
            )
            for name in first.pools
        )
        assert (first.id in decision.starts) == fits
    for index, one in enumerate(waiting):
        for later in waiting[index + 1 :]:
            if (one.amount, one.pools) == (later.amount, later.pools) and later.id in decision.starts:
                assert one.id in decision.starts


@given(queues(), st.randoms(use_true_random=False), st.lists(amounts, min_size=30, max_size=60))
def test_nobody_is_overtaken_for_ever(
    queue: tuple[list[Asking], list[Asking]], dice: "object", stream: list[Amount]
) -> None:
    """Whatever keeps coming behind, and in whatever order things end, the first in turn starts at last."""
    waiting, holding = queue
    if not waiting:
        return
    first = waiting[0]
    for number, amount in enumerate(stream, 100):
        decision = decide(waiting, holding, LIMITS)
        started = [one for one in waiting if one.id in decision.starts]
        if first in started:
            return
        waiting = [one for one in waiting if one not in started]
        holding = holding + started
        behind = Asking(number, first.turn + 1, amount, (MACHINE, "a"))
        waiting = sorted([*waiting, behind], key=lambda one: one.place)
        # Everybody ends at some time: who holds longest ends next, or somebody else and that one.
        ends = {holding[0].id, dice.choice(holding).id} if holding else set()  # type: ignore[attr-defined]
        holding = [one for one in holding if one.id not in ends]
    raise AssertionError("it waits for ever")


@given(queues())
def test_explaining_one_decides_as_deciding_does(queue: tuple[list[Asking], list[Asking]]) -> None:
    waiting, holding = queue
    decision = decide(waiting, holding, LIMITS)
    for one in waiting:
        told = decide(waiting, holding, LIMITS, until=one.id)
        assert (one.id in told.starts) == (one.id in decision.starts)
        assert bool(told.holds.get(one.id)) != (one.id in told.starts)
