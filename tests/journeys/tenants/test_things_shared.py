"""What one project shares with another: read there by the real clients of every door, nothing beside it, no
longer than the share lasts, and written in both projects' audit logs.
"""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import pyarrow as pa
import pytest
import tritonclient.http as triton
from botocore.exceptions import ClientError
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException
from pyiceberg.exceptions import ForbiddenError, NoSuchNamespaceError, NoSuchTableError
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from platform_server import wait_until

from .conftest import SECRET, SIZE, Tenant


@contextmanager
def shared(giver: Tenant, kind: str, name: str, to: Tenant) -> Iterator[dict[str, Any]]:
    """A share for as long as the context is; both projects' audit logs know of it afterwards."""
    with giver.http() as http:
        asked = {"kind": kind, "name": name, "to": to.project}
        answer = http.post(f"/api/v1/projects/{giver.project}/shares", json=asked)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        assert (made["direction"], made["from"], made["to"]) == ("given", giver.project, to.project)
        assert (made["id"], "received", made["as"]) in [
            (one["id"], one["direction"], one["as"]) for one in received(to)
        ]
        try:
            yield made
        finally:
            answer = http.delete(f"/api/v1/projects/{giver.project}/shares/{made['id']}")
            assert answer.status_code == 204, answer.text
    books(made["id"], giver, to)


def received(tenant: Tenant) -> list[dict[str, Any]]:
    with tenant.http() as http:
        return list(http.get(f"/api/v1/projects/{tenant.project}/shares").json()["shares"])


def books(share: str, *tenants: Tenant) -> None:
    for tenant in tenants:
        with tenant.http() as http:
            told = http.get(f"/api/v1/projects/{tenant.project}/audit", params={"what": "share."}).json()
        kinds = [one["kind"] for one in told["entries"] if one["subject"] == share]
        assert sorted(kinds) == ["share.added", "share.removed"], told


def s3_error(attempt: Callable[[], Any]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        attempt()
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_a_bucket(mine: Tenant, theirs: Tenant) -> None:
    s3, bucket, own = mine.s3(), theirs["bucket"], mine["bucket"]
    it = {"Bucket": bucket, "Key": "data/one"}
    reads: dict[str, Callable[[], Any]] = {
        "get": lambda: s3.get_object(**it)["Body"].read(),
        "range": lambda: s3.get_object(**it, Range="bytes=0-3")["Body"].read(),
        "list": lambda: s3.list_objects_v2(Bucket=bucket)["Contents"],
        "where": lambda: s3.get_bucket_location(Bucket=bucket),
        "copy": lambda: s3.copy_object(Bucket=own, Key="copied", CopySource=it),
    }
    for read in reads.values():
        assert s3_error(read) == ("NoSuchBucket", 404)
    with shared(theirs, "bucket", bucket, mine):
        assert reads["get"]()[: len(SECRET)] == SECRET.encode()
        assert reads["range"]() == SECRET.encode()[:4]
        assert s3.head_object(**it)["ContentLength"] == SIZE
        assert [one["Key"] for one in reads["list"]()] == ["data/one", f"data/{SECRET}"]
        reads["where"](), s3.head_bucket(Bucket=bucket), reads["copy"]()
        s3.delete_object(Bucket=own, Key="copied")
        assert bucket not in str(s3.list_buckets())  # that lists what the project has itself
        link = s3.generate_presigned_url("get_object", it)
        assert httpx.get(link).text.startswith(SECRET)
        listed = mine.server.cli("objects", "ls", f"s3://{bucket}", **mine.env).stdout
        assert "data/one" in listed
        part = {"Bucket": bucket, "Key": "upload", "UploadId": theirs["upload"]}
        for write in (
            lambda: s3.put_object(**it, Body=b"mine"),
            lambda: s3.delete_object(**it),
            lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "data/one"}]}),
            lambda: s3.copy_object(Bucket=bucket, Key="x", CopySource={"Bucket": own, "Key": "data/one"}),
            lambda: s3.delete_bucket(Bucket=bucket),
            lambda: s3.create_multipart_upload(Bucket=bucket, Key="more"),
            lambda: s3.list_multipart_uploads(Bucket=bucket),
        ):
            assert s3_error(write) == ("AccessDenied", 403)
        assert s3_error(lambda: s3.list_parts(**part)) == ("AccessDenied", 403)
        lake = theirs["location"].split("/")[2]
        assert s3_error(lambda: s3.list_objects_v2(Bucket=lake)) == ("NoSuchBucket", 404)
        twice = mine.server.cli("share", "add", "bucket", bucket, "--to", "default", check=False, **mine.env)
        assert twice.returncode == 6, twice  # what was given is not theirs to give on
    for read in reads.values():
        assert s3_error(read) == ("NoSuchBucket", 404)
    ended = httpx.get(link)  # a presigned address does not outlive the share that it was made under
    assert (ended.status_code, "NoSuchBucket" in ended.text) == (404, True)


