"""What solutions measure with: checks that notice planted faults, and intervals that mean what they say."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stratal.ai.solutions.catalogue import Catalogue

sys.path.insert(0, str(Catalogue().root))
from kit import checks, evidence, plots
from kit.study import leaked, shuffled

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(5)
FRAME = pd.DataFrame({"id": range(200), "x": RNG.normal(size=200), "kind": ["a", "b"] * 100}).assign(
    y=lambda f: (f.x + RNG.normal(size=200) > 0).astype(int)
)


def test_a_planted_leak_is_noticed_and_an_honest_feature_is_not() -> None:
    honest = checks.single_feature(FRAME, "y", limit=0.97, without=["id"])
    assert honest["passed"], honest
    planted = checks.single_feature(leaked(FRAME, "y"), "y", limit=0.97, without=["id"])
    assert not planted["passed"]
    assert "planted_leak" in planted["said"]


def test_a_leak_is_noticed_for_numbers_and_for_words_too() -> None:
    numbers = FRAME.assign(y=FRAME.x + RNG.normal(size=200))
    assert checks.single_feature(numbers, "y", limit=0.99, kind="number")["passed"]
    assert not checks.single_feature(leaked(numbers, "y"), "y", limit=0.99, kind="number")["passed"]
    words = FRAME.assign(told=np.where(FRAME.y == 1, "yes", "no"))
    assert "told" in checks.single_feature(words, "y", limit=0.97)["said"]


def test_shuffled_labels_are_noticed() -> None:
    assert checks.labels(FRAME, FRAME, "id", "y")["passed"]
    assert not checks.labels(shuffled(FRAME, "y"), FRAME, "id", "y")["passed"]
    unknown = checks.labels(FRAME.assign(id=FRAME.id + 500), FRAME, "id", "y")
    assert not unknown["passed"]
    assert "200 rows are not in it" in unknown["said"]


@pytest.mark.parametrize("broken", ["shuffled", "constant", "not numbers"])
def test_a_broken_baseline_is_noticed(broken: str) -> None:
    def error(truth: np.ndarray, answers: np.ndarray) -> float:
        return float(np.abs(truth - answers).mean())

    truth = np.arange(300.0)
    answers = truth + RNG.normal(0, 20, 300)
    assert checks.beats_itself_shuffled(error, truth, answers, better="lower")["passed"]
    bad = {
        "shuffled": RNG.permutation(answers),
        "constant": np.full(300, 150.0),
        "not numbers": answers * np.nan,
    }
    assert not checks.beats_itself_shuffled(error, truth, bad[broken], better="lower")["passed"]


def test_a_stale_checksum_is_noticed() -> None:
    digest = checks.digest_of(FRAME)
    assert checks.checksum(digest, digest)["passed"]
    assert not checks.checksum(digest, checks.digest_of(FRAME.assign(x=FRAME.x + 1e-9)))["passed"]
    assert not checks.checksum(digest, "")["passed"], "no declared checksum is no checksum that holds"
    assert digest == checks.digest_of(FRAME.copy())
    assert digest != checks.digest_of(FRAME.rename(columns={"x": "z"}))


def test_what_is_tested_must_be_apart_and_later() -> None:
    assert checks.overlap([1, 2], [3], what="patients")["passed"]
    assert "3" in checks.overlap([1, 2, 3], [3], what="patients")["said"]
    assert checks.in_order([1, 2], [3])["passed"]
    assert not checks.in_order([1, 3], [3])["passed"]
    assert checks.truncation([1.0, np.nan], [1.0, np.nan], what="features")["passed"]
    assert not checks.truncation([1.0, 2.0], [1.0, 2.5], what="features")["passed"]
    assert not checks.truncation([1.0], [1.0, 2.0], what="features")["passed"]
    gone = checks.truncation([1.0, 2.0, 3.0], [1.0, np.nan, 4.0], what="features")
    assert gone["said"].endswith("others: 1 values are there only in one of them, 1 differ, by up to 1")


def test_intervals_of_seeds_cover_and_resplits_make_them_wider() -> None:
    means = [evidence.interval(RNG.normal(size=5)) for _ in range(400)]
    covered = np.mean([told["low"] <= 0 <= told["high"] for told in means])
    assert 0.91 < covered < 0.99
    values = [0.90, 0.91, 0.95]
    plain, corrected = evidence.interval(values), evidence.interval(values, overlap=0.5)
    assert corrected["high"] - corrected["low"] > plain["high"] - plain["low"]
    assert evidence.interval([1.0])["low"] is None


def test_intervals_of_shares_stay_between_none_and_all() -> None:
    share, low, high = evidence.proportion(30, 30)
    assert (share, high) == (1.0, pytest.approx(1.0))
    assert 0.85 < low < 0.9
    assert evidence.proportion(0, 0)[1:] == (0.0, 1.0)


def test_calibration_tells_the_overconfident_from_the_right() -> None:
    logit = RNG.normal(0, 2, 4000)
    truth = (RNG.random(4000) < 1 / (1 + np.exp(-logit))).astype(int)
    right = evidence.calibration(1 / (1 + np.exp(-logit)), truth)
    assert right["slope"] == pytest.approx(1, abs=0.15)
    assert right["error"] < 0.04
    too_sure = evidence.calibration(1 / (1 + np.exp(-3 * logit)), truth)
    assert too_sure["slope"] < 0.5
    assert too_sure["error"] > right["error"]


def test_plots_are_well_formed_and_hold_what_names_say_as_text() -> None:
    import xml.etree.ElementTree as ET

    name = '<script>alert("x")</script>'
    for svg in (
        plots.lines([(name, [0, 1], [0, 1]), ("b", [0, 1], [1, float("nan")])], x=name, y="y", diagonal=True,
                    marks=[(name, 0.5, 0.5)], bands=[([0, 1], [0, 0], [1, 1])]),
        plots.points([(name, [0, 1], [0, 1])], x="x", y=name, diagonal=True),
        plots.bars([(name, 1.0, 0.5, 1.5), ("b", -1.0, None, None)], x=name),
        plots.histogram([1, 2, 3, float("inf")], x=name, marks=[(name, 2.0)]),
        plots.image(b"\x89PNG", width=10, height=10),
    ):  # fmt: skip
        root = ET.fromstring(svg)
        assert not [e for e in root.iter() if e.tag.endswith("script")]


def test_the_kit_stands_on_no_module_of_stratal() -> None:
    for path in Path(checks.__file__).parent.glob("*.py"):
        assert "import stratal" not in path.read_text()
        assert "from stratal" not in path.read_text()
