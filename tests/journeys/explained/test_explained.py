"""The story through all layers: data → table → job → model → endpoint → prediction → why.

The training script is a stranger's: boto3, pyiceberg, scikit-learn and mlflow, no word of Stratal.
"""

import io
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

from platform_server import PlatformServer, wait_until

REQUIREMENTS = """\
boto3
mlflow-skinny
numpy
pandas
pyiceberg[pyarrow]
scikit-learn
skops
"""

TRAIN = """\
import json, sys
import boto3, mlflow, mlflow.sklearn
from pyiceberg.catalog import load_catalog
from sklearn.linear_model import LogisticRegression

settings = json.loads(boto3.client("s3").get_object(Bucket=sys.argv[1], Key="settings/a b+c.json")["Body"].read())
frame = load_catalog("default").load_table("clinic.patients").scan().to_pandas()
model = LogisticRegression(C=settings["C"]).fit(frame[["x", "y"]], frame["label"])
mlflow.set_experiment("story")
with mlflow.start_run():
    mlflow.log_param("C", settings["C"])
    mlflow.log_metric("score", model.score(frame[["x", "y"]], frame["label"]))
    mlflow.sklearn.log_model(model, name="model", input_example=frame[["x", "y"]].head(2), registered_model_name="story")
print("trained on", len(frame))
"""


@dataclass
class Story:
    server: PlatformServer
    project: str
    env: dict[str, str]
    folder: Path
    first: dict[str, Any] = field(default_factory=dict)

    def cli(self, *arguments: str, **options: Any) -> dict[str, Any]:
        done = self.server.cli(*arguments, "--json", timeout=400, **self.env, **options)
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def train(self) -> dict[str, Any]:
        return self.cli(
            *("run", "--name", "story", "--requirements", "requirements.txt", "--json"),
            *("--", "python", "train.py", self.bucket),
            PWD=str(self.folder),
        )

    @property
    def bucket(self) -> str:
        return f"{self.project}-data"

    def s3(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )

    def table(self) -> Any:
        prefix = "PYICEBERG_CATALOG__DEFAULT__"
        properties = {
            name.removeprefix(prefix).lower().replace("__", ".").replace("_", "-"): value
            for name, value in self.env.items()
            if name.startswith(prefix)
        }
        return load_catalog("story", **properties)

    def ask(self, x: float, y: float) -> str:
        answer = httpx.post(
            f"{self.env['STRATAL_URL']}/api/v1/projects/{self.project}/endpoints/story/invocations",
            json={"dataframe_split": {"columns": ["x", "y"], "data": [[x, y]]}},
            headers={"Authorization": f"Bearer {self.env['STRATAL_API_KEY']}"},
            timeout=120,
        )
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"]) == 1
        return answer.headers["x-stratal-prediction-id"]

    def why(self, prediction: str) -> dict[str, Any]:
        done = self.server.cli("why", prediction, "--json", check=False, **self.env)
        answer = json.loads(done.stdout)
        assert done.returncode == (0 if answer["verified"] else 1)
        return answer

    def replay(self, run: str, *options: str, code: int) -> dict[str, Any]:
        done = self.server.cli("replay", run, *options, "--json", check=False, timeout=400, **self.env)
        assert done.returncode == code, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def link(self, answer: dict[str, Any], kind: str) -> dict[str, Any]:
        return next(link for link in answer["chain"] if link["kind"] == kind)


def rows(flip: bool = False) -> pa.Table:
    random = np.random.default_rng(5)
    points = random.normal(size=(80, 2))
    labels = (points.sum(axis=1) > 0).astype("int64")
    if flip:
        labels[0] = 1 - labels[0]
    return pa.table({"x": points[:, 0], "y": points[:, 1], "label": labels})


@pytest.fixture(scope="module")
def story(server: PlatformServer, tmp_path_factory: pytest.TempPathFactory) -> Story:
    project = server.project()
    folder = tmp_path_factory.mktemp("code")
    (folder / "train.py").write_text(TRAIN)
    (folder / "requirements.txt").write_text(REQUIREMENTS)
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", "first"],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    (folder / "train.py").write_text(TRAIN + "\n# not committed yet\n")
    made = Story(server, project, server.env(project), folder)
    s3 = made.s3()
    s3.create_bucket(Bucket=made.bucket)
    s3.put_object(Bucket=made.bucket, Key="settings/a b+c.json", Body=io.BytesIO(b'{"C": 0.5}'))
    catalog = made.table()
    catalog.create_namespace("clinic")
    catalog.create_table("clinic.patients", schema=rows().schema).append(rows())
    job = made.train()
    assert job["state"] == "succeeded", job
    made.cli("deploy", "models:/story/1", "--name", "story")
    made.first = {"job": job, "prediction": made.ask(0.1, 0.2)}
    return made


