"""A replay's credential changes nothing that others see, whatever door it knocks at."""

from collections.abc import Iterator

import pytest

from stratal.identity.keys import Keys
from stratal.identity.master import load_or_create
from stratal.identity.model import Kind, Principal, Role
from stratal.kernel.clock import system_clock
from wired import Wired


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    made = Wired(tmp_path_factory.mktemp("home"))
    yield made
    made.close()


def test_work_and_deployments_are_refused_to_a_replay_and_reading_is_not(wired: Wired) -> None:
    name = wired.project("held")
    database = wired.platform.database
    listed = wired.ask("GET", "/api/v1/projects", wired.admin).json()["projects"]
    project = next(one["id"] for one in listed if one["name"] == name)
    maker = Principal(Kind.SERVICE, "x", "x", project, name, Role.OWNER)
    pasts = wired.platform.chain._past.args[0]  # type: ignore[union-attr]
    keys = Keys(database, load_or_create(wired.platform.settings.home.master_key), system_clock)

    def work(c: object, workload: str, held: bool) -> str:
        key = keys.insert_for_workload(c, maker, project, workload)  # type: ignore[arg-type]
        if held:
            pasts.hold(c, project, workload, {})  # type: ignore[arg-type]
        return key.token

    held = database.write_now(lambda c: work(c, "job:1/2.1", True))
    free = database.write_now(lambda c: work(c, "job:1/3.1", False))
    base = f"/api/v1/projects/{name}"
    for method, path, body in (
        ("POST", f"{base}/jobs", {"argv": ["true"]}),
        ("POST", f"{base}/endpoints", {"name": "e", "model": "models:/m/1"}),
        ("POST", f"{base}/functions", {}),
        ("POST", f"{base}/pipelines/runs", {"file": "a.py", "snapshot": "0" * 64}),
        ("POST", f"{base}/pipelines/deployed/p/runs", {}),
        ("DELETE", f"{base}/endpoints/e", None),
        ("POST", f"{base}/comments", {"text": "hello"}),
        ("POST", f"/f/{name}/double", {"x": 1}),
        ("POST", "/v1/files", {}),
        ("POST", "/api/2.0/mlflow/registered-models/alias", {"name": "m", "alias": "a", "version": "1"}),
        ("POST", "/mcp", {}),
        ("POST", f"/git/{name}/r.git/git-receive-pack", {}),
    ):
        answer = wired.ask(method, path, held, json=body)
        assert (answer.status, b"A replay does not" in answer.body) == (409, True), (path, answer.body)
        if path != "/mcp":  # its library takes its time
            assert b"A replay does not" not in wired.ask(method, path, free, json=body).body, path
    assert wired.ask("GET", f"{base}/jobs", held).status == 200
    bucket = wired.ask("POST", f"{base}/buckets", wired.admin, json={"name": "held-data"})
    assert bucket.status == 201
    place = f"{base}/buckets/held-data/object?key=a"
    assert wired.ask("PUT", place, held, body=b"1").status == 201
    assert wired.ask("GET", place, held).body == b"1"
    assert wired.ask("GET", place, free).status == 404, "kept aside"
