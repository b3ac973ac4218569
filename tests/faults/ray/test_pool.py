"""A platform on a pool of three raylets, whose parts are killed one after the other."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from journeys.jobs.test_gangs import Asker
from platform_server import PlatformServer, free_port, wait_until

pytestmark = pytest.mark.soak

COUNT = """
import os, pathlib, time
kept = pathlib.Path(os.environ["STRATAL_CHECKPOINT_DIR"], "count")
begin = int(kept.read_text()) if kept.exists() else 0
print("begins at", begin, flush=True)
for number in range(begin + 1, 41):
    part = kept.with_suffix(".part")
    part.write_text(str(number))
    part.rename(kept)
    print("counted", number, flush=True)
    time.sleep(0.5)
"""
OUTSIDER = """
import sys
import ray
from stratal.engines.ray.start import stay_on_loopback
stay_on_loopback()
ray.init(sys.argv[1], _node_ip_address="127.0.0.1", log_to_driver=False)
"""


def processes(marker: str) -> list[int]:
    """The processes that were started with this in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                if marker.encode() in (process / "environ").read_bytes():
                    found.append(int(process.name))
    return found


class Pool:
    def __init__(self, server: PlatformServer, scratch: Path) -> None:
        self.server = server
        self.ask = Asker(server)
        self.folders = {"head": server.home / "run" / "ray" / "node"}
        for name in ("n1", "n2"):
            self.folders[name] = scratch / name
            server.cli("pool", "join", *self._named(name), "--cpus", "1", "--memory", "1GiB", timeout=300)

    def _named(self, name: str) -> tuple[str, ...]:
        return ("--name", name, "--folder", str(self.folders[name]))

    def nodes(self) -> dict[str, dict[str, Any]]:
        done = self.server.cli("pool", "ls", "--json", check=False)
        found = json.loads(done.stdout)["nodes"] if done.returncode == 0 else []
        return {node["name"]: node for node in found if node["state"] == "up"}

    def whole(self) -> None:
        wait_until(lambda: len(self.nodes()) == 3, seconds=300)

    def busy(self) -> str:
        """A joined machine that runs a job."""
        return str(wait_until(lambda: [n for n in ("n1", "n2") if self.nodes().get(n, {}).get("jobs")])[0])

    def state(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.folders[name] / "state.json").read_text()))

    def leave(self) -> None:
        for name in ("n1", "n2"):
            self.server.cli("pool", "leave", *self._named(name), check=False, timeout=150)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    scratch = tmp_path_factory.mktemp("pool")
    server = PlatformServer(scratch / "home")
    ray = ("--engine", "ray", "--ray-port", str(free_port()), "--ray-grow-to", "64,64GiB")
    server.cli("up", "--detach", "--port", str(server.port), *ray)
    server.up = lambda: server.cli("up", "--detach", "--port", str(server.port), *ray)  # type: ignore[method-assign,assignment]
    found = Pool(server, scratch)
    yield found
    found.leave()
    server.down()


def counting(pool: Pool, *more: str) -> str:
    job = pool.ask.detach(
        "--no-code", "--cpus", "1", "--memory", "128MiB", *more, "--", "python", "-c", COUNT
    )
    wait_until(lambda: "counted 3" in pool.ask.log(job), seconds=180)
    return job


def hold_head(pool: Pool) -> str:
    """Fill the head, so that what comes next runs on a joined machine."""
    cpus = next(node["cpus"] for name, node in pool.nodes().items() if name not in {"n1", "n2"})
    job = pool.ask.detach("--no-code", "--cpus", f"{cpus:g}", "--memory", "64MiB", "--", "sleep", "900")
    wait_until(lambda: pool.ask.get(f"/jobs/{job}").json()["state"] == "running", seconds=180)
    return job


def test_a_job_survives_the_kill_of_its_node_and_goes_on_from_its_checkpoint(pool: Pool) -> None:
    pool.whole()
    head = hold_head(pool)
    job = counting(pool, "--retries", "2")
    victim = pool.busy()
    os.kill(pool.state(victim)["raylet"], signal.SIGKILL)
    ended = pool.ask.ended(job)
    first, second = ended["attempts"]
    assert (ended["state"], second["exit_code"]) == ("succeeded", 0), pool.ask.log(job)
    assert (first["state"], first["exit_code"]) == ("unknown", None)
    assert victim in first["reason"]
    log = pool.ask.log(job, attempt=2).splitlines()
    assert int(log[0].split()[2]) >= 3
    assert log[-1] == "counted 40"
    pool.ask("job", "stop", head)
    pool.whole()  # the machine came back by itself


@pytest.mark.parametrize("part", ["server", "bridge"])
def test_a_job_goes_on_when_a_part_of_the_platform_is_killed(pool: Pool, part: str) -> None:
    pool.whole()
    job = counting(pool)
    if part == "server":
        pool.server.kill()
        pool.server.up()
    else:
        pool.server.kill(int((pool.server.home / "run" / "ray" / "bridge.lock").read_text()))
    ended = pool.ask.ended(job)
    assert (ended["state"], ended["attempt"], ended["exit_code"]) == ("succeeded", 1, 0), pool.ask.log(job)
    lines = pool.ask.log(job).splitlines()
    assert lines == ["begins at 0", *(f"counted {number}" for number in range(1, 41))]


