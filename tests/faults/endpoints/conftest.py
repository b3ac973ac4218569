"""A platform of these tests' own, with two endpoints: ``matrix`` behaves, ``moody`` does what its rows say."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, wait_until
from registered_models import register
from stratal.engines.local.process import lives


class Stage:
    def __init__(self, server: PlatformServer, models: dict[str, dict[str, Any]]) -> None:
        self.server = server
        self.models = models

    def invoke(self, name: str, *row: float, timeout: float = 90) -> httpx.Response:
        with self.server.http() as http:
            return http.post(
                f"/api/v1/projects/default/endpoints/{name}/invocations",
                json={"instances": [list(row)]},
                timeout=timeout,
            )

    def answer(self, name: str, *row: float) -> tuple[float, str]:
        """The model's answer and the prediction's id; fails when there is none."""
        answer = self.invoke(name, *row)
        assert answer.status_code == 200, answer.text
        return answer.json()["predictions"][0], answer.json()["prediction_id"]

    def prediction(self, prediction_id: str) -> dict[str, Any]:
        with self.server.http() as http:
            answer = http.get(f"/api/v1/predictions/{prediction_id}")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert isinstance(found, dict)
        return found

    def show(self, name: str) -> dict[str, Any]:
        return self.server.json("endpoint", "show", name)

    def replica_pid(self, name: str) -> int:
        """The process that answers for the endpoint (its socket's owner), found by its command line."""
        import subprocess

        replica = self.show(name)["replica"]["id"]
        folder = self.server.home / "run" / "replicas" / replica
        found = subprocess.run(
            ["pgrep", "-f", f"replica/__main__.py {folder}$"], capture_output=True, text=True, check=True
        )
        return max(int(pid) for pid in found.stdout.split())

    def dozing_pid(self, name: str) -> int:
        """The process of a replica that waits, without a model, to be woken for the endpoint; waits for one."""
        wait_until(lambda: any(served["dozes"] for served in self.show(name)["traffic"]))
        base, known = "/api/v1/projects/default/endpoints", set()
        with self.server.http() as http:  # the others' replicas run: what dozes is in nobody's list
            for endpoint in http.get(base).json()["endpoints"]:
                told = http.get(f"{base}/{endpoint['name']}/replicas").json()["replicas"]
                known |= {replica["id"] for replica in told}
        for started in (self.server.home / "run" / "keeper" / "attempts").glob("rep-endpoint-*/started.json"):
            record = json.loads(started.read_bytes())
            if started.parent.name not in known and lives(record["workload"], record["workload_started"]):
                return int(record["workload"])
        raise AssertionError("none dozes")

    def wait_state(self, name: str, state: str) -> None:
        wait_until(lambda: self.show(name)["state"] == state)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    server = PlatformServer(tmp_path_factory.mktemp("endpoints") / "home")
    server.up()
    try:
        models = register(server, "default", "matrix", "moody", "moodier", "bare")
        for name in ("matrix", "moody"):
            server.json("deploy", str(models[name]["uri"]), "--name", name, timeout=400)
        yield Stage(server, models)
    finally:
        server.down()
