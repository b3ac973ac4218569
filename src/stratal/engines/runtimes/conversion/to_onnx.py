"""A registered scikit-learn model as ONNX, handed in as a form of its version once both answer the same.

Run in a job's sandbox, in the model's own environment with skl2onnx beside it: ``to_onnx.py models:/NAME/VERSION``.
Answers are compared on the rows that the model was logged with (its input example), and on rows made of
those: each column's values dealt out anew, numbers moved by up to a tenth. Labels must be the same on all of
them, numbers within `TOLERANCE`. Double precision is tried first; of trees single precision, because that is
what scikit-learn's own compare in.

A model that cannot be converted is no failure: why is handed in instead.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from functools import partial
from typing import Any

import numpy as np

TOLERANCE = 1e-5
MADE_ROWS = 1000
META = "stratal"
"""The graph's metadata that a replica reads: what goes in and comes out is called, and that rows are independent."""


class CannotConvert(Exception):
    """The message is for people."""


def main(uri: str) -> None:
    import mlflow
    from mlflow.models import Model

    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"  # this is the sandbox that models load in
    warnings.filterwarnings("ignore")
    folder = mlflow.artifacts.download_artifacts(uri)
    described = Model.load(folder)
    estimator = mlflow.sklearn.load_model(folder)
    example = described.load_input_example(folder)
    if example is None:
        raise CannotConvert(
            f"{uri} was logged without an input example, so there are no real rows to compare answers on: "
            "log it with input_example=DATA.iloc[:100]."
        )
    graph, report = convert(estimator, example, _predict_fn(described))
    print(json.dumps(report), flush=True)
    _send("PUT", uri, "/file", graph.SerializeToString())
    _send("POST", uri, "", json.dumps({"parity": report}).encode())
    print(f"{uri} has an ONNX form", flush=True)


def convert(estimator: Any, example: Any, predict_fn: str = "predict") -> tuple[Any, dict[str, Any]]:
    """The ONNX model that answers like the estimator, and how that was found. Raises `CannotConvert`."""
    real = len(example)
    rows = _more(example)
    expected = _answers(estimator, rows)
    refused = []
    for form in _forms(rows):
        for precision in _precisions(estimator):
            try:
                graph = _converted(estimator, rows, form, precision, predict_fn)
                session = _session(graph)
                found = [np.asarray(v) for v in session.run(None, _feed(session, rows, form, precision))]
                apart = _apart(expected, found)
            except Exception as error:  # a library's own, of any kind: the next form may do
                refused.append(f"{form}, {precision}: {type(error).__name__}: {str(error)[:200]}")
                continue
            if apart > TOLERANCE:
                refused.append(f"{form}, {precision}: answers are apart by {apart:.3g}")
                continue
            one = rows[:1] if isinstance(rows, np.ndarray) else rows.iloc[:1]
            feed = _feed(session, one, form, precision)
            return graph, {
                "form": form,
                "precision": precision,
                "real_rows": real,
                "rows": len(rows),
                "apart": apart,
                "estimator_ms": _milliseconds(partial(estimator.predict, one)),
                "onnx_ms": _milliseconds(partial(session.run, None, feed)),
            }
    raise CannotConvert("No conversion answers like the model:\n" + "\n".join(refused))


# -- rows ----------------------------------------------------------------------------------------


def _more(example: Any) -> Any:
    """The example's rows, and `MADE_ROWS` made of them: columns dealt out anew, numbers moved by up to a tenth."""
    chance = np.random.default_rng(0)
    picked = chance.integers(0, len(example), (MADE_ROWS, _width(example)))
    if isinstance(example, np.ndarray):
        made = np.take_along_axis(example, picked, axis=0)
        return np.concatenate([example, _moved(made, chance)])
    import pandas

    columns = {}
    for at, name in enumerate(example.columns):
        values = example[name].to_numpy()[picked[:, at]]
        columns[name] = _moved(values, chance) if values.dtype.kind == "f" else values
    return pandas.concat([example, pandas.DataFrame(columns)], ignore_index=True)


def _width(example: Any) -> int:
    if getattr(example, "ndim", 0) != 2:
        raise CannotConvert("The input example is no table and no matrix, and only those are converted.")
    return int(example.shape[1])


def _moved(values: Any, chance: Any) -> Any:
    return values * chance.uniform(0.9, 1.1, values.shape) if values.dtype.kind == "f" else values


# -- both sides' answers ---------------------------------------------------------------------------


def _answers(estimator: Any, rows: Any) -> list[Any]:
    answers = [np.asarray(estimator.predict(rows))]
    if hasattr(estimator, "predict_proba"):
        answers.append(np.asarray(estimator.predict_proba(rows)))
    return answers


def _apart(expected: list[Any], found: list[Any]) -> float:
    """The largest difference, relative where numbers are large; infinite when a label differs."""
    if len(found) != len(expected):
        return float("inf")
    worst = 0.0
    for mine, theirs in zip(expected, found):  # noqa: B905 - py3.9
        theirs = theirs.reshape(mine.shape)
        if mine.dtype.kind != "f":
            if not np.array_equal(mine.astype(str), theirs.astype(str)):
                return float("inf")
        else:
            worst = max(worst, float(np.max(np.abs(mine - theirs) / np.maximum(1.0, np.abs(mine)))))
    return worst


