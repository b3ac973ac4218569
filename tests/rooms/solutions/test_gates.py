"""Gates: each can pass and can fail, and says why; what was not looked at has not passed."""

import copy
from typing import Any

import pytest

from stratal.ai.solutions.catalogue import Catalogue
from stratal.ai.solutions.manifest import Gate, Solution
from stratal.cli.solutions.gates import FAILED, NOT_JUDGED, PASSED, Verdict, judge
from stratal.cli.solutions.serving import as_expected, same

pytestmark = pytest.mark.fast

SOLUTION = Catalogue().get("disease-diagnosis")
GOOD = {"passed": True, "said": "as it should be"}


def told(mean: float, low: float, high: float) -> dict[str, Any]:
    return {"mean": mean, "low": low, "high": high, "values": [mean]}


def evidence() -> dict[str, Any]:
    """Of a run in which everything is as it should be."""
    better = {"candidate": told(0.99, 0.98, 1.0), "baseline": told(0.9, 0.8, 0.95)}
    return {
        "sources": [{"name": "wdbc", **GOOD}],
        "checks": [{"name": "rows", **GOOD}],
        "labels": GOOD,
        "leakage": [GOOD],
        "baseline": GOOD,
        "faults": [{"what": "a leak", "noticed": True, "said": "noticed"}],
        "answer": GOOD,
        "why": GOOD,
        "numbers": {
            "auc": {**better, "difference": told(0.09, 0.01, 0.17)},
            "brier": {
                "candidate": told(0.02, 0.01, 0.03),
                "baseline": told(0.06, 0.05, 0.07),
                "difference": told(-0.04, -0.05, -0.03),
            },
            "sensitivity": {"candidate": told(0.98, 0.97, 0.99)},
            "published_accuracy": {"candidate": told(0.968, 0.96, 0.97)},
            "calibration_error": {"candidate": {"mean": 0.01, "low": None, "high": None}},
            "calibration_slope": {"candidate": told(1.1, 0.9, 1.3)},
        },
        "subgroups": [
            {"label": "size", "group": "large", "n": 100, "value": 0.98, "low": 0.93, "high": 1.0},
            {"label": "size", "group": "small", "n": 6, "value": 0.2, "low": 0.0, "high": 0.5},
        ],
        "latency": {"requests": 100, "p50_ms": 5.0, "p95_ms": 9.0},
        "usage": {"cpu_minutes": 2.0, "seeds": 10},
    }


def verdicts(found: dict[str, Any], *, tiny: bool = False) -> dict[str, Verdict]:
    return {verdict.title: verdict for verdict in judge(SOLUTION, found, tiny=tiny)}


def failing(found: dict[str, Any], *, tiny: bool = False) -> list[Verdict]:
    return [v for v in judge(SOLUTION, found, tiny=tiny) if v.status == FAILED]


def test_a_good_run_passes_every_gate() -> None:
    assert {v.status for v in judge(SOLUTION, evidence(), tiny=False)} == {PASSED}


def test_a_tiny_run_judges_mechanics_only() -> None:
    found = evidence()
    found["numbers"] = {}
    outcome = judge(SOLUTION, found, tiny=True)
    assert {v.status for v in outcome if v.gate in {"data", "labels", "leakage", "faults", "why"}} == {PASSED}
    assert {v.status for v in outcome if v.title in {g.title for g in SOLUTION.gates}} == {NOT_JUDGED}


BAD = {"passed": False, "said": "the reason"}


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"sources": [{"name": "wdbc", **BAD}]}, "data"),
        ({"sources": []}, "data"),
        ({"checks": [{"name": "rows", **BAD}]}, "checks"),
        ({"checks": []}, "checks"),
        ({"labels": BAD}, "labels"),
        ({"leakage": [GOOD, BAD]}, "leakage"),
        ({"leakage": []}, "leakage"),
        ({"baseline": BAD}, "baseline"),
        ({"faults": [{"what": "a leak", "noticed": False, "said": "the reason"}]}, "faults"),
        ({"faults": []}, "faults"),
        ({"answer": BAD}, "answer"),
        ({"why": BAD}, "why"),
    ],
)
@pytest.mark.parametrize("tiny", [True, False])
def test_each_mechanical_gate_fails_alone_and_says_why(change: dict[str, Any], gate: str, tiny: bool) -> None:
    (found,) = failing({**evidence(), **change}, tiny=tiny)
    assert found.gate == gate
    assert "the reason" in found.said or "NOT noticed" in found.said or "not looked at" in found.said


@pytest.mark.parametrize("missing", ["labels", "baseline", "answer", "why", "leakage", "sources", "faults"])
def test_what_was_not_looked_at_has_not_passed(missing: str) -> None:
    found = evidence()
    del found[missing]
    assert len(failing(found)) == 1


def test_a_difference_that_may_be_none_does_not_beat_the_baseline() -> None:
    found = evidence()
    found["numbers"]["auc"]["difference"] = told(0.02, -0.01, 0.05)
    (verdict,) = failing(found)
    assert verdict.title == "Ranks better than the best single measurement"
    assert "[-0.0100, +0.0500]" in verdict.said


