"""Gangs as their users see them: every process there or none, and together again after one was killed."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from platform_server import PlatformServer, wait_until

# Counts to 6 together with the others, rank 0 keeping count in the checkpoint; every number is agreed on by all.
COUNT = """
import os, pathlib, socket, time
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
kept = pathlib.Path(os.environ["STRATAL_CHECKPOINT_DIR"], "count")
begin = int(kept.read_text()) if kept.exists() else 0
peers = []
if rank == 0:
    server = socket.create_server(address)
    peers = [server.accept()[0].makefile("rw") for _ in range(world - 1)]
else:
    while not peers:
        try:
            peers = [socket.create_connection(address).makefile("rw")]
        except OSError:
            time.sleep(0.05)
print("begins at", begin, "after", os.environ["TORCHELASTIC_RESTART_COUNT"], flush=True)
for number in range(begin + 1, 7):
    for peer in peers:
        print(number, file=peer, flush=True)
        assert int(peer.readline()) == number
    if rank == 0:
        part = kept.with_suffix(".part")
        part.write_text(str(number))
        part.rename(kept)
    print("counted", number, flush=True)
    time.sleep(0.3)
"""


class Asker:
    def __init__(self, server: PlatformServer) -> None:
        self.server = server
        self.project = server.project()

    def __call__(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "stratal.cli.main", *words]
        environ = self.server.environ(STRATAL_PROJECT=self.project)
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=180)

    def json(self, *words: str) -> dict[str, Any]:
        done = self(*words, "--json")
        assert done.stdout.count("\n") == 1, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def detach(self, *words: str) -> str:
        done = self("run", "--detach", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def get(self, path: str, **asked: Any) -> httpx.Response:
        with self.server.http() as http:
            return http.get(f"/api/v1/projects/{self.project}{path}", params=asked).raise_for_status()

    def log(self, job: str, **of: int) -> str:
        return self.get(f"/jobs/{job}/logs", **of).text

    def ended(self, job: str) -> dict[str, Any]:
        while (found := self.get(f"/jobs/{job}", wait=30).json())["ended_at"] is None:
            pass
        return {**found, **self.get(f"/jobs/{job}/attempts").json()}


def writers(server: PlatformServer, job: str, log: str = "") -> list[int]:
    """The processes whose output is this log of the job's (any, when it is ""): a fork's environment is its zygote's."""
    folder = f"{server.home}/run/keeper/attempts/job-{job}-"
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                output = str((process / "fd" / "1").readlink())
                if output.startswith(folder) and output.endswith(log):
                    found.append(int(process.name))
    return found


def test_a_gang_of_three_goes_on_from_its_checkpoint_when_a_member_is_killed(server: PlatformServer) -> None:
    ask = Asker(server)
    job = ask.detach(
        *("--no-code", "--cpus", "0.3", "--memory", "96MiB", "--nodes", "3", "--retries", "3"),
        *("--", "python", "-c", COUNT),
    )
    wait_until(lambda: "counted 2" in ask.log(job, rank=2))
    os.kill(max(writers(server, job, "/log.2")), signal.SIGKILL)
    ended = ask.ended(job)
    assert (ended["state"], ended["attempt"]) == ("succeeded", 2)
    first, second = ended["attempts"]
    assert (first["state"], first["exit_code"]) == ("failed", 137)
    said = ask.log(job, attempt=1)
    assert "rank 2 was killed by signal 9: the other 2 of its gang are ended" in said
    for rank in range(3):
        log = ask.log(job, rank=rank, attempt=2).splitlines()
        assert log[0].startswith("begins at ")
        assert int(log[0].split()[2]) >= 2
        assert log[0].endswith("after 1")
        assert log[-1] == "counted 6"
    assert second["exit_code"] == 0
    assert writers(server, job) == []
