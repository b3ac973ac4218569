"""How workloads are ended: politely, then not; by limits; and always with all that they started."""

import dataclasses

import pytest

from .conftest import PYTHON, Bench, processes, until

pytestmark = pytest.mark.anyio

STUBBORN = "trap '' TERM; echo up; while :; do sleep 0.05; done"


async def test_a_stopped_workload_may_finish_what_it_does(bench: Bench) -> None:
    spec = bench.sh("trap 'echo saved; exit 5' TERM; echo up; while :; do sleep 0.05; done")
    await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "up")
    await bench.engine.stop(spec.attempt_id, 20)
    status = await bench.ended(spec.attempt_id)
    assert (status.exit_code, status.reason) == (5, "stopped")
    assert "saved" in await bench.log(spec.attempt_id)


async def test_a_tree_that_ignores_the_request_is_killed_after_the_grace(bench: Bench) -> None:
    marker = f"stubborn-{bench.run_dir}"
    inner = f"sh -c \"{STUBBORN}; : '{marker}'\""
    spec = bench.sh(f"{inner} & {inner} & {STUBBORN}; : '{marker}'")
    await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "up\nup\nup\n")
    await bench.engine.stop(spec.attempt_id, 0.2)
    status = await bench.ended(spec.attempt_id)
    assert (status.state, status.exit_code, status.reason) == ("exited", 137, "stopped")
    assert processes(marker) == []


async def test_what_a_shell_waits_for_has_its_grace_too(bench: Bench) -> None:
    save = (
        "import signal, time, sys\n"
        "def save(*_):\n    time.sleep(0.4); print('saved', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save); print('up', flush=True); time.sleep(600)"
    )
    spec = bench.sh(f"'{PYTHON}' -I -c \"$1\"; echo next; sleep 600")
    spec = dataclasses.replace(spec, argv=[*spec.argv, "sh", save])
    await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "up")
    await bench.engine.stop(spec.attempt_id, 20)
    status = await bench.ended(spec.attempt_id)
    assert (status.exit_code, status.reason) == (143, "stopped")
    assert await bench.log(spec.attempt_id) == "up\nsaved\nstratal: stopped\n"


async def test_a_second_stop_shortens_the_grace(bench: Bench) -> None:
    spec = bench.sh(STUBBORN)
    await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "up")
    await bench.engine.stop(spec.attempt_id, 3600)
    await bench.engine.stop(spec.attempt_id, 0)
    assert (await bench.ended(spec.attempt_id)).exit_code == 137


async def test_stopping_what_ended_or_never_was_is_fine(bench: Bench) -> None:
    spec = bench.sh("exit 2")
    await bench.run(spec)
    await bench.engine.stop(spec.attempt_id, 0)
    await bench.engine.stop("never-was", 0)
    assert (await bench.ended(spec.attempt_id)).exit_code == 2


async def test_a_daemonised_grandchild_does_not_outlive_its_workload(bench: Bench) -> None:
    marker = f"daemon-{bench.run_dir}"
    daemon = f"setsid sh -c 'setsid sh -c \"echo up > up; sleep 600; : {marker}\" & ' &"
    spec = bench.sh(f"{daemon} while [ ! -e up ]; do sleep 0.02; done; exit 6")
    status = await bench.run(spec)
    assert status.exit_code == 6
    assert processes(marker) == []


async def test_over_its_memory_it_dies_alone_and_the_log_says_why(bench: Bench) -> None:
    neighbour = bench.sh("echo up; sleep 600")
    await bench.engine.start(neighbour)
    hog = (
        "import time\nprint('begin', end='', flush=True)\nhold = []\n"
        "for _ in range(400):\n hold.append(b'x' * (4 << 20)); time.sleep(0.005)"
    )
    spec = bench.python(hog, memory_bytes=192 << 20)
    status = await bench.run(spec)
    assert (status.state, status.exit_code) == ("exited", 137)
    assert status.reason == "memory limit of 192 MiB exceeded"
    assert await bench.log(spec.attempt_id) == "begin\nstratal: memory limit of 192 MiB exceeded\n"
    assert status.isolation.memory in ("watchdog", "cgroup1", "cgroup2")
    assert (192 << 20) * 0.9 < status.usage.peak_memory_bytes < 1 << 30
    assert {s.attempt_id: s.state for s in await bench.engine.adopt()}[neighbour.attempt_id] == "running"


async def test_the_memory_of_children_counts_too(bench: Bench) -> None:
    hold = (
        "import os, time\nfor _ in range(3):\n if os.fork() == 0: break\n"
        "x = bytearray(os.urandom(1)) * (80 << 20)\ntime.sleep(600)"
    )
    status = await bench.run(bench.python(hold, memory_bytes=240 << 20))
    assert status.reason == "memory limit of 240 MiB exceeded"


async def test_memory_that_is_shared_counts_once(bench: Bench) -> None:
    share = (
        "import os, time\nx = b'y' * (100 << 20)\nkids = []\n"
        "for _ in range(3):\n kid = os.fork()\n if kid == 0:\n  time.sleep(1.5); os._exit(0)\n kids.append(kid)\n"
        "for kid in kids: os.waitpid(kid, 0)"
    )
    status = await bench.run(bench.python(share, memory_bytes=256 << 20))
    assert (status.exit_code, status.reason) == (0, "")


async def test_over_its_time_it_is_stopped_and_the_log_says_why(bench: Bench) -> None:
    spec = bench.sh("echo up; sleep 600", wall_seconds=0.5)
    status = await bench.run(spec)
    assert (status.state, status.exit_code) == ("exited", 143)
    assert status.reason == "wall time limit of 0.5 s exceeded"
    assert (await bench.log(spec.attempt_id)).endswith("stratal: wall time limit of 0.5 s exceeded\n")


async def test_shutting_the_engine_down_ends_every_workload(bench: Bench) -> None:
    marker = f"shutdown-{bench.run_dir}"
    specs = [bench.sh(f"{STUBBORN}; : {marker}") for _ in range(3)]
    for spec in specs:
        await bench.engine.start(spec)
        await bench.said(spec.attempt_id, "up")
    keeper = bench.engine.keeper_pid
    await bench.engine.shutdown(kill=True, grace_seconds=0.1)
    assert processes(marker) == []
    await until(lambda: not processes(f"--dir\0{bench.run_dir}"))
    await bench.connect()
    assert bench.engine.keeper_pid != keeper
    assert {status.exit_code for status in await bench.engine.adopt()} == {137}


async def test_shutting_down_can_spare_the_workloads(bench: Bench) -> None:
    spec = bench.sh("echo up; while [ ! -e gate ]; do sleep 0.02; done; echo done; exit 9")
    started = await bench.engine.start(spec)
    await bench.engine.shutdown(kill=False)
    await until(lambda: not processes(f"--dir\0{bench.run_dir}"))
    await bench.connect()
    (adopted,) = await bench.engine.adopt()
    assert (adopted.state, adopted.pid) == ("running", started.pid)
    (bench.folder() / "gate").touch()
    assert (await bench.ended(spec.attempt_id)).exit_code == 9
    assert await bench.log(spec.attempt_id) == "up\ndone\n"
