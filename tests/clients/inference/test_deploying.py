"""Which environment a replica runs in, and models that are not scikit-learn's."""

import json
from pathlib import Path
from typing import Any

import pytest

from platform_server import PlatformServer, wait_until
from registered_models import SHARED, register

TRAIN = """
import mlflow, numpy as np
from sklearn.linear_model import LinearRegression
x = np.arange(12.0).reshape(6, 2)
with mlflow.start_run():
    mlflow.sklearn.log_model(
        LinearRegression().fit(x, x.sum(axis=1)), name="model", registered_model_name="sum",
        pip_requirements=["this-package-does-not-exist==1"],
    )
"""


def test_a_jobs_model_runs_in_exactly_the_jobs_environment(server: PlatformServer, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAIN)
    project = server.project()
    packages = [part for package in SHARED for part in ("--with", package)]
    command = ["run", "--project", project, *packages, "--", "python", "train.py"]
    ran = server.cli(*command, PWD=str(tmp_path), timeout=400)
    assert "Created version '1' of model 'sum'" in ran.stdout + ran.stderr
    server.json("deploy", "models:/sum/1", "--name", "sum", "--project", project, timeout=400)
    shown = server.json("endpoint", "show", "sum", "--project", project)
    job = server.json("job", "show", str(shown["active"]["job"]), "--project", project)
    assert shown["active"]["environment"] == job["environment"]
    with server.http(server.key(project)) as http:
        path = f"/api/v1/projects/{project}/endpoints/sum/invocations"
        answer = http.post(path, json={"instances": [[1.0, 2.0]]}).json()
    assert round(answer["predictions"][0], 6) == 3