def test_a_table(mine: Tenant, theirs: Tenant) -> None:
    catalog, s3 = mine.catalog(), mine.s3()
    project, namespace = theirs.project, theirs["namespace"]
    name = f"{project}.{namespace}.patients"
    bucket, _, file = theirs["file"].removeprefix("s3://").partition("/")
    other = theirs.catalog().load_table(f"{namespace}.{SECRET}").metadata_location
    with mine.http() as http:

        def ask(sql: str, status: int = 200) -> str:
            answer = http.post("/api/v1/sql", json={"sql": sql})
            assert answer.status_code == status, answer.text
            return answer.text

        quoted = f'"{project}".{namespace}.patients'
        ask(f"select * from {quoted}", 404)
        with shared(theirs, "table", f"{namespace}.patients", mine) as made:
            assert made["as"] == name
            table = catalog.load_table(name)
            rows = table.scan().to_arrow()
            assert rows[f"{SECRET}_column"].to_pylist() == [SECRET, SECRET]
            assert catalog.list_namespaces() == sorted([(mine["namespace"],), (project,)])
            assert catalog.list_namespaces((project,)) == [(project, namespace)]
            assert catalog.list_tables((project, namespace)) == [(project, namespace, "patients")]
            assert SECRET in ask(f"select * from {quoted}")
            assert "3.0" in ask(f"select sum(x) from {quoted} at (version => {theirs['snapshot']})")
            shown = http.get(f"/api/v1/projects/{mine.project}/tables/{name}")
            assert (shown.status_code, shown.json()["name"]) == (200, name)
            # to read is to be able to copy: what is made of it is the reader's own
            ask(f"create table clinic.made as select x from {quoted}")
            ask("select * from clinic.made where x > 1")
            catalog.drop_table("clinic.made")
            # nothing of it can be changed, and nothing beside it read
            for write in (
                lambda: table.append(rows),
                lambda: catalog.drop_table(name),
                lambda: catalog.purge_table(name),
                lambda: catalog.rename_table(name, "clinic.stolen"),
                lambda: table.transaction().set_properties(a="b").commit_transaction(),
            ):
                with pytest.raises((ForbiddenError, PermissionError, OSError)) as caught:
                    write()
                assert "for this key" in str(caught.value) or "shares it" in str(caught.value), caught.value
            ask(f"insert into {quoted} select * from {quoted}", 403)
            ask(f"create or replace table {quoted} as select 1 as x", 403)
            with pytest.raises(NoSuchTableError):
                catalog.load_table(f"{project}.{namespace}.{SECRET}")
            ask(f'select * from "{project}".{namespace}.{SECRET}', 404)
            assert s3.head_object(Bucket=bucket, Key=file)["ContentLength"] > 0
            beside = other.removeprefix(f"s3://{bucket}/")
            for key in (beside, f"{file.rsplit('/', 2)[0]}/../{beside}", f"{namespace}", f"{file[:-1]}"):
                code, status = s3_error(lambda key=key: s3.get_object(Bucket=bucket, Key=key))
                assert (code, status) in {("NoSuchBucket", 404), ("NoSuchKey", 404)}
            for attempt in (
                lambda: s3.list_objects_v2(Bucket=bucket, Prefix=file.rsplit("/", 1)[0]),
                lambda: s3.put_object(Bucket=bucket, Key=file, Body=b"mine"),
                lambda: s3.delete_object(Bucket=bucket, Key=file),
            ):
                assert s3_error(attempt) == ("NoSuchBucket", 404)
            link = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": file})
            assert httpx.get(link).content[:4] == b"PAR1"
            # the share is of this table: by another name it is shared still
            theirs.catalog().rename_table(f"{namespace}.patients", f"{namespace}.people")
            assert [one["as"] for one in received(mine)] == [f"{project}.{namespace}.people"]
            assert catalog.load_table(f"{project}.{namespace}.people").scan().count() == 2
            theirs.catalog().rename_table(f"{namespace}.people", f"{namespace}.patients")
        ask(f"select * from {quoted}", 404)
        assert project not in ask("show all tables")
    with pytest.raises(NoSuchTableError):
        catalog.load_table(name)
    with pytest.raises(NoSuchNamespaceError):
        catalog.list_tables((project, namespace))
    with pytest.raises((FileNotFoundError, OSError)):
        table.scan().to_arrow()  # a client that had loaded it before
    assert httpx.get(link).status_code == 404
    assert theirs.catalog().load_table(f"{namespace}.patients").scan().to_arrow().num_rows == 2


