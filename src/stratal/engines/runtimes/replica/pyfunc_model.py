"""Any other model that MLflow knows how to load: through ``mlflow.pyfunc``, from the model's own environment."""

from __future__ import annotations

import sys

import numpy as np

from .arrays import Invalid, from_array
from .columns import DATATYPES, expected_of
from .model import hash_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from .model import Features

PREDICT = "predict"
_ROWWISE = ("mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost")
"""Loaders of models that look at each row alone; a function of somebody's own may look at all of them."""


def load(plan: dict[str, Any]) -> PyfuncModel:
    """Load it. Raises what MLflow and the model's library raise; `ImportError` when MLflow is not there."""
    files: dict[str, str] = {}
    hash_below(plan["model"], "", files)
    import mlflow
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(plan["model"])
    libraries = {"python": sys.version.split()[0], "mlflow": mlflow.__version__, "numpy": np.__version__}
    return PyfuncModel(model, plan, files, libraries)


class PyfuncModel:
    """A pyfunc: a table or tensor in; one output ``predict``, or one output per column of the table it returns."""

    def __init__(
        self, model: Any, plan: dict[str, Any], files: dict[str, str], libraries: dict[str, str]
    ) -> None:
        self._model = model
        self.files = files
        self.libraries = libraries
        self.rowwise = plan.get("loader") in _ROWWISE
        signature = plan.get("signature") or {}
        self._expected = expected_of(signature.get("inputs"), None, None)
        self.interface: dict[str, Any] = {
            "inputs": self._expected.metadata(),
            "columns": self._expected.names,
            "outputs": _described(signature.get("outputs") or []),
            "classes": None,
            "answers": None,  # whatever it returns
            "params": signature.get("params") or [],
        }

    def arrange(
        self, inputs: Sequence[tuple[str, NDArray[Any]]], columns: Sequence[str] | None, *, strict: bool
    ) -> Features:
        arranged = self._expected.arrange(inputs, columns, strict=strict)
        if isinstance(arranged, dict):
            return arranged
        named = columns is not None and arranged.shape[1:] == (len(columns),)
        names = self._expected.names or (list(columns) if named and columns is not None else None)
        return arranged if names is None else {name: arranged[:, i] for i, name in enumerate(names)}

    def predict(
        self, features: Features, wanted: Sequence[str] | None, params: dict[str, Any] | None = None
    ) -> list[tuple[str, NDArray[Any]]]:
        import pandas

        taken = pandas.DataFrame(features) if isinstance(features, dict) else features
        outputs = _named(self._asked(taken, params) if params else self._model.predict(taken))
        if wanted is None:
            return outputs
        found = dict(outputs)
        for name in wanted:
            if name not in found:
                raise Invalid(f"There is no output {name!r}; the model has {', '.join(found)}.")
        return [(name, found[name]) for name in wanted]

    def _asked(self, taken: Any, params: dict[str, Any]) -> Any:
        """MLflow checks values against the signature (`mlflow.types.ParamSchema`) before the model sees them."""
        from mlflow.exceptions import MlflowException

        try:
            return self._model.predict(taken, params=params)
        except MlflowException as error:
            raise Invalid(f"params: {error.message}") from None


def _described(signature: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The outputs that the signature promises; without one, nobody knows before the first answer."""
    found = []
    for output in signature:
        spec = output.get("tensor-spec")
        datatype = (
            from_array(np.zeros(0, spec["dtype"]))[0] if spec else DATATYPES.get(output["type"], "BYTES")
        )
        shape = spec["shape"] if spec else [-1]
        found.append({"name": output.get("name") or PREDICT, "datatype": datatype, "shape": shape})
    return found


def _named(result: Any) -> list[tuple[str, NDArray[Any]]]:
    if hasattr(result, "columns"):
        return [(str(name), np.asarray(result[name])) for name in result.columns]
    if isinstance(result, dict):
        return [(str(name), np.asarray(value)) for name, value in result.items()]
    return [(PREDICT, np.asarray(result))]
