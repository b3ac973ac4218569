"""How jobs share the machine, as their users see it: limits, grace, gangs, arrays, made-up GPUs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, wait_until

SMALL = ("--no-code", "--cpus", "0.3", "--memory", "64MiB")

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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformServer]:
    running = PlatformServer(tmp_path_factory.mktemp("manners") / "home")
    running.cli("up", "--detach", "--port", str(running.port), STRATAL_FAKE_GPUS="h100:2")
    yield running
    running.down()


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


@pytest.fixture
def ask(shared: PlatformServer) -> Asker:
    return Asker(shared)


def processes(marker: str) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if marker.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


def test_past_its_memory_limit_a_job_ends_alone_and_says_so(ask: Asker) -> None:
    beside = ask.detach(*SMALL, "--", "sh", "-c", "sleep 3; echo fine")
    greedy = "x = []\nwhile True: x.append(bytearray(8 << 20))"
    done = ask("run", *SMALL, "--", "python", "-c", greedy)
    assert done.returncode not in {0, 125}
    assert "memory limit of 64 MiB exceeded" in done.stdout
    told = ask.json("jobs", "--state", "failed")["jobs"][0]
    assert told["reason"] == "memory limit of 64 MiB exceeded"
    assert ask.ended(beside)["exit_code"] == 0
    assert ask.log(beside) == "fine\n"


def test_a_stop_reaches_the_whole_tree_and_waits_for_its_grace(ask: Asker) -> None:
    marker = f"TREE-{os.getpid()}"
    tree = "trap 'echo asked' TERM; sh -c \"trap '' TERM; sleep 300\" & sh -c 'sleep 300' & while :; do wait; done"
    job = ask.detach(*SMALL, "--grace", "1s", "--env", f"MARK={marker}", "--", "sh", "-c", tree)
    wait_until(lambda: len(processes(marker)) >= 3)
    stopped = ask.json("job", "stop", job)
    assert stopped["state"] == "stopped"
    assert processes(marker) == []


def test_a_gang_of_three_goes_on_from_its_checkpoint_when_a_member_is_killed(ask: Asker) -> None:
    marker = f"GANG-{os.getpid()}"
    job = ask.detach(
        *("--no-code", "--cpus", "0.3", "--memory", "96MiB", "--nodes", "3", "--retries", "3"),
        *("--env", f"MARK={marker}", "--", "python", "-c", COUNT),
    )
    wait_until(lambda: "counted 2" in ask.log(job, rank=1))
    members = [pid for pid in processes(marker) if b"RANK=2\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(members[-1], signal.SIGKILL)
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
    assert processes(marker) == []


def test_gpus_that_are_made_up_are_assigned_and_called_fake(ask: Asker) -> None:
    look = 'echo "given $CUDA_VISIBLE_DEVICES"'
    done = ask("run", *SMALL, "--gpus", "h100:2", "--", "sh", "-c", look)
    assert done.stdout == "given GPU-fake-h100-0,GPU-fake-h100-1\n", done.stderr
    assert ask("run", *SMALL, "--", "sh", "-c", look).stdout == "given \n"
    assert "asks for 3 GPUs, and there is 2 h100" in ask("run", *SMALL, "--gpus", "3", "--", "true").stderr
    assert {gpu["fake"] for gpu in ask.json("gpus")["gpus"]} == {True}


def test_an_array_and_what_comes_after_it(ask: Asker) -> None:
    script = 'echo "index $STRATAL_ARRAY_INDEX"; sleep 0.2'
    array = ask.detach(*SMALL, "--array", "2-4", "--parallel", "2", "--", "sh", "-c", script)
    after = ask.detach(*SMALL, "--after", array, "--", "echo", "all there")
    assert ask.ended(after)["exit_code"] == 0
    shown = ask.json("job", "show", array)
    assert shown["states"]["succeeded"] == 3
    logs = sorted(ask.log(str(member["id"])) for member in shown["jobs"])
    assert logs == [f"index {index}\n" for index in (2, 3, 4)]
