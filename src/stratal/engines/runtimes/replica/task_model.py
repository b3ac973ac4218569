"""Models of the catalogue: one task each, texts, pictures or sounds in, typed answers out.

Which implementation answers is one of `_TASKS`, never a name that a model's files could choose freely. What
the model's files do not carry, because a library ships it, is hashed where the library lies before it is used.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import importlib
import importlib.metadata
import json
import sys

import numpy as np

from .arrays import Invalid
from .model import read_hashed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from .model import Features

    Answer = Callable[[list[Any]], dict[str, Any]]

DESCRIPTION = "stratal.json"
MAX_ROWS = 10_000
UNNAMED = "input-0"
"""What a list of values is called that came without a name."""

# implementation → (module, what a row of its input is, its outputs with their datatypes and widths)
_TASKS: dict[str, tuple[str, str, list[tuple[str, str, list[int]]]]] = {
    "minilm": ("task_embedding", "text", [("embedding", "FP32", [-1, 384]), ("tokens", "INT64", [-1])]),
    "vader": ("task_sentiment", "text", [("label", "BYTES", [-1]), ("score", "FP64", [-1])]),
    "py3langid": ("task_language", "text", [("language", "BYTES", [-1]), ("score", "FP64", [-1])]),
    "rapidocr": ("task_ocr", "image", [("text", "BYTES", [-1]), ("lines", "BYTES", [-1])]),
    "haar": ("task_faces", "image", [("count", "INT64", [-1]), ("faces", "BYTES", [-1])]),
    "pocketsphinx": ("task_commands", "audio", [("text", "BYTES", [-1])]),
    "minilm-classifier": (
        "task_classifier",
        "text",
        [("label", "BYTES", [-1]), ("probabilities", "FP64", [-1, -1])],
    ),
    "minilm-projection": (
        "task_projection",
        "text",
        [("embedding", "FP32", [-1, 384]), ("tokens", "INT64", [-1])],
    ),
    "minilm-sorter": (
        "task_sorting",
        "text",
        [("label", "BYTES", [-1]), ("score", "FP64", [-1]), ("scores", "BYTES", [-1])],
    ),
    "espeak": ("task_say", "text", [("audio", "BYTES", [-1])]),
    "silero": ("task_voice", "audio", [("segments", "BYTES", [-1]), ("share", "FP64", [-1])]),
}
# implementation → what may be said beside each row: (name, datatype, what it is otherwise)
_BESIDE: dict[str, list[tuple[str, str, Any]]] = {
    "minilm-sorter": [("labels", "BYTES", "")],
    "espeak": [("voice", "BYTES", "en-us"), ("speed", "FP64", 1.0)],
}


def load(plan: dict[str, Any]) -> TaskModel:
    """Load the task of the plan's model. Raises `ImportError` without its libraries, `ValueError` for other bytes."""
    files: dict[str, str] = {}
    description = json.loads(read_hashed(plan["model"], DESCRIPTION, files))
    module, kind, outputs = _TASKS[plan["implementation"]]
    libraries = {"python": sys.version.split()[0]}
    for package, expected in description.get("package_files", {}).items():
        libraries[package] = importlib.metadata.version(package)
        _check(package, expected)

    def read(path: str) -> bytes:
        return read_hashed(plan["model"], path, files)

    answer = importlib.import_module(f".{module}", __package__).load(read, description.get("options", {}))
    model = TaskModel(answer, kind, outputs, files, libraries, _BESIDE.get(plan["implementation"], []))
    classes = description.get("options", {}).get("classes")
    if isinstance(classes, list):
        model.interface["classes"] = classes
    return model


def _check(package: str, expected: dict[str, str]) -> None:
    """The files that the package ships must be the ones that the catalogue was measured with."""
    places = {str(f): f.locate() for f in importlib.metadata.files(package) or ()}
    for path, sha256 in expected.items():
        place = places.get(path)
        if place is None:
            raise ValueError(f"{package} does not bring {path}")
        with open(place, "rb") as file:  # noqa: PTH123
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(f"{path} of {package} has the SHA-256 {found}, not {sha256}")


