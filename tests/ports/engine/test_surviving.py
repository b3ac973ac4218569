"""Any process may be killed at any moment: what can still be known is known, and nothing runs twice."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stratal.engines.local import process
from stratal.engines.local.keeper import BUSY
from stratal.engines.local.link import keeper_lives
from stratal.engines.local.sandbox import program
from stratal.kernel.errors import Unavailable

from .conftest import Bench, processes, until

pytestmark = pytest.mark.anyio

GATED = "echo up; while [ ! -e gate ]; do sleep 0.02; done; echo done; exit 11"


async def test_a_killed_keeper_is_replaced_and_the_exit_code_is_the_true_one(bench: Bench) -> None:
    spec = bench.sh(GATED)
    started = await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "up")
    killed = bench.kill_keeper()
    await until(lambda: bench.engine.keeper_pid not in (None, killed))
    (adopted,) = await bench.engine.adopt()
    assert (adopted.state, adopted.pid, adopted.isolation) == ("running", started.pid, started.isolation)
    assert (await bench.engine.start(spec)).pid == started.pid
    (bench.folder() / "gate").touch()
    assert (await bench.ended(spec.attempt_id)).exit_code == 11
    assert await bench.log(spec.attempt_id) == "up\ndone\n"


async def test_an_end_that_no_keeper_and_no_server_saw_is_known(bench: Bench) -> None:
    spec = bench.sh(GATED)
    await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "up")
    keeper = bench.engine.keeper_pid
    await bench.engine.close()
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    (bench.folder() / "gate").touch()
    await until((bench.run_dir / "attempts" / spec.attempt_id / "exit.json").exists)
    await bench.connect()
    (adopted,) = await bench.engine.adopt()
    assert (adopted.state, adopted.exit_code) == ("exited", 11)
    assert adopted.usage.wall_seconds > 0


async def test_an_adopted_workload_can_be_stopped(bench: Bench) -> None:
    spec = bench.sh(GATED)
    await bench.engine.start(spec)
    bench.kill_keeper()
    await bench.engine.stop(spec.attempt_id, 10)
    status = await bench.ended(spec.attempt_id)
    assert (status.exit_code, status.reason) == (143, "stopped")


async def test_with_its_launcher_a_workload_dies_and_its_end_is_unknown(bench: Bench) -> None:
    marker = f"orphan-{bench.run_dir}"
    loop = f"while :; do sleep 0.05; done; : {marker}"
    spec = bench.sh(f"setsid sh -c 'echo up; {loop}' & (sh -c 'echo up; {loop}' &) ; echo up; {loop}")
    status = await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "up\nup\nup\n")
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)
    ended = await bench.ended(spec.attempt_id)
    assert (ended.state, ended.exit_code) == ("unknown", None)
    assert "nobody saw" in ended.reason
    await until(lambda: not processes(marker))
    assert (await bench.engine.start(spec)).state == "unknown", "it is not started again"


async def test_with_keeper_and_launcher_killed_nothing_is_left_running(bench: Bench) -> None:
    marker = f"both-{bench.run_dir}"
    loop = f"while :; do sleep 0.05; done; : {marker}"
    spec = bench.sh(f"setsid sh -c 'echo up; {loop}' & (sh -c 'echo up; {loop}' &) ; echo up; {loop}")
    status = await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "up\nup\nup\n")
    record = bench.run_dir / "attempts" / spec.attempt_id / "usage.json"
    await until(lambda: record.exists() and len(json.loads(record.read_text())["members"]) >= 3)
    assert status.pid is not None
    bench.kill_keeper()
    os.kill(status.pid, signal.SIGKILL)
    assert (await bench.ended(spec.attempt_id)).state == "unknown"
    await until(lambda: not processes(marker))


SERVER = """
import asyncio, sys
from pathlib import Path
from stratal.compute.engine import WorkloadSpec
from stratal.engines.local.adapter import Fences, LocalEngine

