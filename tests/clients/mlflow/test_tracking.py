"""Experiments, runs, metrics, search and artifacts through the unmodified client."""

import json
import math
import os
from pathlib import Path

import pytest
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

from clients.mlflow.conftest import Place, code_of


def test_an_experiments_life(here: Place) -> None:
    client = here.client
    made = client.create_experiment("life", tags={"a": "1"})
    assert made.isdecimal()
    found = client.get_experiment(made)
    assert (found.name, found.tags, found.lifecycle_stage) == ("life", {"a": "1"}, "active")
    assert found.artifact_location.startswith("mlflow-artifacts:/")
    client.set_experiment_tag(made, "b", "2")
    client.delete_experiment_tag(made, "a")
    client.rename_experiment(made, "afterlife")
    assert client.get_experiment_by_name("afterlife").tags == {"b": "2"}
    assert client.get_experiment_by_name("life") is None
    client.delete_experiment(made)
    assert made not in [e.experiment_id for e in client.search_experiments()]
    deleted = client.search_experiments(view_type=ViewType.DELETED_ONLY, filter_string="name = 'afterlife'")
    assert [e.experiment_id for e in deleted] == [made]
    with pytest.raises(MlflowException) as refused:
        client.create_experiment("afterlife")
    assert code_of(refused) == "RESOURCE_ALREADY_EXISTS"
    client.restore_experiment(made)
    assert client.get_experiment(made).lifecycle_stage == "active"


def test_the_default_experiment_is_the_projects_own(here: Place, there: Place) -> None:
    for place in (here, there):
        assert place.client.get_experiment("0").name == "Default"
    run = here.client.create_run("0")
    assert run.info.run_id not in [r.info.run_id for r in there.client.search_runs(["0"])]
    assert run.info.run_id in [r.info.run_id for r in here.client.search_runs(["0"])]


def test_a_runs_life(here: Place) -> None:
    client = here.client
    run = client.create_run("0", start_time=1_700_000_000_000, run_name="first", tags={"k": "v"})
    run_id = run.info.run_id
    assert (run.info.status, run.info.run_name, run.data.tags["k"]) == ("RUNNING", "first", "v")
    client.log_param(run_id, "lr", 0.1)
    client.log_metric(run_id, "loss", 0.5, step=1)
    client.set_tag(run_id, "t", "x")
    client.delete_tag(run_id, "k")
    client.update_run(run_id, name="second")
    client.set_terminated(run_id, "FAILED", end_time=1_700_000_001_000)
    found = client.get_run(run_id)
    assert (found.info.status, found.info.end_time) == ("FAILED", 1_700_000_001_000)
    assert found.info.start_time == 1_700_000_000_000
    assert found.data.params == {"lr": "0.1"}
    assert found.data.metrics == {"loss": 0.5}
    assert (found.data.tags["mlflow.runName"], found.data.tags["t"]) == ("second", "x")
    assert "k" not in found.data.tags
    client.delete_run(run_id)
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    with pytest.raises(MlflowException) as refused:
        client.log_metric(run_id, "loss", 1)
    assert code_of(refused) == "INVALID_PARAMETER_VALUE"
    client.restore_run(run_id)
    assert client.get_run(run_id).info.lifecycle_stage == "active"


def test_a_run_without_a_name_gets_one(here: Place) -> None:
    run = here.client.create_run("0")
    assert run.info.run_name == run.data.tags["mlflow.runName"] != ""


def test_numbers_that_json_does_not_have(here: Place) -> None:
    client = here.client
    run_id = client.create_run("0").info.run_id
    for name, value in (("nan", math.nan), ("inf", math.inf), ("-inf", -math.inf), ("tiny", 5e-324)):
        client.log_metric(run_id, name, value, timestamp=2**53 + 1, step=-(2**40))
    metrics = client.get_run(run_id).data.metrics
    assert math.isnan(metrics["nan"])
    assert (metrics["inf"], metrics["-inf"], metrics["tiny"]) == (math.inf, -math.inf, 5e-324)
    (point,) = client.get_metric_history(run_id, "inf")
    assert (point.value, point.timestamp, point.step) == (math.inf, 2**53 + 1, -(2**40))


def test_a_full_batch_and_one_that_is_too_large(here: Place) -> None:
    client = here.client
    run_id = client.create_run("0").info.run_id
    metrics = [Metric("loss", i / 1000, 1_700_000_000_000 + i, i) for i in range(1000)]
    params = [Param(f"p{i}", str(i)) for i in range(100)]
    tags = [RunTag(f"t{i}", str(i)) for i in range(100)]
    client.log_batch(run_id, metrics, params, tags)
    found = client.get_run(run_id)
    assert found.data.metrics == {"loss": 0.999}
    assert len(found.data.params) == 100
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == list(range(1000))
    for more in ({"metrics": [*metrics, metrics[0]]}, {"params": [*params, Param("x", "")]}):
        with pytest.raises(MlflowException) as refused:
            client._tracking_client.store.log_batch(
                run_id, **{"metrics": [], "params": [], "tags": [], **more}
            )
        assert code_of(refused) == "INVALID_PARAMETER_VALUE"
    assert "x" not in client.get_run(run_id).data.params