def test_a_python_function_answers_with_a_column_per_output(server: PlatformServer) -> None:
    project = server.project()
    uri = str(register(server, project, "doubling")["doubling"]["uri"])
    server.json("deploy", uri, "--name", "doubling", "--project", project, timeout=400)
    with server.http(server.key(project)) as http:
        path = f"/api/v1/projects/{project}/endpoints/doubling/invocations"
        answer = http.post(path, json={"dataframe_records": [{"a": 1.5, "s": "hi"}, {"a": 2, "s": "ho"}]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["predictions"] == [{"twice": 3, "word": "hi!"}, {"twice": 4, "word": "ho!"}]
        refused = http.post(path, json={"dataframe_records": [{"a": "x", "s": "hi"}]})
        assert refused.status_code == 400
        # Params of the signature: for the whole request, the others by default; what is wrong is named.
        rows = {"dataframe_records": [{"a": 1.5, "s": "hi"}]}
        answer = http.post(path, json={**rows, "params": {"times": 4}}).json()
        assert answer["predictions"] == [{"twice": 6, "word": "hi!"}]
        told = http.get(f"/api/v1/predictions/{answer['prediction_id']}").json()
        assert told["params"] == {"times": 4}
        for params, said in (({"time": 1}, "times, end"), ({"times": "x"}, "params: "), ([1], "object")):
            refused = http.post(path, json={**rows, "params": params})
            assert refused.status_code == 400, refused.text
            assert said in refused.text
    loaded = server.json("endpoint", "show", "doubling", "--project", project)["active"]
    assert loaded["loaded"] == {file["path"]: file["sha256"] for file in loaded["files"]}


def test_a_forest_is_converted_when_registered_and_answers_the_same_as_onnx(server: PlatformServer) -> None:
    project = server.project()
    forest = register(server, project, "forest")["forest"]
    (job,) = server.json("jobs", "--project", project)["jobs"]
    assert job["name"] == "convert-to-onnx"

    def forms() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.json("models", "show", "forest/1", "--project", project)["forms"]
        return found

    # What is deployed before the form is there answers by its own files, and goes on doing so.
    early = ("deploy", "models:/forest/1", "--name", "early", "--no-wait", "--project", project)
    server.json(*early)
    wait_until(lambda: forms()[0]["state"] != "converting", seconds=600)
    (form,) = forms()
    assert (form["kind"], form["state"], form["job"], form["why"]) == ("onnx", "made", str(job["id"]), "")
    assert (form["parity"]["real_rows"], form["parity"]["precision"]) == (40, "single")
    assert [file["path"] for file in form["files"]] == ["model.onnx"]
    # It is no version: nothing new is in the registry, neither is a run.
    shown = server.json("models", "show", "forest", "--project", project)
    assert [version["version"] for version in shown["versions"]] == [1]
    assert shown["latest_version"] == 1
    assert len(server.json("runs", "--project", project)["runs"]) == 1
    verified = server.json("models", "show", "forest/1", "--verify", "--project", project)["verification"]
    assert verified["verified"]
    assert "model.onnx" in [file["path"] for file in verified["files"]]
    told = server.json("models", "convert", "forest/1", "--project", project)
    assert (told["job"], told["form"]["state"]) == (str(job["id"]), "made")  # it is not made twice
    show = ("endpoint", "show", "early", "--project", project)
    wait_until(lambda: server.json(*show)["active"] is not None, seconds=400)
    shown = server.json(*show)
    assert (shown["active"]["runtime"], shown["form_since"]) == ("sklearn", "onnx")
    made = server.json("deploy", "models:/forest/1", "--name", "f", "--project", project, timeout=400)
    active = made["active"]
    assert (active["runtime"], active["version"], active["form"]) == ("onnx", "1", form["id"])
    assert active["loaded"] == {"model.onnx": form["files"][0]["sha256"]}
    with server.http(server.key(project)) as http:
        assert http.get("/v2/models/f/versions/1").status_code == 200
        tensor = {"name": "x", "datatype": "FP64", "shape": [5, 30], "data": forest["rows"]}
        answered = http.post("/v2/models/f/infer", json={"inputs": [tensor]})
        assert answered.headers["X-Stratal-Runtime"] == "onnx"
        answer = answered.json()["outputs"]
    assert [output["name"] for output in answer] == ["predict", "probabilities"]
    assert answer[0]["data"] == forest["predict"]
    probabilities = [p for row in forest["probabilities"] for p in row]  # type: ignore[attr-defined]
    assert answer[1]["data"] == pytest.approx(probabilities, abs=1e-5)
    # Unproven, since the model itself was trained outside of the platform: so it ends with 1.
    why = json.loads(
        server.cli("why", made_id(server, project, "f", forest["rows"]), "--json", check=False).stdout
    )
    chain = {link["kind"]: link for link in why["chain"]}
    assert [link["kind"] for link in why["chain"]][:7] == [
        *("prediction", "endpoint", "form", "job", "code", "environment", "model version"),
    ]
    assert {link["status"] for link in why["chain"][:7]} == {"verified"}, why
    assert chain["model version"]["name"] == "forest/1"
    facts = {fact["name"]: fact["value"] for link in why["chain"] for fact in link["facts"]}
    assert facts["serves"] == f"the ONNX form of models:/forest/1, converted by job {job['id']}"
    assert facts["compared"].startswith("its job noted the same answers on 40 real rows")
    as_is = ("deploy", "models:/forest/1", "--as-is", "--name", "plain", "--no-wait", "--project", project)
    latest = server.json(*as_is)["latest"]
    assert (latest["runtime"], latest["version"], latest["form"]) == ("sklearn", "1", None)


def made_id(server: PlatformServer, project: str, endpoint: str, rows: object) -> str:
    """The id of a new prediction."""
    with server.http(server.key(project)) as http:
        path = f"/api/v1/projects/{project}/endpoints/{endpoint}/invocations"
        return str(http.post(path, json={"inputs": rows}).json()["prediction_id"])


def test_an_alias_is_resolved_when_deployed(server: PlatformServer) -> None:
    project = server.project()
    register(server, project, "matrix")
    with server.http(server.key(project)) as http:
        made = http.post(
            "/api/2.0/mlflow/registered-models/alias",
            json={"name": "matrix", "alias": "best", "version": "1"},
        )
        assert made.status_code == 200, made.text
    made = server.json("deploy", "models:/matrix@best", "--name", "m", "--project", project, timeout=400)
    assert (made["state"], made["version"]) == ("ready", "1")
    for uri in ("models:/matrix@worst", "models:/matrix/9", "models:/none/1"):
        refused = server.cli("deploy", uri, "--name", "m", "--project", project, check=False)
        assert (refused.returncode, "Traceback" in refused.stderr) == (6, False)
    refused = server.cli("deploy", "matrix", "--name", "m", "--project", project, check=False)
    assert refused.returncode == 1
