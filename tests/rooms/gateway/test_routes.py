"""Who may call what: every native route and the other doors' operations, asked by every kind of caller.

A route that is not in the table fails the test, so nobody adds one without saying who may call it.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator

import pytest
from sqlalchemy import Connection, delete, insert, select

from rooms.gateway.operations import MLFLOW, NATIVE, OTHERS, Operation, P, World
from stratal.ai.finding import KINDS
from stratal.collab.repositories.tables import merge_requests, repositories
from stratal.console.pages.search import PAGES
from stratal.gateway.s3.xml import parse
from wired import Answer, Wired

pytestmark = pytest.mark.fast

RANK = {"viewer": 0, "editor": 1, "owner": 2, "admin": 3}
ABOVE = {**RANK, "person": 4}
"""What only people may about themselves, no key of a service may, whatever its role."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wired = Wired(tmp_path_factory.mktemp("wired") / "home")
    yield World(wired)
    wired.close()


def too_weak(weakest: str) -> list[str]:
    return [role for role in RANK if weakest != "anybody" and RANK[role] < ABOVE[weakest]]


def strong_enough(weakest: str) -> list[str]:
    return [role for role in RANK if weakest == "anybody" or RANK[role] >= ABOVE[weakest]]


def test_every_native_route_is_in_the_table(world: World) -> None:
    described = world.wired.ask("GET", "/api/v1/openapi.json").json()["paths"]
    offered = {
        (method.upper(), path.removeprefix("/api/v1"))
        for path, methods in described.items()
        for method in methods
    }
    assert offered == NATIVE.keys() - {("GET", "/openapi.json")}


@pytest.mark.parametrize(("method", "template"), NATIVE, ids=lambda part: part.strip("/"))
def test_whoever_may_not_call_a_native_route_changes_nothing(
    world: World, method: str, template: str
) -> None:
    route = NATIVE[method, template]
    before = world.wired.rows()
    for caller in () if route.weakest == "anybody" else ("nobody", "revoked"):
        answer = world.native(caller, method, route)
        assert answer.status == 401, (caller, answer)
        assert answer.json()["error"]["code"] in {"no_credentials", "revoked_key"}
        assert "www-authenticate" in answer.headers
    for caller in too_weak(route.weakest):
        answer = world.native(caller, method, route)
        assert (answer.status, answer.json()["error"]["code"]) == (403, "denied"), (caller, answer)
    if route.foreign >= 400:
        answer = world.native("stranger", method, route)
        assert answer.status == route.foreign, answer
        assert b"secret" not in answer.body
    assert world.wired.rows() == before


@pytest.mark.parametrize("operation", OTHERS, ids=lambda o: f"{o.door}-{o.method}-{o.path}")
def test_whoever_may_not_use_another_door_changes_nothing(world: World, operation: Operation) -> None:
    before = world.wired.rows()
    for caller in () if operation.weakest == "anybody" else ("nobody", "revoked"):
        answer = world.other(caller, operation)
        assert answer.status == (403 if operation.door == "s3" else 401), (caller, answer)
        check_dialect(operation, answer, "InvalidAccessKeyId", "NotAuthorizedException", "UNAUTHENTICATED")
    for caller in too_weak(operation.weakest):
        answer = world.other(caller, operation)
        assert answer.status == 403, (caller, answer)
        check_dialect(operation, answer, "AccessDenied", "ForbiddenException", "PERMISSION_DENIED")
    if operation.foreign >= 400:
        answer = world.other("stranger", operation)
        assert answer.status == operation.foreign, answer
        check_dialect(operation, answer, "NoSuchBucket", "NotFoundException", "RESOURCE_DOES_NOT_EXIST")
    assert world.wired.rows() == before


def check_dialect(operation: Operation, answer: Answer, s3: str, iceberg: str, mlflow: str) -> None:
    """The answer is the door's own kind of error, with the word that its clients look for."""
    if operation.method == "HEAD":
        assert answer.body == b""
    elif operation.door == "s3":
        assert parse(answer.body, "Error").findtext("Code") == s3
    elif operation.door == "iceberg":
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == (iceberg, answer.status)
    elif operation.door == "mlflow":
        assert answer.json()["error_code"] == mlflow
    elif operation.door == "git":
        assert answer.headers["content-type"].startswith("text/plain")
    elif operation.door == "lfs":
        assert answer.json()["message"]
    elif operation.door == "openai":
        error = answer.json()["error"]
        assert (error["type"], set(error)) == ("invalid_request_error", {"message", "type", "param", "code"})
    elif operation.door in {"functions", "mcp"}:
        assert answer.json()["error"]["request_id"]
    else:
        assert set(answer.json()) == {"error"}
        assert isinstance(answer.json()["error"], str)


