"""Plots of a search: what they show of which trials, and that nothing falls out of the picture."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console_stand_in import answers
from stratal.console.scatter import HEIGHT, WIDTH, plots_of

pytestmark = pytest.mark.fast


def test_each_parameter_gets_a_plot_and_the_best_lies_on_top() -> None:
    plots = plots_of(answers("w")["/api/v1/projects/default/sweeps/4"])
    assert [(plot.name, plot.over) for plot in plots] == [("w", "trial"), ("w", "w"), ("w", "kind")]
    assert [[mark.look for mark in plot.marks] for plot in plots] == [["pruned", "best"]] * 3
    by_trial = plots[0]
    assert by_trial.line == f"M{by_trial.left}.0 {by_trial.top}.0 H{by_trial.right}"
    assert plots[2].marks[1].title == "Trial 1, succeeded: w 0.5000 with w 0.0100, kind w"
    assert [tick.text for tick in plots[2].across] == ["w", "b"]
    assert plots_of({"tried": [], "metric": "m"}) == []


@given(
    values=st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=20),
    ends=st.tuples(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
    .map(sorted)
    .filter(lambda e: e[0] < e[1]),
    kind=st.sampled_from(["float", "log"]),
)
def test_every_mark_is_within_the_picture(values: list[float], ends: list[float], kind: str) -> None:
    low, high = ends
    tried = [
        {"number": n, "state": "succeeded", "value": value, "params": {"x": low if n % 2 else high}}
        for n, value in enumerate(values, 1)
    ]
    space = [{"name": "x", "kind": kind, "low": low, "high": high}]
    for plot in plots_of({"metric": "m", "tried": tried, "space": space, "direction": "minimize"}):
        assert len(plot.marks) == len(values)
        for mark in plot.marks:
            assert 0 <= mark.x <= WIDTH
            assert 0 <= mark.y <= HEIGHT
