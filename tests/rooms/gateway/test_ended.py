"""However a credential ends or gets weaker, the very next request by it is refused at every door, in its dialect.

What stands open by it at that moment is `test_standing`'s, by real clients in `clients/functions` and `journeys/tenants`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from sqlalchemy import select

from platform_server import wait_until
from rooms.gateway.operations import NATIVE, OTHERS, World
from rooms.gateway.test_routes import check_dialect
from stratal.identity.tables import keys
from stratal.kernel.clock import system_clock
from wired import Answer, Wired

OURS = {"sec-fetch-site": "same-origin", "accept": "text/html"}
ASKED = [one for one in OTHERS if one.weakest != "anybody"]
ROUTES = [key for key in NATIVE if key[0] == "GET" and NATIVE[key].weakest in {"viewer", "editor", "owner"}]
WRITES = [key for key in NATIVE if key[0] != "GET" and NATIVE[key].weakest == "editor"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    wired = Wired(tmp_path_factory.mktemp("wired") / "home")
    yield World(wired)
    wired.close()


@dataclass
class Member:
    """Somebody in the project alpha: a browser's headers and a key by `stratal login`."""

    world: World
    name: str
    browser: dict[str, str]

    def key(self) -> str:
        ask = self.world.wired.ask
        begun = ask("POST", "/api/v1/device", json={}).json()
        said = {"user_code": begun["user_code"]}
        assert ask("POST", "/api/v1/projects/alpha/device", json=said, headers=self.browser).status == 204
        taken = ask("POST", "/api/v1/device/token", json={"device_code": begun["device_code"]})
        return str(taken.json()["token"])


def member(world: World, name: str, role: str) -> Member:
    ask = world.wired.ask
    made = ask("POST", "/api/v1/projects/alpha/invitations", world.wired.admin, json={"role": role}).json()
    token = made["path"].partition("token=")[2]
    form = urlencode({"token": token, "name": name, "password": "correct horse battery"}).encode()
    joined = ask("POST", "/invite", body=form, headers=OURS)
    return Member(world, name, {**OURS, "cookie": joined.headers["set-cookie"].partition(";")[0]})


def presigned(key: str) -> str:
    request = AWSRequest("GET", "http://127.0.0.1:8484/alpha-data/k")
    key_id, _, secret = key.partition(".")
    S3SigV4QueryAuth(Credentials(key_id, secret), "s3", "us-east-1", expires=600).add_auth(request)
    return str(request.url).removeprefix("http://127.0.0.1:8484")


class Subject:
    """A key that is used at every door, before and after."""

    def __init__(self, world: World, key: str) -> None:
        self.world = world
        self.key = key
        world.keys["subject"] = key
        self.link = presigned(key)
        assert world.wired.ask("GET", "/api/v1/whoami", key).status == 200  # and so it is in the cache
        assert world.wired.ask("GET", self.link).status == 200

    def is_out(self, reason: str) -> None:
        wired, s3 = self.world.wired, "ExpiredToken" if reason == "expired_key" else "InvalidAccessKeyId"
        before = wired.rows()
        for operation in ASKED:
            self.world.keys["subject"] = self.key
            answer = self.world.other("subject", operation)
            assert answer.status == (403 if operation.door == "s3" else 401), (operation, answer)
            check_dialect(operation, answer, s3, "NotAuthorizedException", "UNAUTHENTICATED")
        for method, template in (*ROUTES, *WRITES):
            answer = self.world.native("subject", method, NATIVE[method, template])
            assert (answer.status, answer.json()["error"]["code"]) == (401, reason), (template, answer)
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert wired.ask("POST", "/mcp", self.key, json=call).json()["error"]["code"] == reason
        answer = wired.ask("GET", self.link)
        assert (answer.status, s3.encode() in answer.body) == (403, True), answer
        assert wired.rows() == before

    def only_looks(self) -> None:
        """A viewer's it is now: what changes something is denied, what looks is answered as any viewer is."""
        wired = self.world.wired
        before = wired.rows()
        for operation in ASKED:
            if operation.weakest == "editor":
                answer = self.world.other("subject", operation)
                assert answer.status == 403, (operation, answer)
                check_dialect(operation, answer, "AccessDenied", "ForbiddenException", "PERMISSION_DENIED")
        for method, template in WRITES:
            answer = self.world.native("subject", method, NATIVE[method, template])
            assert (answer.status, answer.json()["error"]["code"]) == (403, "denied"), (template, answer)
        assert wired.rows() == before
        assert wired.ask("GET", self.link).status == 200