def test_the_chain_names_everything_and_verifies(story: Story) -> None:
    answer = story.why(story.first["prediction"])
    assert answer["verified"], answer["verdict"]
    assert story.link(answer, "job")["id"] == str(story.first["job"]["id"])
    assert "story/1" in story.link(answer, "model version")["name"]
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=story.folder, capture_output=True, text=True, check=True
    )
    code = {fact["name"]: fact["value"] for fact in story.link(answer, "code")["facts"]}
    assert code["commit"] == head.stdout.strip()
    assert "uncommitted" in code["working tree"]
    assert any(h["what"] == "uncommitted changes" for h in story.link(answer, "code")["hashes"])
    snapshot = story.table().load_table("clinic.patients").current_snapshot().snapshot_id
    assert story.link(answer, "table snapshot")["name"] == f"clinic.patients @ {snapshot}"
    assert story.link(answer, "object")["name"] == f"s3://{story.bucket}/settings/a b+c.json"
    job = story.cli("job", "show", str(story.first["job"]["id"]))
    if job["isolation"] and job["isolation"]["sandbox"] != "none":
        assert answer["other_inputs"] == []
    else:
        assert answer["other_inputs"]


def test_a_replay_of_the_training_gives_the_same_metrics_and_model(story: Story) -> None:
    told = story.replay(str(story.link(story.why(story.first["prediction"]), "run")["id"]), code=0)
    assert (told["verdict"], told["inputs_unchanged"]) == ("reproduced", True)
    results = {(one["kind"], one["name"]): one for one in told["results"]}
    assert results["metric", "score"]["before"] == results["metric", "score"]["after"]
    assert any(kind == "file" and name.endswith(("model.skops", "model.pkl")) for kind, name in results)
    assert {one["kind"] for one in told["inputs"]} == {"code", "environment", "table", "object"}
    model = story.cli("models", "show", "story")
    assert len(model["versions"]) == 1, "a replay registers nothing"


def test_a_flipped_label_gives_another_snapshot_and_the_old_chain_still_verifies(story: Story) -> None:
    before = story.link(story.why(story.first["prediction"]), "table snapshot")["name"]
    table = story.table().load_table("clinic.patients")
    table.overwrite(rows(flip=True))
    story.s3().put_object(Bucket=story.bucket, Key="settings/a b+c.json", Body=b'{"C": 2.0}')
    job = story.train()
    assert job["state"] == "succeeded"
    story.cli("deploy", "models:/story/2", "--name", "story")
    second = story.why(story.ask(0.1, 0.2))
    assert second["verified"], second["verdict"]
    assert story.link(second, "table snapshot")["name"] != before
    assert "story/2" in story.link(second, "model version")["name"]
    old = story.why(story.first["prediction"])
    assert old["verified"], old["verdict"]
    assert story.link(old, "table snapshot")["name"] == before


def test_a_replay_names_the_inputs_that_were_altered_and_reads_what_was_read_then(story: Story) -> None:
    run = str(story.link(story.why(story.first["prediction"]), "run")["id"])
    told = story.replay(run, code=1)
    assert told["verdict"] == "reproduced", "what was read then is read again"
    altered = {one["name"].partition("@")[0]: one["state"] for one in told["altered"]}
    assert altered == {"clinic.patients": "changed", f"s3://{story.bucket}/settings/a b+c.json": "changed"}
    shown = story.server.cli("replay", run, "--as-of-then", check=False, timeout=400, **story.env)
    assert shown.returncode == 0, shown.stdout
    assert "Reproduced from what was read then; " in shown.stdout
    assert "clinic.patients@" in shown.stdout.splitlines()[-1]


def test_another_projects_key_sees_no_prediction(story: Story) -> None:
    other = story.server.project()
    key = story.server.key(other, "owner")
    with story.server.http(key) as http:
        answer = http.get(f"/api/v1/predictions/{story.first['prediction']}/why")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "no_such_prediction"
        for garbage in ("pr_", "pr_" + "0" * 36, "..%2f..", "x" * 2000, "pr_%00"):
            assert http.get(f"/api/v1/predictions/{garbage}/why").status_code == 404


