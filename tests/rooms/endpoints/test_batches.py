"""What a replica answers together, without its process: the model here counts how often it is asked."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.engines.runtimes.replica import frames
from stratal.engines.runtimes.replica.arrays import Invalid, from_array, to_array
from stratal.engines.runtimes.replica.batches import MOST_ROWS, Asked, Batches
from stratal.engines.runtimes.replica.columns import Expected

pytestmark = pytest.mark.fast


class Sums:
    """Sums of rows; a row that begins with -3 makes it fail, and it takes nothing with more than 3 columns."""

    def __init__(self, *, rowwise: bool = True, whole: bool = False) -> None:
        self.interface: dict[str, Any] = {"params": [{"name": "times"}]}
        self.files: dict[str, str] = {}
        self.libraries: dict[str, str] = {}
        self.rowwise = rowwise
        self.whole = whole
        self.calls: list[int] = []
        self._expected = Expected(None)

    def arrange(self, inputs: Any, columns: Any, *, strict: bool) -> Any:
        if inputs[0][1].shape[-1] > 3:
            raise Invalid("at most three columns")
        return self._expected.arrange(inputs, columns, strict=strict)

    def predict(self, features: Any, wanted: Any, *params: Any) -> list[tuple[str, Any]]:
        self.calls.append(len(features))
        if (features[:, 0] == -3).any():
            raise RuntimeError("no mood for -3")
        features = features * (params[0]["times"] if params else 1)
        return [("sum", features.sum(keepdims=True) if self.whole else features.sum(axis=1))]


def asked(number: int, rows: Any, outputs: list[str] | None = None, **params: Any) -> Asked:
    datatype, shape, raw = from_array(np.asarray(rows, float))
    header = {
        "inputs": [["x", datatype, shape, len(raw)]],
        "columns": None,
        "outputs": outputs,
        "strict": False,
        **({"params": params} if params else {}),
    }
    packed = frames.pack_tensors(number, frames.INFER, json.dumps(header).encode(), [raw])
    ((_, _, body),) = frames.Splitter().feed(packed)
    return Asked("connection", number, body)


def answers(batches: Batches) -> dict[int, Any]:
    """Answer all that waits: per request its sums, or the error's code."""
    found: dict[int, Any] = {}
    while batches.waiting:
        for connection, packed in batches.answer():
            assert connection == "connection"
            ((number, kind, body),) = frames.Splitter().feed(packed)
            if kind == frames.ERROR:
                found[number] = json.loads(bytes(body))["code"]
                continue
            header, data = frames.split_tensors(body)
            ((_, datatype, shape, _),) = json.loads(header)["outputs"]
            found[number] = to_array(datatype, tuple(shape), data).tolist()
    return found


@given(st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=1, max_size=30), st.data())
def test_whatever_is_asked_together_each_gets_its_own_answer(
    rows: list[list[int]], data: st.DataObject
) -> None:
    model = Sums()
    batches = Batches(model)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(rows) - 1))) if len(rows) > 1 else [])
    parts = [p.tolist() for p in np.split(np.asarray(rows), cuts)]
    for number, part in enumerate(parts):
        batches.add(asked(number, part))
    found = answers(batches)
    assert found.keys() == set(range(len(parts)))
    for number, part in enumerate(parts):
        bad = any(row[0] == -3 for row in part)
        assert found[number] == ("failed" if bad else [float(sum(row)) for row in part])


def test_what_waits_is_one_call_as_far_as_it_fits() -> None:
    model = Sums()
    batches = Batches(model)
    for number in range(20):
        batches.add(asked(number, [[number, 1]]))
    assert answers(batches) == {number: [number + 1.0] for number in range(20)}
    assert model.calls == [20]
    model.calls.clear()
    batches.add(asked(1, [[1, 2]]))
    batches.add(asked(2, [[1, 2, 3]]))  # another form
    batches.add(asked(3, [[1, 2, 3]], ["sum"]))  # other outputs
    batches.add(asked(4, np.ones((MOST_ROWS + 5, 2))))  # more than a call's rows
    batches.add(asked(5, [[1, 2]]))
    assert len(answers(batches)) == 5
    assert model.calls == [1, 1, 1, MOST_ROWS + 5, 1]


def test_one_that_does_not_fit_is_refused_alone() -> None:
    model = Sums()
    batches = Batches(model)
    batches.add(asked(1, [[1, 2]]))
    batches.add(asked(2, [[1, 2, 3, 4]]))
    batches.add(asked(3, [[5, 6]]))
    batches.add(Asked("connection", 4, memoryview(b"\0\0")))
    assert answers(batches) == {1: [3.0], 2: "invalid", 3: [11.0], 4: "invalid"}
    assert model.calls == [2]


def test_a_model_that_looks_at_all_rows_is_asked_request_by_request() -> None:
    model = Sums(rowwise=False, whole=True)
    batches = Batches(model)
    for number in range(3):
        batches.add(asked(number, [[number, 1], [1, 1]]))
    assert answers(batches) == {number: [[number + 3.0]] for number in range(3)}
    assert model.calls == [2, 2, 2]


def test_one_that_turns_out_to_look_at_all_rows_is_not_asked_together_again() -> None:
    model = Sums(whole=True)
    batches = Batches(model)
    for number in range(2):
        batches.add(asked(number, [[number, 1]]))
    assert answers(batches) == {0: [[1.0]], 1: [[2.0]]}
    assert not model.rowwise


def test_params_are_their_own_requests_and_those_that_the_model_does_not_take_are_refused_alone() -> None:
    batches = Batches(model := Sums())
    for number, params in enumerate(({}, {"times": 3}, {"time": 3}, {})):
        batches.add(asked(number, [[number, 1]], None, **params))
    assert answers(batches) == {0: [1.0], 1: [6.0], 2: "invalid", 3: [4.0]}
    assert model.calls == [1, 1, 1]
