"""The port to the program that a workspace runs: a notebook server that answers HTTP on a socket of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stratal.compute.services.port import Replica


@dataclass(frozen=True, slots=True)
class Command:
    """What it runs. `files` are put into its folder before it starts; `readable` it must be able to read."""

    argv: Sequence[str]
    files: Mapping[str, bytes]
    readable: Sequence[Path]


class Notebook(Replica, Protocol):
    """A notebook server that answers."""

    @property
    def socket(self) -> str:
        """The path of the unix socket that it answers HTTP on."""
        ...

    @property
    def secret(self) -> str:
        """What a request must bear to be let in."""
        ...

    @property
    def busy(self) -> bool:
        """Does it compute something that somebody waits for?"""
        ...


class Runtime(Protocol):
    """A program that workspaces run."""

    @property
    def requirements(self) -> str:
        """What its environment must have."""
        ...

    @property
    def front(self) -> str:
        """The path that people begin at."""
        ...

    def command(self, python: Path, folder: Path, place: Path) -> Command:
        """What to run so that it listens in `folder` and keeps everything in `place` (its ``files`` and its own)."""
        ...

    async def connect(self, folder: Path) -> Notebook:
        """Connect to the one that listens in `folder` and wait until it answers requests.

        Raises `OSError` while nobody listens, `CannotStart`, and `Broken` when it goes away before.
        """
        ...
