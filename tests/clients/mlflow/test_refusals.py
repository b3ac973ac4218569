"""Bad input: MLflow's dialect, the right status, no traceback, nothing changed."""

import json
from typing import Any

import pytest

from clients.mlflow.conftest import Place
from platform_server import PlatformServer

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"


def refused(response: Any, status: int, code: str) -> None:
    assert (response.status_code, response.json()["error_code"]) == (status, code), response.text
    message = response.json()["message"]
    assert message
    assert "Traceback" not in message
    assert "sqlalchemy" not in message.lower()


@pytest.mark.parametrize(
    "body", [b"{", b"nonsense", b"[1]", b'"x"', b"\xff\xfe\x00", b"{" * 100_000, b"[" * 100_000, b"1"]
)
def test_what_is_not_a_json_object(here: Place, body: bytes) -> None:
    refused(here.post("experiments/create", content=body), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("experiments/create", {}),
        ("experiments/create", {"name": ""}),
        ("experiments/create", {"name": 7}),
        ("experiments/create", {"name": {"a": 1}}),
        ("experiments/create", {"name": "x" * 2000}),
        ("experiments/create", {"name": "a\nb"}),
        ("experiments/create", {"name": "a\x00b"}),
        ("experiments/create", {"name": "a", "tags": "x"}),
        ("experiments/create", {"name": "a", "tags": [1]}),
        ("experiments/create", {"name": "a", "tags": [{"value": "x"}]}),
        ("experiments/create", {"name": "a", "artifact_location": "file:///etc"}),
        ("experiments/search", {"max_results": 0}),
        ("experiments/search", {"max_results": "many"}),
        ("experiments/search", {"view_type": "SOME"}),
        ("experiments/search", {"filter": "name ="}),
        ("experiments/search", {"page_token": "\u2603"}),
        ("runs/search", {"experiment_ids": [1]}),
        ("runs/search", {"experiment_ids": ["0"], "max_results": 10**30}),
        ("runs/search", {"experiment_ids": ["0"], "order_by": ["metrics.a; DROP TABLE runs"]}),
        ("runs/search", {"experiment_ids": ["0"], "filter": "'" * 30_000}),
        ("runs/create", {"start_time": "yesterday"}),
        ("runs/create", {"start_time": 1.5}),
        ("runs/create", {"start_time": 2**63}),
        ("runs/create", {"start_time": True}),
        ("runs/get", None),
        ("registered-models/create", {"name": "a/b"}),
        ("registered-models/create", {"name": ".."}),
        ("model-versions/create", {"name": "m"}),
        ("logged-models", {"name": "a/b"}),
    ],
)
def test_fields_that_make_no_sense(here: Place, path: str, body: Any) -> None:
    if body is None:
        with here.http() as http:
            refused(http.get(f"/api/2.0/mlflow/{path}"), 400, "INVALID_PARAMETER_VALUE")
        return
    refused(here.post(path, body), 400, "INVALID_PARAMETER_VALUE")


@pytest.mark.parametrize(
    "metric",
    [
        {"value": 1, "timestamp": 1},
        {"key": "a", "timestamp": 1},
        {"key": "a", "value": 1},
        {"key": "a", "value": "one", "timestamp": 1},
        {"key": "a", "value": None, "timestamp": 1},
        {"key": "a", "value": [1], "timestamp": 1},
        {"key": "a", "value": 1, "timestamp": -1},
        {"key": "a", "value": 1, "timestamp": 2**70},
        {"key": "a", "value": 1, "timestamp": 1, "step": "x"},
        {"key": "a\ud800", "value": 1, "timestamp": 1},
    ],
)
def test_one_bad_metric_refuses_its_batch(here: Place, metric: dict[str, Any]) -> None:
    run_id = here.post("runs/create", {}).json()["run"]["info"]["run_id"]
    good = {"key": "good", "value": 1, "timestamp": 1}
    body = json.dumps({"run_id": run_id, "metrics": [good, metric]})
    response = here.post("runs/log-batch", content=body)
    assert response.status_code == 400
    assert response.json()["error_code"] in {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
    with here.http() as http:
        run = http.get("/api/2.0/mlflow/runs/get", params={"run_id": run_id}).json()["run"]
    assert run["data"]["metrics"] == []


def test_a_batch_of_more_than_a_million_bytes(here: Place) -> None:
    run_id = here.post("runs/create", {}).json()["run"]["info"]["run_id"]
    params = [{"key": f"p{i}", "value": "v" * 11_000} for i in range(100)]
    response = here.post("runs/log-batch", {"run_id": run_id, "params": params})
    refused(response, 400, "INVALID_PARAMETER_VALUE")


def test_a_body_larger_than_any_message(here: Place) -> None:
    response = here.post("runs/log-inputs", content=b'{"a": "' + b"x" * (33 << 20) + b'"}')
    refused(response, 413, "INVALID_PARAMETER_VALUE")


def test_unknown_fields_nulls_and_numbers_as_text_are_fine(here: Place) -> None:
    body = {"experiment_id": "0", "start_time": "17", "colour": "blue", "run_name": None, "tags": None}
    info = here.post("runs/create", body).json()["run"]["info"]
    assert info["start_time"] == 17
    metric = {"run_uuid": info["run_id"], "key": "m", "value": "-Infinity", "timestamp": "12", "step": "3"}
    assert here.post("runs/log-metric", metric).json() == {}
    bare = f'{{"run_id": "{info["run_id"]}", "key": "n", "value": NaN, "timestamp": 1}}'
    assert here.post("runs/log-metric", content=bare.encode()).status_code == 200
    camel = {"runId": info["run_id"], "status": 3, "endTime": 99}
    assert here.post("runs/update", camel).json()["run_info"]["status"] == "FINISHED"


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2fetc%2fpasswd",
        "a/%2e%2e/b",
        "%252e%252e/b",
        "a%00b",
        "a%0ab",
        "a%5c..%5cb",
        "a//b",
        "x" * 2000,
    ],
)
def test_paths_that_could_lead_elsewhere(here: Place, path: str) -> None:
    run_id = here.post("runs/create", {}).json()["run"]["info"]["run_id"]
    place = f"{ARTIFACTS}/0/{run_id}/artifacts"
    with here.http() as http:
        for method in ("PUT", "GET", "DELETE"):
            refused(
                http.request(method, f"{place}/{path}", content=b"x" if method == "PUT" else None),
                400,
                "INVALID_PARAMETER_VALUE",
            )
        listed = http.get("/api/2.0/mlflow/artifacts/list", params={"run_id": run_id, "path": "../.."})
        refused(listed, 400, "INVALID_PARAMETER_VALUE")
        assert http.get("/api/2.0/mlflow/artifacts/list", params={"run_id": run_id}).json()["files"] == []


