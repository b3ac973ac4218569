"""Attacks by raw bytes on a server that runs, as they hit trackers and notebooks elsewhere: each tried, each refused.

What takes no socket to try (stored scripts on every page, sessions after a new password, presigned pages) is in
`rooms/gateway/test_attacks`; what takes a real browser in `faults/workspaces` and `console`.
"""

import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, free_port, wait_until

UP = (
    "../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "%2e%2e%2f" * 8, "%252e%252e%252f" * 8, "..;/" * 8, "..%5c" * 8,
    "....//" * 8, "%c0%ae%c0%ae/" * 8, ".%00./" * 8, "/..;" * 8 + "/", "%u002e%u002e/" * 8, "%ef%bc%8e" * 16 + "/",
)  # fmt: skip
SECRET = b"root:x:0:0"


class Raw:
    """A running platform, asked by bytes that no client would send."""

    def __init__(self, server: PlatformServer) -> None:
        self.server = server
        self.project = server.project()
        self.keys = {role: server.key(self.project, role) for role in ("viewer", "owner")}
        with server.http() as http:
            path = http.post("/api/v1/login-links").json()["path"]
            assert (
                http.post(f"/api/v1/projects/{self.project}/repositories", json={"name": "repo"}).status_code
                == 201
            )
        signed = httpx.get(f"{server.url}{path}", headers={"sec-fetch-site": "none"})
        self.set_cookie = signed.headers["set-cookie"]
        self.cookie = self.set_cookie.partition(";")[0]

    def ask(self, head: str, *headers: str, body: bytes = b"", host: str | None = None) -> tuple[int, bytes]:
        """The status, and everything that was answered."""
        lines = [
            f"{head} HTTP/1.1",
            f"Host: {host or self.server.url.removeprefix('http://')}",
            "Connection: close",
        ]
        lines += [*headers, *([f"Content-Length: {len(body)}"] if body else [])]
        with socket.create_connection(("127.0.0.1", self.server.port), 60) as wire:
            wire.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            answer = b""
            while chunk := wire.recv(1 << 16):
                answer += chunk
                if b"101 Switching" in answer:
                    break
        return int(answer.split(b" ", 2)[1]), answer

    def bearer(self, role: str = "owner") -> str:
        return f"Authorization: Bearer {self.keys[role]}"


@pytest.fixture(scope="module")
def raw(server: PlatformServer) -> Raw:
    return Raw(server)


def test_no_path_leads_out_of_anywhere(raw: Raw) -> None:
    here = f"/api/v1/projects/{raw.project}"
    for up in UP:
        goal = f"{up}etc/passwd"
        for path in (
            f"/{goal}", f"/static/x/{goal}", f"/mcp/{goal}", f"/f/{raw.project}/{goal}", f"/v2/models/{goal}",
            f"{here}/buckets/{goal}", f"{here}/repositories/repo/raw?path={goal}", f"{here}/jobs/{goal}",
            f"{here}/reports/{goal}", f"{here}/workspaces/{goal}", f"{here}/solution/{goal}", f"/r/{goal}",
            f"/api/2.0/mlflow-artifacts/artifacts/{goal}", f"/git/{raw.project}/{goal}/info/refs?service=git-upload-pack",
            f"/git/{raw.project}/repo.git/info/lfs/objects/{goal}", f"/hub/{raw.project}/m/resolve/main/{goal}",
            f"/iceberg/v1/{raw.project}/namespaces/{goal}", f"/projects/{raw.project}/tables/{goal}", f"/hooks/x/{goal}",
        ):  # fmt: skip
            status, answer = raw.ask(f"GET {path}", raw.bearer())
            assert 300 <= status < 500 or status == 501, (path, answer)
            assert SECRET not in answer, path


def routes(raw: Raw, *methods: str) -> Iterator[tuple[str, str]]:
    """Every native route with one of these methods, with something in its parameters' places."""
    described = httpx.get(f"{raw.server.url}/api/v1/openapi.json").json()["paths"]
    for path, known in described.items():
        filled = re.sub(r"\{[^}]+\}", "1", path.replace("{project}", raw.project))
        for method in known:
            if method.upper() in methods:
                yield method.upper(), filled


def test_no_change_is_made_without_a_credential_or_by_who_may_only_look(raw: Raw) -> None:
    """DELETE has been forgotten before: every route that changes something, DELETE with the rest."""
    asked = 0
    for method, path in routes(raw, "DELETE", "PUT", "PATCH", "POST"):
        if path in {"/api/v1/device", "/api/v1/device/token"}:
            continue
        status, answer = raw.ask(f"{method} {path}", body=b"{}")
        assert status == 401, (method, path, answer)
        if method == "DELETE":
            status, answer = raw.ask(f"{method} {path}", raw.bearer("viewer"))
            assert status in {400, 403, 404}, (method, path, answer)
        asked += 1
    assert asked > 100


