"""Two projects of one platform, each filled by real clients.

Whoever asks for the second's things knows every id and name that is in `Tenant.made`; everything else
of it says ``quagga``, or has 74,747 bytes: no answer may tell these.
"""

import hashlib
import json
import os
import secrets
import sqlite3
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx
import pyarrow as pa
import pytest
import tritonclient.http as triton
from botocore.config import Config
from pyiceberg.catalog import Catalog, load_catalog

from clients.iceberg.conftest import properties
from clients.mlflow.conftest import QUIET
from platform_server import PlatformServer
from registered_models import SHARED

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the clients' own imports warn of is not ours
    import mlflow
    import mlflow.sklearn
    from mlflow import MlflowClient
    from sklearn.linear_model import LinearRegression

ONCE = Config(retries={"total_max_attempts": 1})
SECRET = "quagga"
SIZE = 74_747


@dataclass
class Tenant:
    """One project, an owner's real clients, and the names of what was made in it (`made`)."""

    server: PlatformServer
    project: str
    env: dict[str, str]
    folder: Path
    made: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.env["STRATAL_API_KEY"]

    def s3(self, **config: Any) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.env["AWS_ENDPOINT_URL"],
            aws_access_key_id=self.env["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.env["AWS_SECRET_ACCESS_KEY"],
            region_name=self.env["AWS_REGION"],
            config=ONCE.merge(Config(**config)),
        )

    def catalog(self, **more: str) -> Catalog:
        return load_catalog("default", **{**properties(self.env), **more})

    def mlflow(self) -> MlflowClient:
        """A client with this project's key; until the next tenant's speaks."""
        os.environ.update(self.env)
        mlflow.set_tracking_uri(self.env["MLFLOW_TRACKING_URI"])
        mlflow.set_registry_uri(self.env["MLFLOW_TRACKING_URI"])
        return MlflowClient()

    def http(self) -> httpx.Client:
        return self.server.http(self.key)

    def triton(self) -> triton.InferenceServerClient:
        return triton.InferenceServerClient(self.env["STRATAL_URL"].removeprefix("http://"))

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def __getitem__(self, name: str) -> str:
        return self.made[name]


def state_of(tenant: Tenant) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that belongs to the project: what must be the same after a refused request.

    But what is written up to a minute later of the project's own use before: the books, and when a key was used.
    """
    database = sqlite3.connect(f"file:{tenant.server.home}/db/stratal.db?mode=ro", uri=True)
    try:
        (project_id,) = database.execute(
            "select id from projects where name = ?", (tenant.project,)
        ).fetchone()
        names = [row[0] for row in database.execute("select name from sqlite_master where type = 'table'")]
        columns = {
            name: [column[1] for column in database.execute(f'pragma table_info("{name}")')] for name in names
        }
        owned = [
            name for name in names if name not in {"usage", "spending"} and "project_id" in columns[name]
        ]
        assert {"buckets", "jobs", "runs", "model_versions", "tables", "outbox", "accesses"} <= set(owned)
        rows = {}
        for name in owned:
            shown = ", ".join(f'"{column}"' for column in columns[name] if column != "used_at")
            query = f'select {shown} from "{name}" where project_id = ?'
            rows[name] = sorted(database.execute(query, (project_id,)), key=repr)
        return rows
    finally:
        database.close()


def contents_of(tenant: Tenant) -> dict[str, Any]:
    """What the project's own clients see of what rows alone do not show."""
    s3 = tenant.s3()
    parts = s3.list_parts(Bucket=tenant["bucket"], Key="upload", UploadId=tenant["upload"])["Parts"]
    client = tenant.mlflow()
    return {
        "bytes": s3.get_object(Bucket=tenant["bucket"], Key="data/one")["Body"].read(),
        "keys": [o["Key"] for o in s3.list_objects_v2(Bucket=tenant["bucket"])["Contents"]],
        "parts": [(part["PartNumber"], part["ETag"], part["Size"]) for part in parts],
        "rows": tenant.catalog().load_table(tenant["table"]).scan().to_arrow().to_pylist(),
        "tables": tenant.catalog().list_tables(tenant["namespace"]),
        "params": client.get_run(tenant["run"]).data.params,
        "artifacts": [file.path for file in client.list_artifacts(tenant["run"])],
        "aliases": client.get_registered_model("risk").aliases,
    }


def with_key(env: dict[str, str], token: str) -> dict[str, str]:
    """The variables of ``stratal env`` with another key in place of the one they came with."""
    old = env["STRATAL_API_KEY"]
    for before, after in zip((old, *old.split(".")), (token, *token.split(".")), strict=True):
        env = {name: value.replace(before, after) for name, value in env.items()}
    return env


