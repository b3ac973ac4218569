"""Of a box whose builder is killed half-way, one half waits for ever: it is found and ended."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from platform_server import wait_until
from stratal.engines.local import process


def test_half_of_a_box_is_found_when_the_other_was_killed(tmp_path: Path) -> None:
    bubblewrap = shutil.which("bwrap")
    if bubblewrap is None:
        pytest.skip("bubblewrap is not installed")
    held, holder = os.pipe()  # until it is told of its users, bubblewrap stands in the middle of its work
    told, teller = os.pipe()
    argv = [bubblewrap, "--unshare-user", "--unshare-pid", "--userns-block-fd", str(held)]
    argv += ["--info-fd", str(teller)]
    argv += ["--ro-bind", "/", "/", "--bind", str(tmp_path), "/tmp", "sleep", "60"]
    outer = subprocess.Popen(argv, pass_fds=[held, teller])
    try:
        wait_until(lambda: process.children(outer.pid))
        (inner,) = process.children(outer.pid)
        assert process.abandoned_boxes(str(tmp_path)) == [], "both are at work"
        outer.kill()
        outer.wait()
        wait_until(lambda: process.abandoned_boxes(str(tmp_path)) == [inner])
        assert process.abandoned_boxes(f"{tmp_path}/another") == []
        process.signal_all([inner], signal.SIGKILL)
        wait_until(lambda: process.abandoned_boxes(str(tmp_path)) == [])
    finally:
        outer.kill()
        for end in (holder, held, told, teller):
            os.close(end)
