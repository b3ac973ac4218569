"""MLflow's scoring shapes, read into tensors and written back.

The shapes are those of ``mlflow models serve`` (https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/):
``dataframe_split``, ``dataframe_records``, ``instances``, ``inputs``, and CSV with a header line.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from stratal.ai.endpoints.tensors import Tensor, nested, of_column, of_rows, pack
from stratal.kernel.errors import Invalid

_SHAPES = ("dataframe_split", "dataframe_records", "instances", "inputs")
_EXPECTED = (
    "Send one of: "
    '{"dataframe_split": {"columns": [...], "data": [[...], ...]}}, '
    '{"dataframe_records": [{"column": value, ...}, ...]}, '
    '{"instances": [[...], ...]}, {"inputs": [[...], ...] or {"column": [...], ...}}, '
    "or text/csv with a header line."
)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model is asked: tensors; `columns` names those of a single matrix. `strict`: nothing superfluous.

    `params` are for the whole request, as MLflow's signatures declare them; most models take none.
    """

    tensors: Sequence[Tensor]
    columns: Sequence[str] | None = None
    strict: bool = False
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.tensors[0].rows if self.tensors else 0


def parse_json(body: bytes | memoryview) -> Any:
    """JSON as today's clients send it: also with the bare NaN and Infinity that Python's encoder writes.

    Raises `Invalid`, also for numbers and nestings that no honest client sends.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as strict:
        try:
            value = json.loads(bytes(body))
            orjson.dumps(value)  # half surrogates and numbers of a thousand digits end here
            return value
        except (ValueError, TypeError, RecursionError):
            raise Invalid(f"The body is not JSON: {strict}.", reason="bad_json") from None


def read_json(body: bytes) -> Inputs:
    """The inputs in a JSON body. Raises `Invalid` with what was expected."""
    asked = parse_json(body)
    if not isinstance(asked, dict):
        raise Invalid("The body is not a JSON object.", hint=_EXPECTED, reason="bad_input")
    given = [shape for shape in _SHAPES if shape in asked]
    unknown = [str(key)[:60] for key in asked if key not in (*_SHAPES, "params")]
    if len(given) != 1 or unknown:
        said = f"unknown: {', '.join(unknown[:5])}" if unknown else f"found: {', '.join(given) or 'none'}"
        raise Invalid(f"The body must hold exactly one input ({said}).", hint=_EXPECTED, reason="bad_input")
    params = asked.get("params") or {}
    if not isinstance(params, dict):
        raise Invalid("params must be an object of names and values.", reason="bad_input")
    inputs = _read(given[0], asked[given[0]])
    return replace(inputs, params=params) if params else inputs


def _read(shape: str, value: Any) -> Inputs:
    try:
        if shape == "dataframe_split":
            return _split(value)
        if shape == "dataframe_records":
            return _records(value)
        return _named(value) if isinstance(value, dict) else _instances(value)
    except Invalid as error:
        raise Invalid(f"{shape}: {error.message}", hint=error.hint or _EXPECTED, reason="bad_input") from None


def _split(value: Any) -> Inputs:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        raise Invalid('It must be {"columns": [...], "data": [[...], ...]}.')
    columns = value.get("columns")
    if columns is not None and not (
        isinstance(columns, list) and all(isinstance(name, (str, int)) for name in columns)
    ):
        raise Invalid("columns must be a list of names.")
    if columns is None or any(isinstance(name, int) for name in columns):
        return Inputs(of_rows(value["data"], None))  # unnamed columns: by their places
    return _table(value["data"], columns)


def _table(rows: Sequence[Any], columns: Sequence[str]) -> Inputs:
    tensors = of_rows(rows, columns)
    matrix = len(tensors) == 1 and len(tensors[0].shape) == 2
    return Inputs(tensors, columns if matrix else None)


def _records(value: Any) -> Inputs:
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise Invalid('It must be a list of {"column": value, ...}.')
    columns = list(dict.fromkeys(name for record in value for name in record))
    return _table([[record.get(name) for name in columns] for record in value], columns)


def _instances(value: Any) -> Inputs:
    if not isinstance(value, list):
        raise Invalid("It must be a list.")
    if value and isinstance(value[0], dict):
        return _records(value)
    if value and not isinstance(value[0], list):
        return Inputs([of_column("input-0", value)])
    if value and value[0] and isinstance(value[0][0], list):
        return Inputs([_deep(value)])
    return Inputs(of_rows(value, None))


def _deep(value: list[Any]) -> Tensor:
    """A tensor of three and more dimensions, all numbers."""
    shape: list[int] = []
    level: Any = value
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    flat: list[Any] = value
    for length in shape[1:]:
        if not all(isinstance(part, list) and len(part) == length for part in flat):
            raise Invalid("It is nested unevenly.")
        flat = [element for part in flat for element in part]
    return Tensor("input-0", "FP64", tuple(shape), pack("FP64", flat))


def _named(value: dict[str, Any]) -> Inputs:
    tensors: list[Tensor] = []
    for name, cells in value.items():
        if not isinstance(cells, list):
            raise Invalid(f"{name[:60]!r} must be a list of values.")
        if cells and isinstance(cells[0], list):
            tensors.extend(Tensor(name, t.datatype, t.shape, t.data) for t in of_rows(cells, None))
        else:
            tensors.append(of_column(name, cells))
    if len({tensor.rows for tensor in tensors}) > 1:
        raise Invalid("All columns must be equally long.")
    return Inputs(tensors)


def read_csv(body: bytes) -> Inputs:
    """The inputs in a CSV body with a header line; a column is of numbers when all its cells are numbers or empty."""
    try:
        text = body.decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise Invalid(f"The body is not CSV: {error}.", hint=_EXPECTED, reason="bad_input") from None
    lines = [line for line in lines if line]
    if not lines:
        raise Invalid("The CSV is empty.", hint=_EXPECTED, reason="bad_input")
    columns, rows = lines[0], lines[1:]
    for number, row in enumerate(rows, 2):
        if len(row) != len(columns):
            raise Invalid(
                f"CSV: record {number} has {len(row)} cells; the header has {len(columns)}.",
                reason="bad_input",
            )
    typed = [_typed([row[i] for row in rows]) for i in range(len(columns))]
    return _table([list(row) for row in zip(*typed, strict=True)], columns)


def _typed(cells: list[str]) -> list[Any]:
    try:
        return [float(cell) if cell.strip() else None for cell in cells]
    except ValueError:
        return [cell or None for cell in cells]


def write(outputs: Sequence[Tensor], prediction_id: str) -> bytes:
    """MLflow's answer: ``{"predictions": [...]}``, and the prediction's id. NaN is written as null.

    A single output is a list of its rows; several are a list of records.
    """
    predictions: list[Any]
    if len(outputs) == 1:
        predictions = nested(outputs[0])
    else:
        names = [output.name for output in outputs]
        listed = [nested(output) for output in outputs]
        predictions = [dict(zip(names, row, strict=True)) for row in zip(*listed, strict=True)]
    return orjson.dumps({"predictions": predictions, "prediction_id": prediction_id})
