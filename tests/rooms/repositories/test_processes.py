"""git's pipes in the event loop: each descriptor is closed once, for a second close may hit another thread's file."""

import asyncio
import os
import subprocess
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

    def noted(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    async def work() -> tuple[str, list[int]]:
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        process = await git.start(["hash-object", "--stdin"], env, cwd=tmp_path, stdin=subprocess.PIPE)
        pipes = [transport.get_extra_info("pipe") for transport in process._transports]
        descriptors = [pipe.fileno() for pipe in pipes]
        monkeypatch.setattr(git.os, "close", noted)
        assert process.stdin is not None
        process.stdin.write(b"a line\n")
        process.stdin.close()
        said = await process.stdout.read()
        await process.wait()
        process.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return said.decode().strip(), descriptors

    with asyncio.Runner(loop_factory=loop) as runner:
        said, descriptors = runner.run(work())
        loops_own = not isinstance(runner.get_loop(), asyncio.BaseEventLoop)
    assert len(said) == 40
    assert len(set(descriptors)) == 3
    by_us = [one for one in closed if one in descriptors]
    assert sorted(by_us) == ([] if loops_own else sorted(descriptors))
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
