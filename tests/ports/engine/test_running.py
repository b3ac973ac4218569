"""What every engine does with a workload: start it once, tell how it goes, and how it ended."""

import asyncio
import os
import signal

import pytest

from stratal.kernel.errors import Conflict, Invalid

from .conftest import BOUND, PYTHON, Bench, until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("code", [0, 1, 3, 255])
async def test_the_exit_code_is_the_workloads_own(bench: Bench, code: int) -> None:
    status = await bench.run(bench.sh(f"exit {code}"))
    assert (status.state, status.exit_code) == ("exited", code)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
async def test_a_death_by_signal_is_reported_as_shells_do(bench: Bench, signum: int) -> None:
    status = await bench.run(bench.sh(f"kill -{signum} $$"))
    assert (status.state, status.exit_code) == ("exited", 128 + signum)
    assert signal.Signals(signum).name in status.reason


async def test_output_and_errors_are_in_the_log_in_their_order(bench: Bench) -> None:
    spec = bench.sh("echo one; echo two >&2; echo three")
    await bench.run(spec)
    assert await bench.log(spec.attempt_id) == "one\ntwo\nthree\n"


async def test_a_log_can_be_followed_by_offset_while_it_grows(bench: Bench) -> None:
    gate = bench.folder() / "gate"
    spec = bench.sh("echo first; while [ ! -e gate ]; do sleep 0.02; done; echo second")
    await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "first\n")
    assert await bench.engine.logs(spec.attempt_id, 6) == b""
    assert await bench.engine.logs(spec.attempt_id, 2, 3) == b"rst"
    gate.touch()
    await bench.ended(spec.attempt_id)
    assert await bench.engine.logs(spec.attempt_id, 6) == b"second\n"


async def test_the_same_attempt_never_starts_twice(bench: Bench) -> None:
    spec = bench.sh("echo ran >> ran; sleep 0.2")
    statuses = await asyncio.gather(*(bench.engine.start(spec) for _ in range(5)))
    assert len({status.pid for status in statuses}) == 1
    await bench.ended(spec.attempt_id)
    again = await bench.engine.start(spec)
    assert (again.state, again.exit_code) == ("exited", 0)
    assert (bench.folder() / "ran").read_text() == "ran\n"


@pytest.mark.parametrize("argv", [["no-such-program"], ["/no/such/program"], ["/etc/passwd"], ["/"]])
async def test_what_cannot_be_executed_is_refused_and_its_id_stays_free(
    bench: Bench, argv: list[str]
) -> None:
    with pytest.raises(Invalid):
        await bench.engine.start(bench.spec(argv, attempt_id="again"))
    assert [status.attempt_id for status in await bench.engine.adopt()] == []
    status = await bench.run(bench.sh("exit 4", attempt_id="again"))
    assert status.exit_code == 4


@pytest.mark.parametrize("attempt_id", ["", ".", "..", "a/b", "../x", "a\nb", "a\0b", "ü", "x" * 2000, "-x"])
async def test_an_id_that_could_be_a_path_is_refused(bench: Bench, attempt_id: str) -> None:
    with pytest.raises(Invalid):
        await bench.engine.start(bench.sh("true", attempt_id=attempt_id))
    with pytest.raises(Invalid):
        await bench.engine.logs(attempt_id, 0)


async def test_nonsense_is_refused_before_anything_happens(bench: Bench) -> None:
    for spec in (
        bench.spec([]),
        bench.spec(["/bin/echo", "a\0b"]),
        bench.sh("true", env={"A=B": "c"}),
        bench.sh("true", cwd=bench.home / "nowhere"),
        bench.sh("true", read_only=[bench.home / "nowhere"]),
        bench.sh("true", memory_bytes=0),
        bench.sh("true", wall_seconds=-1.0),
        bench.sh("true", cpus=float("nan")),
    ):
        with pytest.raises(Invalid):
            await bench.engine.start(spec)
    assert list(await bench.engine.adopt()) == []


async def test_the_environment_is_the_specifications_and_nothing_else(bench: Bench) -> None:
    spec = bench.spec(["/usr/bin/env"], env={"GREETING": "good\nmorning", "ÄÖ": "ü=1", "EMPTY": ""})
    await bench.run(spec)
    said = await bench.log(spec.attempt_id)
    lines = [line for line in said.splitlines() if not line.startswith(("HOME=", "TMPDIR="))]
    assert sorted(lines) == sorted(["PATH=/usr/bin:/bin", "GREETING=good", "morning", "ÄÖ=ü=1", "EMPTY="])
    assert ("HOME=" in said) == bench.isolate


async def test_nothing_open_leaks_into_a_workload(bench: Bench) -> None:
    code = (
        "import os; fds = [int(fd) for fd in os.listdir('/proc/self/fd')]\n"
        "print(sorted(fd for fd in fds if os.path.exists(f'/proc/self/fd/{fd}') or fd < 3))"
    )
    spec = bench.python(code)
    await bench.run(spec)
    assert await bench.log(spec.attempt_id) == "[0, 1, 2]\n"