def fill(tenant: Tenant, word: str, namespace: str, endpoint: str) -> None:
    """One of everything, made as its users make it. What others cannot know says `word`."""
    tenant.made |= {"namespace": namespace, "endpoint": endpoint, "table": f"{namespace}.patients"}
    _objects(tenant, word)
    _tables(tenant, word)
    _runs(tenant, word)
    _job(tenant, word)
    tenant.server.json("deploy", "models:/risk/1", "--name", endpoint, timeout=300, **tenant.env)
    with tenant.http() as http:
        where = f"/api/v1/projects/{tenant.project}/endpoints/{endpoint}/invocations"
        answer = http.post(where, json={"inputs": [[1.0]]})
        assert answer.status_code == 200, answer.text
        tenant.made["prediction"] = answer.headers["x-stratal-prediction-id"]


def _objects(tenant: Tenant, word: str) -> None:
    s3, made = tenant.s3(), tenant.made
    made["bucket"] = f"files-{secrets.token_hex(6)}"
    s3.create_bucket(Bucket=made["bucket"])
    s3.put_object(Bucket=made["bucket"], Key="data/one", Body=word.ljust(SIZE).encode(), Metadata={"a": word})
    s3.put_object(Bucket=made["bucket"], Key=f"data/{word}", Body=b"x")
    made["upload"] = s3.create_multipart_upload(Bucket=made["bucket"], Key="upload")["UploadId"]
    at = {"Bucket": made["bucket"], "Key": "upload", "UploadId": made["upload"]}
    made["etag"] = s3.upload_part(**at, PartNumber=1, Body=b"a part")["ETag"]
    made["link"] = s3.generate_presigned_url("get_object", {"Bucket": made["bucket"], "Key": "data/one"})


def _tables(tenant: Tenant, word: str) -> None:
    catalog, made = tenant.catalog(), tenant.made
    catalog.create_namespace(made["namespace"], {"owner": word})
    rows = pa.table({"x": [1.0, 2.0], f"{word}_column": [word, word]})
    catalog.create_table(made["table"], schema=rows.schema).append(rows)
    table = catalog.load_table(made["table"])
    made["metadata"] = table.metadata_location
    made["location"] = table.location()
    made["manifests"] = table.current_snapshot().manifest_list
    made["snapshot"] = str(table.current_snapshot().snapshot_id)
    made["file"] = next(iter(table.scan().plan_files())).file.file_path
    catalog.create_table(f"{made['namespace']}.{word}", schema=rows.schema)


def _runs(tenant: Tenant, word: str) -> None:
    made, client = tenant.made, tenant.mlflow()
    made["experiment"] = client.create_experiment(f"{word}-experiment")
    with warnings.catch_warnings(), mlflow.start_run(experiment_id=made["experiment"], run_name=word) as run:
        warnings.simplefilter("ignore")
        made["run"] = run.info.run_id
        mlflow.log_param("secret", word)
        mlflow.log_metric("auc", 0.75)
        mlflow.log_text(word, "notes.txt")
        model = mlflow.sklearn.log_model(
            LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]),
            name="model",
            registered_model_name="risk",
            pip_requirements=SHARED,
        )
    made["model"] = model.model_id
    client.set_registered_model_alias("risk", "best", "1")
    client.create_registered_model(f"{word}-model")


def _job(tenant: Tenant, word: str) -> None:
    code = f"print('{word} says so')\n".encode()
    (tenant.folder / f"{word}.py").write_bytes(code)
    done = tenant.server.cli(
        *("run", "--json", "--name", f"{word}-job", "--", "python", f"{word}.py"),
        **{**tenant.env, "PWD": str(tenant.folder)},
    )
    job = json.loads(done.stdout)
    assert job["state"] == "succeeded", job
    tenant.made |= {
        "job": str(job["id"]),
        "code": job["snapshot"],
        "sha256": hashlib.sha256(code).hexdigest(),
        "bytes": str(len(code)),
    }


@pytest.fixture(scope="package", autouse=True)
def environment() -> Iterator[None]:
    """What the mlflow client puts into this process's environment is taken back."""
    before = dict(os.environ)
    os.environ.update(QUIET)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="package")
def mine(server: PlatformServer, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    return _filled(server, tmp_path_factory, "zebra", "clinic", "answers")


@pytest.fixture(scope="package")
def theirs(server: PlatformServer, tmp_path_factory: pytest.TempPathFactory) -> Tenant:
    return _filled(server, tmp_path_factory, SECRET, "ward", "scores")


def _filled(server: PlatformServer, folders: pytest.TempPathFactory, word: str, *names: str) -> Tenant:
    project = server.project()
    env = with_key(server.env(project), server.key(project, "owner"))
    tenant = Tenant(server, project, env, folders.mktemp("code"))
    fill(tenant, word, *names)
    return tenant
