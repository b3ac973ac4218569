"""A key of one project, through every door, at the things of another: refused in the door's own words,
nothing changed there, nothing told of it.
"""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import httpx
import numpy as np
import pytest
import requests
import tritonclient.http as triton
from botocore.exceptions import ClientError
from mlflow.artifacts import download_artifacts
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from pyiceberg.exceptions import ForbiddenError, NoSuchNamespaceError, NoSuchTableError, RESTError
from pyiceberg.table import StaticTable
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from platform_server import wait_until

from .conftest import SECRET, SIZE, Tenant, contents_of, state_of, with_key
from .doors_in_use import failure_of, uses_of

Refusals = list[str]


@pytest.fixture(scope="module")
def before(theirs: Tenant, mine: Tenant) -> Any:
    return state_of(theirs), contents_of(theirs)


@pytest.fixture
def told(before: Any, theirs: Tenant) -> Iterator[Refusals]:
    """Collects what was said; afterwards nothing of `theirs` has changed, and nothing said gives any of it away."""
    said: Refusals = []
    yield said
    assert said
    for text in said:
        assert SECRET not in text, text
        assert str(SIZE) not in text, text
        assert "Traceback" not in text, text
    assert state_of(theirs) == before[0]
    assert contents_of(theirs) == before[1]


def hidden(theirs: Tenant, told: Refusals) -> None:
    """The project's name was not told either, by those who were not asked by it."""
    for text in told:
        assert not re.search(rf"(?<![\w-]){theirs.project}(?![\w-])", text), text


# -- objects -----------------------------------------------------------------------------------------


def s3_refusal(told: Refusals, attempt: Callable[[], Any]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        attempt()
    answer = caught.value.response
    told.append(str(answer))
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_objects(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    s3, bucket, own = mine.s3(), theirs["bucket"], mine["bucket"]
    it = {"Bucket": bucket, "Key": "data/one"}
    part = {"Bucket": bucket, "Key": "upload", "UploadId": theirs["upload"]}
    done = {"Parts": [{"PartNumber": 1, "ETag": theirs["etag"]}]}
    for attempt in (
        lambda: s3.get_object(**it),
        lambda: s3.put_object(**it, Body=b"mine"),
        lambda: s3.delete_object(**it),
        lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "data/one"}]}),
        lambda: s3.list_objects_v2(Bucket=bucket),
        lambda: s3.list_objects(Bucket=bucket),
        lambda: s3.get_bucket_location(Bucket=bucket),
        lambda: s3.get_bucket_versioning(Bucket=bucket),
        lambda: s3.delete_bucket(Bucket=bucket),
        lambda: s3.create_multipart_upload(Bucket=bucket, Key="more"),
        lambda: s3.list_multipart_uploads(Bucket=bucket),
        lambda: s3.list_parts(**part),
        lambda: s3.upload_part(**part, PartNumber=2, Body=b"x"),
        lambda: s3.complete_multipart_upload(**part, MultipartUpload=done),
        lambda: s3.abort_multipart_upload(**part),
        lambda: s3.copy_object(Bucket=own, Key="stolen", CopySource=it),
        lambda: s3.copy_object(Bucket=bucket, Key="data/one", CopySource={"Bucket": own, "Key": "data/one"}),
        lambda: s3.get_object(Bucket=theirs["location"].split("/")[2], Key="x"),
    ):
        assert s3_refusal(told, attempt) == ("NoSuchBucket", 404)
    assert s3_refusal(told, lambda: s3.head_object(**it)) == ("404", 404)
    assert s3_refusal(told, lambda: s3.head_bucket(Bucket=bucket)) == ("404", 404)
    assert s3_refusal(told, lambda: s3.create_bucket(Bucket=bucket)) == ("BucketAlreadyExists", 409)
    assert bucket not in str(s3.list_buckets())
    hidden(theirs, told)