def test_lists_of_another_project_are_empty(world: World) -> None:
    for method, path, json in (
        ("GET", "/api/v1/projects", None),
        ("POST", f"{MLFLOW}/runs/search", {"experiment_ids": [world.names["experiment"]]}),
        ("GET", f"{MLFLOW}/registered-models/search", None),
        ("GET", f"{MLFLOW}/experiments/search?max_results=10", None),
        ("POST", "/v2/repository/index", None),
    ):
        answer = world.wired.ask(method, path, world.keys["stranger"], json=json)
        assert answer.status == 200
        assert b"alpha" not in answer.body
        assert world.names["run"].encode() not in answer.body
    assert b"alpha" not in world.other("stranger", Operation("s3", "GET", "/", "viewer")).body


def test_search_finds_reports_merge_requests_and_all_else_with_a_page(world: World) -> None:
    def fill(c: Connection) -> None:
        found = c.execute(select(repositories.c.id, repositories.c.project_id)).first()
        assert found is not None
        row = {column.name: 0 for column in merge_requests.columns if not column.nullable}
        row |= {"repository_id": found.id, "project_id": found.project_id, "number": 3}
        c.execute(insert(merge_requests).values(**{**row, "title": "Tidy the study", "state": "open"}))

    world.wired.platform.database.write_now(fill)
    for words, kind, id_ in (("weekly", "report", "weekly"), ("tidy", "merge request", "repo!3")):
        answer = world.wired.ask("GET", f"/api/v1/projects/alpha/search?q={words}", world.keys["viewer"])
        assert (kind, id_) in [(one["kind"], one["id"]) for one in answer.json()["found"]], answer
        assert kind in PAGES
    linked = {kind.kind for kind in KINDS} - {"experiment"}  # whose runs are a page
    assert linked <= PAGES.keys()
    world.wired.platform.database.write_now(lambda c: c.execute(delete(merge_requests)))


def test_nobody_ends_a_key_that_may_more_than_their_own(world: World) -> None:
    owner = world.wired.key("default", "owner")
    admin_id = world.wired.admin.partition(".")[0]
    assert world.wired.ask("DELETE", f"/api/v1/keys/{admin_id}", owner).status == 403
    assert world.wired.ask("GET", "/api/v1/whoami", world.wired.admin).status == 200
    asked = {"name": "more", "role": "admin"}
    assert world.wired.ask("POST", "/api/v1/projects/default/keys", owner, json=asked).status == 403


@pytest.mark.parametrize(
    ("method", "template"),
    [key for key in NATIVE if key[0] in {"POST", "DELETE"} and not key[1].endswith("/code/packs")],
    ids=lambda part: part.strip("/"),
)
def test_no_message_is_read_without_end(world: World, method: str, template: str) -> None:
    """Only what is stored as it comes (a file, a pack of code) may be longer than what memory should hold."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * (1 << 20)

    route = NATIVE[method, template]
    path = "/api/v1" + (
        route.path.replace("{project}", "none").replace("{victim}", "none").replace("{job}", "1")
    )
    answer = world.wired.ask(
        method, path, world.wired.admin, body=endless(), headers={"content-type": "application/json"}
    )
    assert answer.status in {404, 413} or answer.taken == 0, answer
    assert answer.taken <= 128 << 20


def test_whoever_may_is_let_in(world: World) -> None:
    """The first who may gets what a good request gets; those after may find it done already."""
    removing = [key for key in NATIVE if key[0] == "DELETE"]
    for key in NATIVE.keys() - removing:
        let_in(
            NATIVE[key].weakest,
            NATIVE[key].good,
            lambda caller, key=key: world.native(caller, key[0], NATIVE[key]),
        )
    for operation in OTHERS:
        # The doors without a project in the path serve the key's own, and the admin's is another.
        skipped = {"admin"} if operation.door in {"mlflow", "inference", "s3"} else set()
        let_in(
            operation.weakest, operation.good, lambda caller, op=operation: world.other(caller, op), skipped
        )
    for key in removing:
        skipped = {"admin"} if key == ("DELETE", P) else set()  # the other keys end with their project
        let_in(
            NATIVE[key].weakest,
            NATIVE[key].good,
            lambda caller, key=key: world.native(caller, key[0], NATIVE[key]),
            skipped,
        )


def let_in(weakest: str, good: int, ask: Callable[[str], Answer], skipped: Collection[str] = ()) -> None:
    for number, caller in enumerate(role for role in strong_enough(weakest) if role not in skipped):
        answer = ask(caller)
        assert answer.status not in {401, 403}, (caller, answer)
        assert answer.status < 500, (caller, answer)
        assert number > 0 or answer.status == good, (caller, answer)