def test_a_param_is_written_once(here: Place) -> None:
    client = here.client
    run_id = client.create_run("0").info.run_id
    client.log_param(run_id, "lr", 0.1)
    client.log_param(run_id, "lr", 0.1)
    with pytest.raises(MlflowException, match="not allowed"):
        client.log_param(run_id, "lr", 0.2)
    assert client.get_run(run_id).data.params == {"lr": "0.1"}


@pytest.mark.parametrize("key", ["../x", "a//b", "a\nb", "x" * 2000, "a?b", ".", "/a"])
def test_a_key_that_could_be_another_path_is_refused(here: Place, key: str) -> None:
    client = here.client
    run_id = client.create_run("0").info.run_id
    for call in (
        lambda: client.log_metric(run_id, key, 1),
        lambda: client.set_tag(run_id, key, "1"),
        lambda: client.log_param(run_id, key, "1"),
    ):
        with pytest.raises(MlflowException) as refused:
            call()
        assert code_of(refused) == "INVALID_PARAMETER_VALUE"
    found = client.get_run(run_id)
    assert (found.data.params, found.data.metrics, list(found.data.tags)) == ({}, {}, ["mlflow.runName"])


def test_searching_runs(here: Place) -> None:
    client = here.client
    experiment = client.create_experiment("searched")
    for index in range(5):
        run_id = client.create_run(experiment, run_name=f"r{index}", start_time=1000 + index).info.run_id
        client.log_param(run_id, "depth", index)
        client.log_metric(run_id, "my metric", index / 10)
        client.set_tag(run_id, "even", str(index % 2 == 0))
        if index < 2:
            client.set_terminated(run_id)

    def found(text: str = "", *order: str, **more: object) -> list[str]:
        runs = client.search_runs([experiment], text, order_by=list(order) or None, **more)
        return [run.info.run_name for run in runs]

    assert found() == ["r4", "r3", "r2", "r1", "r0"]
    assert found("metrics.`my metric` >= 0.2 AND tags.even = 'True'") == ["r4", "r2"]
    assert found("params.depth != '3'", "metrics.`my metric` ASC") == ["r0", "r1", "r2", "r4"]
    assert found("attributes.status = 'FINISHED'", "attributes.start_time ASC") == ["r0", "r1"]
    assert found("run_name ILIKE 'R_' AND start_time > 1002") == ["r4", "r3"]
    assert found("tags.nothing IS NULL", max_results=1) == ["r4"]
    assert found("params.nothing = 'x'") == []
    first = client.search_runs([experiment], max_results=3)
    rest = client.search_runs([experiment], max_results=3, page_token=first.token)
    assert [r.info.run_name for r in [*first, *rest]] == ["r4", "r3", "r2", "r1", "r0"]
    assert not rest.token
    with pytest.raises(MlflowException) as refused:
        found("this is no filter")
    assert code_of(refused) == "INVALID_PARAMETER_VALUE"


def test_artifacts_go_up_and_come_back(here: Place, tmp_path: Path) -> None:
    client = here.client
    run_id = client.create_run("0").info.run_id
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    files = {"a.txt": b"1", "deep/b c+ü.bin": os.urandom(70_000), "deep/er/empty": b""}
    for name, data in files.items():
        (tree / name).write_bytes(data)
    client.log_artifacts(run_id, str(tree), "up")
    client.log_text(run_id, "héllo", "notes.txt")
    client.log_dict(run_id, {"a": [1]}, "d.json")
    assert [(f.path, f.is_dir, f.file_size) for f in client.list_artifacts(run_id)] == [
        ("d.json", False, len(json.dumps({"a": [1]}, indent=2))),
        ("notes.txt", False, 6),
        ("up", True, None),
    ]
    assert [f.path for f in client.list_artifacts(run_id, "up/deep")] == ["up/deep/b c+ü.bin", "up/deep/er"]
    assert client.list_artifacts(run_id, "notes.txt") == []
    (tmp_path / "down").mkdir()
    down = Path(client.download_artifacts(run_id, "up", str(tmp_path / "down")))
    for name, data in files.items():
        assert (down / name).read_bytes() == data
    client._tracking_client._get_artifact_repo(run_id).delete_artifacts("up/deep")
    assert [f.path for f in client.list_artifacts(run_id, "up")] == ["up/a.txt"]