def test_a_pipeline_goes_from_files_to_an_endpoint_and_does_only_what_depends_on_a_change(
    story: Story, tmp_path: Path
) -> None:
    """The shipped example (docs/tutorial.md), with files that come one after another setting it off."""
    example = Path(__file__).parents[3] / "examples" / "co2"
    project = story.server.project()
    here = Story(story.server, project, story.server.env(project), example)
    bucket, prefix = here.bucket, f"s3://{here.bucket}/co2/"
    here.s3().create_bucket(Bucket=bucket)
    more = tmp_path / "requirements.txt"
    more.write_text(REQUIREMENTS)  # so that the environment is the one that this file's tests have built
    deployed = here.cli(
        *("pipeline", "deploy", str(example / "pipeline.py") + ":co2", "-r", str(more)),
        *("--schedule", "0 6 * * 1", "--timezone", "Pacific/Honolulu", "--on-prefix", prefix),
        *("--set", f"prefix={prefix}"),
        PWD=str(example),
    )
    assert (deployed["next_at"][11:16], deployed["on_prefix"]) == ("16:00", prefix)

    def arrives(*decades: str) -> dict[str, Any]:
        """Files come, and a run of the pipeline with them. A run may begin before the last of them is there."""
        before = {run["id"] for run in here.cli("pipeline", "ls")["runs"]}
        for decade in decades:
            name = f"co2-{decade}s.csv"
            here.s3().upload_file(str(example / "data" / name), bucket, f"co2/{name}")
        run = wait_until(
            lambda: next((r for r in here.cli("pipeline", "ls")["runs"] if r["id"] not in before), None)
        )
        return wait_until(lambda: _ended(here.cli("pipeline", "show", str(run["id"]))), seconds=300)

    def answer() -> dict[str, Any]:
        columns = ["last", "month_mean", "year_growth", "season"]
        got = httpx.post(
            f"{here.env['STRATAL_URL']}/api/v1/projects/{project}/endpoints/co2/invocations",
            json={"dataframe_split": {"columns": columns, "data": [[371.5, 371.2, 1.6, 0.5]]}},
            headers={"Authorization": f"Bearer {here.env['STRATAL_API_KEY']}"},
            timeout=120,
        )
        assert got.status_code == 200, got.text
        assert 370 < got.json()["predictions"][0] < 375
        return here.why(got.json()["prediction_id"])

    first = arrives("1980")
    assert first["state"] == "succeeded", first["reason"]
    assert first["trigger"] == f"object {prefix}co2-1980s.csv"
    told = answer()
    assert told["verified"], told["verdict"]
    assert here.link(told, "table snapshot")["name"].startswith("ml.training @ ")
    assert here.link(told, "model version")["name"].startswith("co2/1")
    assert here.link(told, "pipeline step")["id"] == f"{first['id']}/train"
    above = {link["id"] for link in told["chain"] if link["kind"] == "pipeline step"}
    named = ("train", "training", "labels", "features", "clean", "seasons", "ingest", "arrived")
    assert above == {f"{first['id']}/{name}" for name in named}
    file = f"{prefix}co2-1980s.csv"
    assert file in {link["name"] for link in told["chain"] if link["kind"] == "object"}
    came = here.cli("impact", file)
    assert (came["models"], came["endpoints"][0]["name"], came["predictions"]) == (["co2/1"], "co2", 1)

    newest = here.cli("sql", "select * from ml.features order by known desc limit 1")
    offline = dict(zip([column["name"] for column in newest["columns"]], newest["rows"][0], strict=True))
    online = here.cli("features", "get", "co2", "station=mauna-loa")
    assert online["features"] == {
        name: offline[name] for name in ("last", "month_mean", "year_growth", "season")
    }
    assert online["known_at"] == offline["known"]
    page = here.server.cli("pipeline", "report", str(first["id"]), **here.env).stdout
    assert "<svg " in page
    assert "<script" not in page

    second = arrives("1990")
    states = {step["name"]: (step["state"], step["reason"]) for step in second["steps"]}
    assert states.pop("seasons")[0] == "cached"
    assert {state for state, _ in states.values()} == {"succeeded"}
    assert (states["ingest"][1], states["clean"][1]) == (
        "its arguments changed (files)",
        "raw.co2 has changed",
    )
    assert answer()["verified"]


def _ended(run: dict[str, Any]) -> dict[str, Any] | None:
    return run if run["ended_at"] else None


def test_a_killed_server_still_explains(story: Story) -> None:
    prediction = story.ask(1.0, -1.0)
    story.server.kill()
    story.server.up()
    assert story.why(prediction)["verified"]
    wait_until(lambda: story.ask(0.5, 0.5))


def test_one_corrupted_byte_is_named(story: Story) -> None:
    """Last in this file: it damages the store. Each stored Parquet file of the table is flipped and put back."""
    answer = story.why(story.first["prediction"])
    recorded = {
        h["recorded"]: h["what"]
        for h in story.link(answer, "table snapshot")["hashes"]
        if h["what"].startswith("data ")
    }
    damaged = _damage_file_with_magic(story.server.home / "blobs", b"PAR1", set(recorded))
    try:
        broken = story.why(story.first["prediction"])
        assert not broken["verified"]
        assert broken["status"] == "broken"
        told = story.replay(str(story.link(broken, "run")["id"]), code=1)
        assert told["verdict"] == "altered", "it is not even begun"
        assert [one["state"] for one in told["altered"] if one["name"].startswith("clinic.")] == ["broken"]
        bad = [h for link in broken["chain"] for h in link["hashes"] if h["status"] == "broken"]
        assert [h["recorded"] for h in bad] == [damaged[1]]
        assert recorded[damaged[1]] in broken["verdict"]
    finally:
        _flip(damaged[0])
    assert story.why(story.first["prediction"])["verified"]


def _damage_file_with_magic(root: Path, magic: bytes, hashes: set[str]) -> tuple[Path, str]:
    import hashlib

    for path in sorted(root.rglob("*")):
        if path.is_file() and (data := path.read_bytes()).startswith(magic):
            digest = hashlib.sha256(data).hexdigest()
            if digest in hashes:
                _flip(path)
                return path, digest
    raise AssertionError("the table's data file was not found")


def _flip(path: Path) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    path.chmod(mode)
