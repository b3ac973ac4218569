"""Attacks that hit trackers and notebooks elsewhere, each tried at the doors of a whole platform, each refused.

What is tried beside this: malformed requests at every door (`test_bad_input`), every route with every role and after
revocation (`test_routes`), hostile names on every page (`rooms/console`), addresses of webhooks (`rooms/talk`), tokens of
an identity provider (`identity/test_federation`).
"""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from wired import HOST, Wired

OURS = {"sec-fetch-site": "same-origin", "accept": "text/html"}
SCRIPT = "<script>window.hacked=1</script><img src=x onerror=hacked()>"
SECRET = b"root:x:0:0"
UP = (
    "../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "%2e%2e%2f" * 8, "%252e%252e%252f" * 8, "..;/" * 8, "..%5c" * 8,
    "..\\" * 8, "....//" * 8, "%c0%ae%c0%ae/" * 8, ".%00./" * 8, "/..;" * 8 + "/",
)  # fmt: skip


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    made = Wired(tmp_path_factory.mktemp("wired") / "home")
    made.project("alpha")
    here = "/api/v1/projects/alpha"
    for path, body in (("buckets", {"name": "alpha-data"}), ("repositories", {"name": "repo"})):
        assert made.ask("POST", f"{here}/{path}", made.admin, json=body).status == 201
    yield made
    made.close()


def signed_in(wired: Wired, name: str = "admin") -> dict[str, str]:
    """A browser's headers after following a link."""
    path = wired.ask("POST", f"/api/v1/login-links?person={name}", wired.admin).json()["path"]
    cookie = wired.ask("GET", path, headers=OURS).headers["set-cookie"].partition(";")[0]
    return {**OURS, "cookie": cookie}


@pytest.mark.parametrize("up", UP)
def test_no_path_leads_out_of_anywhere(wired: Wired, up: str) -> None:
    key, cookie = wired.key("alpha", "owner"), signed_in(wired)
    goal = f"{up}etc/passwd"
    paths = [
        f"/static/x/{goal}",
        f"/api/v1/projects/alpha/buckets/alpha-data/object?{urlencode({'key': goal})}",
        f"/api/v1/projects/alpha/repositories/repo/raw?{urlencode({'path': goal})}",
        f"/api/v1/projects/{goal}/jobs",
        f"/api/2.0/mlflow-artifacts/artifacts/{goal}",
        f"/api/2.0/mlflow/artifacts/list?{urlencode({'run_id': goal, 'path': goal})}",
        f"/git/alpha/{goal}/info/refs?service=git-upload-pack",
        f"/hub/alpha/m/resolve/main/{goal}",
        f"/iceberg/v1/alpha/namespaces/{goal}",
        f"/f/alpha/{goal}",
        f"/v2/models/{goal}",
        f"/projects/alpha/tables/{goal}",
        f"/mcp{up}",
        f"/{goal}",
    ]
    for path in paths:
        raw = path.replace("\\", "%5c").encode("ascii")
        for answer in (wired.ask("GET", raw, key), wired.ask("GET", raw, headers=cookie)):
            assert answer.status in range(300, 500) or answer.status == 501, (path, answer.status)
            assert SECRET not in answer.body, path


def test_a_browser_of_another_site_reaches_nothing_by_a_rebound_name(wired: Wired) -> None:
    key, cookie = wired.key("alpha", "owner"), signed_in(wired)
    for path in (
        "/api/v1/whoami",
        "/",
        "/mcp",
        "/v2",
        "/v1/models",
        "/git/alpha/repo.git/info/refs",
        "/healthz",
    ):
        for host in (
            b"evil.example",
            b"127.0.0.1.evil.example",
            b"localhost.evil.example:8484",
            b"169.254.169.254",
        ):
            for headers in (cookie, {"authorization": f"Bearer {key}"}):
                pairs = [(n.encode(), v.encode()) for n, v in headers.items()]
                answer = ask_as(wired, path, [(b"host", host), *pairs])
                assert answer == 400, (path, host)


