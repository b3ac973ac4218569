"""Scikit-learn estimators, loaded by plain library calls from the format they were saved in."""

from __future__ import annotations

import os
import sys
import warnings

import numpy as np

from .arrays import Invalid, from_array
from .columns import expected_of
from .model import hash_below, read_hashed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from .model import Features

PREDICT, PROBABILITIES = "predict", "probabilities"

# These look at numbers by place alone, so a plain matrix gives what a table would, several times faster.
_BY_PLACE = (
    "sklearn.linear_model.",
    "sklearn.preprocessing._data.",
    "sklearn.pipeline.Pipeline",
    "sklearn.decomposition.",
    "sklearn.tree.",
    "sklearn.svm.",
    "sklearn.neighbors.",
    "sklearn.naive_bayes.",
    "sklearn.discriminant_analysis.",
    "sklearn.neural_network.",
    "sklearn.cluster.",
    "sklearn.ensemble._forest.",
    "sklearn.ensemble._gb.",
)


def load(plan: dict[str, Any]) -> SklearnModel:
    """Load the estimator of the plan's model. Raises what the library raises, and `ImportError` when it is not there."""
    files: dict[str, str] = {}
    if plan.get("code"):
        hash_below(plan["model"], plan["code"], files)
        sys.path.append(os.path.join(plan["model"], plan["code"]))  # noqa: PTH118
    import sklearn

    estimator = _read(read_hashed(plan["model"], plan["file"], files), plan)
    libraries = {
        "python": sys.version.split()[0],
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    return SklearnModel(estimator, plan, files, libraries)


def _read(data: bytes, plan: dict[str, Any]) -> Any:
    if plan["format"] == "skops":
        import skops.io

        return skops.io.loads(data, trusted=plan.get("trusted") or None)
    if plan["format"] == "cloudpickle":
        import cloudpickle

        return cloudpickle.loads(data)
    import pickle

    return pickle.loads(data)  # noqa: S301 - only here, in the sandbox that this program runs in


class SklearnModel:
    """An estimator with the outputs ``predict`` and, for classifiers that have them, ``probabilities``."""

    rowwise = True  # what ``predict`` of a fitted estimator promises

    def __init__(
        self, estimator: Any, plan: dict[str, Any], files: dict[str, str], libraries: dict[str, str]
    ) -> None:
        self._estimator = estimator
        self.files = files
        self.libraries = libraries
        signature = plan.get("signature") or {}
        names = getattr(estimator, "feature_names_in_", None)
        width = getattr(estimator, "n_features_in_", None)
        self._expected = expected_of(
            signature.get("inputs"), None if names is None else [str(n) for n in names], width
        )
        self._names = self._expected.names
        self._table = names is not None and not _by_place(estimator)
        probable = plan.get("predict_fn") == "predict_proba" or hasattr(estimator, "predict_proba")
        self._outputs = [PREDICT, PROBABILITIES] if probable else [PREDICT]
        classes = getattr(estimator, "classes_", None)
        self.interface: dict[str, Any] = {
            "inputs": self._expected.metadata(),
            "columns": self._names,
            "outputs": self._describe_outputs(classes, signature.get("outputs")),
            "classes": classes.tolist() if isinstance(classes, np.ndarray) else None,
            "answers": PROBABILITIES if plan.get("predict_fn") == "predict_proba" else PREDICT,
        }

    def arrange(
        self, inputs: Sequence[tuple[str, NDArray[Any]]], columns: Sequence[str] | None, *, strict: bool
    ) -> Features:
        return self._expected.arrange(inputs, columns, strict=strict)

    def predict(self, features: Features, wanted: Sequence[str] | None) -> list[tuple[str, NDArray[Any]]]:
        outputs = self._outputs if wanted is None else wanted
        for name in outputs:
            if name not in self._outputs:
                raise Invalid(f"There is no output {name!r}; the model has {', '.join(self._outputs)}.")
        taken = self._features(features)
        return [(name, self._output(name, taken)) for name in outputs]

    def _features(self, arranged: Features) -> Any:
        if isinstance(arranged, dict):
            if not self._table and all(a.dtype.kind in "fiub" for a in arranged.values()):
                return np.stack([a.astype("f8") for a in arranged.values()], axis=1)
            return _frame(arranged)
        if self._table and self._names is not None:
            return _frame({name: arranged[:, i] for i, name in enumerate(self._names)})
        # Sums in single precision would make an answer depend on how its request was written.
        return arranged.astype("f8") if arranged.dtype.kind in "fiub" and self._widens(arranged) else arranged

    def _widens(self, array: NDArray[Any]) -> bool:
        return array.dtype != np.float64 and not (
            array.dtype == np.float32 and self._expected.dtype == "float32"
        )

    def _output(self, name: str, features: Any) -> NDArray[Any]:
        method = self._estimator.predict_proba if name == PROBABILITIES else self._estimator.predict
        return np.asarray(method(features))

    def _describe_outputs(self, classes: Any, signature: Any) -> list[dict[str, Any]]:
        """Names, datatypes and shapes, learnt by asking the model once; where it will not have zeros, from what is known."""
        width = self._expected.width or (self._expected.shape or (0, 0))[-1]
        try:
            shape = (1, *(self._expected.shape or (1, width))[1:])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self.predict(self.arrange([("", np.zeros(shape))], None, strict=False), None)
        except Exception:
            found = []
        described = []
        for name in self._outputs:
            array = next((a for n, a in found if n == name), None)
            if array is not None:
                datatype, seen, _ = from_array(array)
                described.append({"name": name, "datatype": datatype, "shape": [-1, *seen[1:]]})
            elif name == PROBABILITIES:
                count = len(classes) if classes is not None else -1
                described.append({"name": name, "datatype": "FP64", "shape": [-1, count]})
            else:
                described.append({"name": name, "datatype": _said(classes, signature), "shape": [-1]})
        return described


def _said(classes: Any, signature: Any) -> str:
    if isinstance(classes, np.ndarray):
        return from_array(classes)[0]
    with_type = signature[0] if signature else {}
    dtype = with_type.get("tensor-spec", {}).get("dtype")
    try:
        return from_array(np.zeros(0, dtype))[0] if dtype else "FP64"
    except TypeError:
        return "BYTES"


def _frame(columns: dict[str, NDArray[Any]]) -> Any:
    import pandas

    return pandas.DataFrame(columns)


def _by_place(estimator: Any) -> bool:
    """True when the estimator and all within it are of the kinds that look at numbers by place."""
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += [p for p in estimator.get_params(deep=True).values() if hasattr(p, "get_params")]
    return all(
        f"{type(part).__module__}.{type(part).__qualname__}".startswith(_BY_PLACE)
        and not getattr(part, "_sklearn_output_config", None)
        for part in parts
    )
