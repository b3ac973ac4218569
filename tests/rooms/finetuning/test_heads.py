"""Heads on made-up embeddings: the loss's gradient, what is held out, and what rows must look like."""

import pytest

np = pytest.importorskip("numpy")

from stratal.engines.finetuning import train  # noqa: E402


def loss(weight, left, right):  # type: ignore[no-untyped-def]
    """The mean InfoNCE loss both ways, written down plainly."""
    u, v = left @ weight, right @ weight
    u, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (u, v))
    scores = u @ v.T / 0.05
    ways = [s - s.max(1, keepdims=True) for s in (scores, scores.T)]
    return float(np.mean([-np.mean(np.diag(s) - np.log(np.exp(s).sum(1))) for s in ways]))


def test_the_gradient_is_that_of_the_loss() -> None:
    chance = np.random.default_rng(1)
    weight, left, right = np.eye(5) + 0.1 * chance.normal(size=(5, 5)), *chance.normal(size=(2, 7, 5))
    found = train._gradient(weight, left, right)
    for at in [(0, 0), (1, 3), (4, 2)]:
        step = np.zeros((5, 5))
        step[at] = 1e-6
        slope = (loss(weight + step, left, right) - loss(weight - step, left, right)) / 2e-6
        assert found[at] == pytest.approx(slope, rel=1e-3, abs=1e-6)


def test_a_map_brings_pairs_closer_that_differ_in_what_does_not_matter() -> None:
    chance = np.random.default_rng(2)
    meaning = chance.normal(size=(300, 8))
    left, right = (np.hstack([meaning, 2 * chance.normal(size=(300, 8))]) for _ in range(2))
    held = np.arange(300) % 5 == 0
    head, _, metrics = train.projection(left, right, held, 0)
    assert head["projection"].shape == (16, 16)
    assert metrics["mrr"] > metrics["base_mrr"] + 0.05


def test_a_text_is_always_on_the_same_side_and_about_a_fifth_is_held_out() -> None:
    sides = [train.held_out(f"text {at}", 0) for at in range(2000)]
    assert 0.15 < sum(sides) / 2000 < 0.25
    assert train.held_out("text 7", 0) == sides[7]


def test_rows_are_read_by_their_columns_or_as_chats() -> None:
    columns = {"first": "q", "second": "a"}
    assert train.row_of({"q": "x", "a": 3}, columns) == ("x", "3")
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    assert train.row_of({"messages": [*chat, {"role": "assistant", "content": "c"}]}, columns) == ("u", "c")
    for wrong in ({"q": " ", "a": "x"}, {"q": 1, "a": "x"}):
        with pytest.raises(ValueError, match="empty"):
            train.row_of(wrong, columns)
    for row, said in (
        ({"messages": chat}, "no message of the assistant"),
        ({"q": "x"}, "no 'a'"),
        ([], "JSON object"),
    ):
        with pytest.raises((KeyError, TypeError)) as failed:
            train.row_of(row, columns)
        assert said.split()[-1] in train.why_not(failed.value)
