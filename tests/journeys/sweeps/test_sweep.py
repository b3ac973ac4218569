"""A search from the command line, with the server killed in its middle; whole, with MLflow's client, in the soak."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from platform_server import PlatformServer, wait_until

# Logs as MLflow's client does, with nothing but the standard library: no environment has to be built.
SCRIPT = """
import argparse, json, os, time, urllib.request

def call(path, body):
    address = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/" + path
    headers = {"Authorization": "Bearer " + os.environ["STRATAL_API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))

parser = argparse.ArgumentParser()
parser.add_argument("--x", type=float)
parser.add_argument("--depth", type=int)
options = parser.parse_args()
assert os.environ["STRATAL_PARAM_X"] == repr(options.x)
run = call("runs/create", {"experiment_id": "0", "start_time": 1})["run"]["info"]["run_id"]
value = -abs(options.x - 3) - abs(options.depth - 4)
for step in range(3):
    metric = {"run_id": run, "key": "score", "value": value, "step": step, "timestamp": int(time.time() * 1000)}
    call("runs/log-metric", metric)
    time.sleep(0.1)
call("runs/update", {"run_id": run, "status": "FINISHED", "end_time": int(time.time() * 1000)})
"""

REAL = """
import argparse
import time
import mlflow
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.preprocessing import scale

parser = argparse.ArgumentParser()
parser.add_argument("--C", type=float)
C = parser.parse_args().C
X, y = load_breast_cancer(return_X_y=True)
X = scale(X)
with mlflow.start_run():
    model = LogisticRegression(C=C)
    for step in range(6):
        auc = cross_val_score(model, X, y, cv=3, scoring="roc_auc").mean() if C < 1 else 0.5
        mlflow.log_metric("auc", auc, step=step)
        time.sleep(1)
    mlflow.sklearn.log_model(model.fit(X, y), name="model")
"""


def run(server: PlatformServer, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "stratal.cli.main", "sweep", *words]
    return subprocess.run(
        command, env=server.environ(), cwd=folder, capture_output=True, text=True, timeout=1800
    )


def show(server: PlatformServer, sweep: str) -> dict[str, Any]:
    with server.http() as http:
        found = http.get(f"/api/v1/projects/default/sweeps/{sweep}").raise_for_status().json()
        assert isinstance(found, dict)
        return found


def test_a_search_outlives_the_server_with_no_trial_lost_or_twice(
    fresh_server: PlatformServer, tmp_path: Path
) -> None:
    server, folder = fresh_server, tmp_path / "code"
    folder.mkdir()
    (folder / "train.py").write_text(SCRIPT)
    asked = ("--param", "x=float:0..6", "--param", "depth=int:2..8:2", "--metric", "score", "--seed", "1")
    small = ("--trials", "5", "--parallel", "2", "--cpus", "0.3", "--memory", "64MiB")
    begun = run(server, folder, "train.py", *asked, *small, "--detach")
    assert begun.returncode == 0, begun.stderr
    sweep = begun.stdout.strip()
    wait_until(lambda: show(server, sweep)["states"]["succeeded"] >= 1)
    server.kill()
    server.up()
    wait_until(lambda: show(server, sweep)["state"] not in {"running", "stopping"}, seconds=120)
    found = show(server, sweep)
    assert (found["state"], found["states"]["succeeded"]) == ("succeeded", 5), found
    jobs = server.json("jobs")["jobs"]
    assert sorted(job["id"] for job in jobs) == sorted(trial["job"] for trial in found["tried"])
    for trial in found["tried"]:
        wanted = -abs(trial["params"]["x"] - 3) - abs(trial["params"]["depth"] - 4)
        assert trial["value"] == pytest.approx(wanted)
    with server.http() as http:
        child = http.get(f"/api/v1/projects/default/runs/{found['best']['run']}").raise_for_status().json()
    assert child["tags"]["mlflow.parentRunId"] == found["run"]
    assert float(child["params"]["x"]) == found["best"]["params"]["x"]
    shown = run(server, folder, "show", sweep)
    best = found["best"]
    assert f"{best['value']:.5g} in trial {best['number']}: " in shown.stdout
    assert [one["id"] for one in json.loads(run(server, folder, "ls", "--json").stdout)["sweeps"]] == [
        int(sweep)
    ]
    wrong = run(server, folder, "nothere", "--param", "x=int:1..2", "--metric", "m")
    assert (wrong.returncode, "There is no script or command 'nothere'" in wrong.stderr) == (2, True)


@pytest.mark.soak
def test_mlflows_client_prunes_and_registers(fresh_server: PlatformServer, tmp_path: Path) -> None:
    server, folder = fresh_server, tmp_path / "code"
    folder.mkdir()
    (folder / "fit.py").write_text(REAL)
    asked = ("--param", "C=log:1e-3..1e3", "--metric", "auc", "--trials", "16", "--seed", "1", "--prune")
    packages = ("--with", "mlflow", "--with", "scikit-learn", "--register", "linear")
    done = run(server, folder, "fit.py", *asked, *packages, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == 1
    assert found["states"]["pruned"] >= 1
    assert found["best"]["params"]["C"] < 1
    version = server.json("models", "show", "linear")
    assert "linear" in json.dumps(version)
    with server.http() as http:
        children = http.get(
            "/api/v1/projects/default/runs",
            params={"filter": f"tags.`mlflow.parentRunId` = '{found['run']}'"},
        ).json()["runs"]
    assert len(children) == 16
    assert {child["experiment"] for child in children} == {found["experiment"]}
