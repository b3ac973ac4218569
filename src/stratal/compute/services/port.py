"""The port to whatever a service runs: how a replica of it is started, and what a connected one can tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from stratal.compute.engine import WorkloadSpec


class Broken(Exception):
    """The connection to a replica is gone before its answer came."""


class CannotStart(Exception):
    """The replica says that it cannot do its work; the message is its own, for people."""


class Replica(Protocol):
    """A connected replica. Requests share its connection."""

    @property
    def busy_since(self) -> float | None:
        """Since when it has owed an answer and given none (the event loop's clock, seconds); None: it owes nothing."""
        ...

    @property
    def closed(self) -> bool: ...

    @property
    def modules(self) -> Sequence[str]:
        """What its program had imported when it greeted, for the next one to start with; empty: let it start cold."""
        ...

    async def wait_closed(self) -> None: ...

    def close(self) -> None: ...


R = TypeVar("R", bound=Replica)


class Blueprint(Protocol[R]):
    """One unchanging thing that replicas are made of."""

    async def spec(self, attempt_id: str, folder: Path) -> WorkloadSpec:
        """Make everything ready (environment, files; `folder` exists and is the replica's own) and say what to run.

        May be called many times, also at once. Raises `StratalError` when that cannot be.
        """
        ...

    async def connect(self, folder: Path) -> R:
        """Connect to the replica of this folder and hear its greeting.

        Raises `OSError` while nobody listens, `CannotStart`, and `Broken` when it goes away before greeting.
        """
        ...

    async def welcome(self, replica: R) -> None:
        """Look at a replica that greeted, before its first request. Raises `StratalError` to refuse it."""
        ...
