"""Starting the platform for a command that needs one."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from stratal.cli import starting
from stratal.kernel.errors import Unavailable

pytestmark = pytest.mark.fast


def test_one_that_comes_up_late_is_taken_and_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    answers = iter((True,))

    def gives_up(command: list[str], **_: Any) -> Any:
        started.append(command[-1])
        return subprocess.CompletedProcess(command, 3, "", "Error: not ready.\n")

    monkeypatch.setattr(starting.subprocess, "run", gives_up)
    monkeypatch.setattr(starting, "is_running", lambda home: next(answers, False))
    starting.start(tmp_path)
    assert started == ["8484"]
    with pytest.raises(Unavailable) as refused:
        starting.start(tmp_path)
    assert (len(started), refused.value.hint) == (3, "Error: not ready.")
