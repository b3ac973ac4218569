"""From a request's tensors to what an estimator takes: one matrix, or a table with named columns.

What a model expects is an `Expected`: from its MLflow signature where it has one, else from what
scikit-learn noted while fitting. Conversions that could change a value (3.5 for an integer column,
text for a number) are refused with what was expected; widening (FP32 → double) is done.
"""

from __future__ import annotations

import numpy as np

from .arrays import DTYPES, Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    Inputs = Sequence[tuple[str, NDArray[Any]]]

_NUMBERS = {"double": "f8", "float": "f4", "long": "i8", "integer": "i4"}
DATATYPES = {  # of MLflow's column types
    "double": "FP64",
    "float": "FP32",
    "long": "INT64",
    "integer": "INT32",
    "boolean": "BOOL",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
    "any": "FP64",
}
_SHOWN = 8
MATRIX = "input-0"
"""What a single matrix input is called in the metadata; any other name is taken too."""


class Column:
    """One expected column: its name (None: known by place only), MLflow type (``any``: not known), and need."""

    def __init__(self, name: str | None, kind: str, required: bool) -> None:
        self.name = name
        self.kind = kind
        self.required = required

    @property
    def numeric(self) -> bool:
        return self.kind in ("double", "float", "any")


class Expected:
    """What a model takes: `columns` (a table), or a tensor of `shape` (``-1``: any length) and `dtype`."""

    def __init__(
        self,
        columns: list[Column] | None,
        shape: tuple[int, ...] | None = None,
        dtype: str | None = None,
        name: str | None = None,
    ) -> None:
        self.columns = columns
        self.shape = shape
        self.dtype = dtype
        self.name = name
        named = [c.name for c in columns or () if c.name]
        self.names: list[str] | None = named if columns and len(named) == len(columns) else None
        self._places = {name: i for i, name in enumerate(self.names)} if self.names else {}
        self.width = len(columns) if columns is not None else None

    def describe(self) -> str:
        """For messages: what to send."""
        if self.names:
            more = f" and {len(self.names) - _SHOWN} more" if len(self.names) > _SHOWN else ""
            return f"{len(self.names)} columns ({', '.join(map(repr, self.names[:_SHOWN]))}{more})"
        if self.shape is not None:
            return f"one tensor of shape {list(self.shape)}"
        if self.width is not None:
            return f"one tensor of shape [-1, {self.width}]"
        return "one tensor of shape [-1, columns]"

    def metadata(self) -> list[dict[str, Any]]:
        """The inputs as Open Inference metadata lists them."""
        if self.columns and self.names and not all(c.numeric for c in self.columns):
            return [
                {"name": c.name, "datatype": DATATYPES.get(c.kind, "BYTES"), "shape": [-1, 1]}
                for c in self.columns
            ]
        if self.shape is not None:
            text = np.dtype(self.dtype).kind in "OUS"
            known = next((n for n, code in DTYPES.items() if np.dtype(code) == self.dtype), "FP64")
            datatype = "BYTES" if text else known
            return [{"name": self.name or MATRIX, "datatype": datatype, "shape": list(self.shape)}]
        return [{"name": MATRIX, "datatype": "FP64", "shape": [-1, self.width or -1]}]

    # -- reading a request ---------------------------------------------------------------------

    def arrange(
        self, inputs: Inputs, columns: Sequence[str] | None, *, strict: bool
    ) -> NDArray[Any] | dict[str, NDArray[Any]]:
        """One array (rows first), or a table as a dict of columns of equal length, in the model's order.

        `columns` names a single matrix's columns. Superfluous columns are refused when `strict`, else
        left out, as MLflow's own server does. Raises `Invalid`.
        """
        if not inputs:
            raise Invalid(f"There is no input: the model takes {self.describe()}.")
        if columns is not None:
            return self._named_matrix(inputs[0][1], columns, strict)
        if self.names and (len(inputs) > 1 or inputs[0][0] in self._places):
            return self._by_name(inputs, strict)
        if len(inputs) > 1:
            raise Invalid(f"{len(inputs)} inputs came; the model takes {self.describe()}.")
        return self._matrix(inputs[0][1])

    def _named_matrix(
        self, value: NDArray[Any], columns: Sequence[str], strict: bool
    ) -> NDArray[Any] | dict[str, NDArray[Any]]:
        if value.ndim != 2 or value.shape[1] != len(columns):
            raise Invalid(
                f"{len(columns)} columns are named, but the data has the shape {list(value.shape)}."
            )
        if self.names is None or list(columns) == self.names:
            return self._matrix(value)
        self._check_names(columns, strict)
        place = {name: i for i, name in enumerate(columns)}
        if all(name in place for name in self.names):
            return self._matrix(value[:, np.array([place[name] for name in self.names])])
        return self._by_name([(name, value[:, i]) for name, i in place.items()], strict)

    def _check_names(self, given: Sequence[str], strict: bool) -> None:
        assert self.columns is not None
        have = set(given)
        if len(have) != len(given):
            raise Invalid("A column is named twice.")
        missing = [c.name for c in self.columns if c.required and c.name not in have]
        surplus = [name for name in given if name not in self._places]
        if missing or (strict and surplus):
            said = [
                f"{what}: {', '.join(map(repr, names[:_SHOWN]))}{' …' if len(names) > _SHOWN else ''}"
                for what, names in (("missing", missing), ("not known", surplus))
                if names
            ]
            raise Invalid(f"The model takes {self.describe()}; {'; '.join(said)}.")

    def _by_name(self, inputs: Inputs, strict: bool) -> dict[str, NDArray[Any]]:
        assert self.columns is not None
        self._check_names([name for name, _ in inputs], strict)
        given = dict(inputs)
        rows = max((array.shape[0] for array in given.values() if array.ndim), default=0)
        table = {}
        for column in self.columns:
            assert column.name is not None
            array = given.get(column.name)
            if array is None:
                table[column.name] = np.full(rows, None, object)
                continue
            if array.ndim == 2 and array.shape[1] == 1:
                array = array[:, 0]
            if array.ndim != 1 or array.shape[0] != rows:
                raise Invalid(
                    f"Column {column.name!r} has the shape {list(array.shape)}; expected [{rows}] or [{rows}, 1]."
                )
            table[column.name] = convert(array, column)
        return table

    def _matrix(self, value: NDArray[Any]) -> NDArray[Any] | dict[str, NDArray[Any]]:
        if self.shape is not None:
            return self._shaped(value)
        if value.ndim == 1 and self.width == 1:
            value = value.reshape(-1, 1)
        if value.ndim != 2 or (self.width is not None and value.shape[1] != self.width):
            raise Invalid(f"The data has the shape {list(value.shape)}; the model takes {self.describe()}.")
        if self.columns is None:
            return numbers(value, "The matrix")
        if all(c.numeric for c in self.columns) and value.dtype.kind != "O":
            wide = any(c.kind != "float" for c in self.columns)
            return numbers(value, "The matrix").astype("f8" if wide else "f4", copy=False)
        converted = [convert(value[:, i], column) for i, column in enumerate(self.columns)]
        if self.names is not None:
            return dict(zip(self.names, converted))  # noqa: B905 - py3.9
        return np.stack(converted, axis=1)

    def _shaped(self, value: NDArray[Any]) -> NDArray[Any]:
        assert self.shape is not None
        if self.shape == (-1, 1) and value.ndim == 1:
            value = value.reshape(-1, 1)
        fits = value.ndim == len(self.shape) and all(
            want in (-1, have)
            for want, have in zip(self.shape, value.shape)  # noqa: B905 - py3.9
        )
        if not fits:
            raise Invalid(f"The data has the shape {list(value.shape)}; the model takes {self.describe()}.")
        if self.dtype is None or np.dtype(self.dtype).kind in "OUS":
            return value
        value = numbers(value, "The tensor")
        return _exactly(value, np.dtype(self.dtype), "The tensor")


