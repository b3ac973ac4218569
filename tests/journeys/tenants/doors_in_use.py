"""Every door in use with one key, by its real client, and how each client fails when the key has ended."""

from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from botocore.exceptions import ClientError
from mlflow.exceptions import MlflowException
from pyiceberg.exceptions import UnauthorizedError
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from .conftest import Tenant

Uses = dict[str, Callable[[], Any]]


def uses_of(tenant: Tenant) -> Uses:
    """A reading and a writing request of each door, by clients that have been set up with the tenant's key."""
    s3, catalog, client, infer = tenant.s3(), tenant.catalog(), tenant.mlflow(), tenant.triton()
    table = catalog.load_table(tenant["table"])
    tensor = triton.InferInput("input-0", [1, 1], np_to_triton_dtype(np.dtype("float64")))
    tensor.set_data_from_numpy(np.array([[1.0]]))
    it = {"Bucket": tenant["bucket"], "Key": "mark"}
    here = f"/api/v1/projects/{tenant.project}"

    def native(method: str, path: str, **more: Any) -> httpx.Response:
        with tenant.http() as http:
            answer = http.request(method, path, **more)
            return answer.raise_for_status()

    return {
        "s3 read": lambda: s3.get_object(Bucket=tenant["bucket"], Key="data/one")["Body"].read(),
        "s3 write": lambda: s3.put_object(**it, Body=b"x"),
        "iceberg read": lambda: catalog.list_namespaces(),
        "iceberg write": lambda: table.transaction().set_properties(a="b").commit_transaction(),
        "mlflow read": lambda: client.get_run(tenant["run"]),
        "mlflow write": lambda: client.set_tag(tenant["run"], "mark", "x"),
        "inference": lambda: infer.infer(tenant["endpoint"], [tensor], headers=dict(tenant.bearer)),
        "native read": lambda: native("GET", f"{here}/jobs"),
        "native write": lambda: native("POST", f"{here}/jobs", json={"argv": ["true"]}),
        "sql": lambda: native("POST", "/api/v1/sql", json={"sql": "select 1"}),
        "scoring": lambda: native(
            "POST", f"{here}/endpoints/{tenant['endpoint']}/invocations", json={"inputs": [[1.0]]}
        ),
    }


def failure_of(use: Callable[[], Any]) -> tuple[type[Exception], Any, str]:
    """How the client fails: its own error, what that says of the status or code, and the words."""
    with pytest.raises((ClientError, UnauthorizedError, MlflowException, InferenceServerException, httpx.HTTPStatusError)) as caught:  # noqa: E501  # fmt: skip
        use()
    error = caught.value
    if isinstance(error, ClientError):
        return ClientError, error.response["Error"]["Code"], str(error)
    if isinstance(error, MlflowException):
        return MlflowException, error.error_code, str(error)
    if isinstance(error, InferenceServerException):
        return InferenceServerException, error.status(), str(error)
    if isinstance(error, httpx.HTTPStatusError):
        assert error.response.headers["www-authenticate"]
        body = error.response.json()["error"]
        return httpx.HTTPStatusError, (error.response.status_code, body["code"]), body["message"]
    return UnauthorizedError, None, str(error)
