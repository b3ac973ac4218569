"""Estimators converted to ONNX, and the replica's model of what came out: both answer the same, or it is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from stratal.ai.endpoints.scoring import read_json
from stratal.engines.runtimes.conversion.to_onnx import CannotConvert, convert
from stratal.engines.runtimes.replica import onnx_model
from stratal.engines.runtimes.replica.arrays import to_array

pytestmark = pytest.mark.filterwarnings("ignore")
IRIS = load_iris(as_frame=True)
PEOPLE = pd.DataFrame(
    {"age": [20.0, 30, 40, 50], "town": ["Oslo", "Rome", "Oslo", "Rome"], "kids": [0, 1, 2, 3]}
)


def loaded(graph: Any, folder: Path, columns: list[dict[str, object]] | None = None) -> Any:
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    signature = None if columns is None else {"inputs": columns}
    return onnx_model.load({"model": str(folder), "file": "model.onnx", "signature": signature})


def answers(model: Any, body: bytes) -> dict[str, Any]:
    inputs = read_json(body)
    arrays = [(t.name, to_array(t.datatype, tuple(t.shape), memoryview(t.data))) for t in inputs.tensors]
    return dict(model.predict(model.arrange(arrays, inputs.columns, strict=False), None))


def test_labels_and_probabilities_of_a_pipeline(tmp_path: Path) -> None:
    made = make_pipeline(StandardScaler(), LogisticRegression()).fit(
        IRIS.data, IRIS.target_names[IRIS.target]
    )
    graph, report = convert(made, IRIS.data.iloc[:60])
    assert (report["form"], report["precision"], report["real_rows"]) == ("matrix", "double", 60)
    model = loaded(graph, tmp_path)
    assert model.interface["classes"] == ["setosa", "versicolor", "virginica"]
    assert (model.interface["answers"], model.rowwise) == ("predict", True)
    found = answers(model, b'{"instances": [[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6, 2.5]]}')
    assert found["predict"].tolist() == ["setosa", "virginica"]
    expected = made.predict_proba(
        pd.DataFrame([[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6, 2.5]], columns=IRIS.data.columns)
    )
    assert found["probabilities"] == pytest.approx(expected)


def test_columns_of_numbers_and_text_go_by_their_names(tmp_path: Path) -> None:
    columns = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["town"]), remainder="passthrough"
    )
    made = make_pipeline(columns, LogisticRegression()).fit(PEOPLE, [0, 1, 0, 1])
    graph, report = convert(made, PEOPLE)
    assert report["form"] == "columns"
    signature: list[dict[str, object]] = [
        {"name": "age", "type": "double"},
        {"name": "town", "type": "string"},
        {"name": "kids", "type": "long"},
    ]
    model = loaded(graph, tmp_path, signature)
    body = b'{"dataframe_records": [{"town": "Rome", "kids": 3, "age": 50}, {"town": "Oslo", "kids": 0, "age": 20}]}'
    assert answers(model, body)["predict"].tolist() == made.predict(PEOPLE.iloc[[3, 0]]).tolist()


def test_single_answers_are_a_list_and_trees_compare_in_single_precision(tmp_path: Path) -> None:
    made = RandomForestRegressor(10, random_state=0).fit(IRIS.data, IRIS.target * 1.5)
    graph, report = convert(made, IRIS.data)
    assert (report["precision"], report["rows"]) == ("single", 1150)
    model = loaded(graph, tmp_path)
    rows = IRIS.data.iloc[:3].to_numpy().tolist()
    found = dict(model.predict(model.arrange([("", np.array(rows))], None, strict=False), None))
    assert found["predict"].shape == (3,)
    assert found["predict"] == pytest.approx(made.predict(IRIS.data.iloc[:3]))
    assert model.interface["outputs"] == [{"name": "predict", "datatype": "FP32", "shape": [-1]}]


def test_what_cannot_be_converted_says_why() -> None:
    made = make_pipeline(FunctionTransformer(np.sin), LogisticRegression()).fit(IRIS.data, IRIS.target)
    with pytest.raises(CannotConvert, match="No conversion answers like the model"):
        convert(made, IRIS.data)
    with pytest.raises(CannotConvert, match="no table and no matrix"):
        convert(made, {"a": 1})
