"""The Ray engine without Ray: what it starts and with what, what travels, what is on record, what is refused."""

import asyncio
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest

from stratal.app.settings import Home, Settings
from stratal.cli.life import check_engine
from stratal.compute.engine import Gang, Isolation, Usage, WorkloadSpec, WorkloadStatus
from stratal.engines.local.gang import Shape
from stratal.engines.ray import bindguard, channel, pool, wire
from stratal.engines.ray.adapter import RayEngine
from stratal.engines.ray.record import Folder, nodes_apart
from stratal.engines.ray.settings import BridgeSettings, NodeSettings, environment, start_command
from stratal.kernel.errors import Conflict, Invalid, NotFound

pytestmark = pytest.mark.fast


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BridgeSettings:
    monkeypatch.setattr(pool, "require_ray", lambda: None)
    folder = tmp_path / "home" / "run" / "ray"
    settings = pool.prepare(folder, tmp_path / "home", tmp_path / "home" / "server.sock", "127.0.0.1", 7001)
    settings.write(folder / "pool.json")
    return settings


def test_a_pool_keeps_its_secret_and_who_sees_the_home_joins(made: BridgeSettings, tmp_path: Path) -> None:
    token = Path(made.token)
    assert token.stat().st_mode & 0o077 == 0
    again = pool.prepare(
        tmp_path / "home" / "run" / "ray",
        tmp_path / "home",
        Path(made.platform_socket or ""),
        "127.0.0.1",
        7001,
    )
    assert again == made
    node = pool.join(
        tmp_path / "home" / "run" / "ray",
        tmp_path / "n1",
        name="n1",
        interface="127.0.0.2",
        cpus=2,
        platform="p:1",
    )
    assert node.token.read_text() == token.read_text()
    assert node.token.stat().st_mode & 0o077 == 0
    assert (node.address, node.head, node.url) == ("127.0.0.1:7001", False, "p:1")
    with pytest.raises(NotFound, match="no pool"):
        pool.join(tmp_path / "nothing" / "run" / "ray", tmp_path / "n2", name="n2", interface="127.0.0.1")
    lock = channel.take(str(tmp_path / "n1"), "node")
    assert lock is not None
    with pytest.raises(Conflict, match="is a node already"):
        pool.join(tmp_path / "home" / "run" / "ray", tmp_path / "n1", name="n1", interface="127.0.0.1")
    os.close(lock)


def test_ray_is_started_on_one_interface_with_its_own_folder_and_no_secret_in_sight(
    made: BridgeSettings,
) -> None:
    assert made.head is not None
    node = NodeSettings(**made.head)
    words = start_command(node)
    told = dict(pairwise(words))
    assert told["--node-ip-address"] == "127.0.0.1"
    assert told["--port"] == "7001"
    assert told["--temp-dir"] == str(node.temporary)
    assert len(told["--temp-dir"]) <= 60
    environ = environment(node, None, {"HOME": "/h", "AWS_SECRET_ACCESS_KEY": "x", "LD_PRELOAD": "y"})
    assert environ["RAY_AUTH_MODE"] == "token"
    assert environ["RAY_AUTH_TOKEN_PATH"] == made.token
    assert not {"AWS_SECRET_ACCESS_KEY", "LD_PRELOAD"} & set(environ)
    secret = Path(made.token).read_text()
    assert not any(secret in word for word in (*words, *environ.values()))


@pytest.mark.parametrize("interface", ["0.0.0.0", "::", "all", "::2"])
def test_every_interface_at_once_is_refused(tmp_path: Path, interface: str) -> None:
    with pytest.raises(Invalid):
        bindguard.guard(tmp_path, interface, every_interface=False)
    assert bindguard.guard(tmp_path, "127.0.0.9", every_interface=False) is None


def test_a_specification_travels_whole() -> None:
    spec = WorkloadSpec(
        "job-1-1",
        ["sh"],
        {"A": "é"},
        Path("/w"),
        python=Path("/p"),
        read_only=[Path("/r")],
        cpus=0.5,
        gang=Gang(2, 3, 1, 2, "x"),
    )
    assert wire.spec_to(wire.spec_from(wire.spec_to(spec))) == wire.spec_to(spec)
    assert wire.spec_from(wire.spec_to(spec)).gang == spec.gang