def test_a_large_artifact_does_not_pass_through_memory(here: Place, server: object, tmp_path: Path) -> None:
    client = here.client
    run_id = client.create_run("0").info.run_id
    big = tmp_path / "big.bin"
    block = os.urandom(1 << 20)
    with big.open("wb") as file:
        for _ in range(256):
            file.write(block)
    before = _peak(server)
    client.log_artifact(run_id, str(big))
    (tmp_path / "down").mkdir()
    down = Path(client.download_artifacts(run_id, "big.bin", str(tmp_path / "down")))
    assert down.stat().st_size == 256 << 20
    with down.open("rb") as file:
        assert all(file.read(1 << 20) == block for _ in range(256))
    assert _peak(server) - before < 64 << 20


def _peak(server: object) -> int:
    """The most memory the server ever held, in bytes."""
    status = Path(f"/proc/{server.pid()}/status").read_text()  # type: ignore[attr-defined]
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024


def test_another_projects_things_do_not_exist(here: Place, there: Place) -> None:
    mine = here.client.create_experiment("mine")
    run_id = here.client.create_run(mine).info.run_id
    here.client.log_text(run_id, "secret", "s.txt")
    client = there.client
    for call in (
        lambda: client.get_experiment(mine),
        lambda: client.rename_experiment(mine, "x"),
        lambda: client.delete_experiment(mine),
        lambda: client.create_run(mine),
        lambda: client.get_run(run_id),
        lambda: client.log_metric(run_id, "m", 1),
        lambda: client.set_tag(run_id, "k", "v"),
        lambda: client.get_metric_history(run_id, "m"),
        lambda: client.delete_run(run_id),
    ):
        with pytest.raises(MlflowException) as refused:
            call()
        assert code_of(refused) == "RESOURCE_DOES_NOT_EXIST"
    with there.http() as http:
        place = f"/api/2.0/mlflow-artifacts/artifacts/{mine}/{run_id}/artifacts"
        assert http.get(f"{place}/s.txt").status_code == 404
        assert http.put(f"{place}/s.txt", content=b"x").status_code == 404
        assert http.delete(f"{place}/s.txt").status_code == 404
        listed = http.get(
            "/api/2.0/mlflow-artifacts/artifacts", params={"path": f"{mine}/{run_id}/artifacts"}
        )
        assert listed.status_code == 404
    assert client.search_runs([mine]) == []
    assert here.client.get_run(run_id).data.tags.keys() == {"mlflow.runName"}


def test_histories_of_many_runs_at_once(here: Place) -> None:
    client = here.client
    ids = sorted(client.create_run("0").info.run_id for _ in range(2))
    for run_id in ids:
        client.log_batch(run_id, [Metric("loss", float(i), 1000 + i, i) for i in range(500)])
    with here.http() as http:
        base = "/api/2.0/mlflow/metrics"
        query = {"run_ids": ids, "metric_key": "loss", "max_results": 10, "start_step": 100, "end_step": 199}
        points = http.get(f"{base}/get-history-bulk-interval", params=query).json()["metrics"]
        for run_id in ids:
            steps = [point["step"] for point in points if point["run_id"] == run_id]
            assert (len(steps) <= 10, steps[0], steps[-1]) == (True, 100, 199)
        query = {"run_id": ids, "metric_key": "loss", "max_results": 600}
        points = http.get(f"{base}/get-history-bulk", params=query).json()["metrics"]
        assert [point["run_id"] for point in points] == [ids[0]] * 500 + [ids[1]] * 100


def test_what_is_not_here_is_said_in_mlflows_words(here: Place) -> None:
    client = here.client
    with pytest.raises(MlflowException) as refused:
        client.search_traces(locations=["0"])
    assert code_of(refused) == "NOT_IMPLEMENTED"
    with pytest.raises(MlflowException) as refused:
        client.get_run("no-such-run")
    assert code_of(refused) == "RESOURCE_DOES_NOT_EXIST"


def test_the_native_view_of_a_run(here: Place) -> None:
    client = here.client
    run_id = client.create_run("0", run_name="seen").info.run_id
    client.log_batch(run_id, [Metric("loss", 1 / (i + 1), 1000 + i, i) for i in range(1000)])
    client.log_metric(run_id, "odd", math.nan)
    client.log_text(run_id, "x", "d/a.txt")
    with here.http() as http:
        base = f"/api/v1/projects/{here.project}"
        runs = http.get(f"{base}/runs", params={"filter": "metrics.loss < 1"}).json()["runs"]
        assert [run["name"] for run in runs if run["id"] == run_id] == ["seen"]
        detail = http.get(f"{base}/runs/{run_id}", params={"points": 50}).json()
        files = http.get(f"{base}/runs/{run_id}/artifacts", params={"path": "d"}).json()["artifacts"]
        assert http.get(f"{base}/runs/nothing").status_code == 404
    series = {one["key"]: one for one in detail["series"]}
    assert series["loss"]["count"] == 1000
    assert len(series["loss"]["points"]) <= 50
    assert [series["loss"]["points"][i]["step"] for i in (0, -1)] == [0, 999]
    assert detail["metrics"]["odd"] == "NaN"
    assert [file["path"] for file in files] == ["d/a.txt"]