def numbers(value: NDArray[Any], what: str) -> NDArray[Any]:
    """`value` as numbers; lists with nulls become NaN. Raises `Invalid` for text."""
    if value.dtype.kind in "fiub":
        return value
    for element in value.ravel().tolist():
        if element is not None and not isinstance(element, (int, float)):
            raise Invalid(f"{what} must hold numbers, got {str(element)[:60]!r}.")
    return value.astype("f8")


def convert(array: NDArray[Any], column: Column) -> NDArray[Any]:
    """One column as its type. Raises `Invalid` when a value is not of it."""
    what = f"Column {column.name!r}" if column.name else "The column"
    if column.kind == "any":
        return array if array.dtype.kind != "O" else _natural(array)
    if column.kind in _NUMBERS:
        return _exactly(numbers(array, what), np.dtype(_NUMBERS[column.kind]), what)
    if column.kind == "boolean":
        if array.dtype.kind == "b":
            return array
        values = array.ravel().tolist()
        if not all(isinstance(v, (bool, int, float)) and v in (0, 1) for v in values):
            raise Invalid(f"{what} must hold booleans.")
        return array.astype(bool)
    if column.kind == "string":
        wrong = [v for v in array.ravel().tolist() if not (v is None or isinstance(v, str))]
        if wrong:
            raise Invalid(f"{what} must hold text, got {str(wrong[0])[:60]!r}.")
    return array


def _natural(array: NDArray[Any]) -> NDArray[Any]:
    """A column of JSON values: numbers with nulls as floats, all else as it is."""
    values = array.tolist()
    if values and all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in values):
        return array.astype("f8")
    return array


def _exactly(value: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    if value.dtype == dtype:
        return value
    if dtype.kind in "iu" and value.dtype.kind == "f":
        bad = value[~(np.isfinite(value) & (np.trunc(value) == value))]
        if bad.size:
            raise Invalid(f"{what} must hold whole numbers, got {bad.ravel()[0]}.")
    if dtype.kind in "iu" and value.size:
        limits = np.iinfo(dtype)
        if value.min() < limits.min or value.max() > limits.max:
            raise Invalid(f"{what} must fit {dtype.name}.")
    if dtype.kind in "iufb":
        return value.astype(dtype)
    return value


def expected_of(
    signature: list[dict[str, Any]] | None, names: Sequence[str] | None, width: int | None
) -> Expected:
    """From an MLflow signature's `inputs`, else from the names or number of features that fitting noted."""
    if signature and signature[0].get("type") == "tensor":
        spec = signature[0]["tensor-spec"]
        if len(signature) == 1:
            return Expected(None, tuple(spec["shape"]), spec["dtype"], signature[0].get("name"))
        return Expected([Column(t.get("name"), "any", True) for t in signature])
    if signature:
        return Expected([Column(c.get("name"), _kind(c), bool(c.get("required", True))) for c in signature])
    if names is not None:
        return Expected([Column(str(name), "any", True) for name in names])
    if width is not None:
        return Expected([Column(None, "any", True) for _ in range(width)])
    return Expected(None)


def _kind(column: dict[str, Any]) -> str:
    kind = column.get("type")
    return kind if isinstance(kind, str) and kind in DATATYPES else "any"