def test_uploads(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    """Another's upload id in one's own bucket, and another's object as the source of one's own part."""
    s3, own = mine.s3(), mine["bucket"]
    taken = {"Bucket": own, "Key": "upload", "UploadId": theirs["upload"]}
    done = {"Parts": [{"PartNumber": 1, "ETag": theirs["etag"]}]}
    for attempt in (
        lambda: s3.upload_part(**taken, PartNumber=1, Body=b"x"),
        lambda: s3.list_parts(**taken),
        lambda: s3.complete_multipart_upload(**taken, MultipartUpload=done),
        lambda: s3.abort_multipart_upload(**taken),
    ):
        assert s3_refusal(told, attempt) == ("NoSuchUpload", 404)
    ours = {"Bucket": own, "Key": "upload", "UploadId": mine["upload"]}
    source = {"Bucket": theirs["bucket"], "Key": "data/one"}
    for more in ({}, {"CopySourceRange": "bytes=0-3"}):
        refusal = s3_refusal(
            told, lambda m=more: s3.upload_part_copy(**ours, PartNumber=2, CopySource=source, **m)
        )
        assert refusal == ("NoSuchBucket", 404)
    assert [part["PartNumber"] for part in s3.list_parts(**ours)["Parts"]] == [1]
    hidden(theirs, told)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_links(mine: Tenant, theirs: Tenant, told: Refusals, version: str) -> None:
    s3 = mine.s3(signature_version=version)
    for operation, more in (("get_object", {}), ("put_object", {}), ("delete_object", {})):
        link = s3.generate_presigned_url(operation, {"Bucket": theirs["bucket"], "Key": "data/one", **more})
        method = operation.partition("_")[0].upper()
        answer = httpx.request(method, link, content=b"mine" if method == "PUT" else None)
        assert (answer.status_code, "<Code>NoSuchBucket</Code>" in answer.text) == (404, True), answer.text
        told.append(answer.text)
    assert httpx.get(theirs["link"]).text.startswith(SECRET)  # whoever holds a link made by them may
    forged = httpx.get(theirs["link"].replace("/data/one", "/upload"))
    assert (forged.status_code, "SignatureDoesNotMatch" in forged.text) == (403, True)
    hidden(theirs, told)


# -- tables and SQL ----------------------------------------------------------------------------------


def iceberg_refusal(told: Refusals, attempt: Callable[[], Any], *kinds: type[Exception]) -> None:
    with pytest.raises(kinds) as caught:
        attempt()
    told.append(str(caught.value))


def test_tables(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    catalog = mine.catalog()
    schema = catalog.load_table(mine["table"]).schema()
    for attempt in (
        lambda: catalog.load_table(theirs["table"]),
        lambda: catalog.drop_table(theirs["table"]),
        lambda: catalog.purge_table(theirs["table"]),
    ):
        iceberg_refusal(told, attempt, NoSuchTableError)
    for attempt in (
        lambda: catalog.list_tables(theirs["namespace"]),
        lambda: catalog.load_namespace_properties(theirs["namespace"]),
        lambda: catalog.drop_namespace(theirs["namespace"]),
        lambda: catalog.rename_table(theirs["table"], "clinic.stolen"),
        lambda: catalog.create_table(f"{theirs['namespace']}.mine", schema=schema),
    ):
        iceberg_refusal(told, attempt, NoSuchNamespaceError)
    assert catalog.list_namespaces() == [(mine["namespace"],)]
    for attempt in (
        lambda: catalog.register_table("clinic.stolen", theirs["metadata"]),
        lambda: catalog.create_table("clinic.stolen", schema=schema, location=theirs["location"]),
    ):
        iceberg_refusal(told, attempt, ForbiddenError)
    with pytest.raises((FileNotFoundError, PermissionError)) as caught:
        StaticTable.from_metadata(theirs["metadata"], properties=catalog.properties)
    told.append(str(caught.value))
    assert catalog.list_tables("clinic") == [("clinic", "patients"), ("clinic", "zebra")]
    hidden(theirs, told)


def test_another_projects_catalogue(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    iceberg_refusal(told, lambda: mine.catalog(warehouse=theirs.project), RESTError)
    ours = f"/iceberg/v1/{mine.project}"
    foreign = f"/iceberg/v1/{theirs.project}"
    table = f"{foreign}/namespaces/{theirs['namespace']}/tables/patients"
    with mine.http() as http:
        for method, path, body in (
            ("GET", f"/iceberg/v1/config?warehouse={theirs.project}", None),
            ("GET", f"{foreign}/namespaces", None),
            ("POST", f"{foreign}/namespaces", {"namespace": ["more"]}),
            ("GET", table, None),
            ("GET", f"{table}/credentials", None),
            ("POST", table, {"updates": [{"action": "set-properties", "updates": {"a": "b"}}]}),
            ("DELETE", table, None),
        ):
            told_by_iceberg(told, http.request(method, path, json=body), 404)
        snapshot = {
            "snapshot-id": int(theirs["snapshot"]),
            "sequence-number": 99,
            "timestamp-ms": 4_000_000_000_000,
            "manifest-list": theirs["manifests"],
            "summary": {"operation": "append"},
            "schema-id": 0,
        }
        commit = f"{ours}/namespaces/{mine['namespace']}/tables/patients"
        for update in (
            {"action": "add-snapshot", "snapshot": snapshot},
            {"action": "set-location", "location": theirs["location"]},
            {"action": "set-properties", "updates": {"write.data.path": theirs["location"]}},
        ):
            told_by_iceberg(told, http.post(commit, json={"requirements": [], "updates": [update]}), 403)


def told_by_iceberg(told: Refusals, answer: httpx.Response, status: int) -> None:
    error = answer.json()["error"]
    told.append(answer.text)
    assert (answer.status_code, error["code"]) == (status, status), answer.text
    assert error["type"] in {"NotFoundException", "ForbiddenException", "NoSuchTableException"}


def test_sql(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    table, project = theirs["table"], theirs.project
    with mine.http() as http:

        def refused(status: int, sql: str, **more: Any) -> None:
            answer = http.post("/api/v1/sql", json={"sql": sql, **more})
            told.append(answer.text)
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["code"]

        for sql in (
            f"select * from {table}",
            f"select * from {table} at (version => {theirs['snapshot']})",
            f'select * from "{project}".{table}',
            f"select * from '{theirs['file']}'",
            f"select * from 's3://{theirs['bucket']}/data/one'",
            f"create table clinic.stolen as select * from {table}",
            f"insert into {table} values (1, 'x')",
            f"describe {table}",
            f"explain select * from {table}",
        ):
            refused(404, sql)
            refused(404, sql, project=project)
        for function in ("read_parquet", "parquet_scan", "iceberg_scan", "read_text", "glob"):
            refused(403, f"select * from {function}('{theirs['file']}')")
        shown = http.post("/api/v1/sql", json={"sql": "show all tables"})
        told.append(shown.text)
        assert (shown.status_code, theirs["namespace"] in shown.text) == (200, False)
        for name in ("data/one", "nothing"):
            source = {"source": f"s3://{theirs['bucket']}/{name}"}
            answer = http.post(f"/api/v1/projects/{mine.project}/tables/stolen/import", json=source)
            told.append(answer.text)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_such_bucket")
    assert mine.catalog().list_tables("clinic") == [("clinic", "patients"), ("clinic", "zebra")]


# -- runs and models ---------------------------------------------------------------------------------


def test_runs_and_artifacts(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    client, run, experiment = mine.mlflow(), theirs["run"], theirs["experiment"]
    for attempt in (
        lambda: client.get_run(run),
        lambda: client.log_param(run, "a", "b"),
        lambda: client.log_metric(run, "auc", 1.0),
        lambda: client.log_batch(run, metrics=[Metric("auc", 1.0, 1, 0)]),
        lambda: client.set_tag(run, "a", "b"),
        lambda: client.delete_tag(run, "mlflow.user"),
        lambda: client.get_metric_history(run, "auc"),
        lambda: client.set_terminated(run),
        lambda: client.delete_run(run),
        lambda: client.restore_run(run),
        lambda: client.list_artifacts(run),
        lambda: client.download_artifacts(run, "notes.txt"),
        lambda: download_artifacts(f"runs:/{run}/notes.txt"),
        lambda: client.get_experiment(experiment),
        lambda: client.rename_experiment(experiment, "mine"),
        lambda: client.set_experiment_tag(experiment, "a", "b"),
        lambda: client.delete_experiment(experiment),
        lambda: client.restore_experiment(experiment),
        lambda: client.create_run(experiment),
        lambda: client.get_logged_model(theirs["model"]),
        lambda: client.set_logged_model_tags(theirs["model"], {"a": "b"}),
        lambda: client.delete_logged_model(theirs["model"]),
        lambda: client.finalize_logged_model(theirs["model"], "FAILED"),
        lambda: client.create_logged_model(experiment, "m"),
        lambda: client.create_logged_model(mine["experiment"], "m", source_run_id=run),
    ):
        assert "RESOURCE_DOES_NOT_EXIST" in mlflow_refusal(told, attempt)
    with pytest.raises(
        (MlflowException, requests.HTTPError)
    ) as caught:  # which, what the client remembers decides
        client.log_text(run, "mine", "notes.txt")
    assert "RESOURCE_DOES_NOT_EXIST" in str(caught.value)
    told.append(str(caught.value))
    assert client.search_runs([experiment]) == []
    assert client.search_logged_models([experiment]) == []
    assert client.get_experiment_by_name(f"{SECRET}-experiment") is None
    with mine.http() as http:
        for place in (
            f"{experiment}/{run}/artifacts/notes.txt",
            f"{mine['experiment']}/{run}/artifacts/notes.txt",
            f"{experiment}/models/{theirs['model']}/artifacts/MLmodel",
        ):
            for method in ("GET", "HEAD", "PUT", "DELETE"):
                path = f"/api/2.0/mlflow-artifacts/artifacts/{place}"
                answer = http.request(method, path, content=b"mine" if method == "PUT" else None)
                told.append(answer.text)
                assert answer.status_code == 404, (method, place, answer.text)
                assert method == "HEAD" or answer.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
        listed = http.get(
            "/api/2.0/mlflow-artifacts/artifacts", params={"path": f"{experiment}/{run}/artifacts"}
        )
        told.append(listed.text)
        assert listed.status_code == 404
        got = http.get("/get-artifact", params={"run_uuid": run, "path": "notes.txt"})
        told.append(got.text)
        assert got.status_code == 404
    hidden(theirs, told)


def mlflow_refusal(told: Refusals, attempt: Callable[[], Any]) -> str:
    with pytest.raises(MlflowException) as caught:
        attempt()
    # one of them has the server's own word: some calls of the client wrap it in another error
    told.append(f"{caught.value.error_code}: {caught.value} {caught.value.__context__ or ''}")
    return told[-1]


def test_models(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    client, run, model, at = mine.mlflow(), theirs["run"], theirs["model"], theirs["experiment"]
    proxy = f"{mine.env['STRATAL_URL']}/api/2.0/mlflow-artifacts/artifacts/{at}"
    good = f"runs:/{mine['run']}/model"
    for attempt in (
        lambda: client.create_model_version("risk", f"runs:/{run}/model", run_id=run),
        lambda: client.create_model_version("risk", f"runs:/{run}"),
        lambda: client.create_model_version("risk", f"models:/{model}"),
        lambda: client.create_model_version("risk", f"mlflow-artifacts:/{at}/{run}/artifacts"),
        lambda: client.create_model_version("risk", f"mlflow-artifacts:/{at}/models/{model}/artifacts"),
        lambda: client.create_model_version("risk", f"{proxy}/{run}/artifacts"),
        lambda: client.create_model_version("risk", good, run_id=run),
        lambda: client.create_model_version("risk", good, model_id=model),
        lambda: download_artifacts(f"models:/{model}"),
    ):
        assert "RESOURCE_DOES_NOT_EXIST" in mlflow_refusal(told, attempt)
    assert [(m.name, list(m.aliases.values())) for m in client.search_registered_models()] == [
        ("risk", ["1"]),
        ("zebra-model", []),
    ]
    assert [version.version for version in client.search_model_versions("name = 'risk'")] == ["1"]
    with mine.http() as http:
        deploy = f"/api/v1/projects/{mine.project}/endpoints"
        for uri in (f"runs:/{run}/model", f"models:/{model}"):
            answer = http.post(deploy, json={"name": "stolen", "model": uri})
            told.append(answer.text)
            assert answer.status_code == 404, answer.text
        listed = http.get(deploy).json()["endpoints"]
        assert [endpoint["name"] for endpoint in listed] == [mine["endpoint"]]
    hidden(theirs, told)


# -- endpoints and predictions -----------------------------------------------------------------------


def test_endpoints(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    tensor = triton.InferInput("input-0", [1, 1], np_to_triton_dtype(np.dtype("float64")))
    tensor.set_data_from_numpy(np.array([[1.0]]))
    name, headers = theirs["endpoint"], mine.bearer
    with mine.triton() as client:
        assert [m["name"] for m in client.get_model_repository_index(headers=headers)] == [mine["endpoint"]]
        assert not client.is_model_ready(name, headers=headers)
        for attempt in (
            lambda: client.get_model_metadata(name, headers=headers),
            lambda: client.infer(name, [tensor], headers=dict(headers)),
        ):
            with pytest.raises(InferenceServerException) as caught:
                attempt()
            assert caught.value.status() == "404"
            told.append(str(caught.value))
    hidden(theirs, told)


# -- the native API and the command line ---------------------------------------------------------------


def test_everything_by_the_other_projects_name(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    there = f"/api/v1/projects/{theirs.project}"
    endpoint = f"/endpoints/{theirs['endpoint']}"
    job = f"/jobs/{theirs['job']}"
    with mine.http() as http:
        for method, path, body in (
            *(
                ("GET", f"/{noun}", None)
                for noun in ("jobs", "buckets", "tables", "queries", "experiments", "runs")
            ),
            *(
                ("GET", f"/{noun}", None)
                for noun in ("models", "endpoints", "keys", "events", "events?after=0")
            ),
            ("POST", "/jobs", {"argv": ["true"]}),
            ("GET", job, None),
            ("GET", f"{job}/logs", None),
            ("GET", f"{job}/logs?follow=true", None),
            ("GET", f"{job}/diff", None),
            ("POST", f"{job}/stop", None),
            ("GET", f"/code/snapshots/{theirs['code']}", None),
            ("GET", f"/buckets/{theirs['bucket']}/objects", None),
            ("GET", f"/buckets/{theirs['bucket']}/object?key=data/one", None),
            ("DELETE", f"/buckets/{theirs['bucket']}/object?key=data/one", None),
            ("GET", f"/tables/{theirs['table']}", None),
            ("GET", f"/tables/{theirs['table']}/files", None),
            ("DELETE", f"/tables/{theirs['table']}", None),
            ("GET", f"/runs/{theirs['run']}", None),
            ("GET", "/models/risk/versions/1", None),
            ("GET", "/models/risk/versions/1/verify", None),
            ("GET", endpoint, None),
            ("GET", f"{endpoint}/logs", None),
            ("GET", f"{endpoint}/replicas", None),
            ("POST", f"{endpoint}/traffic", {"traffic": {"v1": 100}}),
            ("POST", f"{endpoint}/rollback", {"to": None}),
            ("POST", f"{endpoint}/stop", None),
            ("POST", f"{endpoint}/invocations", {"inputs": [[1.0]]}),
            ("DELETE", endpoint, None),
            ("POST", "/keys", {"name": "mine", "role": "viewer"}),
            ("DELETE", "", None),
        ):
            native_refusal(told, http.request(method, there + path, json=body))


def native_refusal(told: Refusals, answer: httpx.Response) -> None:
    told.append(answer.text)
    assert answer.status_code == 404, (answer.request.url, answer.text)
    assert answer.json()["error"]["message"]


def test_everything_by_its_id_from_ones_own_project(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    here = f"/api/v1/projects/{mine.project}"
    with mine.http() as http:
        for method, path, body in (
            ("GET", f"{here}/jobs/{theirs['job']}", None),
            ("GET", f"{here}/jobs/{theirs['job']}/logs", None),
            ("POST", f"{here}/jobs/{theirs['job']}/stop", None),
            ("GET", f"{here}/code/snapshots/{theirs['code']}", None),
            ("POST", f"{here}/jobs", {"argv": ["cat", f"{SECRET}.py"], "snapshot": theirs["code"]}),
            ("GET", f"{here}/runs/{theirs['run']}", None),
            ("GET", f"{here}/runs/{theirs['run']}/metric?key=auc", None),
            ("GET", f"{here}/runs/{theirs['run']}/artifacts", None),
            ("GET", f"{here}/buckets/{theirs['bucket']}/objects", None),
            ("PUT", f"{here}/buckets/{theirs['bucket']}/object?key=data/one", None),
            ("GET", f"{here}/tables/{theirs['table']}", None),
            ("GET", f"{here}/tables/{mine['table']}/files?snapshot={theirs['snapshot']}", None),
            ("GET", f"{here}/endpoints/{theirs['endpoint']}", None),
            ("POST", f"{here}/endpoints/{theirs['endpoint']}/invocations", {"inputs": [[1.0]]}),
            ("GET", f"/api/v1/predictions/{theirs['prediction']}", None),
            ("GET", f"/api/v1/predictions/{theirs['prediction']}/why", None),
            ("DELETE", f"/api/v1/keys/{theirs.key.partition('.')[0]}", None),
        ):
            native_refusal(told, http.request(method, path, json=body))
        # Content is named by its hash: that another project holds these bytes is nobody's business.
        named = {"path": "a.py", "mode": "100644", "sha256": theirs["sha256"], "size": int(theirs["bytes"])}
        offer = http.post(f"{here}/code/snapshots", json={"files": [named]})
        assert (offer.status_code, offer.json()["missing"]) == (200, [theirs["sha256"]])
    hidden(theirs, told)


def test_news_are_of_ones_own_project(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    with mine.http() as http, http.stream("GET", f"/api/v1/projects/{mine.project}/events?after=0") as news:
        seen = ""
        for text in news.iter_text():
            seen += text
            if "prediction" in seen or "endpoint" in seen:
                break
    told.append("news")
    assert "zebra" in seen
    for value in (SECRET, theirs["run"], theirs["bucket"], theirs.project):
        assert value not in seen


def test_the_command_line(mine: Tenant, theirs: Tenant, told: Refusals) -> None:
    for arguments in (
        ("sql", f"select * from {theirs['table']}"),
        ("sql", "select 1", "--project", theirs.project),
        ("why", theirs["prediction"]),
        ("job", "logs", theirs["job"]),
    ):
        done = mine.server.cli(*arguments, check=False, **mine.env)
        told.append(done.stdout + done.stderr)
        assert done.returncode == 6, done
        assert done.stdout == ""
        assert done.stderr.startswith("Error: ")


# -- keys that have ended ------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "s3_code"), [("revoked", "InvalidAccessKeyId"), ("expired", "ExpiredToken")])
def test_a_key_that_ended(mine: Tenant, how: str, s3_code: str) -> None:
    expires = ("--expires", "12s") if how == "expired" else ()
    made = mine.server.json("keys", "create", how, "--project", mine.project, "--role", "editor", *expires)
    until = time.monotonic() + 12
    tenant = replace(mine, env=with_key(mine.env, made["token"]))
    uses = uses_of(tenant)
    for use in uses.values():
        use()
    jobs = len(_jobs(mine))
    with tenant.http() as http, http.stream("GET", f"/api/v1/projects/{mine.project}/events") as news:
        if how == "expired":
            wait_until(lambda: time.monotonic() > until)
        else:
            mine.server.cli("keys", "revoke", made["id"])
        heard = list(islice(news.iter_text(), 20))  # what stands open ends too, after few words
        assert (heard[0].startswith(": connected"), len(heard) < 20) == (True, True), heard
    for name, use in uses.items():  # clients that worked with it a moment ago
        kind, code, words = failure_of(use)
        assert "Traceback" not in words
        assert mine.project not in words
        if kind is ClientError:
            assert code == s3_code, name
        elif kind is MlflowException:
            assert code == "UNAUTHENTICATED", name
        elif kind is InferenceServerException:
            assert code == "401", name
        elif kind is httpx.HTTPStatusError:
            assert code == (401, f"{how}_key"), name
        if kind is not ClientError:
            assert how in words, (name, words)
    assert len(_jobs(mine)) == jobs
    done = mine.server.cli("jobs", check=False, **tenant.env)
    assert (done.returncode, how in done.stderr) == (4, True), done
    fresh = httpx.get(
        tenant.s3().generate_presigned_url("get_object", {"Bucket": mine["bucket"], "Key": "mark"})
    )
    assert (fresh.status_code, f"<Code>{s3_code}</Code>" in fresh.text) == (403, True)


def _jobs(tenant: Tenant) -> list[Any]:
    with tenant.http() as http:
        return list(http.get(f"/api/v1/projects/{tenant.project}/jobs").json()["jobs"])
