"""The platform's life through its real command: start, second start, kill, stop, and who gets in."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from platform_server import PlatformServer, free_port, is_gone


def test_first_start_makes_keys_that_only_their_owner_can_read(fresh_server: PlatformServer) -> None:
    assert fresh_server.home.stat().st_mode & 0o077 == 0
    for path in (fresh_server.home / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    who = fresh_server.json("whoami")
    assert (who["role"], who["project"]) == ("admin", "default")


def test_a_second_up_says_so(fresh_server: PlatformServer) -> None:
    again = fresh_server.cli("up", "--detach", "--port", str(free_port()), check=False)
    assert again.returncode == 1
    assert "already running" in again.stderr
    assert fresh_server.url in again.stderr
    assert "Traceback" not in again.stderr


def test_a_taken_port_is_said(fresh_server: PlatformServer, tmp_path: Path) -> None:
    other = PlatformServer(tmp_path / "other")
    done = other.cli("up", "--detach", "--port", str(fresh_server.port), check=False)
    assert done.returncode == 1
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_after_kill_9_it_starts_again_with_the_same_keys(fresh_server: PlatformServer) -> None:
    key = fresh_server.key()
    fresh_server.kill()
    assert fresh_server.cli("status", check=False).returncode == 3
    fresh_server.up()
    with fresh_server.http(key) as http:
        assert http.get("/api/v1/whoami").json()["role"] == "editor"


def test_down_stops_and_says_when_there_is_nothing(fresh_server: PlatformServer) -> None:
    pid = fresh_server.pid()
    fresh_server.cli("down")
    assert is_gone(pid)
    again = fresh_server.cli("down")
    assert "Nothing was running" in again.stdout
    missing = fresh_server.cli("projects", "list", check=False)
    assert missing.returncode == 3
    assert "stratal up" in missing.stderr


def test_status_json(server: PlatformServer) -> None:
    status = server.json("status")
    assert status["state"] == "running"
    assert status["url"] == server.url
    assert status["pss_bytes"] > 0
    assert any(process["pid"] == status["pid"] for process in status["processes"])


def test_env_is_flat_strings_and_reuses_its_key(server: PlatformServer) -> None:
    first = server.env()
    assert first == server.env()
    assert all(isinstance(value, str) for value in first.values())
    shell = server.cli("env").stdout
    seen = subprocess.run(
        ["sh", "-c", f'{shell}\nprintf %s "$AWS_SECRET_ACCESS_KEY"'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert seen == first["AWS_SECRET_ACCESS_KEY"]
    project = server.project()
    assert server.env(project)["STRATAL_API_KEY"] != first["STRATAL_API_KEY"]
    with server.http(server.env(project)["STRATAL_API_KEY"]) as http:
        assert http.get("/api/v1/whoami").json()["project"] == project
    assert stat.S_IMODE((server.home / "keys" / f"env-{project}.key").stat().st_mode) == 0o600


def test_the_env_of_an_unknown_project_is_an_error(server: PlatformServer) -> None:
    done = server.cli("env", "--project", "nowhere", check=False)
    assert done.returncode == 6
    assert "nowhere" in done.stderr
    assert server.cli("env", "--project", "../../x", check=False).returncode == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_binding_beyond_loopback_needs_tls_or_consent(tmp_path: Path, host: str) -> None:
    other = PlatformServer(tmp_path / "home")
    for more in ((), ("--detach",)):
        done = other.cli("up", "--host", host, "--port", str(other.port), *more, check=False)
        assert done.returncode == 1
        assert "TLS" in done.stderr
        assert "--insecure" in done.stderr
    assert not (tmp_path / "home" / "keys").exists()


def test_insecure_binding_when_asked_for(tmp_path: Path) -> None:
    other = PlatformServer(tmp_path / "home")
    other.cli("up", "--detach", "--host", "0.0.0.0", "--insecure", "--port", str(other.port))
    try:
        assert httpx.get(f"{other.url}/readyz").json()["status"] == "ready"
    finally:
        other.down()


def test_foreground_prints_a_login_link_and_ends_on_sigterm(tmp_path: Path) -> None:
    other = PlatformServer(tmp_path / "home")
    process = subprocess.Popen(
        [sys.executable, "-m", "stratal.cli.main", "up", "--port", str(other.port)],
        env=other.environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(4)]
    assert other.url in lines[0]
    assert "/login?token=" in lines[2]
    process.terminate()
    assert process.wait(timeout=30) == 0
    process.stdout.close()
    other.down()  # its keeper would stay: a server's end spares what runs


def test_health_needs_no_key_and_everything_else_does(server: PlatformServer) -> None:
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert httpx.get(f"{server.url}/readyz").json()["status"] == "ready"
    refused = httpx.get(f"{server.url}/api/v1/whoami")
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "no_credentials"
    assert refused.headers["x-request-id"] == refused.json()["error"]["request_id"]


@pytest.mark.parametrize(
    "header",
    [
        "Bearer nonsense",
        "Bearer a.b",
        "Basic !!!",
        "Basic Og==",
        "Bearer",
        "Digest x",
        "Bearer st1k" + "0" * 20 + ".x",
    ],
)
def test_bad_credentials_are_401(server: PlatformServer, header: str) -> None:
    answer = httpx.get(f"{server.url}/api/v1/whoami", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.json()["error"]["hint"]


def test_revoked_and_expired_keys_stop(server: PlatformServer) -> None:
    made = server.json("keys", "create", "short", "--expires", "1s")
    listed = server.json("keys", "list")["keys"]
    assert any(key["id"] == made["id"] and key["expires_at"] for key in listed)
    revoked = server.json("keys", "create", "gone")
    with server.http(revoked["token"]) as http:
        assert http.get("/api/v1/whoami").status_code == 200
        server.cli("keys", "revoke", revoked["id"])
        assert http.get("/api/v1/whoami").status_code == 401
    done = server.cli("whoami", check=False, STRATAL_API_KEY=revoked["token"])
    assert done.returncode == 4
    assert "revoked" in done.stderr


def test_a_foreign_host_name_is_refused(server: PlatformServer) -> None:
    answer = httpx.get(f"{server.url}/healthz", headers={"Host": "evil.example"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "bad_host"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n",
        b"Content-Length: x\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
    ],
)
def test_ambiguous_framing_is_refused(server: PlatformServer, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /api/v1/projects HTTP/1.1\r\nHost: 127.0.0.1\r\n" + head + b"\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400")


def test_wrong_input_is_a_clear_error(server: PlatformServer) -> None:
    with server.http() as http:
        for body in (
            b"{",
            b"\xff\xfe",
            b"[]",
            b'{"name": 3}',
            b'{"name": "a/b"}',
            b'{"name": "x\\n"}',
            b"null",
        ):
            answer = http.post("/api/v1/projects", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, (body, answer.text)
            assert answer.json()["error"]["message"]
        assert http.get("/api/v1/projects/..%2f..%2fetc/keys").status_code == 404
        assert http.get("/api/v1/nothing").status_code == 404
        assert http.put("/api/v1/whoami").status_code == 405


def test_cli_mistakes_have_no_traceback(server: PlatformServer) -> None:
    for arguments in (
        ("projcts",),
        ("keys", "create"),
        ("keys", "create", "x", "--expires", "soon"),
        ("keys", "revoke", "st1k00000000000000000000"),
        ("projects", "create", "default"),
        ("projects", "create", "a b"),
    ):
        done = server.cli(*arguments, check=False)
        assert done.returncode in {1, 2, 6}, arguments
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
    unreachable = server.cli("whoami", check=False, STRATAL_URL=f"http://127.0.0.1:{free_port()}")
    assert unreachable.returncode == 3


def test_tcp_nodelay_is_set_on_accepted_sockets(server: PlatformServer) -> None:
    """Two answers in one connection leave without waiting for each other's ACK: read the option off the socket."""
    script = (
        "import socket\n"
        "from pathlib import Path\n"
        "from stratal.app.server import _listen\n"
        "from stratal.app.settings import Home, Settings\n"
        "import sys\n"
        "l = _listen(Settings(home=Home(Path('/nonexistent')), port=int(sys.argv[1])))\n"
        "c = socket.create_connection(l.getsockname())\n"
        "a, _ = l.accept()\n"
        "print(a.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))\n"
        "a.close(); c.close(); l.close()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(free_port())],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert int(done.stdout) != 0


def test_login_link_signs_in_once(server: PlatformServer) -> None:
    link = server.json("login-link")["url"]
    assert link.startswith(f"{server.url}/login?token=")
    assert json.loads(server.cli("login-link", "--json").stdout)["url"] != link
