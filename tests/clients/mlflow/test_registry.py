"""Registered models, versions, aliases and loading back, by the unmodified client and unmodified scripts."""

import json
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from clients.mlflow.conftest import Place, code_of
from platform_server import PlatformServer

TRAIN = """
    import json, mlflow
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    mlflow.set_experiment("cancer")
    mlflow.sklearn.autolog(log_models=False)
    with mlflow.start_run() as run:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(X, y)
        info = mlflow.sklearn.log_model(
            model, name="model", input_example=X.head(2), registered_model_name="cancer",
            pip_requirements=["scikit-learn"],
        )
    client = mlflow.MlflowClient()
    client.set_registered_model_alias("cancer", "champion", 1)
    second = mlflow.register_model(f"runs:/{run.info.run_id}/model", "cancer")
    found = client.get_run(run.info.run_id)
    expected = model.predict(X).tolist()
    same = {}
    for uri in ("models:/cancer/1", "models:/cancer@champion", "models:/cancer/latest",
                f"runs:/{run.info.run_id}/model", info.model_uri):
        same[uri.split("/")[0] + uri[-6:]] = (
            mlflow.sklearn.load_model(uri).predict(X).tolist() == expected
            and mlflow.pyfunc.load_model(uri).predict(X).tolist() == expected
        )
    logged = mlflow.search_logged_models(output_format="list")
    print(json.dumps({
        "run": run.info.run_id, "second": second.version, "same": same,
        "metrics": sorted(found.data.metrics), "params": found.data.params,
        "outputs": [one.model_id for one in found.outputs.model_outputs],
        "datasets": [one.dataset.name for one in found.inputs.dataset_inputs],
        "model_id": info.model_id, "logged": [one.model_id for one in logged],
        "status": str(logged[0].status), "artifacts": sorted(a.path for a in client.list_artifacts(run.info.run_id)),
    }))
"""


def test_a_script_trains_registers_and_loads_back(
    here: Place, server: PlatformServer, tmp_path: Path
) -> None:
    told = json.loads(here.script(TRAIN, tmp_path).splitlines()[-1])
    assert all(told["same"].values())
    assert len(told["same"]) == 5
    assert str(told["second"]) == "2"
    assert "training_roc_auc" in told["metrics"]
    assert told["params"]["logisticregression__max_iter"] == "500"
    assert told["outputs"] == [told["model_id"]] == told["logged"]
    assert set(told["datasets"]) == {"dataset"}
    assert told["status"] == "READY"
    assert "estimator.html" in told["artifacts"]

    env = {"STRATAL_URL": here.env["STRATAL_URL"], "STRATAL_API_KEY": here.env["STRATAL_API_KEY"]}
    (model,) = server.json("models", **env)["models"]
    assert (model["name"], model["latest_version"], model["aliases"]) == ("cancer", 2, {"champion": 1})
    shown = server.json("models", "show", "cancer@champion", "--verify", **env)
    assert shown["verification"]["verified"] is True
    assert (shown["version"], shown["run_id"], shown["formats"]) == (1, told["run"], ["skops"])
    assert shown["labels"] == []
    (run,) = server.json("runs", **env)["runs"]
    assert (run["id"], run["state"], run["experiment"]) == (told["run"], "finished", "cancer")
    shown = server.json("runs", "show", told["run"], **env)
    assert shown["params"]["logisticregression__max_iter"] == "500"


AUTOLOG = """
    import json, mlflow
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier

    X, y = load_iris(return_X_y=True)
    mlflow.sklearn.autolog(registered_model_name="iris")
    model = RandomForestClassifier(n_estimators=3).fit(X, y)
    run = mlflow.last_active_run()
    loaded = mlflow.sklearn.load_model("models:/iris/1")
    print(json.dumps({"same": (loaded.predict(X) == model.predict(X)).all().item(),
                      "metrics": len(run.data.metrics)}))
"""


def test_autologging_registers_and_its_pickle_is_labelled(
    there: Place, server: PlatformServer, tmp_path: Path
) -> None:
    told = json.loads(there.script(AUTOLOG, tmp_path).splitlines()[-1])
    assert told["same"] is True
    assert told["metrics"] > 3
    env = {"STRATAL_URL": there.env["STRATAL_URL"], "STRATAL_API_KEY": there.env["STRATAL_API_KEY"]}
    shown = server.json("models", "show", "iris/1", **env)
    assert "contains pickle" in shown["labels"]


def _model(place: Place, *paths: str) -> str:
    """Log files as a model would be; returns its source."""
    client = place.client
    run_id = client.create_run("0").info.run_id
    for path in paths or ("MLmodel", "model.bin"):
        client.log_text(run_id, "flavors: {}", f"model/{path}")
    return f"{client.get_run(run_id).info.artifact_uri}/model"


def test_a_registered_models_life(here: Place) -> None:
    client = here.client
    client.create_registered_model("life", tags={"a": "1"}, description="d")
    with pytest.raises(MlflowException) as refused:
        client.create_registered_model("life")
    assert code_of(refused) == "RESOURCE_ALREADY_EXISTS"
    client.update_registered_model("life", description="e")
    client.set_registered_model_tag("life", "b", "2")
    client.delete_registered_model_tag("life", "a")
    found = client.get_registered_model("life")
    assert (found.description, found.tags, found.latest_versions) == ("e", {"b": "2"}, [])
    client.rename_registered_model("life", "after")
    assert [m.name for m in client.search_registered_models("name = 'after'")] == ["after"]
    client.delete_registered_model("after")
    with pytest.raises(MlflowException) as refused:
        client.get_registered_model("after")
    assert code_of(refused) == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.filterwarnings("ignore:.*stages:FutureWarning", "ignore:.*get_latest_versions:FutureWarning")
