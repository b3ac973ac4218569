"""A project of its own, and the catalogue that its variables lead to."""

from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pyiceberg.catalog import Catalog, load_catalog

from platform_server import PlatformServer

PREFIX = "PYICEBERG_CATALOG__DEFAULT__"


def properties(env: dict[str, str]) -> dict[str, str]:
    """The variables of ``stratal env`` as pyiceberg reads them from the environment."""
    return {
        name.removeprefix(PREFIX).lower().replace("__", ".").replace("_", "-"): value
        for name, value in env.items()
        if name.startswith(PREFIX)
    }


@dataclass
class Place:
    """One project with its variables, its catalogue and its native API."""

    server: PlatformServer
    name: str
    env: dict[str, str]
    catalog: Catalog

    def client(self, key: str | None = None) -> httpx.Client:
        return self.server.http(key or self.env["STRATAL_API_KEY"])

    def sql(self, statement: str, **options: Any) -> Any:
        with self.client() as client:
            answer = client.post("/api/v1/sql", json={"sql": statement, **options})
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def place(server: PlatformServer) -> Place:
    name = server.project()
    env = server.env(name)
    return Place(server, name, env, load_catalog("default", **properties(env)))
