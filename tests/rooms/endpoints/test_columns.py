"""What a model is given: columns in its order and types, or a refusal that says what it takes."""

import numpy as np
import pytest

from stratal.engines.runtimes.replica.arrays import Invalid
from stratal.engines.runtimes.replica.columns import Expected, expected_of

pytestmark = pytest.mark.fast

NAMED = [{"name": "a", "type": "double"}, {"name": "n", "type": "long"}, {"name": "s", "type": "string"}]


def numbers(*names: str) -> Expected:
    return expected_of(None, names, None)


def matrix(*rows: list[float]) -> list[tuple[str, np.ndarray]]:
    return [("input-0", np.array(rows))]


def test_named_columns_are_put_in_the_models_order() -> None:
    arranged = numbers("a", "b").arrange(matrix([1, 2], [3, 4]), ["b", "a"], strict=True)
    np.testing.assert_array_equal(arranged, [[2, 1], [4, 3]])


def test_one_tensor_per_column_or_one_matrix_by_place() -> None:
    expected = numbers("a", "b")
    table = expected.arrange([("b", np.array([2.0])), ("a", np.array([[1.0]]))], None, strict=True)
    assert isinstance(table, dict)
    assert {k: v.tolist() for k, v in table.items()} == {"a": [1], "b": [2]}
    np.testing.assert_array_equal(expected.arrange(matrix([1, 2]), None, strict=True), [[1, 2]])


def test_superfluous_columns_are_left_out_unless_strict() -> None:
    expected = numbers("a", "b")
    arranged = expected.arrange(matrix([9, 2, 1]), ["id", "b", "a"], strict=False)
    np.testing.assert_array_equal(arranged, [[1, 2]])
    with pytest.raises(Invalid, match="not known: 'id'"):
        expected.arrange(matrix([9, 2, 1]), ["id", "b", "a"], strict=True)


@pytest.mark.parametrize(
    ("inputs", "columns", "said"),
    [
        ([], None, "no input"),
        (matrix([1, 2, 3]), None, r"shape \[1, 3\]"),
        ([("x", np.array([1.0, 2.0]))], None, r"shape \[2\]"),
        (matrix([1]), ["a"], "missing: 'b'"),
        (matrix([1, 2]), ["a", "a"], "named twice"),
        (matrix([1, 2]), ["a", "b", "c"], "3 columns are named"),
        ([("a", np.array([1.0])), ("b", np.array([1.0, 2.0]))], None, "Column 'a' has the shape"),
        ([("a", np.array([1.0])), ("c", np.array([1.0]))], None, "missing: 'b'"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_is_expected(inputs, columns, said) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Invalid, match=said):
        numbers("a", "b").arrange(inputs, columns, strict=True)


def test_a_signatures_types_are_kept() -> None:
    expected = expected_of(NAMED, None, None)
    table = expected.arrange(
        [("s", np.array(["x", None], object)), ("n", np.array([1.0, 2.0])), ("a", np.array([1, 2], "f4"))],
        None,
        strict=True,
    )
    assert isinstance(table, dict)
    assert [str(v.dtype) for v in table.values()] == ["float64", "int64", "object"]
    assert [i["datatype"] for i in expected.metadata()] == ["FP64", "INT64", "BYTES"]


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("n", np.array([1.5]), "whole numbers"),
        ("n", np.array([np.nan]), "whole numbers"),
        ("n", np.array([1e300]), "must fit int64"),
        ("a", np.array(["x"], object), "numbers"),
        ("s", np.array([1], object), "text"),
    ],
)
def test_a_value_that_would_change_is_refused(name: str, values: np.ndarray, said: str) -> None:
    given = {"a": np.array([1.0]), "n": np.array([1.0]), "s": np.array(["x"], object), name: values}
    with pytest.raises(Invalid, match=said):
        expected_of(NAMED, None, None).arrange(list(given.items()), None, strict=True)


def test_an_optional_column_may_be_missing() -> None:
    expected = expected_of([NAMED[0], {**NAMED[2], "required": False}], None, None)
    table = expected.arrange([("a", np.array([1.0]))], None, strict=True)
    assert isinstance(table, dict)
    assert table["s"].tolist() == [None]


def test_a_tensor_signature_fixes_the_shape() -> None:
    spec = {"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 2, 2]}}
    expected = expected_of([spec], None, None)
    arranged = expected.arrange([("any", np.zeros((3, 2, 2)))], None, strict=True)
    assert isinstance(arranged, np.ndarray)
    assert arranged.dtype == np.float32
    with pytest.raises(Invalid):
        expected.arrange([("any", np.zeros((3, 4)))], None, strict=True)
