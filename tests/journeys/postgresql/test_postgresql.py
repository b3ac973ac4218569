"""The whole story with its records in PostgreSQL: made, asked, killed, and found again."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from platform_server import PlatformServer, wait_until
from postgres_server import PostgresServer


@pytest.fixture
def on_postgres(postgres: PostgresServer, tmp_path: Path) -> Iterator[PlatformServer]:
    url = postgres.tcp_url(postgres.create())
    running = PlatformServer(tmp_path / "home", STRATAL_DATABASE_URL=url)
    running.up()
    yield running
    running.down()


def test_from_data_to_an_explained_prediction_and_through_kill_9(
    on_postgres: PlatformServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    server = on_postgres
    status = server.json("status")
    assert status["database"].startswith("postgresql://stratal@127.0.0.1:")
    assert postgres.password not in json.dumps(status)
    assert not (server.home / "db" / "stratal.db").exists()
    told = server.json("demo", timeout=600)
    assert told["verified"], told
    print(told["timings"])
    env = server.env("demo")
    endpoint = f"{server.url}/v2/models/breast-cancer"
    headers = {"Authorization": f"Bearer {env['STRATAL_API_KEY']}"}

    slow = ("python", "-c", "import sys, time; time.sleep(3); sys.exit(7)")
    sent = server.cli("run", "--detach", "--no-code", "--json", "--", *slow, **env)
    job = json.loads(sent.stdout)
    wait_until(lambda: state_of(server, job["id"])["state"] == "running", seconds=120)
    server.kill()
    refused = PlatformServer(server.home).cli("up", "--detach", "--port", str(server.port), check=False)
    assert refused.returncode == 1
    assert "STRATAL_DATABASE_URL" in refused.stderr
    server.up()

    other = PlatformServer(tmp_path / "other", **server.more)
    second = other.cli("up", "--detach", "--port", str(other.port), check=False)
    assert second.returncode == 1
    assert "Another Stratal server is running" in second.stderr
    assert postgres.password not in second.stderr

    why = server.json("why", told["prediction_id"], **env)
    assert why["verified"], why
    wait_until(lambda: state_of(server, job["id"])["ended_at"], seconds=120)
    ended = state_of(server, job["id"])
    assert (ended["state"], ended["exit_code"]) == ("failed", 7)
    row = {"name": "input", "shape": [1, 30], "datatype": "FP64", "data": [1.0] * 30}
    asked = httpx.post(f"{endpoint}/infer", json={"inputs": [row]}, headers=headers, timeout=120)
    assert asked.status_code == 200, asked.text
    again = server.json("why", asked.headers["x-stratal-prediction-id"], **env)
    assert again["verified"], again
    counted = server.json("sql", f"SELECT count(*) AS n FROM {told['table']}", **env)
    assert str(told["rows"]) in json.dumps(counted)


def state_of(server: PlatformServer, job: int) -> dict[str, object]:
    with server.http() as http:
        answer = http.get(f"/api/v1/projects/demo/jobs/{job}")
        assert answer.status_code == 200, answer.text
        shown: dict[str, object] = answer.json()
        return shown