def test_a_file_is_never_a_page_of_this_address(here: Place) -> None:
    run_id = here.post("runs/create", {}).json()["run"]["info"]["run_id"]
    file = f"{ARTIFACTS}/0/{run_id}/artifacts/page.html"
    with here.http() as http:
        http.put(file, content=b"<script>alert(1)</script>").raise_for_status()
        for method in ("GET", "HEAD"):
            answer = http.request(method, file)
            assert answer.headers["Content-Length"] == "25"
            assert answer.headers["Content-Disposition"].startswith("attachment")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Content-Security-Policy"] == "sandbox"
        same = http.get("/get-artifact", params={"run_uuid": run_id, "path": "page.html"})
        assert same.content == b"<script>alert(1)</script>"


def test_a_path_that_is_not_utf8(here: Place) -> None:
    run_id = here.post("runs/create", {}).json()["run"]["info"]["run_id"]
    with here.http() as http:
        response = http.put(f"{ARTIFACTS}/0/{run_id}/artifacts/%ff%fe", content=b"x")
    refused(response, 400, "INVALID_PARAMETER_VALUE")


def test_unknown_things(here: Place) -> None:
    with here.http() as http:
        refused(http.get("/api/2.0/mlflow/nothing/here"), 404, "ENDPOINT_NOT_FOUND")
        refused(http.get("/api/2.0/mlflow/runs/create"), 404, "ENDPOINT_NOT_FOUND")
        refused(http.post("/api/3.0/mlflow/traces/search", json={}), 501, "NOT_IMPLEMENTED")
        refused(http.post("/v1/traces", content=b"x"), 501, "NOT_IMPLEMENTED")
        refused(
            http.get("/api/2.0/mlflow/registered-models/get", params={"name": "no"}),
            404,
            "RESOURCE_DOES_NOT_EXIST",
        )
        refused(http.get("/api/2.0/mlflow/logged-models/m-no"), 404, "RESOURCE_DOES_NOT_EXIST")


def test_without_a_good_key_nothing_opens(here: Place, server: PlatformServer) -> None:
    with here.http() as http:
        for auth in (None, ("x", "y"), (here.env["MLFLOW_TRACKING_USERNAME"], "wrong")):
            http.auth = auth  # type: ignore[assignment]
            response = http.get("/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"})
            refused(response, 401, "UNAUTHENTICATED")
        http.auth = None  # type: ignore[assignment]
        assert http.get("/health").text == "OK"
        assert http.get("/version").text.startswith("3.")
        expired = server.json(
            "keys", "create", "soon", "--project", here.project, "--role", "viewer", "--expires", "1m"
        )
        http.headers["Authorization"] = f"Bearer {expired['token']}"
        denied = http.post("/api/2.0/mlflow/runs/create", json={})
        refused(denied, 403, "PERMISSION_DENIED")
        server.cli("keys", "revoke", expired["id"])
        gone = http.get("/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"})
        refused(gone, 401, "UNAUTHENTICATED")
