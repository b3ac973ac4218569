"""Joining, signing a command line in, and being removed: through the doors, as a browser and clients do it."""

from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from rooms.gateway.operations import signature
from wired import Answer, Wired

pytestmark = pytest.mark.fast

SAME = {"sec-fetch-site": "same-origin", "accept": "text/html"}
DOORS = (
    "/api/v1/whoami",
    "/iceberg/v1/config?warehouse=alpha",
    "/api/2.0/mlflow/experiments/search?max_results=1",
    "/v2",
    "/git/alpha/repo.git/info/refs?service=git-upload-pack",
)


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    made = Wired(tmp_path_factory.mktemp("wired") / "home")
    made.project("alpha")
    assert (
        made.ask("POST", "/api/v1/projects/alpha/repositories", made.admin, json={"name": "repo"}).status
        == 201
    )
    yield made
    made.close()


def form(wired: Wired, path: str, cookie: str = "", **fields: str) -> Answer:
    headers = {**SAME, **({"cookie": cookie} if cookie else {})}
    return wired.ask("POST", path, body=urlencode(fields).encode(), headers=headers)


def test_a_person_comes_in_by_a_link_and_is_out_at_every_door_at_once(wired: Wired) -> None:
    here = "/api/v1/projects/alpha"
    made = wired.ask("POST", f"{here}/invitations", wired.admin, json={"role": "editor"}).json()
    token = made["path"].partition("token=")[2]
    joined = form(wired, "/invite", token=token, name="ada", password="correct horse battery")
    assert joined.status == 303, joined
    cookie = joined.headers["set-cookie"].partition(";")[0]

    def look(path: str) -> Answer:
        return wired.ask("GET", path, headers={**SAME, "cookie": cookie})

    assert look("/api/v1/whoami").json()["name"] == "ada"
    assert look(f"{here}/jobs").status == 200
    assert look("/api/v1/projects/default/jobs").status == 404
    assert look("/projects/alpha/members").status == 200
    assert look("/projects/alpha/keys").status == 403

    begun = wired.ask("POST", "/api/v1/device", json={"machine": "laptop"}).json()
    assert begun["user_code"].encode() in look(begun["path"]).body
    said = form(wired, "/device", cookie, code=begun["user_code"], project="alpha")
    assert (said.status, b"now has a key of project alpha" in said.body) == (200, True)
    granted = wired.ask("POST", "/api/v1/device/token", json={"device_code": begun["device_code"]}).json()
    key = str(granted["token"])
    assert wired.ask("GET", "/api/v1/whoami", key).json()["role"] == "editor"
    for path in DOORS:
        assert wired.ask("GET", path, key).status == 200, path
    assert wired.ask("GET", "/", headers=signature(key, "GET", "/")).status == 200

    removed = wired.ask("DELETE", f"{here}/members/ada", wired.admin)
    assert (removed.status, removed.json()["ended_keys"]) == (200, 1)
    for path in DOORS:
        assert wired.ask("GET", path, key).status == 401, path
    assert wired.ask("GET", "/", headers=signature(key, "GET", "/")).status == 403
    assert look(f"{here}/jobs").status == 404
    assert look("/api/v1/projects").json() == {"projects": []}


def test_another_site_can_act_for_nobody(wired: Wired) -> None:
    link = wired.ask("POST", "/api/v1/login-links", wired.admin).json()["path"]
    signed = wired.ask("GET", link, headers={"accept": "text/html"})
    cookie = signed.headers["set-cookie"].partition(";")[0]
    headers = {"cookie": cookie, "sec-fetch-site": "cross-site", "content-type": "application/json"}
    for method, path in (("POST", "/api/v1/account/totp"), ("POST", "/api/v1/projects/alpha/invitations")):
        answer = wired.ask(method, path, body=b"{}", headers=headers)
        assert (answer.status, answer.json()["error"]["code"]) == (403, "cross_site")
