"""Two versions of a model behind one name: shares of the requests, replicas, rolling back, and what it cost."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, wait_until
from registered_models import register
from stratal.engines.local.probe import try_bubblewrap


class Canary:
    """An endpoint ``m`` of version 1 with two replicas, in a project where version 2 is registered too."""

    def __init__(self, server: PlatformServer) -> None:
        self.server = server
        self.project = server.project()
        self.model = register(server, self.project, "matrix", "matrix")["matrix"]
        self.deploy("models:/matrix/1", "--min", "2", "--max", "2", "--concurrency", "4")

    def deploy(self, uri: str, *options: str) -> dict[str, Any]:
        return self.stratal("deploy", uri, "--name", "m", *options)

    def stratal(self, *command: str) -> dict[str, Any]:
        return self.server.json(*command, "--project", self.project, timeout=400)

    def ask(self, http: httpx.Client, key: str) -> str:
        """The version that answered a request with this traffic key; fails when its answer is wrong."""
        rows = self.model["rows"]
        tensor = {"name": "x", "datatype": "FP64", "shape": [len(rows), 3], "data": rows}
        answer = http.post(
            "/v2/models/m/infer",
            json={"inputs": [tensor]},
            headers={"X-Stratal-Traffic-Key": key},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["outputs"][0]["data"] == pytest.approx(self.model["predict"])
        return str(answer.json()["model_version"])


@pytest.fixture(scope="module")
def canary(server: PlatformServer) -> Iterator[Canary]:
    made = Canary(server)
    yield made
    made.stratal("endpoint", "rm", "m")


def test_a_share_is_given_stays_with_its_keys_and_is_taken_back(canary: Canary) -> None:
    before = canary.stratal("endpoint", "show", "m")
    assert (before["awake"], before["min"], before["max"], before["concurrency"]) == (2, 2, 2, 4)
    made = canary.deploy("models:/matrix/2", "--traffic", "v2=40")
    assert [(t["version"], t["percent"]) for t in made["traffic"]] == [("1", 60), ("2", 40)]
    keys = [f"patient {n}" for n in range(40)]
    with canary.server.http(canary.server.key(canary.project)) as http:
        first = [canary.ask(http, key) for key in keys]
        assert set(first) == {"1", "2"}
        assert [canary.ask(http, key) for key in keys] == first
        canary.stratal("endpoint", "traffic", "m", "v2=70")
        for key, version in zip(keys, first, strict=True):
            if version == "2":
                assert canary.ask(http, key) == "2", "a key stays when its version's share grows"
        assert canary.stratal("endpoint", "rollback", "m")["version"] == "1"
        assert {canary.ask(http, key) for key in keys} == {"1"}
        assert canary.deploy("models:/matrix/2")["active"]["version"] == "2"
        assert {canary.ask(http, key) for key in keys} == {"2"}, "after `deploy` the new one answers"
        back = canary.stratal("endpoint", "rollback", "m", "--to", "v1")
        assert (back["version"], back["revision"], back["state"]) == ("1", 4, "ready")
        assert {canary.ask(http, key) for key in keys} == {"1"}


def test_replicas_that_ended_are_listed_with_their_logs_and_paid_for(canary: Canary) -> None:
    canary.deploy("models:/matrix/1")

    def ended() -> list[dict[str, Any]]:
        listed = canary.stratal("endpoint", "replicas", "m")["replicas"]
        return [replica for replica in listed if replica["ended_at"]]

    wait_until(lambda: len(ended()) >= 2)
    assert {replica["exit_code"] for replica in ended()} == {0}
    log = canary.stratal("endpoint", "logs", "m", "--replica", str(ended()[0]["id"]))["log"]
    assert "drained" in log
    (line,) = [c for c in canary.stratal("cost", "--by", "endpoint")["costs"] if c["name"] == "endpoint:m"]
    assert line["cpu_seconds"] > 0
    assert line["memory_kib_seconds"] > 0
    listed = canary.stratal("endpoint", "ls")["endpoints"]
    assert [(e["name"], e["awake"]) for e in listed] == [("m", 2)]


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=pytest.mark.soak)])
def test_woken_from_zero_every_request_is_answered(canary: Canary, times: int) -> None:
    told = canary.server.json(
        *("bench", "wake", "models:/matrix/1", "--times", str(times), "--project", canary.project),
        timeout=60 * times,
    )
    assert (told["times"], told["failures"]) == (times, [])
    box = try_bubblewrap()
    if box.users and box.network:  # else there are no zygotes
        assert told["dozed"] == times
    assert [e["name"] for e in canary.stratal("endpoint", "ls")["endpoints"]] == ["m"], "it removed its own"


def test_shares_that_make_no_sense_are_refused_and_change_nothing(canary: Canary) -> None:
    refused = canary.server.cli("endpoint", "traffic", "m", "v9=10", "--project", canary.project, check=False)
    assert refused.returncode == 1
    assert "v9" in refused.stderr
    refused = canary.server.cli(
        *("deploy", "models:/matrix/2", "--name", "m", "--traffic", "v1=10", "--project", canary.project),
        check=False,
    )
    assert refused.returncode == 1
    assert "v2=PERCENT" in refused.stderr
    assert len(canary.stratal("endpoint", "traffic", "m")["traffic"]) == 1
