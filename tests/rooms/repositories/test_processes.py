"""git's pipes in the event loop: each descriptor is closed once, for a second close may hit another thread's file."""

import asyncio
import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from stratal.collab.repositories import git


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.SelectorEventLoop])
def test_a_pipe_is_closed_once(
    loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    close = os.close
    here = threading.get_ident()

    def noted(descriptor: int) -> None:
        if threading.get_ident() == here:
            closed.append(descriptor)
        close(descriptor)

    async def work() -> tuple[str, dict[int, int]]:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        process = await git.start(["hash-object", "--stdin"], env, cwd=tmp_path, stdin=subprocess.PIPE)
        pipes = [transport.get_extra_info("pipe") for transport in process._transports]
        descriptors = {pipe.fileno(): os.fstat(pipe.fileno()).st_ino for pipe in pipes}
        monkeypatch.setattr(git.os, "close", noted)
        assert process.stdin is not None
        process.stdin.write(b"a line\n")
        process.stdin.close()
        said = await process.stdout.read()
        while (
            process.returncode is None
        ):  # `wait` opens a descriptor, which may be given a closed one's number
            await asyncio.sleep(0.001)
        process.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return said.decode().strip(), descriptors

    with asyncio.Runner(loop_factory=loop) as runner:
        said, descriptors = runner.run(work())
        loops_own = not isinstance(runner.get_loop(), asyncio.BaseEventLoop)
    assert len(said) == 40
    assert len(descriptors) == 3
    by_us = [one for one in closed if one in descriptors]
    assert sorted(by_us) == ([] if loops_own else sorted(descriptors))
    for descriptor, inode in descriptors.items():
        with contextlib.suppress(OSError):  # its number may be another's by now
            assert os.fstat(descriptor).st_ino != inode