def test_a_gang_runs_in_one_place_and_every_rank_has_its_log(pool: Pool) -> None:
    pool.whole()
    script = 'echo "rank $RANK of $WORLD_SIZE"'
    done = pool.ask.detach(
        "--no-code", "--cpus", "0.5", "--memory", "64MiB", "--nodes", "2", "--", "sh", "-c", script
    )
    assert pool.ask.ended(done)["exit_code"] == 0, pool.ask.log(done)
    assert [pool.ask.log(done, rank=rank) for rank in range(2)] == ["rank 0 of 2\n", "rank 1 of 2\n"]


MEET = """
import os, socket, time
print("node", os.environ["GROUP_RANK"], flush=True)
address, others = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), int(os.environ["WORLD_SIZE"]) - 1
if os.environ["RANK"] == "0":
    door = socket.create_server(address)
    met = [door.accept()[0] for _ in range(others)]
    [one.sendall(b"go") for one in met]
else:
    for _ in range(600):
        try:
            door = socket.create_connection(address)
            break
        except OSError:
            time.sleep(0.1)
    assert door.recv(2) == b"go"
print("met", flush=True)
""" + COUNT.replace('"count")', '"count" + os.environ["RANK"])')


def test_a_gang_spans_machines_and_begins_again_together_when_one_is_killed(pool: Pool) -> None:
    pool.whole()
    cpus = next(node["cpus"] for name, node in pool.nodes().items() if name not in {"n1", "n2"})
    gang = (
        "--nodes",
        str(int(cpus) + 2),
        "--cpus",
        "1",
        "--memory",
        "64MiB",
        "--network",
        "open",
        "--retries",
        "2",
    )
    job = pool.ask.detach("--no-code", *gang, "--", "python", "-c", MEET)
    last = int(cpus) + 1
    wait_until(lambda: "counted 3" in pool.ask.log(job, rank=last), seconds=180)
    assert all(pool.nodes()[name]["jobs"] for name in pool.nodes())
    os.kill(pool.state("n1")["raylet"], signal.SIGKILL)
    ended = pool.ask.ended(job)
    first, second = ended["attempts"]
    assert (ended["state"], second["exit_code"]) == ("succeeded", 0), pool.ask.log(job)
    assert (first["state"], first["exit_code"]) == ("unknown", None)
    assert "n1 was lost" in first["reason"]
    for rank in range(last + 1):
        lines = pool.ask.log(job, rank=rank, attempt=2).splitlines()
        assert lines[:2] == [f"node {rank}", "met"]
        assert int(lines[2].split()[2]) >= 1
        assert lines[-1] == "counted 40"
    pool.whole()


def test_who_is_idle_leaves_and_who_has_no_room_is_seen_to_wait(pool: Pool, tmp_path: Path) -> None:
    pool.whole()
    named = ("--name", "brief", "--folder", str(tmp_path / "brief"), "--cpus", "1", "--memory", "1GiB")
    pool.server.cli("pool", "join", *named, "--idle", "2s", timeout=300)
    wait_until(
        lambda: json.loads((tmp_path / "brief" / "state.json").read_text())["state"] == "left", seconds=180
    )
    assert "brief" not in pool.nodes()
    job = pool.ask.detach("--no-code", "--cpus", "60", "--memory", "1GiB", "--", "true")
    waiting: Callable[[], Any] = lambda: pool.server.json("pool", "ls")["waiting"]  # noqa: E731
    wait_until(lambda: waiting() == [{"cpus": 60.0, "memory_bytes": 1 << 30}], seconds=180)
    pool.ask("job", "stop", job)
    wait_until(lambda: waiting() == [], seconds=180)


def test_only_who_knows_the_token_gets_in_and_nothing_listens_elsewhere(pool: Pool) -> None:
    pool.whole()
    address = json.loads((pool.server.home / "run" / "ray" / "pool.json").read_text())["address"]
    environ = {"PATH": os.environ["PATH"], "RAY_gcs_rpc_server_connect_timeout_s": "2"}
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDER, address], env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    assert "InvalidAuthToken" in done.stderr + done.stdout
    from stratal.engines.ray.bindguard import open_to_all

    for folder in pool.folders.values():
        assert open_to_all(processes(f"STRATAL_NODE={folder}")) == []
        token = folder / "ray.token"
        assert token.stat().st_mode & 0o077 == 0
        secret = token.read_text().encode()
        for pid in processes(f"STRATAL_NODE={folder}"):
            assert secret not in Path(f"/proc/{pid}/environ").read_bytes()
            assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_leaving_and_going_down_leave_nothing_behind(pool: Pool) -> None:
    pool.whole()
    refused = pool.server.cli("up", "--detach", "--port", str(pool.server.port), check=False)
    assert "The pool of" in refused.stderr + refused.stdout
    pool.leave()
    gone: Callable[[], bool] = lambda: set(pool.nodes()) & {"n1", "n2"} == set()  # noqa: E731
    wait_until(gone)
    pool.server.cli("down", timeout=150)
    for folder in pool.folders.values():
        assert processes(f"STRATAL_NODE={folder}") == []