class TaskModel:
    def __init__(
        self,
        answer: Answer,
        kind: str,
        outputs: list[tuple[str, str, list[int]]],
        files: dict[str, str],
        libraries: dict[str, str],
        beside: list[tuple[str, str, Any]] | None = None,
    ) -> None:
        self._answer = answer
        self._kind = kind
        self._beside = beside or []
        # One bad picture must not spoil the answers of others, and files gain little from being asked together.
        self.rowwise = kind == "text"
        self._types = {name: datatype for name, datatype, _ in outputs}
        self.files = files
        self.libraries = libraries
        self.interface: dict[str, Any] = {
            "inputs": [{"name": kind, "datatype": "BYTES", "shape": [-1]}],
            "beside": [{"name": n, "datatype": d, "shape": [-1], "default": v} for n, d, v in self._beside],
            "columns": None,
            "outputs": [{"name": n, "datatype": d, "shape": s} for n, d, s in outputs],
            "classes": None,
            "answers": outputs[0][0] if len(outputs) == 1 or outputs[0][0] == "embedding" else None,
        }

    def arrange(
        self,
        inputs: Sequence[tuple[str, NDArray[Any]]],
        columns: Sequence[str] | None,
        *,
        strict: bool,
    ) -> Features:
        """One row a text or file; where something may be said beside it, columns of all that."""
        given = dict(inputs)
        main = given.pop(self._kind if self._kind in given else UNNAMED, None)
        known = {name for name, _, _ in self._beside}
        if main is None or set(given) - known:
            more = f", and beside it {', '.join(map(repr, sorted(known)))}" if known else ""
            raise Invalid(f"The model takes one input, {self._kind!r}{more}.")
        rows = main.ravel().tolist()
        if len(rows) > MAX_ROWS:
            raise Invalid(f"At most {MAX_ROWS} rows are answered at once.")
        arranged = _array([self._row(row) for row in rows], "BYTES")
        if not self._beside:
            return arranged
        table = {self._kind: arranged}
        for name, datatype, otherwise in self._beside:
            said = given[name].ravel().tolist() if name in given else [otherwise] * len(rows)
            kinds = (str,) if datatype == "BYTES" else (int, float)
            said = [otherwise if value is None else value for value in said]
            if len(said) != len(rows) or not all(isinstance(value, kinds) for value in said):
                raise Invalid(f"{name!r} must hold one {'text' if datatype == 'BYTES' else 'number'} a row.")
            table[name] = _array(said, datatype)
        return table

    def predict(self, features: Features, wanted: Sequence[str] | None) -> list[tuple[str, NDArray[Any]]]:
        for name in wanted or ():
            if name not in self._types:
                raise Invalid(f"There is no output {name!r}; the model has {', '.join(self._types)}.")
        if isinstance(features, dict):
            found = self._answer(list(zip(*(column.tolist() for column in features.values()))))  # noqa: B905 - py3.9
        else:
            found = self._answer(features.tolist())
        return [(name, _array(found[name], self._types[name])) for name in wanted or self._types]

    def _row(self, row: Any) -> Any:
        if self._kind == "text":
            if not isinstance(row, str):
                raise Invalid("A text is expected in each row.")
            return row
        return _bytes(row, self._kind)


def _bytes(row: Any, kind: str) -> bytes:
    """A picture or sound: as it is in a binary tensor, in base64 where JSON carries it."""
    if isinstance(row, bytes):
        return row
    if not isinstance(row, str):
        raise Invalid(f"An {kind} file is expected in each row, in JSON as base64.")
    if row.startswith(
        "RIFF"
    ):  # a silent sound's bytes may happen to be text; in base64 it would begin with UklGR
        return row.encode()
    text = row.partition(",")[2] if row.startswith("data:") else row
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"The {kind} is not base64.") from None


def _array(values: Any, datatype: str) -> NDArray[Any]:
    if isinstance(values, np.ndarray):
        return values
    if datatype == "BYTES":
        array = np.empty(len(values), object)
        array[:] = values
        return array
    return np.asarray(values, {"FP64": "f8", "FP32": "f4", "INT64": "i8"}[datatype])
