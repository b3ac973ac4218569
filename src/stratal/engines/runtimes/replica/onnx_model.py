"""Models in the ONNX format, run by ONNX Runtime; also those that a scikit-learn estimator was converted to.

One that was converted answers like its estimator, as the conversion noted in the graph's metadata
(`stratal.engines.runtimes.conversion.to_onnx`); any other has the inputs and outputs that its graph names.
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from .arrays import DTYPES, Invalid
from .columns import Expected, expected_of, numbers
from .model import hash_below, read_hashed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from .model import Features

META = "stratal"
_TYPES = {
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(float16)": "FP16",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}


def load(plan: dict[str, Any]) -> OnnxModel:
    """Load it. Raises what ONNX Runtime raises, and `ImportError` when that is not there."""
    import onnxruntime

    files: dict[str, str] = {}
    session = opened(plan, files)
    libraries = {
        "python": sys.version.split()[0],
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }
    return OnnxModel(session, plan, files, libraries)


def opened(plan: dict[str, Any], files: dict[str, str]) -> Any:
    """A session with the plan's graph; the SHA-256 of what was read is noted in `files`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Requests come one behind the other: what threads gain on one row is less than what waking them costs.
    options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    data = read_hashed(plan["model"], plan["file"], files)
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception:
        # Its weights may be files beside it; the library finds those from the graph's own path only.
        hash_below(plan["model"], os.path.dirname(plan["file"]), files)  # noqa: PTH120
        path = os.path.join(plan["model"], plan["file"])  # noqa: PTH118
        return onnxruntime.InferenceSession(path, options, providers=providers)


class OnnxModel:
    def __init__(
        self, session: Any, plan: dict[str, Any], files: dict[str, str], libraries: dict[str, str]
    ) -> None:
        self._session = session
        self.files = files
        self.libraries = libraries
        told = json.loads(session.get_modelmeta().custom_metadata_map.get(META, "{}"))
        takes = session.get_inputs()
        self._feeds = [i.name for i in takes]
        # What converts may have names of its own for columns; the conversion noted theirs.
        called = told.get("inputs") or self._feeds
        self._inputs = [
            (str(name), _TYPES.get(i.type, i.type), _shape(i.shape))
            for name, i in zip(called, takes)  # noqa: B905 - py3.9
        ]
        self._outputs = {
            o.name: (_TYPES.get(o.type, "BYTES"), _shape(o.shape)) for o in session.get_outputs()
        }
        self._expected = self._expecting(plan)
        # A graph may do with its first dimension what it likes; what an estimator was converted to goes by rows.
        self.rowwise = bool(told.get("rowwise"))
        self._flat = bool(told.get("flat"))
        names = list(self._outputs)
        self.interface: dict[str, Any] = {
            "inputs": self._expected.metadata() if self._expected is not None else self._described(),
            "columns": None if self._expected is None else self._expected.names,
            "outputs": [
                {"name": name, "datatype": datatype, "shape": list(self._flattened(name, shape))}
                for name, (datatype, shape) in self._outputs.items()
            ],
            "classes": told.get("classes"),
            "answers": told.get("answers") or (names[0] if len(names) == 1 else None),
        }

    def arrange(
        self, inputs: Sequence[tuple[str, NDArray[Any]]], columns: Sequence[str] | None, *, strict: bool
    ) -> Features:
        if self._expected is not None:
            arranged = self._expected.arrange(inputs, columns, strict=strict)
            if len(self._inputs) == 1:
                if isinstance(arranged, dict):
                    arranged = np.stack([numbers(a, f"Column {n!r}") for n, a in arranged.items()], axis=1)
                return self._cast(arranged, 0)
            if not isinstance(arranged, dict):
                arranged = {name: arranged[:, at] for at, (name, _, _) in enumerate(self._inputs)}
            return {name: self._cast(arranged[name], at) for at, (name, _, _) in enumerate(self._inputs)}
        given = dict(inputs)
        missing = [name for name, _, _ in self._inputs if name not in given]
        if columns is not None or missing or len(given) != len(inputs):
            raise Invalid(f"The model takes {self._said()}.")
        surplus = [name for name in given if all(name != known for known, _, _ in self._inputs)]
        if surplus:
            raise Invalid(f"There is no input {surplus[0]!r}; the model takes {self._said()}.")
        return {name: self._cast(given[name], at) for at, (name, _, _) in enumerate(self._inputs)}

    def predict(self, features: Features, wanted: Sequence[str] | None) -> list[tuple[str, NDArray[Any]]]:
        outputs = list(self._outputs) if wanted is None else wanted
        for name in outputs:
            if name not in self._outputs:
                raise Invalid(f"There is no output {name!r}; the model has {', '.join(self._outputs)}.")
        values = list(features.values()) if isinstance(features, dict) else [features]
        feed = dict(zip(self._feeds, values))  # noqa: B905 - py3.9
        found = self._session.run(list(outputs), feed)
        arrays = zip(outputs, map(_array, found))  # noqa: B905 - py3.9
        return [(name, array.reshape(self._flattened(name, array.shape))) for name, array in arrays]

    def _flattened(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """An estimator's single answers are a list, where its graph has a column of them."""
        return shape[:1] if self._flat and name == "predict" and shape[1:] == (1,) else shape

    def _expecting(self, plan: dict[str, Any]) -> Expected | None:
        """What one request's columns or matrix are read by; None: each input is a tensor of its own name."""
        signature = (plan.get("signature") or {}).get("inputs")
        if len(self._inputs) == 1:
            name, datatype, shape = self._inputs[0]
            if signature:
                return expected_of(signature, None, None)
            return Expected(None, shape, np.dtype(DTYPES.get(datatype, "O")).str, name)
        columns = {str(c.get("name")) for c in signature or ()}
        return expected_of(signature, None, None) if columns == {n for n, _, _ in self._inputs} else None

    def _cast(self, value: NDArray[Any], at: int) -> NDArray[Any]:
        """The array as the graph's input takes it: its type, and a column as a matrix of one."""
        name, datatype, shape = self._inputs[at]
        if datatype == "BYTES":
            value = np.asarray(["" if v is None else str(v) for v in value.ravel()], object).reshape(
                value.shape
            )
        else:
            value = np.ascontiguousarray(numbers(value, f"Input {name!r}"), DTYPES.get(datatype))
        if value.ndim == 1 and len(shape) == 2:
            value = value.reshape(-1, 1)
        if len(shape) != value.ndim or any(
            want not in (-1, have)
            for want, have in zip(shape, value.shape)  # noqa: B905 - py3.9
        ):
            raise Invalid(
                f"Input {name!r} has the shape {list(value.shape)}; the model takes {list(shape)} of {datatype}."
            )
        return value

    def _described(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "datatype": datatype, "shape": list(shape)}
            for name, datatype, shape in self._inputs
        ]

    def _said(self) -> str:
        listed = [f"{name!r} {datatype} {list(shape)}" for name, datatype, shape in self._inputs]
        return "the inputs " + ", ".join(listed)


def _shape(shape: Sequence[Any]) -> tuple[int, ...]:
    """A graph's shape; -1 where any length goes."""
    return tuple(part if isinstance(part, int) and part >= 0 else -1 for part in shape)


def _array(value: Any) -> NDArray[Any]:
    """A tensor, or a classifier's list of ``{class: probability}``, as one array."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return np.array([[row[key] for key in value[0]] for row in value])
    return np.asarray(value)
