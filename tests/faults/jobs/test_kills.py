"""``kill -9`` of the server and of the keeper, at whatever moment: nothing is lost, nothing runs twice."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from platform_server import PlatformServer, wait_until


@pytest.fixture
def server(fresh_server: PlatformServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlatformServer:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "count.py").write_text(
        "import sys, time\n"
        "for n in range(int(sys.argv[1])):\n    print('line', n, flush=True)\n    time.sleep(0.1)\n"
        "sys.exit(7)\n"
    )
    monkeypatch.chdir(folder)
    return fresh_server


def stratal(server: PlatformServer, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "stratal.cli.main", *words],
        env=server.environ(),
        capture_output=True,
        text=True,
        timeout=180,
    )


def submit(server: PlatformServer, *words: str) -> int:
    done = stratal(server, "run", "--detach", *words)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def show(server: PlatformServer, job_id: int) -> dict[str, Any]:
    with server.http() as http:
        answer = http.get(f"/api/v1/projects/default/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def log(server: PlatformServer, job_id: int) -> str:
    with server.http() as http:
        return http.get(f"/api/v1/projects/default/jobs/{job_id}/logs").text


def ended(server: PlatformServer, job_id: int) -> dict[str, Any]:
    states = {"succeeded", "failed", "stopped", "unknown"}
    wait_until(lambda: show(server, job_id)["state"] in states, seconds=120)
    return show(server, job_id)


def test_the_server_dies_while_a_job_runs_and_whoever_follows_misses_nothing(server: PlatformServer) -> None:
    following = subprocess.Popen(
        [sys.executable, "-m", "stratal.cli.main", "run", "--", "python", "count.py", "30"],
        env=server.environ(),
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: "line 3" in log(server, 1))
    server.kill()
    server.up()
    output, _ = following.communicate(timeout=120)
    assert output == "".join(f"line {n}\n" for n in range(30))
    assert following.returncode == 7
    job = ended(server, 1)
    assert (job["state"], job["exit_code"], job["attempt"]) == ("failed", 7, 1)
    assert log(server, 1) == output


def test_the_server_dies_and_the_job_ends_while_nobody_looks(server: PlatformServer) -> None:
    job_id = submit(server, "--", "python", "count.py", "5")
    wait_until(lambda: show(server, job_id)["state"] == "running")
    server.kill()
    attempt = server.home / "run" / "keeper" / "attempts" / f"job-{job_id}-1" / "exit.json"
    wait_until(attempt.exists)
    server.up()
    job = ended(server, job_id)
    assert (job["state"], job["exit_code"]) == ("failed", 7)
    assert log(server, job_id) == "".join(f"line {n}\n" for n in range(5))
    assert job["usage"]["wall_seconds"] > 0.4


def test_the_server_dies_while_the_environment_is_built(server: PlatformServer) -> None:
    job_id = submit(
        server, "--with", "numpy", "--with", "pandas", "--", "python", "-c", "import pandas; print('ok')"
    )
    wait_until(lambda: "Building environment" in log(server, job_id))
    server.kill()
    assert show_after_restart(server, job_id)["state"] == "succeeded"
    assert log(server, job_id).endswith("ok\n")
    assert not (server.home / "envs" / ".building").exists() or not list(
        (server.home / "envs/.building").iterdir()
    )


def show_after_restart(server: PlatformServer, job_id: int) -> dict[str, Any]:
    server.up()
    return ended(server, job_id)


def test_the_keeper_dies_while_a_job_runs(server: PlatformServer) -> None:
    job_id = submit(server, "--", "python", "count.py", "20")
    wait_until(lambda: "line 2" in log(server, job_id))
    server.kill(server.keeper_pid())
    job = ended(server, job_id)
    if job["state"] == "unknown":  # allowed only where nobody could see the end
        assert job["exit_code"] is None
    else:
        assert (job["state"], job["exit_code"]) == ("failed", 7)
        assert log(server, job_id) == "".join(f"line {n}\n" for n in range(20))
    again = submit(server, "--", "python", "-c", "print('fine')")
    assert ended(server, again)["state"] == "succeeded"


def test_stopping_the_platform_stops_jobs_unless_told_to_keep_them(server: PlatformServer) -> None:
    kept = submit(server, "--", "python", "count.py", "30")
    wait_until(lambda: show(server, kept)["state"] == "running")
    server.cli("down", "--keep-jobs")
    job = show_after_restart(server, kept)
    assert (job["exit_code"], log(server, kept).count("line")) == (7, 30)
    ended_with_it = submit(server, "--", "python", "count.py", "600")
    waiting = submit(server, "--cpus", str(os.cpu_count()), "--", "python", "-c", "print('later')")
    wait_until(lambda: show(server, ended_with_it)["state"] == "running")
    server.cli("down")
    assert show_after_restart(server, ended_with_it)["state"] == "stopped"
    assert ended(server, waiting)["state"] == "succeeded"