def test_where_lower_is_better_the_difference_must_be_below_nothing() -> None:
    found = evidence()
    found["numbers"]["brier"]["difference"] = told(0.04, 0.03, 0.05)
    assert [v.gate for v in failing(found)] == ["beats-baseline"]


def test_one_seed_has_no_interval_and_so_beats_nothing() -> None:
    found = evidence()
    found["numbers"]["auc"]["difference"] = {"mean": 0.09, "low": None, "high": None}
    assert "more seeds" in failing(found)[0].said


def test_a_published_figure_that_is_not_reproduced_is_named_with_its_source() -> None:
    found = evidence()
    found["numbers"]["published_accuracy"]["candidate"] = told(0.93, 0.92, 0.94)
    (verdict,) = failing(found)
    assert verdict.gate == "reference"
    assert "0.975" in verdict.said
    assert "Street" in verdict.said


def test_a_subgroup_under_thirty_gets_no_verdict_and_a_bad_one_of_thirty_is_named() -> None:
    found = evidence()
    assert (
        "1 with fewer than 30 get no verdict"
        in verdicts(found)["Finds cancers in every subgroup of 30 or more"].said
    )
    found["subgroups"][0] |= {"value": 0.6, "low": 0.5, "high": 0.7}
    (verdict,) = failing(found)
    assert "size large: 0.600 (n = 100)" in verdict.said
    found["subgroups"] = [found["subgroups"][1]]
    assert [v.gate for v in failing(found)] == ["subgroups"], "no group large enough is no success"


@pytest.mark.parametrize(
    ("name", "value", "gate"),
    [
        ("calibration_error", 0.2, "calibration"),
        ("calibration_slope", 0.4, "calibration"),
        ("auc", 0.9, "threshold"),
    ],
)
def test_thresholds_hold_on_both_sides(name: str, value: float, gate: str) -> None:
    found = evidence()
    found["numbers"][name]["candidate"] = {"mean": value, "low": None, "high": None}
    assert gate in {v.gate for v in failing(found)}


@pytest.mark.parametrize(
    "change",
    [
        {"latency": {"requests": 100, "p50_ms": 5.0, "p95_ms": 900.0}},
        {"latency": None},
        {"usage": {"cpu_minutes": 200.0, "seeds": 10}},
        {"usage": {"cpu_minutes": 0, "seeds": 10}},
    ],
)
def test_latency_and_budget_can_fail(change: dict[str, Any]) -> None:
    assert len(failing({**evidence(), **change})) == 1


def test_the_gap_to_the_oracle_must_be_closed_far_enough() -> None:
    solution = _with(Gate("gap-closed", "Closes the gap", {"metric": "auc", "at_least": 0.5}))
    found = evidence()
    found["numbers"]["auc"] |= {"oracle": told(1.0, 1.0, 1.0), "closed": told(0.6, 0.4, 0.8)}
    assert judge(solution, found, tiny=False)[-1].status == PASSED
    found["numbers"]["auc"]["closed"] = told(0.4, 0.3, 0.5)
    last = judge(solution, found, tiny=False)[-1]
    assert last.status == FAILED
    assert "40% of the gap" in last.said
    del found["numbers"]["auc"]["closed"]
    assert judge(solution, found, tiny=False)[-1].status == FAILED


def _with(gate: Gate) -> Solution:
    changed = copy.copy(SOLUTION)
    object.__setattr__(changed, "gates", [gate])
    return changed


def test_what_is_served_must_be_what_was_trained_and_carry_the_disclaimer() -> None:
    answers = [{"p": 0.25, "label": "benign"}]
    assert same(answers, [{"p": 0.25 + 1e-9, "label": "benign", "model": "candidate"}], True)["passed"]
    assert "0.75" in same(answers, [{"p": 0.75, "label": "benign"}], True)["said"]
    assert not same(answers, [{"p": 0.25, "label": "malignant"}], True)["passed"]
    assert "disclaimer" in same(answers, answers, False)["said"]


def test_the_example_must_be_answered_as_declared() -> None:
    served = [{"p": 0.25, "label": "benign"}]
    assert as_expected(GOOD, served, [{"p": [0.2, 0.3], "label": "benign"}])["passed"]
    assert not as_expected(GOOD, served, [{"p": [0.5, 1.0]}])["passed"]
    assert not as_expected(GOOD, served, [{"label": "malignant"}])["passed"]
    assert as_expected(BAD, served, [{}]) == BAD


def test_a_gate_that_needs_a_download_is_judged_with_one_only() -> None:
    solution = _with(
        Gate("threshold", "On films", {"metric": "films", "at_least": 0.5, "needs_download": True})
    )
    last = judge(solution, evidence(), tiny=False)[-1]
    assert (last.status, last.said) == (NOT_JUDGED, "it needs what --download fetches")
    assert judge(solution, evidence(), tiny=False, downloaded=True)[-1].status == FAILED, (
        "it was not measured"
    )
    found = evidence()
    found["numbers"]["films"] = {"candidate": told(0.6, 0.5, 0.7)}
    assert judge(solution, found, tiny=False, downloaded=True)[-1].status == PASSED
