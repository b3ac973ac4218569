"""The demo's steps. Each is what a user would type or write: boto3, our own commands, HTTP."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from stratal.cli import starting
from stratal.kernel.errors import Internal
from stratal.sdk import ApiError, Client

PROJECT = "demo"
BUCKET = "stratal-demo"
KEY = "wdbc/breast-cancer-wisconsin.csv"
TABLE = "clinic.breast_cancer"
MODEL = "breast-cancer"
ENDPOINT = "breast-cancer"
PROFILE = (
    "SELECT malignant, count(*) AS patients, round(avg(mean_radius), 2) AS mean_radius, "
    "round(avg(mean_concavity), 3) AS mean_concavity "
    "FROM clinic.breast_cancer GROUP BY malignant ORDER BY malignant"
)
TRAINING = Path(__file__).parent / "training"

Say = Callable[[str], None]
Step = Callable[[Say], str]


class Story:
    """Runs the steps in order; what they found is in `result`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.result: dict[str, Any] = {}
        self._env: dict[str, str] = {}
        self._features: list[str] = []
        self._example: list[float] = []

    def steps(self) -> Iterator[tuple[str, str, Step]]:
        """(name, title, step) in order; a step gets a function to say what it is at, and returns what it found."""
        yield "start", "Platform", self._start
        yield "upload", "Upload through boto3", self._upload
        yield "table", "Make an Iceberg table", self._table
        yield "profile", "Profile with SQL", self._profile
        yield "train", "Train in a job", self._train
        yield "deploy", "Deploy", self._deploy
        yield "predict", "Predict", self._predict
        yield "why", "Explain", self._why

    def remove(self) -> bool:
        """Remove the demo's project with all its bytes; False when there is none."""
        try:
            self._stratal("projects", "remove", PROJECT, "--yes", "--json")
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    # -- steps -------------------------------------------------------------------------------

    def _start(self, say: Say) -> str:
        if not starting.is_running(self._home):
            say("starting")
            starting.start(self._home)
        client = self._client()
        if all(project["name"] != PROJECT for project in client.get("/projects")["projects"]):
            client.post("/projects", {"name": PROJECT})
        env = subprocess.run(
            [sys.executable, "-m", "stratal.cli.main", "env", "--project", PROJECT, "--format", "json"],
            env=self._admin_environ(),
            capture_output=True,
            text=True,
            check=False,
        )
        if env.returncode:
            raise Internal("stratal env failed.", hint=env.stderr.strip())
        self._env = json.loads(env.stdout)
        return f"ready at {client.url}, project {PROJECT!r}"

    def _upload(self, say: Say) -> str:
        import boto3
        from botocore.exceptions import ClientError

        body, rows, malignant = _data()
        self.result |= {"rows": rows, "malignant": malignant}
        s3 = boto3.client(
            "s3",
            endpoint_url=self._env["AWS_ENDPOINT_URL"],
            aws_access_key_id=self._env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._env["AWS_SECRET_ACCESS_KEY"],
            region_name=self._env["AWS_REGION"],
        )
        try:
            s3.create_bucket(Bucket=BUCKET)
        except ClientError as error:
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise
        s3.put_object(Bucket=BUCKET, Key=KEY, Body=body, ContentType="text/csv")
        return f"s3://{BUCKET}/{KEY}, {rows} patients, {len(body):,} bytes"

    def _table(self, say: Say) -> str:
        self._stratal("tables", "import", TABLE, f"s3://{BUCKET}/{KEY}", "--replace", "--json")
        shown = self._stratal("tables", "show", TABLE, "--json")
        self.result |= {"table": TABLE, "snapshot_id": str(shown["snapshot_id"])}
        return f"{TABLE} @ snapshot {shown['snapshot_id']}"

    def _profile(self, say: Say) -> str:
        answer = self._stratal(
            "sql",
            PROFILE,
            "--json",
        )
        benign, malignant = answer["rows"]
        return f"{benign[1]} benign (mean radius {benign[2]}), {malignant[1]} malignant (mean radius {malignant[2]})"

    def _train(self, say: Say) -> str:
        say("building the environment and training")
        with tempfile.TemporaryDirectory(prefix="stratal-demo-") as scratch:
            code = _committed_copy(Path(scratch))
            job = self._stratal(
                *(
                    "run",
                    "--name",
                    "train-breast-cancer",
                    "--requirements",
                    "requirements.txt",
                    "--detach",
                    "--json",
                ),
                *("--", "python", "train.py", TABLE, MODEL),
                cwd=code,
            )
            job = self._follow(int(job["id"]), say)
        if job["state"] != "succeeded":
            log = subprocess.run(
                self._argv("job", "logs", str(job["id"])), env=self._environ(), capture_output=True, text=True
            )
            raise Internal(f"The training job {job['id']} ended as {job['state']}.", hint=log.stdout[-1500:])
        version = self._latest_version()
        run = self._stratal("runs", "show", str(version["run_id"]), "--json")
        metrics = run["metrics"]
        self.result |= {
            "job_id": job["id"],
            "run_id": version["run_id"],
            "model": MODEL,
            "model_version": version["version"],
            "auc": metrics["cv_auc"],
            "auc_low": metrics["cv_auc_low"],
            "auc_high": metrics["cv_auc_high"],
            "held_out_auc": metrics["held_out_auc"],
        }
        return (
            f"job {job['id']}, AUC {metrics['cv_auc']:.4f}, registered {MODEL} version {version['version']}"
        )

    def _follow(self, job_id: int, say: Say) -> dict[str, Any]:
        """Wait for the job, saying its log's last line."""
        follower = subprocess.Popen(
            self._argv("job", "logs", "--follow", str(job_id)),
            env=self._environ(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert follower.stdout is not None
        with follower:
            for line in follower.stdout:
                if line.strip():
                    say(line.strip()[:90])
        while True:
            job = self._stratal("job", "show", str(job_id), "--json")
            if job["state"] not in {"queued", "starting", "running"}:
                return job

    def _deploy(self, say: Say) -> str:
        say("starting a replica")
        made = self._stratal(
            "deploy", f"models:/{MODEL}/{self.result['model_version']}", "--name", ENDPOINT, "--json"
        )
        self.result |= {
            "endpoint": ENDPOINT,
            "endpoint_url": f"{self._env['STRATAL_URL']}/v2/models/{ENDPOINT}/infer",
        }
        return f"{ENDPOINT} is {made['state']}"

    def _predict(self, say: Say) -> str:
        data = [
            {"name": name, "shape": [1], "datatype": "FP64", "data": [value]}
            for name, value in zip(self._features_row()[0], self._features_row()[1], strict=True)
        ]
        answer = httpx.post(
            self.result["endpoint_url"],
            json={"inputs": data},
            headers={"Authorization": f"Bearer {self._env['STRATAL_API_KEY']}"},
            timeout=60,
        )
        if answer.is_error:
            raise Internal(f"The endpoint answered {answer.status_code}.", hint=answer.text[:1000])
        body = answer.json()
        outputs = {output["name"]: output["data"] for output in body["outputs"]}
        label = next(iter(outputs.values()))[0]
        self.result |= {
            "prediction_id": answer.headers["x-stratal-prediction-id"],
            "prediction": "malignant" if int(label) == 1 else "benign",
        }
        return f"a patient's tumour is {self.result['prediction']} ({self.result['prediction_id']})"

    def _why(self, say: Say) -> str:
        say("re-hashing everything the prediction stands on")
        answer = self._client().get(f"/predictions/{self.result['prediction_id']}/why")
        link = self._client().post("/login-links")["path"]
        self.result |= {
            "verified": answer["verified"],
            "verdict": answer["verdict"],
            "other_inputs": answer["other_inputs"],
            "chain": [{"kind": c["kind"], "name": c["name"], "status": c["status"]} for c in answer["chain"]],
            "console": f"{self._env['STRATAL_URL']}{link}&next=/predictions/{self.result['prediction_id']}",
        }
        return f"{answer['verdict']}, {len(answer['chain'])} links"

    # -- means -------------------------------------------------------------------------------

    def _features_row(self) -> tuple[list[str], list[float]]:
        header, rows = _rows()
        return header[:-1], [float(value) for value in rows[0][:-1]]

    def _latest_version(self) -> dict[str, Any]:
        versions = self._stratal("models", "show", MODEL, "--json")["versions"]
        return max(versions, key=lambda version: int(version["version"]))

    def _client(self) -> Client:
        return Client(home=self._home)

    def _admin_environ(self) -> dict[str, str]:
        return {**os.environ, "STRATAL_HOME": str(self._home)}

    def _environ(self) -> dict[str, str]:
        return {**self._admin_environ(), **self._env}

    def _argv(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "stratal.cli.main", *arguments]

    def _stratal(self, *arguments: str, cwd: Path | None = None) -> dict[str, Any]:
        """Run one of our own commands with ``--json`` among its arguments. Raises `ApiError` with what it said."""
        done = subprocess.run(
            self._argv(*arguments), env=self._environ(), capture_output=True, text=True, check=False, cwd=cwd
        )
        if done.returncode:
            status = {3: 0, 4: 401, 5: 403, 6: 404}.get(done.returncode, 400)
            said = done.stderr.strip().removeprefix("Error: ") or done.stdout.strip()
            raise ApiError(
                status, "demo_step_failed", f"stratal {arguments[0]} {arguments[1]} failed: {said}"
            )
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer


def _rows() -> tuple[list[str], list[list[str]]]:
    """The Wisconsin diagnostic data as scikit-learn bundles it: 30 features and `malignant` (1 or 0) per patient."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    header = [str(name).replace(" ", "_") for name in data.feature_names] + ["malignant"]
    # scikit-learn codes malignant as 0; here the event of interest is 1.
    rows = [
        [*(repr(float(v)) for v in features), str(1 - int(label))]
        for features, label in zip(data.data, data.target, strict=True)
    ]
    return header, rows


def _data() -> tuple[bytes, int, int]:
    """(the CSV, its rows, how many of them malignant)."""
    header, rows = _rows()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode(), len(rows), sum(row[-1] == "1" for row in rows)


def _committed_copy(folder: Path) -> Path:
    """The training code in a git repository of its own, as a user's would be, so that the job has a commit."""
    code = folder / "training"
    shutil.copytree(TRAINING, code, ignore=shutil.ignore_patterns("__pycache__"))
    if shutil.which("git"):
        author = [
            "-c",
            "user.name=Stratal demo",
            "-c",
            "user.email=demo@localhost",
            "-c",
            "commit.gpgsign=false",
        ]
        for arguments in (
            ["init", "-q"],
            ["add", "."],
            [*author, "commit", "-q", "-m", "Train on the clinic's table"],
        ):
            subprocess.run(["git", *arguments], cwd=code, check=True, capture_output=True)
    return code
