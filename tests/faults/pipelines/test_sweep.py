"""``kill -9`` at every write of the journal, the platform's and the worker's own: what is left is what an undisturbed
run leaves, each commit once."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from platform_server import PlatformServer, is_gone, wait_until

PIPELINE = """
import os, signal
import stratal
from stratal.sdk.pipelines import journal

class Dying:
    "What the journal does to its file, until the worker is killed: before, in and after a write, before and after a sync."

    def __init__(self, left):
        self.left = left

    def point(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, file, data):
        self.point()
        half = os.write(file, data[: len(data) // 2])
        self.point()
        written = half + os.write(file, data[half:])
        self.point()
        return written

    def fdatasync(self, file):
        self.point()
        os.fdatasync(file)
        self.point()

    def __getattr__(self, name):
        return getattr(os, name)

@stratal.step
def more(n: int) -> int:
    return n + 1

@stratal.step
def ingest(n: int) -> stratal.Table:
    return stratal.table("raw.trips").replace([{"id": i, "day": f"d{i % 3}", "km": i / 2} for i in range(n)])

@stratal.step
def note(i: int, trips: stratal.Table) -> stratal.Table:
    stratal.table("raw.seen").append([{"i": i}])
    return stratal.table("raw.log").append([{"i": i, "n": len(trips.rows())}])

daily = stratal.sql_step(
    "select day, sum(km) km, count(*) n from {{ ref('raw.trips') }} group by day", into="mart.daily"
)

@stratal.pipeline
def sweep(n: int = 10, die: int = 0):
    if die and os.environ["STRATAL_ATTEMPT"] == "1":
        journal.os = Dying(die)
    trips = ingest(more(more(n - 2)).result())  # goes on from what only the worker's journal has, until it is let out
    daily(trips)
    note.map([1, 2], trips)
"""
_kills = itertools.count(1)
TABLES = ("raw.trips", "raw.seen", "raw.log", "mart.daily")


class Killed(PlatformServer):
    """A platform whose server is `killing_server`, brought up again whenever it is down."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.order = home.parent / "kill"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        script = Path(__file__).with_name("killing_server.py")
        record = self.home / "run" / "server.json"
        self._process = subprocess.Popen(
            [sys.executable, str(script), "up", "--home", str(self.home), "--port", str(self.port)],
            env=self.environ(KILL_AT=str(self.order), KILL_PORT=str(self.port)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        pid = self._process.pid
        wait_until(lambda: record.exists() and json.loads(record.read_text())["pid"] == pid, seconds=120)

    def down(self) -> None:
        super().down()
        if self._process is not None:
            self._process.wait(60)

    def down_already(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def arm(self, number: int, how: str) -> None:
        """Count journal writes from now on, and kill at the `number`-th."""
        self.order.with_suffix(".seen").unlink(missing_ok=True)
        self.order.write_text(f"{number} {how} {time.monotonic_ns()}")


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    running = Killed(tmp_path_factory.mktemp("sweep") / "home")
    running.home.parent.joinpath("code").mkdir()
    (running.home.parent / "code" / "sweep.py").write_text(PIPELINE)
    running.up()
    yield running
    running.down()


def start(server: PlatformServer, project: str, *words: str) -> int:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "stratal.cli.main",
            "pipeline",
            "run",
            "sweep.py",
            "--parallel",
            "1",
            "--detach",
            "--json",
            *words,
        ],
        cwd=server.home.parent / "code",
        env=server.environ(STRATAL_PROJECT=project),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["id"])


def run_to_its_end(server: Killed, project: str, run: int, *, seconds: float = 240) -> dict[str, Any]:
    """Bring the server up whenever it is down, until the run has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server.down_already():
            server.order.unlink(missing_ok=True)
            server.up()
        try:
            with server.http() as http:
                answer = http.get(f"/api/v1/projects/{project}/pipelines/runs/{run}?wait=2").json()
        except httpx.HTTPError:
            time.sleep(0.05)
            continue
        if answer["ended_at"] is not None:
            assert isinstance(answer, dict)
            return answer
    raise AssertionError(f"run {run} did not end: {answer}")


def left_by(server: PlatformServer, project: str) -> dict[str, Any]:
    """Of each table: its rows in order, and the step keys of the commits on its main branch, oldest first."""
    found: dict[str, Any] = {}
    with server.http() as http:
        for name in TABLES:
            asked = {"sql": f"select * from {name} order by all", "project": project}
            rows = http.post("/api/v1/sql", json=asked).raise_for_status().json()
            order = sorted(range(len(rows["columns"])), key=lambda i: rows["columns"][i]["name"])
            namespace, table = name.split(".")
            answer = http.get(f"/iceberg/v1/{project}/namespaces/{namespace}/tables/{table}")
            metadata = answer.raise_for_status().json()["metadata"]
            by_id = {snapshot["snapshot-id"]: snapshot for snapshot in metadata["snapshots"]}
            keys, at = [], metadata["current-snapshot-id"]
            while at in by_id:
                keys.append(by_id[at]["summary"]["stratal.step-key"])
                at = by_id[at].get("parent-snapshot-id")
            found[name] = {
                "rows": sorted([row[i] for i in order] for row in rows["rows"]),
                "keys": keys[::-1],
            }
    return found


def left_after(server: PlatformServer, project: str) -> dict[str, Any]:
    """The same of a server that may be killed once more by a write that comes after the run's end."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return left_by(server, project)
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="module")
def undisturbed(killed: Killed) -> dict[str, Any]:
    killed.project("calm")
    run = start(killed, "calm")
    shown = run_to_its_end(killed, "calm", run)
    assert shown["state"] == "succeeded", shown
    left = left_by(killed, "calm")
    assert [len(left[name]["rows"]) for name in TABLES] == [10, 2, 2, 3]
    assert [len(left[name]["keys"]) for name in TABLES] == [1, 2, 2, 1]
    return left


def kill_at(killed: Killed, undisturbed: dict[str, Any], number: int, how: str) -> bool:
    """One run with one kill; False when the run ended before its turn came."""
    project = killed.project(f"{how}-{number}-{next(_kills)}")  # the sample's kills are among the sweep's
    killed.arm(number + 1, how)  # the first write is the run's own row, whose sender waits for the answer
    run = start(killed, project)
    shown = run_to_its_end(killed, project, run)
    assert shown["state"] == "succeeded", (number, how, shown)
    assert {step["state"] for step in shown["steps"]} == {"succeeded"}, (number, how, shown)
    assert left_after(killed, project) == undisturbed, (number, how)
    seen = int(killed.order.with_suffix(".seen").read_text())
    due = not killed.order.exists() if how != "worker" else seen > number
    killed.order.unlink(missing_ok=True)
    return due


def test_a_kill_in_the_middle_leaves_what_an_undisturbed_run_leaves(
    killed: Killed, undisturbed: dict[str, Any]
) -> None:
    """A sample of the sweep: the server, between the COMMIT of a staged write and its answer, and the worker."""
    assert kill_at(killed, undisturbed, 6, "after")
    assert kill_at(killed, undisturbed, 9, "worker")
    attempts = die_at(killed, undisturbed, 8)
    assert attempts is not None, "the worker had an eighth moment to die at"
    assert attempts["more"] == attempts["more[1]"] == 1, "what was on its disk is not done again"


def die_at(killed: Killed, undisturbed: dict[str, Any], point: int) -> dict[str, int] | None:
    """One run whose worker dies at this moment of its own journal: how often each step was begun; None: it ended before."""
    project = killed.project(f"die-{point}-{next(_kills)}")
    run = start(killed, project, "--set", f"die={point}")
    shown = run_to_its_end(killed, project, run)
    assert shown["state"] == "succeeded", (point, shown)
    assert {step["state"] for step in shown["steps"]} == {"succeeded"}, (point, shown)
    assert left_after(killed, project) == undisturbed, point
    with killed.http() as http:
        job = http.get(f"/api/v1/projects/{project}/jobs/{shown['job']}").json()
    attempts = {step["name"]: step["attempt"] for step in shown["steps"]}
    return attempts if job["attempt"] > 1 else None


@pytest.mark.soak
def test_a_kill_at_every_moment_of_the_workers_journal(killed: Killed, undisturbed: dict[str, Any]) -> None:
    point = 1
    while die_at(killed, undisturbed, point) is not None:
        point += 1
    assert point > 8, "the sweep went over both steps that end there"


@pytest.mark.soak
@pytest.mark.parametrize("how", ["before", "after", "worker", "both"])
def test_a_kill_at_every_write_of_the_journal(killed: Killed, undisturbed: dict[str, Any], how: str) -> None:
    number = 1
    while kill_at(killed, undisturbed, number, how):
        number += 1
    assert number > 12, "the sweep went over the whole run"


def test_nothing_of_it_is_left_running(killed: Killed) -> None:
    wait_until(
        lambda: (
            not [
                entry
                for entry in Path("/proc").iterdir()
                if entry.name.isdigit() and _belongs(entry, killed.port) and not is_gone(int(entry.name))
            ]
        )
    )


def _belongs(entry: Path, port: int) -> bool:
    try:
        environment = (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"STRATAL_URL=http://127.0.0.1:{port}".encode() in environment and any(
        variable.startswith(b"STRATAL_PIPELINE_RUN=") for variable in environment
    )
