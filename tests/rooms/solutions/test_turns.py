"""Runs of one solution take turns; a run asks with its project's key. Against a platform that is written down here."""

import contextlib

import httpx
import pytest

from stratal.cli.solutions.serving import key_of
from stratal.cli.solutions.turns import Turn
from stratal.kernel.errors import Conflict
from stratal.sdk import Client


class Platform:
    """Answers what a run asks of the project ``solution-fraud``."""

    def __init__(self, project: str = "solution-fraud") -> None:
        self.whoami = project
        self.jobs: list[dict[str, object]] = []
        self.keys: dict[str, bytes] = {}
        self.current = b""

    def client(self) -> Client:
        client = Client("http://platform", "id.secret", project="solution-fraud")
        client.http = httpx.Client(base_url="http://platform", transport=httpx.MockTransport(self.answer))
        return client

    def answer(self, request: httpx.Request) -> httpx.Response:
        what = (
            request.method,
            request.url.path.removeprefix("/api/v1").removeprefix("/projects/solution-fraud"),
        )
        if what == ("GET", "/whoami"):
            return httpx.Response(200, json={"project": self.whoami})
        if what == ("GET", "/jobs"):
            wanted = request.url.params.get_list("state")
            return httpx.Response(
                200, json={"jobs": [j for j in self.jobs if j["state"] in wanted], "next": None}
            )
        if what[1] == "/buckets/solution-fraud/object" and request.url.params["key"] == "runs/current":
            if request.method == "PUT":
                self.current = request.content
            return httpx.Response(200, content=self.current if request.method == "GET" else b"{}")
        if what == ("POST", "/keys"):
            self.keys["k1"] = request.content
            return httpx.Response(201, json={"id": "k1", "token": "k1.made"})
        assert what == ("DELETE", "/keys/k1")
        del self.keys["k1"]
        return httpx.Response(204)


def test_a_run_waits_for_none_that_is_under_way_but_says_how_to_end_it() -> None:
    platform = Platform()
    platform.jobs = [
        {"id": 3, "name": "fraud-train", "state": "succeeded"},
        {"id": 4, "name": "index-documentation", "state": "running"},
    ]
    Turn(platform.client(), "fraud", "solution-fraud", "one").take(("ingest", "train"))
    platform.jobs.append({"id": 5, "name": "fraud-train", "state": "queued"})
    with pytest.raises(Conflict, match="job 5") as refused:
        Turn(platform.client(), "fraud", "solution-fraud", "two").take(("ingest", "train"))
    assert "stratal job stop 5 --project solution-fraud" in refused.value.hint
    assert platform.current == b"one"


def test_a_run_goes_on_only_while_it_is_the_newest() -> None:
    platform = Platform()
    first, second = (Turn(platform.client(), "fraud", "solution-fraud", name) for name in ("one", "two"))
    first.take(("train",))
    first.hold()
    second.take(("train",))
    second.hold()
    with pytest.raises(Conflict, match="two"):
        first.hold()


def test_a_key_that_is_made_for_a_run_ends_with_it_and_one_that_serves_is_used() -> None:
    with key_of(Platform().client(), "solution-one") as key:
        assert key == "id.secret"
    platform = Platform("default")
    with contextlib.suppress(KeyboardInterrupt), key_of(platform.client(), "solution-one") as key:
        assert (key, list(platform.keys)) == ("k1.made", ["k1"])
        raise KeyboardInterrupt
    assert platform.keys == {}