def test_an_expired_key(world: World) -> None:
    made = Subject(world, world.wired.key("alpha", "editor", expires_at=system_clock() + 1500))
    wait_until(lambda: world.wired.ask("GET", "/api/v1/whoami", made.key).status == 401)
    made.is_out("expired_key")


def test_a_revoked_key(world: World) -> None:
    made = Subject(world, world.wired.key("alpha", "editor"))
    assert (
        world.wired.ask("DELETE", f"/api/v1/keys/{made.key.partition('.')[0]}", world.wired.admin).status
        == 204
    )
    made.is_out("revoked_key")


def test_somebody_who_becomes_a_viewer(world: World) -> None:
    ida = member(world, "ida", "owner")
    own = ida.key()
    by_her = world.wired.ask(
        "POST", "/api/v1/projects/alpha/keys", own, json={"name": "hers", "role": "editor"}
    ).json()["token"]
    subjects = [Subject(world, own), Subject(world, by_her)]
    change = {"role": "viewer"}
    path = "/api/v1/projects/alpha/members/ida"
    assert world.wired.ask("PUT", path, world.wired.admin, json=change).status == 200
    for subject in subjects:
        world.keys["subject"] = subject.key
        subject.only_looks()
    for method, template in WRITES:
        route = NATIVE[method, template]
        answer = as_browser(world, ida, method, route.path)
        assert (answer.status, answer.json()["error"]["code"]) == (403, "denied"), (template, answer)


def test_somebody_who_is_removed(world: World) -> None:
    eva = member(world, "eva", "owner")
    own = eva.key()
    by_her = world.wired.ask(
        "POST", "/api/v1/projects/alpha/keys", own, json={"name": "of-eva", "role": "editor"}
    ).json()["token"]
    subjects = [Subject(world, own), Subject(world, by_her)]
    path = "/api/v1/projects/alpha/members/eva"
    assert world.wired.ask("DELETE", path, world.wired.admin).status == 200
    for subject in subjects:
        world.keys["subject"] = subject.key
        subject.is_out("revoked_key")
    for method, template in (*ROUTES, *WRITES):
        if not template.startswith("/projects/{project}"):
            continue
        answer = as_browser(world, eva, method, NATIVE[method, template].path)
        assert answer.status in {403, 404}, (template, answer)
        assert b"secret" not in answer.body


def as_browser(world: World, who: Member, method: str, path: str) -> Answer:
    route = next(one for key, one in NATIVE.items() if one.path == path and key[0] == method)
    return world.wired.ask(
        method,
        "/api/v1" + path.format_map(world.names),
        json=world.filled(route.json),
        body=route.body,
        headers={**who.browser, "accept": "application/json"},
    )


def test_what_the_database_holds_opens_no_door(world: World) -> None:
    """Neither a key's row nor a session's: what they hold is an id and hashes."""
    rows = world.wired.platform.database.read_now(lambda c: c.execute(select(keys)).all())
    for row in rows[:20]:
        for value in row:
            if isinstance(value, str) and value:
                assert world.wired.ask("GET", "/api/v1/whoami", f"{row.id}.{value}").status == 401


def test_a_removed_project(world: World) -> None:
    """Last, since nothing of it is left."""
    made = Subject(world, world.wired.key("alpha", "editor"))
    assert world.wired.ask("DELETE", "/api/v1/projects/alpha", world.wired.admin).status in {200, 204}
    made.is_out("unknown_key")