def test_the_ranks_of_a_part_are_those_of_the_whole_gang() -> None:
    part = Shape(2, 2, "0", "3", "x", ("10.0.0.5", "4711"), first=1, of=3)
    assert (part.here, part.first_rank) == (4, 2)
    told = part.variables(5, "gpu-a,gpu-b")
    assert (told["RANK"], told["LOCAL_RANK"], told["GROUP_RANK"], told["CUDA_VISIBLE_DEVICES"]) == (
        "5",
        "1",
        "2",
        "gpu-b",
    )
    assert (told["WORLD_SIZE"], told["GROUP_WORLD_SIZE"], told["LOCAL_WORLD_SIZE"]) == ("6", "3", "2")
    assert (told["MASTER_ADDR"], told["MASTER_PORT"]) == ("10.0.0.5", "4711")


@pytest.mark.parametrize(
    ("network", "gang", "machines"),
    [("open", Gang(3, 2), 3), ("platform", Gang(3, 2), 1), ("open", None, 1)],
)
def test_only_a_gang_that_may_reach_the_network_spans_machines(
    network: Literal["open", "platform"], gang: Gang | None, machines: int
) -> None:
    spec = WorkloadSpec("job-1-1", ["sh"], {}, Path("/w"), gang=gang, network=network)
    assert nodes_apart(wire.spec_to(spec)) == machines


def test_the_parts_of_a_gang_have_one_end() -> None:
    def part(
        node: str, state: Literal["running", "exited", "unknown"], code: int | None, **more: Any
    ) -> WorkloadStatus:
        at = {"started_at": 5, "ended_at": None if state == "running" else 9}
        used = Usage(cpu_seconds=2, peak_memory_bytes=100, wall_seconds=4)
        fence = Isolation("bubblewrap", "open", "cgroup2", True, ("the network",))
        return WorkloadStatus(
            "a", state, node=node, exit_code=code, usage=used, isolation=fence, **at, **more
        )

    good, stopped = part("n1", "exited", 0), part("n2", "exited", 143, reason="stopped")
    failed, lost = part("n3", "exited", 3), part("n4", "unknown", None, lost=True, reason="n4 was lost")
    running = wire.together("a", [good, part("n2", "running", None)], None)
    assert (running.state, running.ended_at, running.exit_code) == ("running", None, None)
    well = wire.together("a", [good, good], None)
    assert (well.state, well.exit_code, well.node, well.usage.cpu_seconds) == ("exited", 0, "n1", 4)
    assert (well.usage.wall_seconds, well.isolation.sandbox, well.isolation.memory) == (
        4,
        "bubblewrap",
        "cgroup2",
    )
    bad = wire.together("a", [good, stopped, failed], failed)
    assert (bad.state, bad.exit_code, bad.reason, bad.lost) == ("exited", 3, "", False)
    gone = wire.together("a", [stopped, lost], lost)
    assert (gone.state, gone.exit_code, gone.reason, gone.lost) == ("unknown", None, "n4 was lost", True)
    mixed = replace(good, isolation=Isolation())
    assert not wire.together("a", [good, mixed], None).isolation.complete
    assert wire.together("a", [good, mixed], None).isolation.memory == "none"


def test_what_is_lost_is_on_record_once_and_nothing_follows_it(tmp_path: Path) -> None:
    record = Folder(str(tmp_path)).intend({"attempt_id": "job-1-1"})
    record.place()
    running = {"attempt_id": "job-1-1", "state": "running", "pid": 5, "node": "n1"}
    assert record.hear({**running, "reason": ""})
    record.append(b"half a line")
    assert record.lose("n1 was lost")
    assert not record.lose("again")
    assert not record.hear({**running, "state": "exited", "exit_code": 0})
    (found,) = Folder(str(tmp_path)).load()
    assert found.status is not None
    assert (found.status["state"], found.status["lost"], found.status["exit_code"]) == ("unknown", True, None)
    assert (tmp_path / "attempts" / "job-1-1" / "log").read_bytes() == b"half a line\nstratal: n1 was lost\n"


def test_a_ranks_lines_are_read_off_the_gangs_log(made: BridgeSettings, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "attempts" / "job-1-1"
    folder.mkdir(parents=True)
    (folder / "log").write_bytes(b"[0] a\n[10] b\n[1] [0] c\n[0] d\nstratal: x\n[0] half")
    engine = RayEngine(tmp_path / "run", made)

    async def read(rank: int, offset: int = 0, limit: int = 100) -> bytes:
        return await engine.logs("job-1-1", offset, limit, rank=rank)

    assert asyncio.run(read(0)) == b"a\nd\n"
    assert asyncio.run(read(1)) == b"[0] c\n"
    assert asyncio.run(read(0, 2, 1)) == b"d"


def test_jobs_of_a_pool_that_runs_are_not_left_behind(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    check_engine(Settings(home))
    lock = channel.take(str(home.ray), "bridge")
    assert lock is not None
    with pytest.raises(Conflict, match="runs still"):
        check_engine(Settings(home))
    os.close(lock)