# -- the graph -------------------------------------------------------------------------------------


def _forms(rows: Any) -> list[str]:
    """One matrix where every column is a number, and one input per column where columns have names."""
    if isinstance(rows, np.ndarray):
        return ["matrix"]
    numeric = all(dtype.kind in "fiub" for dtype in rows.dtypes)
    return ["matrix", "columns"] if numeric else ["columns"]


def _precisions(estimator: Any) -> tuple[str, str]:
    last = getattr(estimator, "steps", [(None, estimator)])[-1][1]
    trees = type(last).__module__.startswith(("sklearn.tree", "sklearn.ensemble"))
    return ("single", "double") if trees else ("double", "single")


def _converted(estimator: Any, rows: Any, form: str, precision: str, predict_fn: str) -> Any:
    import skl2onnx
    from skl2onnx.common import data_types as types

    number = types.DoubleTensorType if precision == "double" else types.FloatTensorType
    if form == "matrix":
        takes = [("input", number([None, rows.shape[1]]))]
    else:
        takes = [
            (
                name,
                (number if rows[name].dtype.kind in "fiub" else types.StringTensorType)([None, 1]),
            )
            for name in rows.columns
        ]
    probable = hasattr(estimator, "predict_proba")
    options = {id(estimator): {"zipmap": False}} if probable else None
    graph = skl2onnx.convert_sklearn(estimator, initial_types=takes, options=options)
    names = ["predict", "probabilities"] if probable else ["predict"]
    _rename(graph, names)
    classes = getattr(estimator, "classes_", None)
    sample = rows[:2] if isinstance(rows, np.ndarray) else rows.iloc[:2]
    told = {
        "rowwise": True,
        "answers": "probabilities" if predict_fn == "predict_proba" else "predict",
        "classes": classes.tolist() if isinstance(classes, np.ndarray) else None,
        "inputs": ["input-0"] if form == "matrix" else [str(name) for name in rows.columns],
        "flat": np.asarray(estimator.predict(sample)).ndim == 1,
    }
    entry = graph.metadata_props.add()
    entry.key, entry.value = META, json.dumps(told)
    return graph


def _rename(graph: Any, names: list[str]) -> None:
    """Call the graph's first outputs by these names; further ones (scores) are not answered with."""
    outputs = graph.graph.output
    del outputs[len(names) :]
    if len(outputs) != len(names):
        raise CannotConvert(f"The graph has {len(outputs)} outputs, not {len(names)}.")
    new = {output.name: name for output, name in zip(outputs, names)}  # noqa: B905 - py3.9
    for node in graph.graph.node:
        node.output[:] = [new.get(name, name) for name in node.output]
        node.input[:] = [new.get(name, name) for name in node.input]
    for output in outputs:
        output.name = new[output.name]


def _feed(session: Any, rows: Any, form: str, precision: str) -> dict[str, Any]:
    """The rows as the graph takes them; the library has names of its own for columns, in their order."""
    number = np.float64 if precision == "double" else np.float32
    names = [taken.name for taken in session.get_inputs()]
    if form == "matrix":
        return {names[0]: np.ascontiguousarray(np.asarray(rows), number)}
    return {
        taken: rows[column].to_numpy().reshape(-1, 1).astype(number)
        if rows[column].dtype.kind in "fiub"
        else np.asarray([str(value) for value in rows[column]], object).reshape(-1, 1)
        for taken, column in zip(names, rows.columns)  # noqa: B905 - py3.9
    }


def _session(graph: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _milliseconds(ask: Any) -> float:
    """The median of a few calls with one row."""
    spent = []
    for _ in range(20):
        started = time.perf_counter()
        ask()
        spent.append((time.perf_counter() - started) * 1000)
    return round(sorted(spent)[10], 4)


# -- handing in ------------------------------------------------------------------------------------


def _predict_fn(described: Any) -> str:
    return str(described.flavors.get("python_function", {}).get("predict_fn") or "predict")


def _send(method: str, uri: str, below: str, body: bytes) -> None:
    """Tell the platform, with the job's own key."""
    name, _, version = uri.removeprefix("models:/").rpartition("/")
    project, quoted = os.environ["STRATAL_PROJECT"], urllib.parse.quote(name, safe="")
    path = f"/api/v1/projects/{project}/models/{quoted}/versions/{version}/forms/onnx{below}"
    kind = "application/octet-stream" if below else "application/json"
    headers = {"Authorization": f"Bearer {os.environ['STRATAL_API_KEY']}", "Content-Type": kind}
    request = urllib.request.Request(  # noqa: S310 - the platform's own address
        os.environ["STRATAL_URL"] + path, body, headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=600):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        told = error.read().decode(errors="replace")
        raise SystemExit(f"{method} {path}: {error.code} {told}") from None


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except CannotConvert as error:
        _send("POST", sys.argv[1], "", json.dumps({"why": str(error)[:2000]}).encode())
        print(error, flush=True)
