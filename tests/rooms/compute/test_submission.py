"""What may be asked of a job, and what is said about the rest."""

from typing import Any

import pytest

from stratal.compute.engine import Capacity
from stratal.compute.model import JobSpec, Source
from stratal.compute.submission import complete
from stratal.kernel.errors import Invalid, TooLarge

pytestmark = pytest.mark.fast
MACHINE = Capacity(2, 16 * 2**30)


def made(capacity: Capacity = MACHINE, **asked: Any) -> JobSpec:
    return complete(JobSpec(**{"argv": ["python", "t.py"], **asked}), capacity)


def test_defaults_suit_the_machine() -> None:
    assert (made().cpus, made().memory_bytes, made().network) == (1, 4 * 2**30, "platform")
    small = made(Capacity(0.5, 2**30))
    assert (small.cpus, small.memory_bytes) == (0.5, 2**29)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["python", "src/train.py", "--x"], "train.py"),
        (["python3.11", "-u", "train.py"], "train.py"),
        (["python", "-m", "pkg.train"], "pkg.train"),
        (["python", "-c", "print(1)"], "python"),
        (["/bin/sh", "-c", "x"], "sh"),
        (["./weird name!..x"], "weird-name-.x"),
        (["…"], "job"),
    ],
)
def test_names_come_from_the_command(argv: list[str], name: str) -> None:
    assert made(argv=argv).name == name


def test_what_never_fits_is_refused_with_what_would() -> None:
    with pytest.raises(Invalid, match="--cpus 2 --memory 16384MiB") as caught:
        made(cpus=64)
    assert caught.value.reason == "never_fits"
    with pytest.raises(Invalid):
        made(memory_bytes=2**40)


@pytest.mark.parametrize(
    "asked",
    [
        {"argv": []},
        {"argv": [""]},
        {"argv": ["python", "a\0b"]},
        {"argv": ["python", "\udcff"]},
        {"env": {"A-B": "x"}},
        {"env": {"": "x"}},
        {"env": {"A": "x\0"}},
        {"cpus": 0},
        {"cpus": float("nan")},
        {"cpus": -1},
        {"memory_bytes": 512},
        {"timeout_seconds": 0},
        {"timeout_seconds": float("nan")},
        {"cwd": "../out"},
        {"cwd": "/etc"},
        {"cwd": "a\nb"},
        {"name": "../x"},
        {"name": "x" * 2000},
        {"source": Source(kind="svn")},
        {"source": Source(kind="git", remote="https://joe:token@host/r.git")},
        {"requirements": "-r /etc/passwd"},
    ],
)
def test_nonsense_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        made(**asked)


@pytest.mark.parametrize(
    "asked",
    [
        {"argv": ["x" * 200_000]},
        {"argv": ["x"] * 2000},
        {"env": {"A": "x" * 200_000}},
        {"env": {f"A{n}": "" for n in range(2000)}},
        {"source": Source(kind="git", diff=b"x" * 2_000_000)},
        {"source": Source(kind="git", untracked=["x"] * 2000)},
    ],
)
def test_too_much_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(TooLarge):
        made(**asked)
