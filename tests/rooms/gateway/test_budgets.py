"""A budget that is used up: every door refuses new work in its own dialect, and lets look and clean up."""

from collections.abc import Iterator

import pytest
from sqlalchemy import insert

from rooms.gateway.operations import NATIVE, OTHERS, Operation, P, World
from stratal.gateway.s3.xml import parse
from stratal.kernel.clock import system_clock
from stratal.ledger.metering import month_of
from stratal.ledger.tables import spending
from stratal.ledger.units import NANO
from wired import Wired

# What begins work or stores more through the native API; everything else goes on.
WORK = {
    ("POST", f"{P}/jobs"),
    ("POST", f"{P}/sweeps"),
    ("POST", f"{P}/code/packs"),
    ("POST", f"{P}/code/snapshots"),
    ("POST", f"{P}/buckets"),
    ("PUT", f"{P}/buckets/{{bucket}}/object"),
    ("POST", f"{P}/tables/{{name}}/import"),
    ("PUT", f"{P}/tables/{{name}}/import"),
    ("POST", f"{P}/pipelines/runs"),
    ("POST", f"{P}/pipelines/runs/{{run_id}}/retry"),
    ("POST", f"{P}/repositories"),
    ("POST", f"{P}/repositories/{{name}}/snapshots"),
    ("POST", f"{P}/pipelines/deployed/{{name}}/runs"),
    ("POST", f"{P}/models/{{name}}/versions/{{version}}/convert"),
    ("POST", f"{P}/catalog/pulls"),
    ("POST", f"{P}/catalog/{{name}}/pull"),
    ("POST", f"{P}/functions"),
    ("POST", f"{P}/functions/{{name}}/invocations/{{invocation_id}}/retry"),
    ("POST", f"{P}/apps"),
    ("POST", f"{P}/apps/{{name}}/rollback"),
    ("POST", f"{P}/endpoints"),
    ("POST", f"{P}/endpoints/{{name}}/start"),
    ("PUT", f"{P}/indexes/{{name}}"),
    ("POST", f"{P}/indexes/{{name}}/search"),
    ("POST", f"{P}/indexes/{{name}}/ask"),
    ("POST", f"{P}/indexes/{{name}}/calibration"),
    ("POST", f"{P}/workspaces"),
    ("POST", f"{P}/workspaces/{{name}}/start"),
    ("POST", f"{P}/endpoints/{{name}}/traffic"),
    ("POST", f"{P}/endpoints/{{name}}/rollback"),
    ("POST", f"{P}/endpoints/{{name}}/invocations"),
    ("POST", "/sql"),
}
LOOKS = (
    "delete=",
    "/cancel",
    "/search",
    "/delete",
    "/index",
    "/paths-info/",
    "/objects/batch",
    "/locks/verify",
    "/health",
    "git-upload-pack",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wired = Wired(tmp_path_factory.mktemp("wired") / "home")
    made = World(wired)
    alpha = wired.ask("GET", "/api/v1/projects", wired.admin).json()["projects"]
    id_ = next(one["id"] for one in alpha if one["name"] == "alpha")
    row = {"project_id": id_, "month": month_of(system_clock()), "amount": NANO}
    wired.platform.database.write_now(lambda c: c.execute(insert(spending).values(row)))
    answer = wired.ask(
        "PUT", f"/api/v1{P}/budget".format(project="alpha"), wired.admin, json={"amount": "0.01"}
    )
    assert (answer.status, answer.json()["state"], answer.json()["spent"]) == (200, "used up", "1.00")
    yield made
    wired.close()


@pytest.mark.parametrize(("method", "template"), NATIVE, ids=lambda part: part.strip("/"))
def test_the_native_api_refuses_work_and_nothing_else(world: World, method: str, template: str) -> None:
    if method == "DELETE":
        return  # what can be removed stays for the others
    route = NATIVE[method, template]
    answer = world.native("owner", method, route)
    if (method, template) not in WORK:
        assert answer.status != 429, answer
        return
    assert answer.status == 429, answer
    error = answer.json()["error"]
    assert error["code"] == "over_budget"
    assert "1.00 of 0.01 spent" in error["message"]
    assert "stratal budget set alpha" in error["hint"]


def begins_work(operation: Operation) -> bool:
    if operation.door == "git":
        return "git-receive-pack" in operation.path
    if operation.method not in {"POST", "PUT"} or operation.door == "operations":
        return False
    return not any(word in operation.path for word in LOOKS)


@pytest.mark.parametrize("operation", OTHERS, ids=lambda o: f"{o.door}-{o.method}-{o.path}")
def test_every_other_door_says_so_in_its_dialect(world: World, operation: Operation) -> None:
    if operation.method == "DELETE" or operation.weakest == "anybody":
        return
    answer = world.other("owner", operation)
    if not begins_work(operation):
        assert answer.status in {operation.good, 404}, answer  # what is missing was never made
        return
    assert b"1.00 of 0.01 spent" in answer.body
    if operation.door == "s3":
        assert (answer.status, parse(answer.body, "Error").findtext("Code")) == (429, "OverBudget")
        return
    assert answer.status == 429
    if operation.door == "mlflow":
        assert answer.json()["error_code"] == "RESOURCE_EXHAUSTED"
    elif operation.door == "iceberg":
        assert answer.json()["error"]["code"] == 429
    elif operation.door == "openai":
        assert answer.json()["error"]["code"] == "insufficient_quota"
        assert answer.headers["x-should-retry"] == "false"
    elif operation.door == "lfs":
        assert "used up" in answer.json()["message"]
    elif operation.door == "git":
        assert answer.headers["content-type"].startswith("text/plain")
    else:
        assert "used up" in str(answer.json()["error"])


def test_others_are_not_refused_and_a_raise_opens_again(world: World) -> None:
    wired = world.wired
    job = {"argv": ["true"]}
    assert wired.ask("POST", "/api/v1/projects/beta/jobs", world.keys["stranger"], json=job).status == 201
    path = "/api/v1/projects/alpha"
    assert (
        wired.ask("PUT", f"{path}/budget", wired.admin, json={"amount": "1.01"}).json()["state"] == "warned"
    )
    assert wired.ask("POST", f"{path}/jobs", world.keys["owner"], json=job).status == 201
