"""Unmodified mlflow clients of two projects of one running platform.

MLflow keeps its address and credentials in the process's environment, so a `Place` sets these before
its client speaks; whole scripts run in processes of their own, with the variables of `stratal env`.
"""

import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what mlflow's own imports warn of is not ours
    import mlflow
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


@dataclass(frozen=True)
class Place:
    """A project: its variables, and ways to speak to it."""

    project: str
    env: dict[str, str]

    @property
    def client(self) -> MlflowClient:
        """A client with this project's key; until the next `Place` speaks."""
        os.environ.update(self.env)
        mlflow.set_tracking_uri(self.env["MLFLOW_TRACKING_URI"])
        return MlflowClient()

    def http(self) -> httpx.Client:
        """The same key without mlflow in between; use it as a context manager."""
        return httpx.Client(
            base_url=self.env["STRATAL_URL"],
            auth=(self.env["MLFLOW_TRACKING_USERNAME"], self.env["MLFLOW_TRACKING_PASSWORD"]),
            timeout=60,
        )

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """POST to ``/api/2.0/mlflow/<path>``."""
        with self.http() as http:
            if body is not None:
                options["json"] = body
            return http.post(f"/api/2.0/mlflow/{path}", **options)

    def script(self, text: str, cwd: Path, **more: str) -> str:
        """Run a script that is given the variables of `stratal env` and no other; returns what it prints."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(text)],
            env={**kept, **self.env, **QUIET, **more},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout


def code_of(error: pytest.ExceptionInfo[MlflowException]) -> str:
    """MLflow's error code."""
    return str(error.value.error_code)


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What clients put into this process's environment is taken back."""
    before = dict(os.environ)
    os.environ.update(QUIET)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def here(server: PlatformServer) -> Place:
    project = server.project()
    return Place(project, server.env(project))


@pytest.fixture(scope="module")
def there(server: PlatformServer) -> Place:
    project = server.project()
    return Place(project, server.env(project))