async def main(run_dir, home, cwd, isolate, bubblewrap, landlock):
    fences = Fences(bubblewrap=bubblewrap == "True", landlock=landlock == "True")
    engine = LocalEngine(Path(run_dir), Path(home), None, fences=fences)
    await engine.connect()
    script = "echo up; while [ ! -e gate ]; do sleep 0.02; done; echo done; exit 12"
    await engine.start(
        WorkloadSpec("of-the-dead", ["/bin/sh", "-c", script], {}, Path(cwd), isolate=isolate == "True")
    )
    print("started", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_servers_workloads_are_seen_by_the_next(bench: Bench) -> None:
    await bench.engine.shutdown(kill=True)
    flags = [str(bench.isolate), str(bench.fences.bubblewrap), str(bench.fences.landlock)]
    argv = [sys.executable, "-c", SERVER, str(bench.run_dir), str(bench.home), str(bench.folder()), *flags]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as server:
        assert server.stdout is not None
        assert await asyncio.to_thread(server.stdout.readline) == b"started\n"
        os.killpg(server.pid, signal.SIGKILL)
    await bench.connect()
    (adopted,) = await bench.engine.adopt()
    assert (adopted.attempt_id, adopted.state) == ("of-the-dead", "running")
    (bench.folder() / "gate").touch()
    assert (await bench.ended("of-the-dead")).exit_code == 12
    assert await bench.log("of-the-dead") == "up\ndone\n"


async def test_many_servers_at_once_get_one_keeper(bench: Bench) -> None:
    await bench.engine.shutdown(kill=True)
    engines = [bench.new_engine() for _ in range(6)]
    await asyncio.gather(*(engine.connect() for engine in engines))
    assert len({engine.keeper_pid for engine in engines}) == 1
    await until(lambda: len(processes(f"--dir\0{bench.run_dir}")) == 1)
    for engine in engines:
        await engine.close()
    bench.engine = engines[0]


async def test_a_second_keeper_on_the_same_directory_leaves_at_once(bench: Bench) -> None:
    argv = [sys.executable, *program("keeper"), "--dir", str(bench.run_dir)]
    done = await asyncio.to_thread(subprocess.run, argv, check=False, timeout=30)
    assert done.returncode == BUSY
    assert keeper_lives(bench.run_dir)


async def test_without_the_directorys_token_the_keeper_does_nothing(bench: Bench) -> None:
    folder = os.open(bench.run_dir, os.O_PATH)
    reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/keeper.sock")
    writer.write(
        b'{"id": 1, "op": "list"}\n{"id": 2, "op": "hello", "token": "guess"}\n{"id": 3, "op": "shutdown"}\n'
    )
    answers = [json.loads(await reader.readline()) for _ in range(3)]
    assert [answer["error"][0] for answer in answers] == ["denied"] * 3
    writer.write(b"\xff\x00 no JSON\n")
    assert await reader.read() == b"", "it hangs up on what it does not understand"
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    os.close(folder)
    assert (await bench.run(bench.sh("true"))).exit_code == 0


async def test_the_runs_files_are_for_their_owner_alone(bench: Bench) -> None:
    await bench.run(bench.sh("echo x"))
    assert bench.run_dir.stat().st_mode & 0o777 == 0o700
    assert (bench.run_dir / "keeper.sock").stat().st_mode & 0o777 == 0o600
    assert (bench.run_dir / "keeper.token").stat().st_mode & 0o777 == 0o600


def _intent(bench: Bench, attempt_id: str) -> Path:
    folder = bench.run_dir / "attempts" / attempt_id
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps({"attempt_id": attempt_id, "nonce": "n"}))
    return folder


async def test_an_intent_whose_launcher_never_came_was_not_started(bench: Bench) -> None:
    await bench.engine.shutdown(kill=True)
    _intent(bench, "meant")
    (bench.run_dir / "attempts" / "nothing-in-it").mkdir()
    await bench.connect()
    assert list(await bench.engine.adopt()) == []
    assert (await bench.run(bench.sh("exit 3", attempt_id="meant"))).exit_code == 3


async def test_what_the_machine_took_down_with_it_is_unknown(bench: Bench) -> None:
    await bench.engine.shutdown(kill=True)
    ran = _intent(bench, "ran")
    (ran / "pid.json").write_text(json.dumps({"pid": os.getpid(), "started": 1, "boot": "another boot"}))
    ended = _intent(bench, "ended")
    (ended / "pid.json").write_text(json.dumps({"pid": 1, "started": 1, "boot": "another boot"}))
    (ended / "exit.json").write_text(json.dumps({"exit_code": 8, "ended_at": 5}))
    torn = _intent(bench, "torn")
    (torn / "pid.json").write_text("{")
    await bench.connect()
    states = {status.attempt_id: (status.state, status.exit_code) for status in await bench.engine.adopt()}
    unknown = ("unknown", None)
    assert states == {"ran": unknown, "ended": ("exited", 8), "torn": unknown}


async def test_a_deep_directory_is_no_hindrance(bench: Bench) -> None:
    await bench.engine.shutdown(kill=True)
    bench.run_dir = bench.home / ("deep-" * 30) / ("er-" * 30) / "run"
    assert len(str(bench.run_dir / "keeper.sock")) > 200
    await bench.connect()
    assert (await bench.run(bench.sh("exit 2"))).exit_code == 2


async def test_where_no_keeper_can_be_started_it_says_so(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.engine.shutdown(kill=True)
    engine = bench.new_engine()
    (bench.run_dir / "keeper.lock").unlink()
    (bench.run_dir / "keeper.lock").mkdir()
    with monkeypatch.context() as hasty:
        hasty.setattr("stratal.engines.local.link._PATIENCE", 0.5)
        with pytest.raises(Unavailable, match="keeper"):
            await engine.connect()
    await engine.close()
    (bench.run_dir / "keeper.lock").rmdir()


async def test_a_keeper_that_is_taken_away_while_a_server_waits_is_no_hindrance(bench: Bench) -> None:
    specs = [bench.sh(f"echo {number} >> ran; exit {number}") for number in range(12)]
    starting = [asyncio.create_task(bench.engine.start(spec)) for spec in specs]
    await asyncio.sleep(0.05)
    bench.kill_keeper()
    await asyncio.gather(*starting)
    codes = [(await bench.ended(spec.attempt_id)).exit_code for spec in specs]
    assert codes == list(range(12))
    assert sorted(int(line) for line in (bench.folder() / "ran").read_text().split()) == list(range(12))


def test_a_pid_used_again_is_not_the_same_process() -> None:
    started = process.start_time(os.getpid())
    assert started is not None
    assert process.lives(os.getpid(), started)
    assert not process.lives(os.getpid(), started + 1)
    with socket.socket() as spare, subprocess.Popen(["/bin/true"]) as child:
        assert spare.fileno() > 0
        child.wait()
        assert process.start_time(child.pid) is None