def test_a_table_dropped_and_made_anew_is_another(mine: Tenant, theirs: Tenant) -> None:
    catalog, name = theirs.catalog(), f"{theirs['namespace']}.passing"
    rows = pa.table({"x": [1]})
    catalog.create_table(name, schema=rows.schema).append(rows)
    made = theirs.server.json("share", "add", "table", name, "--to", mine.project, **theirs.env)
    assert mine.server.json("share", "ls", **mine.env)["shares"][0]["id"] == made["id"]
    assert mine.catalog().load_table(f"{theirs.project}.{name}").scan().count() == 1
    catalog.drop_table(name)
    catalog.create_table(name, schema=rows.schema).append(rows)
    with pytest.raises(NoSuchTableError):
        mine.catalog().load_table(f"{theirs.project}.{name}")
    books(made["id"], mine, theirs)
    made = theirs.server.json("share", "add", "table", name, "--to", mine.project, **theirs.env)
    assert "has ended" in theirs.server.cli("share", "rm", made["id"], **theirs.env).stdout
    assert received(mine) == []
    catalog.drop_table(name)


def test_a_model(mine: Tenant, theirs: Tenant, tmp_path: Path) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    client, name = mine.mlflow(), f"{theirs.project}.risk"
    hub = HfApi(endpoint=mine.env["HF_ENDPOINT"], token=mine.env["HF_TOKEN"])

    def fetch(to: str) -> Path:
        return Path(hub.hf_hub_download(f"{theirs.project}/risk", "MLmodel", cache_dir=tmp_path / to))

    def refused() -> None:
        for attempt in (
            lambda: client.get_model_version(name, "1"),
            lambda: client.get_model_version_by_alias(name, "best"),
            lambda: client.get_registered_model(name),
            lambda: download_artifacts(f"models:/{name}/1"),
        ):
            with pytest.raises(MlflowException) as caught:
                attempt()
            assert "RESOURCE_DOES_NOT_EXIST" in f"{caught.value.error_code} {caught.value}"
        with pytest.raises(HfHubHTTPError) as gone:
            fetch("refused")
        assert gone.value.response.status_code == 404

    refused()
    with shared(theirs, "model", "risk", mine):
        version = client.get_model_version(name, "1")
        assert (version.name, version.run_id, version.source) == (name, None, f"models:/{name}/1")
        assert client.get_model_version_by_alias(name, "best").version == "1"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = mlflow.sklearn.load_model(f"models:/{name}@best")
        assert model.predict([[1.0]]) == pytest.approx([1.0])
        assert "flavors" in fetch("fetched").read_text()
        assert hub.model_info(f"{theirs.project}/risk").siblings
        at = f"/api/2.0/mlflow-artifacts/artifacts/{client.get_model_version_download_uri(name, '1').partition(':/')[2]}"
        for attempt in (
            lambda: client.set_model_version_tag(name, "1", "a", "b"),
            lambda: client.set_registered_model_alias(name, "mine", "1"),
            lambda: client.delete_model_version(name, "1"),
            lambda: client.delete_registered_model(name),
            lambda: client.create_model_version(name, f"runs:/{theirs['run']}/model"),
        ):
            with pytest.raises(MlflowException):
                attempt()
        assert [one.name for one in client.search_registered_models()] == ["risk", "zebra-model"]
        with mine.http() as http:
            assert http.get(f"{at}/MLmodel").status_code == 200
            for method in ("PUT", "DELETE"):
                answer = http.request(method, f"{at}/MLmodel", content=b"x" if method == "PUT" else None)
                assert answer.status_code == 404, answer.text
            for trick in (f"{at}/../../{theirs['run']}/artifacts/notes.txt", f"{at}/%2e%2e/MLmodel"):
                assert SECRET not in (got := http.get(trick)).text
                assert got.status_code in {400, 404}, got.text
            commit = http.post(f"/hub/api/models/{theirs.project}/risk/commit/main", content=b"{}\n")
            assert commit.status_code in {400, 403, 404}, commit.text
    refused()
    assert http_status(mine, f"{at}/MLmodel") == 404