def test_a_versions_life(here: Place) -> None:
    client = here.client
    client.create_registered_model("v")
    for _ in range(2):
        made = client.create_model_version("v", _model(here), description="first", tags={"t": "1"})
    assert (str(made.version), made.status, made.current_stage) == ("2", "READY", "None")
    client.update_model_version("v", "2", "second")
    client.set_model_version_tag("v", "2", "u", "2")
    client.delete_model_version_tag("v", "2", "t")
    client.set_registered_model_alias("v", "best", "2")
    found = client.get_model_version_by_alias("v", "best")
    assert (found.description, found.tags, found.aliases) == ("second", {"u": "2"}, ["best"])
    client.transition_model_version_stage("v", "1", "Production")
    assert [str(m.version) for m in client.get_latest_versions("v", ["Production"])] == ["1"]
    assert {str(m.version) for m in client.search_model_versions("name = 'v'")} == {"1", "2"}
    client.delete_registered_model_alias("v", "best")
    with pytest.raises(MlflowException) as refused:
        client.get_model_version_by_alias("v", "best")
    assert code_of(refused) in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
    client.delete_model_version("v", "2")
    with pytest.raises(MlflowException):
        client.get_model_version("v", "2")
    assert client.get_model_version("v", "1").current_stage == "Production"


def test_a_version_is_what_it_was_when_it_was_made(here: Place, tmp_path: Path) -> None:
    client = here.client
    source = _model(here, "MLmodel", "model.bin")
    client.create_registered_model("pinned")
    client.create_model_version("pinned", source)
    run_id = source.split("/")[-3]
    client.log_text(run_id, "changed", "model/model.bin")
    uri = client.get_model_version_download_uri("pinned", "1")
    down = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(tmp_path))
    assert (Path(down) / "model.bin").read_text() == "flavors: {}"
    with here.http() as http:
        place = f"/api/2.0/mlflow-artifacts/artifacts/{uri.removeprefix('mlflow-artifacts:/')}"
        answer = http.put(f"{place}/model.bin", content=b"evil")
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")


def test_a_version_copied_under_another_name(here: Place) -> None:
    client = here.client
    client.create_registered_model("original")
    client.create_model_version("original", _model(here))
    copy = client.copy_model_version("models:/original/1", "copy")
    assert copy.source == "models:/original/1"
    with here.http() as http:
        base = f"/api/v1/projects/{here.project}/models"
        files = [http.get(f"{base}/{name}/versions/1").json()["files"] for name in ("original", "copy")]
    assert files[0] == files[1] != []


@pytest.mark.parametrize("source", ["s3://bucket/x", "file:///etc/passwd", "models:/nothing/1", "runs:/x/y"])
def test_a_source_that_is_not_here(here: Place, source: str) -> None:
    client = here.client
    if not client.search_registered_models("name = 'sourceless'"):
        client.create_registered_model("sourceless")
    with pytest.raises(MlflowException) as refused:
        client.create_model_version("sourceless", source)
    assert code_of(refused) in {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}
    assert client.search_model_versions("name = 'sourceless'") == []


def test_another_projects_models_do_not_exist(here: Place, there: Place) -> None:
    client = here.client
    client.create_registered_model("secret")
    source = _model(here)
    client.create_model_version("secret", source)
    location = client.get_model_version_download_uri("secret", "1").removeprefix("mlflow-artifacts:/")
    client = there.client
    for call in (
        lambda: client.get_registered_model("secret"),
        lambda: client.get_model_version("secret", "1"),
        lambda: client.get_model_version_download_uri("secret", "1"),
        lambda: client.set_registered_model_alias("secret", "x", "1"),
        lambda: client.create_model_version("secret", source),
        lambda: client.delete_registered_model("secret"),
    ):
        with pytest.raises(MlflowException) as refused:
            call()
        assert code_of(refused) == "RESOURCE_DOES_NOT_EXIST"
    client.create_registered_model("secret")  # the name is free here, the files are not
    with pytest.raises(MlflowException) as refused:
        client.create_model_version("secret", source)
    assert code_of(refused) == "RESOURCE_DOES_NOT_EXIST"
    with there.http() as http:
        assert http.get(f"/api/2.0/mlflow-artifacts/artifacts/{location}/MLmodel").status_code == 404
        assert http.get(f"/api/v1/projects/{here.project}/models").status_code == 404


def test_prompts_are_kept_as_mlflow_keeps_them(here: Place, tmp_path: Path) -> None:
    told = here.script(
        """
        import mlflow
        mlflow.genai.register_prompt(name="greeting", template="Hello {{name}}")
        mlflow.genai.register_prompt(name="greeting", template="Hi {{name}}")
        print(mlflow.genai.load_prompt("prompts:/greeting/1").format(name="Ann"))
        """,
        tmp_path,
    )
    assert told.splitlines()[-1] == "Hello Ann"
    assert "greeting" not in [m.name for m in here.client.search_registered_models()]
