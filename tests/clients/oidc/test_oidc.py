"""Signing in with a real OpenID provider, run beside the platform: groups, keys, and being removed there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError

from platform_server import PlatformServer, free_port, wait_until

OURS = {"sec-fetch-site": "same-origin", "accept": "text/html"}


@dataclass
class Provider:
    url: str

    def person(self, name: str, *groups: str) -> None:
        """Somebody as the provider knows them from now on."""
        told = {"preferred_username": name, "groups": list(groups)}
        assert httpx.put(f"{self.url}/users/{name}", json=told).status_code == 204

    def remove(self, name: str) -> None:
        assert httpx.post(f"{self.url}/users/{name}/revoke-tokens").status_code == 204


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STRATAL_")}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port)],
        env={**kept, "AUTHLIB_INSECURE_TRANSPORT": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    made = Provider(f"http://localhost:{port}")

    def answers() -> bool:
        try:
            return httpx.get(f"{made.url}/.well-known/openid-configuration").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers)
        yield made
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def trusting(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformServer]:
    """A platform that trusts the provider and asks it every second."""
    running = PlatformServer(
        tmp_path_factory.mktemp("trusting") / "home",
        STRATAL_OIDC_ISSUER=provider.url,
        STRATAL_OIDC_CLIENT_ID="stratal",
        STRATAL_OIDC_CLIENT_SECRET="whatever",
        STRATAL_OIDC_GROUPS="team=lab:editor,leads=lab:owner,ops=*:admin",
        STRATAL_OIDC_CHECK_SECONDS="1",
    )
    running.up()
    running.project("lab")
    yield running
    running.down()


@dataclass
class Town:
    """The platform, and browsers in front of it."""

    server: PlatformServer
    opened: ExitStack

    def browser(self) -> httpx.Client:
        return self.opened.enter_context(httpx.Client(base_url=self.server.url, headers=OURS, timeout=60))

    def signed_in(self, name: str, target: str = "/") -> httpx.Client:
        http = self.browser()
        done = http.get(answered(http, name, target))
        assert (done.status_code, done.headers["location"]) == (303, target), done.text
        return http


@pytest.fixture
def town(trusting: PlatformServer) -> Iterator[Town]:
    with ExitStack() as opened:
        yield Town(trusting, opened)


def answered(http: httpx.Client, name: str, target: str = "/") -> str:
    """Sign in there as somebody; the address that the provider sends the browser back to."""
    gone = http.get("/login/oidc", params={"next": target})
    assert gone.status_code == 303, gone.text
    back = httpx.post(gone.headers["location"], data={"sub": name})
    assert back.status_code == 302, back.text
    return str(back.headers["location"])


def key_of(http: httpx.Client, project: str) -> str:
    """A key by way of `stratal login`: begun by a command line, said yes to in the browser."""
    begun = http.post("/api/v1/device", json={"machine": "laptop"}).json()
    said = http.post(f"/api/v1/projects/{project}/device", json={"user_code": begun["user_code"]})
    assert said.status_code == 204, said.text
    taken = http.post("/api/v1/device/token", json={"device_code": begun["device_code"]})
    return str(taken.json()["token"])


def whoami(server: PlatformServer, key: str) -> Any:
    answer = httpx.get(f"{server.url}/api/v1/whoami", headers={"Authorization": f"Bearer {key}"})
    return answer.json().get("role") if answer.status_code == 200 else answer.json()["error"]["code"]


def test_groups_there_are_roles_here_and_whoever_is_removed_there_is_out_everywhere(
    town: Town, provider: Provider
) -> None:
    assert "Sign in with your organisation" in town.browser().get("/login").text
    provider.person("ada", "team")
    ada = town.signed_in("ada", "/projects/lab/jobs")
    told = ada.get("/api/v1/account").json()
    assert (told["name"], told["projects"]) == ("ada", [{"name": "lab", "role": "editor"}])
    assert ada.get("/projects/lab/jobs").status_code == 200
    key = key_of(ada, "lab")
    assert whoami(town.server, key) == "editor"
    key_id, _, secret = key.partition(".")
    s3 = boto3.client(
        "s3",
        endpoint_url=town.server.url,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )
    town.opened.enter_context(closing(s3))
    s3.create_bucket(Bucket="ada-was-here")

    provider.person("ada", "leads")
    wait_until(lambda: ada.get("/api/v1/account").json()["projects"] == [{"name": "lab", "role": "owner"}])
    made = ada.post("/api/v1/projects/lab/keys", json={"name": "ci", "role": "editor"}).json()["token"]
    assert whoami(town.server, made) == "editor"
    provider.person("ada", "others")
    wait_until(lambda: ada.get("/api/v1/account").json()["projects"] == [])
    assert (whoami(town.server, key), whoami(town.server, made)) == ("revoked_key", "revoked_key")
    provider.person("ada", "team")
    wait_until(lambda: ada.get("/api/v1/account").json()["projects"] == [{"name": "lab", "role": "editor"}])
    key = key_of(ada, "lab")

    job = httpx.post(
        f"{town.server.url}/api/v1/projects/lab/jobs",
        headers={"Authorization": f"Bearer {key}"},
        json={"argv": ["sleep", "3600"], "grace_seconds": 1},
    ).json()["id"]

    def job_now() -> dict[str, Any]:
        with town.server.http() as http:
            return dict(http.get(f"/api/v1/projects/lab/jobs/{job}").json())

    wait_until(lambda: job_now()["state"] == "running", seconds=120)
    provider.remove("ada")
    wait_until(lambda: ada.get("/api/v1/account").status_code == 401)
    wait_until(lambda: job_now()["state"] == "failed")
    assert "no access to the project any more" in job_now()["reason"]
    assert whoami(town.server, key) == "revoked_key"
    with pytest.raises(ClientError):
        s3.list_buckets()
    people = town.server.json("audit", "--all", "--what", "person.refused")["entries"]
    assert [one["data"]["name"] for one in people] == ["ada"]
    again = town.signed_in("ada")
    assert again.get("/api/v1/account").json()["name"] == "ada"


def test_nobody_becomes_somebody_else_and_no_answer_is_taken_twice_or_elsewhere(
    town: Town, provider: Provider
) -> None:
    provider.person("admin")
    stranger = town.signed_in("admin").get("/api/v1/account").json()
    assert (stranger["name"], stranger["admin"], stranger["projects"]) == ("admin-2", False, [])
    provider.person("bo", "ops")
    bo = town.signed_in("bo")
    assert bo.get("/api/v1/account").json()["admin"] is True
    # an admin is in no project and so leaves all: what they made there ends with what they are
    made = bo.post("/api/v1/projects/lab/keys", json={"name": "of-bo", "role": "owner"}).json()["token"]
    invited = bo.post("/api/v1/projects/lab/invitations", json={"role": "owner"}).json()["path"]
    own = key_of(bo, "lab")
    assert (whoami(town.server, made), whoami(town.server, own)) == ("owner", "admin")
    provider.person("bo", "others")
    wait_until(lambda: whoami(town.server, made) == "revoked_key")
    assert whoami(town.server, own) == "revoked_key"
    assert "taken up" in town.browser().get(invited).text

    provider.person("eve", "team")
    http = town.browser()
    back = answered(http, "eve", "https://evil.example/")
    assert (
        town.browser().get(back).status_code == 401
    )  # another browser: nobody is signed in as somebody else
    back = answered(http, "eve", "https://evil.example/")
    done = http.get(back)
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert http.get(back).status_code == 401  # the same answer again
    forged = back.replace("state=", "state=x")
    assert http.get(forged).status_code == 401
    refused = http.get("/login/oidc/back", params={"error": "<script>alert(1)</script>", "state": "x"})
    assert refused.status_code == 401
    assert "<script>alert" not in refused.text