def ask_as(wired: Wired, path: str, headers: list[tuple[bytes, bytes]], kind: str = "http") -> Any:
    """The status of a request with exactly these headers; of a WebSocket the refusal, or None when it was let in."""
    raw, _, query = path.encode().partition(b"?")
    scope: dict[str, Any] = {
        "type": kind, "asgi": {"version": "3.0", "spec_version": "2.3", "extensions": {}}, "http_version": "1.1",
        "method": "GET", "scheme": "http" if kind == "http" else "ws", "path": raw.decode(), "raw_path": raw,
        "query_string": query, "root_path": "", "headers": headers, "client": ("10.9.9.9", 1), "subprotocols": [],
        "server": ("127.0.0.1", 8484), "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    if kind == "websocket":
        del scope["method"]
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"} if kind == "websocket" else {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        said.append(dict(message))

    async def run() -> None:
        await asyncio.wait_for(wired.platform.chain(scope, receive, send), 60)

    wired._runner.run(run())
    first = said[0]
    return first.get("status", first.get("code")) if first["type"] != "websocket.accept" else None


def test_no_websocket_is_let_in_without_a_credential_or_from_elsewhere(wired: Wired) -> None:
    upgrade = [(b"connection", b"Upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]
    elsewhere = [(b"origin", b"https://evil.example")]
    cookie = [(b"cookie", signed_in(wired)["cookie"].encode())]
    workspace = (b"host", b"lab--alpha.user.localhost:8484")
    for path in (
        "/",
        "/api/v1/projects/alpha/events",
        "/mcp",
        "/api/kernels/x/channels",
        "/api/events/subscribe",
    ):
        for host in (HOST, workspace, (b"host", b"evil.example")):
            for more in ([], elsewhere, [*cookie, *elsewhere]):
                assert ask_as(wired, path, [host, *upgrade, *more], "websocket") is not None, (path, host)


def test_a_session_of_before_a_new_password_opens_nothing(wired: Wired) -> None:
    made = wired.ask(
        "POST", "/api/v1/projects/alpha/invitations", wired.admin, json={"role": "editor"}
    ).json()
    form = urlencode({
        "token": made["path"].partition("token=")[2], "name": "ida", "password": "correct horse battery",
    }).encode()  # fmt: skip
    joined = wired.ask("POST", "/invite", body=form, headers=OURS)
    stolen = {**OURS, "cookie": joined.headers["set-cookie"].partition(";")[0]}
    own = signed_in(wired, "ida")
    assert wired.ask("GET", "/api/v1/whoami", headers=stolen).status == 200
    new = {"old": "correct horse battery", "new": "battery horse correct"}
    assert wired.ask("POST", "/api/v1/account/password", headers=own, json=new).status == 204
    assert wired.ask("GET", "/api/v1/whoami", headers=own).status == 200
    for path in ("/api/v1/whoami", "/api/v1/notifications", "/api/v1/projects/alpha/jobs"):
        assert wired.ask("GET", path, headers=stolen).status == 401
    assert wired.ask("GET", "/projects/alpha", headers=stolen).status == 303


def test_what_people_wrote_is_never_run_where_others_are_signed_in(wired: Wired) -> None:
    """Names, comments, notes and files with a script in them: text on pages, and files that a browser only saves."""
    owner, cookie = wired.key("alpha", "owner"), signed_in(wired)
    here = "/api/v1/projects/alpha"
    job = wired.ask("POST", f"{here}/jobs", owner, json={"argv": ["echo", SCRIPT]}).json()["id"]
    said = {"on": "job", "of": str(job), "text": f"{SCRIPT} [x](javascript:hacked()) @admin"}
    assert wired.ask("POST", f"{here}/comments", owner, json=said).status == 201
    assert (
        wired.ask("POST", f"{here}/invitations", owner, json={"role": "viewer", "note": SCRIPT}).status == 201
    )
    repository = {"name": "noted", "description": SCRIPT}
    assert wired.ask("POST", f"{here}/repositories", owner, json=repository).status == 201
    for path in (f"/comments/job/{job}", f"/jobs/{job}", "/members", "/repositories", "/activity", "/inbox"):
        page = wired.ask("GET", f"/projects/alpha{path}", headers=cookie)
        assert page.status == 200, (path, page.status)
        assert b"<script>window" not in page.body, path
        assert b"onerror=hacked" not in page.body.replace(b"&lt;img src=x onerror=hacked", b""), path
        assert b'href="javascript:' not in page.body
        assert "script-src 'self'" in page.headers["content-security-policy"]
    for name in ("page.html", "page.svg", "page.xml", "page.js"):
        target = f"{here}/buckets/alpha-data/object?key={name}"
        put = {"content-type": "text/html"}
        assert wired.ask("PUT", target, owner, body=SCRIPT.encode(), headers=put).status == 201
        file = wired.ask("GET", target, headers=cookie)
        assert file.headers["content-disposition"].startswith("attachment")
        assert file.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in file.headers["content-security-policy"]


def test_an_object_opened_by_its_presigned_address_is_of_no_origin(wired: Wired) -> None:
    """Such an address is the console's: a page stored in a bucket must not be able to ask the API as who opens it."""
    editor = wired.key("alpha", "editor")
    key_id, _, secret = editor.partition(".")
    target = "/api/v1/projects/alpha/buckets/alpha-data/object?key=evil.html"
    put = {"content-type": "text/html"}
    assert wired.ask("PUT", target, editor, body=SCRIPT.encode(), headers=put).status == 201
    for more in ("", "?response-content-type=text/html", "?response-content-disposition=inline"):
        request = AWSRequest("GET", f"http://127.0.0.1:8484/alpha-data/evil.html{more}")
        S3SigV4QueryAuth(Credentials(key_id, secret), "s3", "us-east-1", expires=60).add_auth(request)
        address = request.url.removeprefix("http://127.0.0.1:8484")
        page = wired.ask("GET", address, headers=OURS)
        assert (page.status, page.body) == (200, SCRIPT.encode())
        assert page.headers["content-security-policy"] == "sandbox"
        assert page.headers["x-content-type-options"] == "nosniff"
        for what in ("script", "worker", "serviceworker"):
            program = wired.ask("GET", address, headers={**OURS, "sec-fetch-dest": what})
            assert (program.status, SCRIPT.encode() in program.body) == (403, False)
        assert wired.ask("GET", address, headers={**OURS, "sec-fetch-dest": "image"}).status == 200


def test_nobody_is_sent_elsewhere_by_a_link_to_us(wired: Wired) -> None:
    cookie = signed_in(wired)
    for target in (
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/%09/evil.example",
        "javascript:x",
        "\\\\evil",
    ):
        for path in ("/login", "/login/oidc"):
            answer = wired.ask("GET", f"{path}?{urlencode({'next': target})}", headers=cookie)
            place = answer.headers.get("location", "/")
            assert place.startswith("/"), (path, target, place)
            assert not place.startswith(("//", "/\\")), (path, target, place)
            assert (
                b"evil" not in answer.body
                or answer.status >= 400
                or b"&#34;" in answer.body
                or b"//evil" not in answer.body
            )


def test_no_webhook_is_made_that_names_this_machine(wired: Wired) -> None:
    owner, path = wired.key("alpha", "owner"), "/api/v1/projects/alpha/webhooks"
    for url in ("http://127.0.0.1:8484/", "http://[::1]/", "http://169.254.169.254/latest", "http://10.0.0.1/", "http://localhost/",
                "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/", "file:///etc/passwd", "http://u:p@x.org/"):  # fmt: skip
        answer = wired.ask("POST", path, owner, json={"url": url})
        assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_url"), url


def test_an_identity_provider_sends_nobody_in_without_a_sign_in_begun_here(wired: Wired) -> None:
    answer = wired.ask("GET", "/login/oidc/back?state=x&code=y", headers=OURS)
    assert answer.status in {401, 404}
    assert "set-cookie" not in answer.headers or "stratal_session" not in answer.headers["set-cookie"]
