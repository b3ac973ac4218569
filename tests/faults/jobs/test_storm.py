"""Random ``kill -9``s of everything that carries jobs: none lost, none doubled, no orphans, exit codes true or unknown."""

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, wait_until
from stratal.engines.local.shown import zygotes as zygotes_of

KILLED = 128 + signal.SIGKILL
SCRIPT = 'echo "begin $STRATAL_ATTEMPT"; sleep $0; echo end; exit $2'
PROGRAM = (
    "import os, sys, time; print('begin', os.environ['STRATAL_ATTEMPT'])\n"
    "time.sleep(float(sys.argv[1])); print('end'); sys.exit(int(sys.argv[3]))"
)
"""The same, which a zygote can fork."""


def children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(word) for word in (task / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    found = children(pid)
    for one in found:
        found.extend(children(one))
    return found


def carrying(mark: str) -> list[int]:
    """Every process that was given `mark` as a variable or an argument, in whatever tree it is now."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
    return found


def astray(server: PlatformServer) -> dict[int, bytes]:
    """What names this platform's home and is neither below its server nor below its keeper: nobody would ever end it."""
    ours = {os.getpid(), server.pid(), server.keeper_pid()}
    ours |= set(descendants(server.pid())) | set(descendants(server.keeper_pid()))
    found = {}
    for pid in set(carrying(str(server.home))) - ours:
        with suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    return found


@dataclass
class Storm:
    """Jobs sent while things are killed; `expected` has the exit code that each acknowledged one earns by itself."""

    server: PlatformServer
    dice: random.Random
    mark: str
    expected: dict[int, int] = field(default_factory=dict)
    victims: Counter[str] = field(default_factory=Counter)

    def send(self, jobs: int, seconds: float, kills: int) -> None:
        """Spread the jobs over the kills, so that to the last there is something to hit."""
        for number in range(jobs):
            while self.victims.total() * jobs < (number - 18) * kills:
                time.sleep(0.02)
            code = number % 4
            program = ["python", "-c", PROGRAM] if number % 3 else ["sh", "-c", SCRIPT]
            argv = [*program, f"{self.dice.uniform(0, seconds):.3f}", self.mark, str(code)]
            asked = {
                "argv": argv,
                "cpus": 0.1,
                "memory_bytes": 32 << 20,
                "retries": number % 3,
                "env": {"STORM": self.mark},
            }
            while True:
                with suppress(httpx.HTTPError), self.server.http() as http:
                    answer = http.post("/api/v1/projects/default/jobs", json=asked)
                    assert answer.status_code in {201, 503}, answer.text
                    if answer.status_code == 201:
                        self.expected[answer.json()["id"]] = code
                        break
                time.sleep(0.1)

    def strike(self) -> None:
        """Kill one thing: the server, the keeper, what guards an attempt, something of an attempt's own, or a zygote."""
        kind = self.dice.choice(["server", "keeper", "guard", "workload", "workload", "zygote"])
        if kind == "server":
            self.server.kill()
            self.server.up()
        else:
            with suppress(OSError, ValueError):
                keeper = self.server.keeper_pid()
                guards = children(keeper)
                inside = [pid for guard in guards for pid in descendants(guard)]
                zygotes = [one.pid for one in zygotes_of(self.server.home / "run" / "keeper")]
                found = {"keeper": [keeper], "guard": guards, "workload": inside, "zygote": zygotes}[kind]
                if not found:
                    return
                os.kill(self.dice.choice(found), signal.SIGKILL)
        self.victims[kind] += 1


def jobs_of(server: PlatformServer) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    before = None
    with server.http() as http:
        while True:
            asked = {"limit": 1000} | ({} if before is None else {"before": before})
            page = http.get("/api/v1/projects/default/jobs", params=asked).json()
            found |= {job["id"]: job for job in page["jobs"]}
            before = page["next"]
            if before is None:
                return found


def ends_told(server: PlatformServer, most: int) -> Iterator[tuple[int, str]]:
    """The job and the kind of each event that told of an end."""
    ends = {"job.succeeded", "job.failed", "job.stopped", "job.unknown"}
    seen = 0
    with server.http() as http, http.stream("GET", "/api/v1/projects/default/events?after=0") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if event["kind"] in ends:
                    yield int(event["subject"]), event["kind"]
                    seen += 1
                if event["kind"] == "quota.set" or seen > 10 * most:
                    return


def ride_out(server: PlatformServer, *, kills: int, jobs: int, seed: int) -> Storm:
    mark = f"storm-{os.getpid()}-{seed}"
    storm = Storm(server, random.Random(seed), mark)

    def all_ended() -> bool:
        with server.http() as http:
            left = http.get("/api/v1/projects/default/jobs?state=queued&state=starting&state=running&limit=1")
            return not left.json()["jobs"]

    storm.send(
        1, 0, kills
    )  # the environment is built by a workload too, whose killed attempt has no exit code
    wait_until(all_ended, seconds=300)
    sending = threading.Thread(target=storm.send, args=(jobs - 1, 0.4, kills))
    sending.start()
    while storm.victims.total() < kills:
        time.sleep(storm.dice.uniform(0, 0.3))
        storm.strike()
    sending.join(timeout=600)
    assert not sending.is_alive()
    wait_until(all_ended, seconds=600)
    found = jobs_of(server)
    assert set(storm.expected) <= set(found), "an acknowledged job is lost"
    with server.http() as http:
        for job_id, job in found.items():
            tried = http.get(f"/api/v1/projects/default/jobs/{job_id}/attempts").json()["attempts"]
            assert [attempt["number"] for attempt in tried] == list(range(1, job["attempt"] + 1))
            wanted = storm.expected.get(job_id, int(job["argv"][-1]))
            for attempt in tried:
                code = attempt["exit_code"]
                assert code in {None, wanted, KILLED}, (job_id, attempt)
                assert (code is None) == (attempt["state"] == "unknown"), (job_id, attempt)
                assert (code == 0) == (attempt["state"] == "succeeded"), (job_id, attempt)
                log = http.get(
                    f"/api/v1/projects/default/jobs/{job_id}/logs?attempt={attempt['number']}"
                ).text
                assert log.count("begin ") == log.count(f"begin {attempt['number']}\n") <= 1, (job_id, log)
                assert code != wanted or log.count("end\n") == 1, (job_id, log)
            assert all(attempt["state"] != "succeeded" for attempt in tried[:-1])
            assert (job["state"], job["exit_code"]) == (tried[-1]["state"], tried[-1]["exit_code"])
        http.put("/api/v1/projects/default/quota", json={}).raise_for_status()  # the last event to read
    told = list(ends_told(server, len(found)))
    assert Counter(job_id for job_id, _ in told) == Counter(list(found)), "an end was told twice or never"
    assert {(job_id, f"job.{job['state']}") for job_id, job in found.items()} == set(told)
    wait_until(lambda: not carrying(mark), seconds=30)
    with suppress(AssertionError):
        wait_until(lambda: not astray(server))
    assert not astray(server)
    wait_until(lambda: not list((server.home / "work").glob("job-*")), seconds=30)
    wait_until(lambda: not list((server.home / "run/keeper/attempts").glob("job-*")), seconds=30)
    return storm


def test_a_storm_of_kills(fresh_server: PlatformServer) -> None:
    storm = ride_out(fresh_server, kills=int(os.environ.get("STRATAL_KILLS", "9")), jobs=18, seed=1)
    assert len(storm.expected) == 18


@pytest.mark.soak
def test_a_long_storm_of_kills(fresh_server: PlatformServer) -> None:
    storm = ride_out(fresh_server, kills=1000, jobs=2000, seed=2)
    assert all(storm.victims[kind] > 50 for kind in ("server", "keeper", "guard", "workload", "zygote"))
