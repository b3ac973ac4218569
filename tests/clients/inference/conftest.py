"""A project with endpoints whose models the real mlflow client registered, deployed by the command line."""

from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer
from registered_models import register


@dataclass
class Served:
    """`models`: per endpoint what the client knows of its model (see `registered_models.register`)."""

    server: PlatformServer
    project: str
    key: str
    models: dict[str, dict[str, Any]]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def address(self) -> str:
        """host:port, as tritonclient wants it."""
        return f"127.0.0.1:{self.server.port}"

    def http(self) -> httpx.Client:
        return self.server.http(self.key)

    def invoke(self, name: str, **options: Any) -> httpx.Response:
        """POST to an endpoint's invocations."""
        with self.http() as http:
            return http.post(f"/api/v1/projects/{self.project}/endpoints/{name}/invocations", **options)


@pytest.fixture(scope="session")
def served(server: PlatformServer) -> Served:
    project = server.project()
    models = register(server, project, "tumour", "matrix", "iris", "people")
    for name, model in models.items():
        made = server.json("deploy", str(model["uri"]), "--name", name, "--project", project, timeout=400)
        assert made["state"] == "ready", made
    return Served(server, project, server.key(project, "viewer"), models)
