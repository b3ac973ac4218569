"""MLflow's scoring shapes, and reading back what was predicted."""

import json
from typing import Any

import pytest

from .conftest import Served


def shapes(columns: list[str], rows: list[list[Any]]) -> list[dict[str, Any]]:
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    turned = [row[::-1] for row in rows]
    return [
        {"json": {"dataframe_split": {"columns": columns, "data": rows}}},
        {"json": {"dataframe_split": {"columns": columns[::-1], "data": turned, "index": [9] * len(rows)}}},
        {"json": {"dataframe_records": records}},
        {"json": {"instances": records}},
        {"json": {"instances": rows}},
        {"json": {"inputs": {name: [r[i] for r in rows] for i, name in enumerate(columns)}}},
        {"json": {"dataframe_records": [{**record, "unasked": 1} for record in records]}},
        {
            "content": "\r\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]),
            "headers": {"content-type": "text/csv; charset=utf-8"},
        },
    ]


@pytest.mark.parametrize("name", ["tumour", "iris", "people"])
@pytest.mark.parametrize("shape", range(8))
def test_every_shape_has_the_models_own_answer(served: Served, name: str, shape: int) -> None:
    model = served.models[name]
    answer = served.invoke(name, **shapes(model["columns"], model["rows"])[shape])
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == model["predict"]
    assert answer.headers["x-stratal-prediction-id"] == answer.json()["prediction_id"]


def test_a_model_of_a_plain_matrix(served: Served) -> None:
    model = served.models["matrix"]
    for body in ({"instances": model["rows"]}, {"inputs": model["rows"]}):
        answer = served.invoke("matrix", json=body)
        assert answer.json()["predictions"] == pytest.approx(model["predict"])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"json": {}}, "exactly one input"),
        ({"json": [1]}, "not a JSON object"),
        ({"json": {"instances": [[1, 2, 3]], "inputs": [[1, 2, 3]]}}, "exactly one input"),
        ({"json": {"instances": [[1, 2]]}}, r"shape [1, 2]"),
        ({"json": {"instances": [[1, 2, 3], [1]]}}, "Row 1"),
        ({"json": {"instances": [[1, 2, "x"]]}}, "x"),
        ({"json": {"instances": [[1, 2, None]]}}, "NaN"),
        ({"json": {"instances": [[1, 2, {}]]}}, "cell"),
        ({"json": {"instances": []}}, "shape"),
        ({"json": {"instances": [[1, 2, 3]], "params": {"a": 1}}}, "params"),
        ({"json": {"dataframe_split": {"columns": ["a"], "data": [[1, 2, 3]]}}}, "Row 0"),
        ({"content": b"{"}, "not JSON"),
        ({"content": b"\xff\xfe"}, "not JSON"),
        ({"content": b"", "headers": {"content-type": "text/csv"}}, "empty"),
        ({"content": b"a,b,c\n1,2", "headers": {"content-type": "text/csv"}}, "record 2"),
    ],
)
def test_wrong_input_is_refused_with_what_was_expected(
    served: Served, sent: dict[str, Any], said: str
) -> None:
    answer = served.invoke("matrix", **sent)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert said in error["message"] + error["hint"]


def test_other_refusals(served: Served) -> None:
    assert served.invoke("nothing", json={"instances": [[1]]}).status_code == 404
    assert served.invoke("matrix", content=b"x", headers={"content-type": "image/png"}).status_code == 415
    assert served.invoke("matrix", content=b" " * (33 << 20)).status_code == 413
    other = served.server.project()
    with served.server.http(served.server.key(other, "owner")) as http:
        path = f"/api/v1/projects/{served.project}/endpoints"
        assert http.post(f"{path}/matrix/invocations", json={"instances": [[1, 2, 3]]}).status_code == 404
        assert http.get(f"{path}/matrix").status_code == 404
        assert http.delete(f"{path}/matrix").status_code == 404
        assert http.post(f"{path}/matrix/stop").status_code == 404
    with served.http() as http:  # a viewer
        path = f"/api/v1/projects/{served.project}/endpoints"
        assert http.delete(f"{path}/matrix").status_code == 403
        assert http.post(path, json={"name": "x", "model": "models:/matrix/1"}).status_code == 403


def test_a_prediction_is_read_back_by_its_id_and_only_in_its_project(served: Served) -> None:
    answer = served.invoke("matrix", json={"instances": [[1, 2, 3], [4, 5, 6]]})
    prediction_id = answer.headers["x-stratal-prediction-id"]
    with served.http() as http:
        found = http.get(f"/api/v1/predictions/{prediction_id}").json()
        assert (found["endpoint"], found["rows"], found["intact"]) == ("matrix", 2, True)
        assert found["inputs"][0]["data"] == [[1, 2, 3], [4, 5, 6]]
        assert found["outputs"][0]["data"] == answer.json()["predictions"]
        assert found["request_id"] == answer.headers["x-request-id"]
        mistyped = prediction_id[:-1] + ("0" if prediction_id[-1] != "0" else "1")
        for unknown in (mistyped, "pr_", "pr_" + "z" * 36, "..", "x" * 2000):
            assert http.get(f"/api/v1/predictions/{unknown}").status_code == 404
    other = served.server.key(served.server.project(), "owner")
    with served.server.http(other) as http:
        assert http.get(f"/api/v1/predictions/{prediction_id}").status_code == 404


def test_inputs_too_long_to_keep_are_kept_as_their_hash(served: Served) -> None:
    import hashlib
    import struct

    rows = [[float(n), 1.0, 2.0] for n in range(50_000)]
    answer = served.invoke("matrix", content=json.dumps({"instances": rows}))
    with served.http() as http:
        found = http.get(f"/api/v1/predictions/{answer.headers['x-stratal-prediction-id']}").json()
    packed = b"".join(struct.pack("<3d", *row) for row in rows)
    assert found["inputs_sha256"] == hashlib.sha256(packed).hexdigest()
    assert "data" not in found["inputs"][0]
    assert found["rows"] == 50_000


def test_the_command_line_shows_what_is_served(served: Served) -> None:
    server = served.server
    listed = server.json("endpoints", "--project", served.project)["endpoints"]
    assert [(e["name"], e["state"], e["model"], e["version"], e["revision"]) for e in listed] == [
        (name, "ready", name, "1", 1) for name in ("iris", "matrix", "people", "tumour")
    ]
    shown = server.cli("endpoint", "show", "tumour", "--project", served.project).stdout
    assert "curl" in shown
    assert "tritonclient" in shown
    assert "models:/tumour/1" in shown
    seen = server.json("endpoint", "show", "tumour", "--project", served.project)
    pinned = {file["path"]: file["sha256"] for file in seen["active"]["files"]}
    assert seen["active"]["loaded"].items() <= pinned.items()
    assert seen["active"]["loaded"]
    assert "loaded" in server.json("endpoint", "logs", "tumour", "--project", served.project)["log"]
    missing = server.cli("endpoint", "show", "nothing", "--project", served.project, check=False)
    assert (missing.returncode, "Traceback" in missing.stderr) == (6, False)