def http_status(tenant: Tenant, path: str) -> int:
    with tenant.http() as http:
        return http.get(path).status_code


def test_an_endpoint(mine: Tenant, theirs: Tenant) -> None:
    tensor = triton.InferInput("input-0", [1, 1], np_to_triton_dtype(np.dtype("float64")))
    tensor.set_data_from_numpy(np.array([[1.0]]))
    name, headers = f"{theirs.project}.{theirs['endpoint']}", mine.bearer
    here = f"/api/v1/projects/{mine.project}/endpoints/{name}"
    with mine.triton() as client, mine.http() as http:

        def refused() -> None:
            with pytest.raises(InferenceServerException) as caught:
                client.infer(name, [tensor], headers=dict(headers))
            assert caught.value.status() == "404"
            assert http.post(f"{here}/invocations", json={"inputs": [[1.0]]}).status_code == 404
            assert [m["name"] for m in client.get_model_repository_index(headers=headers)] == [
                mine["endpoint"]
            ]

        refused()
        with shared(theirs, "endpoint", theirs["endpoint"], mine):
            answer = client.infer(name, [tensor], headers=dict(headers))
            assert answer.get_response()["model_name"] == name
            assert client.is_model_ready(name, headers=headers)
            assert [m["name"] for m in client.get_model_repository_index(headers=headers)] == [
                mine["endpoint"], name,
            ]  # fmt: skip
            scored = http.post(f"{here}/invocations", json={"inputs": [[1.0]]})
            assert scored.status_code == 200, scored.text
            prediction = scored.headers["x-stratal-prediction-id"]
            for method, path in (
                ("POST", "/stop"),
                ("DELETE", ""),
                ("GET", "/logs"),
                ("GET", "/replicas"),
                ("GET", ""),
            ):
                assert http.request(method, here + path).status_code == 404
            # whoever asked is told what stands behind their answer: named, checked, and not theirs to read
            row = http.get(f"/api/v1/predictions/{prediction}").json()
            assert (row["inputs"][0]["data"], row["endpoint"]) == ([[1.0]], theirs["endpoint"])
            told = http.get(f"/api/v1/predictions/{prediction}/why")
            assert told.status_code == 200, told.text
            assert SECRET not in told.text
            chain = {link["kind"]: link for link in told.json()["chain"]}
            assert told.json()["project"] == mine.project
            assert [chain["prediction"]["status"], chain["model version"]["status"]] == ["verified"] * 2
            assert chain["endpoint"]["name"] == f"{name} revision 1"
            model = chain["model version"]
            assert (model["name"], model["readable"]) == (f"{theirs.project}.risk/1", False)
            assert model["facts"] == [{"name": "read only in", "value": f"project {theirs.project}"}]
            assert (chain["run"]["name"], chain["run"]["readable"]) == (theirs["run"], False)
            done = mine.server.cli("why", prediction, check=False, **mine.env)
            assert f"read only in project {theirs.project}" in " ".join(done.stdout.split()), done
            with shared(theirs, "model", "risk", mine):
                told = http.get(f"/api/v1/predictions/{prediction}/why")
                chain = {link["kind"]: link for link in told.json()["chain"]}
                assert chain["model version"]["readable"]
                assert "MLmodel" in str(chain["model version"]["hashes"])
            own = http.post(
                f"/api/v1/projects/{mine.project}/endpoints/{mine['endpoint']}/invocations",
                json={"inputs": [[1.0]]},
            ).headers["x-stratal-prediction-id"]
            # who asked is told to the project whose endpoint it is, which sees nothing else that they ask
            with theirs.http() as owner:
                why = owner.get(f"/api/v1/predictions/{prediction}/why")
                assert (why.status_code, mine.project in why.text) == (200, True), why.text
                assert owner.get(f"/api/v1/predictions/{own}/why").status_code == 404
                spent = [
                    str(owner.get("/api/v1/cost", params={"by": by}).json()) for by in ("workload", "user")
                ]
            # asking is on the bill of who asks, under the name that they ask for; what answers is its owner's
            wait_until(
                lambda: (
                    f"endpoint:{name}" in json.dumps(mine.server.json("cost", "--by", "workload", **mine.env))
                )
            )
            assert f"endpoint:{name}" not in "".join(spent)
        refused()
        told = http.get(f"/api/v1/predictions/{prediction}/why").json()
        assert [link["kind"] for link in told["chain"]] == ["prediction", "endpoint"]
        assert (told["status"], "the share has ended" in str(told)) == ("unproven", True)


