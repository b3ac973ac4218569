"""Spaces, commands and courses: pure values."""

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.ai.sweeps.conductor import course
from stratal.ai.sweeps.model import Parameter, ParameterKind, check_space, command_of
from stratal.ai.sweeps.rows import template_json, template_of
from stratal.collab.metrics import Column, Point
from stratal.compute.model import JobSpec, Source
from stratal.kernel.errors import Invalid, TooLarge
from stratal.sdk.sweeps import parameter

pytestmark = pytest.mark.fast


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("log:1e-4..1e-1", {"kind": "log", "low": 1e-4, "high": 0.1, "step": None}),
        ("float:-.5..1.:0.25", {"kind": "float", "low": -0.5, "high": 1.0, "step": 0.25}),
        ("int:2..8:2", {"kind": "int", "low": 2.0, "high": 8.0, "step": 2.0}),
        ("intlog:16..4096", {"kind": "intlog", "low": 16.0, "high": 4096.0, "step": None}),
        ("choice:a,b", {"kind": "choice", "choices": ["a", "b"]}),
    ],
)
def test_what_people_write_is_what_is_searched(text: str, wanted: dict[str, object]) -> None:
    read = parameter("x", text)
    assert read == {"name": "x", **wanted}
    check_space([Parameter(**{**read, "kind": ParameterKind(read["kind"])})])


@pytest.mark.parametrize(
    "text", ["", "1..2", "int:2", "int:a..b", "log:1e-4-1e-1", "float:0..nan", "grid:1..2"]
)
def test_what_is_no_range_is_told_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match=r"int:2\.\.8"):
        parameter("x", text)


@pytest.mark.parametrize(
    "wrong",
    [
        Parameter("1x", ParameterKind.INT, 1, 2),
        Parameter("x", ParameterKind.INT, 2, 2),
        Parameter("x", ParameterKind.INT, 0.5, 2),
        Parameter("x", ParameterKind.INTLOG, 0, 2),
        Parameter("x", ParameterKind.LOG, 1, 2, step=0.1),
        Parameter("x", ParameterKind.FLOAT, 0, 1, step=2),
        Parameter("x", ParameterKind.FLOAT, 0, float("inf")),
        Parameter("x", ParameterKind.FLOAT, nan, 1),
        Parameter("x", ParameterKind.FLOAT, 0),
        Parameter("x", ParameterKind.CHOICE),
        Parameter("x", ParameterKind.CHOICE, choices=["a", "a"]),
        Parameter("x", ParameterKind.CHOICE, choices=["a\0"]),
    ],
)
def test_a_parameter_of_no_sense_is_refused(wrong: Parameter) -> None:
    with pytest.raises(Invalid):
        check_space([wrong])


def test_names_that_would_share_a_variable_and_too_many_are_refused() -> None:
    with pytest.raises(Invalid, match="same name"):
        check_space([Parameter(name, ParameterKind.INT, 1, 2) for name in ("a.b", "a-b")])
    with pytest.raises(TooLarge):
        check_space([Parameter(f"p{n}", ParameterKind.INT, 1, 2) for n in range(51)])


def test_a_parameter_stands_where_the_command_says_or_behind_it() -> None:
    argv = ["python", "fit.py", "optimizer.lr={lr}", "{other}"]
    assert command_of(argv, {"lr": 0.01, "depth": 3, "kind": "a b"}) == [
        *("python", "fit.py", "optimizer.lr=0.01", "{other}", "--depth=3", "--kind=a b")
    ]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_figure_reaches_the_script_exactly(value: float) -> None:
    word = command_of(["t"], {"x": value})[1]
    assert float(word.removeprefix("--x=")) == value


def _column(*points: tuple[int, int, float]) -> Column:
    column = Column()
    column.add(Point(*point) for point in points)
    return column


def test_a_course_has_one_value_a_step_and_numbers_what_has_no_steps() -> None:
    assert course(_column((1, 0, 0.1), (2, 1, 0.2), (3, 1, 0.3))) == [(0, 0.1), (1, 0.3)]
    assert course(_column((1, 0, 0.1), (2, 0, 0.2), (3, 0, nan))) == [(0, 0.1), (1, 0.2)]
    long = course(_column(*((n, n, float(n)) for n in range(5000))))
    assert (len(long), long[0], long[-1]) == (1000, (0, 0.0), (4999, 4999.0))


def test_a_trials_job_is_kept_whole() -> None:
    spec = JobSpec(
        ["python", "t.py"],
        name="n",
        env={"A": "é"},
        gpus=1,
        after=[],
        source=Source("git", commit="c", untracked=["u"], submodules={"a": "b"}, diff=b"\x00\xff"),
    )
    assert template_of(template_json(spec)) == spec