@pytest.mark.parametrize(
    "from_elsewhere",
    [
        ("Origin: https://evil.example",),
        ("Origin: null",),
        ("Sec-Fetch-Site: cross-site",),
        ("Sec-Fetch-Site: same-site", "Origin: http://lab.user.localhost"),
        (),
    ],
    ids=["origin", "null", "fetch metadata", "a workspace", "nothing said"],
)
def test_another_sites_page_changes_nothing_with_a_viewers_cookie(
    raw: Raw, from_elsewhere: tuple[str, ...]
) -> None:
    body = b"{}"
    for method, path in routes(raw, "DELETE", "PUT", "PATCH", "POST"):
        if path in {"/api/v1/device", "/api/v1/device/token"}:
            continue
        status, answer = raw.ask(f"{method} {path}", f"Cookie: {raw.cookie}", *from_elsewhere, body=body)
        assert (status, b'"cross_site"' in answer) == (403, True), (method, path, answer)
    if not from_elsewhere:
        return  # no browser: it says where a form came from
    kind = "Content-Type: application/x-www-form-urlencoded"
    for path in ("/login", "/invite", "/device", "/logout"):
        status, answer = raw.ask(f"POST {path}", f"Cookie: {raw.cookie}", kind, *from_elsewhere, body=b"a=b")
        assert (status, b"set-cookie" in answer.lower()) == (403, False), (path, answer)
    assert raw.ask("GET /api/v1/whoami", f"Cookie: {raw.cookie}")[0] == 200  # and is signed in still


def test_a_rebound_name_and_a_websocket_without_a_credential_reach_nothing(raw: Raw) -> None:
    upgrade = (
        "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )  # fmt: skip
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "evil.localhost.example:8484",
        "169.254.169.254",
        "a@localhost",
    ):
        for path in (
            "/",
            "/api/v1/whoami",
            "/mcp",
            "/v1/models",
            "/healthz",
            f"/git/{raw.project}/repo.git/info/refs",
        ):
            assert raw.ask(f"GET {path}", raw.bearer(), host=host)[0] == 400, (host, path)
        assert raw.ask("GET /api/events/subscribe", *upgrade, host=host)[0] == 400, host
    for host in (None, "lab--x.user.localhost", "localhost"):
        for path in (
            "/",
            "/api/kernels/1/channels",
            "/terminals/websocket/1",
            "/api/collaboration/room/x",
            "/mcp",
        ):
            for more in (
                (),
                (f"Cookie: {raw.cookie}",),
                ("Cookie: stratal_visit=x", "Origin: http://lab--x.user.localhost"),
            ):
                status, answer = raw.ask(f"GET {path}", *upgrade, *more, host=host)
                assert status in {400, 401, 403, 404}, (host, path, answer)


def test_nobody_is_sent_elsewhere_or_signed_in_as_somebody_else_by_a_link(raw: Raw) -> None:
    for target in ("https://evil.example", "//evil.example", "/%5Cevil.example", "/%09/evil.example", "%2F%2Fevil.example",
                   "javascript:x", "/%2Fevil.example/..", "/login?next=//evil.example"):  # fmt: skip
        for path in ("/login", "/login/oidc"):
            _, answer = raw.ask(f"GET {path}?next={target}", f"Cookie: {raw.cookie}", "Accept: text/html")
            place = re.search(rb"(?i)^location: (.*?)\r$", answer, re.MULTILINE)
            at = place[1] if place else b"/"
            assert at.startswith(b"/"), (target, at)
            assert at[1:2] not in {b"/", b"\\"}, (target, at)
    with raw.server.http() as http:
        link = http.post("/api/v1/login-links").json()["path"]
    for site in (
        "cross-site",
        "same-site",
    ):  # a page of another site that leads here: a button, and nobody signed in
        status, answer = raw.ask(f"GET {link}", f"Sec-Fetch-Site: {site}", "Accept: text/html")
        assert (status, b"set-cookie" in answer.lower(), b"<form" in answer) == (200, False, True)
    assert b"set-cookie" in raw.ask(f"GET {link}", "Sec-Fetch-Site: none")[1].lower()


def test_the_cookie_is_out_of_reach_and_another_hosts_is_not_taken_for_it(raw: Raw) -> None:
    said = raw.set_cookie.lower()
    assert all(word in said for word in ("httponly", "samesite=lax", "path=/"))
    assert "domain" not in said
    tossed = (
        f"Cookie: stratal_session=thief; {raw.cookie}",
        f"Cookie: __Host-stratal_session={raw.cookie.partition('=')[2]}",
    )
    assert raw.ask("GET /api/v1/whoami", tossed[0])[0] == 200  # the more general one is the console's own
    assert raw.ask("GET /api/v1/whoami", tossed[1])[0] == 401


def test_a_webhook_asks_nobody_beside_us_whatever_a_name_resolves_to(raw: Raw) -> None:
    """A name of this very machine, as DNS may answer with any address: nobody connects."""
    reached: list[Any] = []
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(60)

        def listen() -> None:
            try:
                reached.append(listener.accept())
            except OSError:
                return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        name = next(
            (n for n in (socket.gethostname(), "ip6-localhost", "ip6-loopback") if _resolves(n)), None
        )
        assert name is not None
        here = f"/api/v1/projects/{raw.project}/webhooks"
        with raw.server.http(raw.keys["owner"]) as http:
            for url in (
                f"http://localhost:{port}/",
                f"http://127.0.0.1:{port}/",
                "http://[::ffff:7f00:1]/",
                "http://[::7f00:1]/",
            ):
                assert http.post(here, json={"url": url}).status_code == 400, url
            made = http.post(here, json={"url": f"http://{name}:{port}/"})
            assert made.status_code == 201, made.text
            at = f"{here}/{made.json()['id']}"
            assert http.post(f"{at}/test").status_code == 202
            wait_until(lambda: "public" in json.dumps(http.get(f"{at}/deliveries").json()))
            assert http.delete(at).status_code == 204
        assert not reached


def _resolves(name: str) -> bool:
    try:
        return bool(socket.getaddrinfo(name, 80))
    except OSError:
        return False