def test_nobody_is_told_whether_there_is_a_project_of_a_name(mine: Tenant, theirs: Tenant) -> None:
    """To share with another's project and with none looks the same: added, listed, refused twice, taken back."""
    with mine.http() as http:
        path = f"/api/v1/projects/{mine.project}/shares"

        def story(to: str) -> list[Any]:
            asked = {"kind": "model", "name": "risk", "to": to}
            made = http.post(path, json=asked)
            twice = http.post(path, json=asked)
            listed = [one for one in http.get(path).json()["shares"] if one["to"] == to]
            gone = http.delete(f"{path}/{made.json()['id']}")
            audit = http.get(f"/api/v1/projects/{mine.project}/audit", params={"what": "share."}).json()
            noted = [
                (one["kind"], one["data"]) for one in audit["entries"] if one["subject"] == made.json()["id"]
            ]
            told = [made.status_code, made.json(), twice.status_code, twice.json()["error"]["code"], listed]
            told += [gone.status_code, http.delete(f"{path}/{made.json()['id']}").status_code, noted]
            assert (len(listed), len(noted)) == (1, 2)
            text = json.dumps(told).replace(to, "TO").replace(made.json()["id"], "ID")
            return list(json.loads(text.replace(made.json()["created_at"], "THEN")))

        assert story(theirs.project) == story("no-such-project-at-all")
