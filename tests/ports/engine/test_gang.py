"""Gangs: all members or none, who find one another and nobody else, and end together."""

import os
import signal
from pathlib import Path

import pytest

from stratal.compute.engine import Gang
from stratal.kernel.errors import Invalid

from .conftest import Bench, processes, until

pytestmark = pytest.mark.anyio

MEET = """
import os, socket, sys, time
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    with socket.create_server(address) as server:
        found = {0}
        while len(found) < world:
            peer, _ = server.accept()
            found.add(int(peer.makefile().readline()))
    print("met", sorted(found), flush=True)
else:
    for _ in range(600):
        try:
            peer = socket.create_connection(address)
            break
        except OSError:
            time.sleep(0.05)
    peer.sendall(b"%d\\n" % rank)
    print("sent", flush=True)
print("/".join(os.environ[n] for n in ("LOCAL_RANK", "GROUP_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")))
print("gpus", os.environ["CUDA_VISIBLE_DEVICES"])
"""


async def test_members_find_one_another_and_know_their_places(bench: Bench) -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": "a,b,c,d", "STRATAL_URL": "http://127.0.0.1:8484"}
    spec = bench.python(
        MEET, gang=Gang(2, 2, restart=1, most_restarts=3, run_id="7"), env=gpus, network="platform"
    )
    status = await bench.run(spec)
    log = await bench.log(spec.attempt_id)
    assert status.exit_code == 0, log
    assert "[0] met [0, 1, 2, 3]\n" in log
    for rank, place, given in ((0, "0/0", "a,b"), (1, "1/0", "a,b"), (2, "0/1", "c,d"), (3, "1/1", "c,d")):
        said = (await bench.engine.logs(spec.attempt_id, 0, rank=rank)).decode()
        assert f"{place}/2/1\ngpus {given}\n" in said
        for line in said.splitlines():
            assert f"[{rank}] {line}\n" in log
    assert await bench.engine.logs(spec.attempt_id, 0, rank=4) == b""


async def test_when_one_fails_the_others_end_and_its_code_is_the_gangs(bench: Bench) -> None:
    script = (
        'trap "echo bye $RANK; exit 9" TERM; echo here $RANK; '
        "if [ $RANK = 1 ]; then sleep 0.5; exit 3; fi; while :; do sleep 0.05; done"
    )
    spec = bench.sh(script, gang=Gang(3, 1))
    status = await bench.run(spec)
    log = await bench.log(spec.attempt_id)
    assert status.exit_code == 3, log
    assert "stratal: rank 1 ended with exit code 3: the other 2 of its gang are ended\n" in log
    assert "[0] bye 0\n" in log
    assert "[2] bye 2\n" in log


def is_member(pid: int) -> bool:
    """A member's shell leads its group; what it has just forked to become `sleep` looks like it, and does not."""
    try:
        return os.getpgid(pid) == pid and Path(f"/proc/{pid}/comm").read_text() == "sh\n"
    except OSError:
        return False


async def test_a_killed_member_takes_the_gang_along_also_those_that_will_not_go(bench: Bench) -> None:
    marker = f"gang-{os.getpid()}-{bench.kind}"
    script = f"trap '' TERM; echo here {marker}; while :; do sleep 0.05; done"
    spec = bench.sh(script, gang=Gang(1, 3), grace_seconds=0.3)
    await bench.engine.start(spec)
    for rank in range(3):
        await bench.said(spec.attempt_id, f"[{rank}] here")
    os.kill(max(pid for pid in processes(marker) if is_member(pid)), signal.SIGKILL)
    status = await bench.ended(spec.attempt_id)
    assert status.exit_code == 137
    assert "was killed by signal 9" in await bench.log(spec.attempt_id)
    await until(lambda: not processes(marker))


async def test_stopping_asks_each_member_once_and_is_over_when_all_are(bench: Bench) -> None:
    script = 'trap "echo asked $RANK; sleep 0.3; exit 0" TERM; echo here; while :; do sleep 0.05; done'
    spec = bench.sh(script, gang=Gang(2, 1))
    await bench.engine.start(spec)
    for rank in range(2):
        await bench.said(spec.attempt_id, f"[{rank}] here")
    await bench.engine.stop(spec.attempt_id, 10)
    status = await bench.ended(spec.attempt_id)
    assert (status.exit_code, status.reason) == (0, "stopped")
    log = await bench.log(spec.attempt_id)
    assert [log.count(f"asked {rank}") for rank in range(2)] == [1, 1]


async def test_a_program_that_is_not_there_starts_nobody(bench: Bench) -> None:
    spec = bench.spec(["no-such-program"], gang=Gang(3, 1))
    status = await bench.run(spec)
    assert status.exit_code == 127
    assert "no-such-program: No such file or directory" in await bench.log(spec.attempt_id)


async def test_gangs_of_one_machine_do_not_meet_in_their_own_networks(bench: Bench) -> None:
    """Two at the same time, both on the usual port of their own."""
    if not bench.boxed:
        pytest.skip("without bubblewrap all share the machine's network")
    env = {"STRATAL_URL": "http://127.0.0.1:8484"}
    specs = [bench.python(MEET, gang=Gang(2, 1), env=env, network="platform") for _ in range(2)]
    for spec in specs:
        await bench.engine.start(spec)
    for spec in specs:
        assert (await bench.ended(spec.attempt_id)).exit_code == 0
        assert "met [0, 1]" in await bench.log(spec.attempt_id)


async def test_a_gang_of_none_or_of_thousands_is_refused(bench: Bench) -> None:
    for gang in (Gang(0, 1), Gang(1000, 1000)):
        with pytest.raises(Invalid):
            await bench.engine.start(bench.sh("true", gang=gang))