async def test_its_working_directory_and_what_it_may_write_persist(bench: Bench) -> None:
    other = bench.folder("other")
    spec = bench.sh(f"pwd; echo kept > here; echo kept > {other}/there", read_write=[other])
    status = await bench.run(spec)
    assert status.exit_code == 0
    assert await bench.log(spec.attempt_id) == f"{bench.folder()}\n"
    assert (bench.folder() / "here").read_text() == (other / "there").read_text() == "kept\n"


async def test_no_signal_is_blocked_or_ignored_for_it(bench: Bench) -> None:
    """A pipeline must end when its reader goes, and Ctrl-C must reach what a script starts."""
    spec = bench.spec(["/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"])
    await bench.run(spec)
    masks = [int(line.split()[1], 16) for line in (await bench.log(spec.attempt_id)).splitlines()]
    assert [mask & 0x7FFFFFFF for mask in masks] == [0, 0], "but for the C library's two of its own"


async def test_usage_counts_the_whole_tree(bench: Bench) -> None:
    spin = "import time; x = bytearray(60 << 20)\nwhile time.process_time() < 0.3: pass"
    spec = bench.spec(["/bin/sh", "-c", f"'{PYTHON}' -I -S -c '{spin}'"])
    status = await bench.run(spec)
    assert status.usage.cpu_seconds >= 0.3
    assert status.usage.wall_seconds >= 0.3
    assert status.usage.peak_memory_bytes >= 60 << 20
    assert status.usage.memory_byte_seconds > 1 << 20
    assert status.started_at is not None
    assert status.ended_at is not None
    assert status.ended_at >= status.started_at


async def test_no_more_processors_than_asked_for(bench: Bench) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one processor is all there is")
    spec = bench.python("import os; print(len(os.sched_getaffinity(0)))", cpus=0.5)
    await bench.run(spec)
    assert await bench.log(spec.attempt_id) == "1\n"


async def test_watching_begins_with_all_that_is_known(bench: Bench) -> None:
    first = bench.sh("exit 7")
    await bench.run(first)
    later = await bench.ended(first.attempt_id)
    assert later.exit_code == 7


async def test_a_released_attempt_is_forgotten_with_its_files(bench: Bench) -> None:
    spec = bench.sh("echo x; mkdir -p $HOME/a/b; : > ${TMPDIR:-/tmp}/c; sleep 30")
    await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "x")
    with pytest.raises(Conflict):
        await bench.engine.release(spec.attempt_id)
    await bench.engine.stop(spec.attempt_id, 5)
    await bench.ended(spec.attempt_id)
    await bench.engine.release(spec.attempt_id)
    await bench.engine.release(spec.attempt_id)
    assert list(await bench.engine.adopt()) == []
    await until(lambda: not any(bench.run_dir.rglob(f"{spec.attempt_id}*")))


async def test_the_machine_has_processors_and_memory(bench: Bench) -> None:
    capacity = await bench.engine.capacity()
    assert capacity.cpus >= 1
    assert capacity.memory_bytes > 100 << 20


async def test_a_service_can_be_reached_through_a_socket_in_a_shared_folder(bench: Bench) -> None:
    shared = bench.folder("sockets")
    code = (
        "import socket; s = socket.socket(socket.AF_UNIX); s.bind('../sockets/s'); s.listen(1)\n"
        "print('ready', flush=True); c, _ = s.accept(); c.sendall(b'hello'); c.close()"
    )
    spec = bench.python(
        code, read_write=[shared], network="platform", env={"STRATAL_URL": "http://127.0.0.1:8484"}
    )
    await bench.engine.start(spec)
    await bench.said(spec.attempt_id, "ready")
    folder = os.open(shared, os.O_PATH)
    try:
        reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/s")
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
    finally:
        os.close(folder)
    assert (await bench.ended(spec.attempt_id)).exit_code == 0


async def test_whoever_waits_for_a_log_is_told_when_it_grows(bench: Bench) -> None:
    gate = bench.folder() / "gate"
    spec = bench.sh("printf one; while [ ! -e gate ]; do sleep 0.02; done; printf two; sleep 600")
    early = asyncio.ensure_future(bench.engine.grown(spec.attempt_id, 0, 10 * BOUND))  # there is no log yet
    await asyncio.sleep(0)
    await bench.engine.start(spec)
    async with asyncio.timeout(BOUND):  # told, and not only out of patience
        assert await early
    await bench.said(spec.attempt_id, "one")
    assert await bench.engine.grown(spec.attempt_id, 1, BOUND), "there is more already"
    waits = [asyncio.ensure_future(bench.engine.grown(spec.attempt_id, 3, BOUND)) for _ in range(2)]
    await asyncio.sleep(0)
    gate.touch()
    assert await asyncio.gather(*waits) == [True, True]
    assert await bench.log(spec.attempt_id) == "onetwo"
