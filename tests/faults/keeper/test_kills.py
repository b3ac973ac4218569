"""Kill the keeper, and now and then a launcher, at random moments: nothing runs twice, nothing is made up."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from stratal.compute.engine import WorkloadSpec, WorkloadStatus
from stratal.engines.local.adapter import Fences, LocalEngine

pytestmark = pytest.mark.anyio
BOUND = 300.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_storm_of_kills(tmp_path: Path, seed: int) -> None:
    await _storm(tmp_path, random.Random(seed), workloads=40, kills=10)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10, 15))
async def test_a_long_storm_of_kills(tmp_path: Path, seed: int) -> None:
    await _storm(tmp_path, random.Random(seed), workloads=600, kills=150)


async def _storm(tmp_path: Path, chance: random.Random, *, workloads: int, kills: int) -> None:
    home = tmp_path / "home"
    work = home / "work"
    work.mkdir(parents=True)
    engine = LocalEngine(home / "run", home, None, fences=Fences(bubblewrap=chance.random() < 0.5))
    await engine.connect()
    killed: set[str] = set()
    ended: dict[str, WorkloadStatus] = {}

    async def start(number: int) -> None:
        await asyncio.sleep(chance.random() * workloads / 25)
        script = f"echo {number} >> ran; sleep {chance.random() / 2:.3f}; echo end; exit {number % 200}"
        spec = WorkloadSpec(f"a{number}", ["/bin/sh", "-c", script], {"PATH": "/usr/bin:/bin"}, work)
        status = await engine.start(spec)
        if chance.random() < 0.1 and status.pid is not None and status.state == "running":
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.pid, signal.SIGKILL)
                killed.add(spec.attempt_id)

    async def kill_keepers() -> None:
        for _ in range(kills):
            await asyncio.sleep(chance.random() * workloads / 12 / kills)
            if engine.keeper_pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(engine.keeper_pid, signal.SIGKILL)

    async def watch() -> None:
        async for status in engine.watch():
            if status.state != "running":
                assert status.attempt_id not in ended or ended[status.attempt_id].state == status.state
                ended[status.attempt_id] = status
            if len(ended) == workloads:
                return

    async with asyncio.timeout(BOUND + workloads):
        await asyncio.gather(watch(), kill_keepers(), *(start(number) for number in range(workloads)))
    adopted = {status.attempt_id: status for status in await engine.adopt()}
    assert adopted == ended
    ran = Counter(int(line) for line in (work / "ran").read_text().split())
    assert not [number for number, times in ran.items() if times > 1], "started twice"
    for number in range(workloads):
        status = ended[f"a{number}"]
        if status.state == "exited":
            assert status.exit_code == number % 200
            assert (await engine.logs(status.attempt_id, 0)) == b"end\n"
            assert ran[number] == 1
        else:
            assert status.attempt_id in killed, f"{status} was never killed"
    await engine.shutdown(kill=True, grace_seconds=0)
