"""The states of a job: ends are final, and every path leads to one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.compute.model import ENDED, NEXT, JobState, before, outcome

pytestmark = pytest.mark.fast


@given(st.lists(st.integers(0, 10)))
def test_every_walk_ends_and_stays_there(choices: list[int]) -> None:
    state = JobState.QUEUED
    for choice in choices:
        following = sorted(NEXT[state])
        if not following:
            assert state.ended
            break
        state = following[choice % len(following)]
    assert len(NEXT[state]) > 0 or state in ENDED


def test_whoever_ended_never_moves_and_who_lives_can_end() -> None:
    for state in JobState:
        assert bool(NEXT[state]) is not state.ended
    assert set(before(JobState.SUCCEEDED)) == {"starting", "running"}
    assert set(before(JobState.STARTING)) == {"queued"}
    assert set(before(JobState.QUEUED)) == {"starting", "running"}  # tried again


@given(st.integers(0, 255) | st.none(), st.booleans())
def test_an_unseen_end_is_unknown_and_success_needs_a_zero(code: int | None, stopped: bool) -> None:
    state = outcome(code, stopped=stopped)
    assert state.ended
    assert (state is JobState.UNKNOWN) is (code is None)
    assert (state is JobState.SUCCEEDED) is (code == 0 and not stopped)
