"""The port to whatever a service runs: how a replica of it is started, and what a connected one can tell."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

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
R_co = TypeVar("R_co", bound=Replica, covariant=True)


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


class Dozer(Protocol[R_co]):
    """A connected replica that dozes: it has begun nothing, and ends when this connection does."""

    @property
    def closed(self) -> bool: ...

    async def wait_closed(self) -> None: ...

    async def wake(self) -> R_co:
        """Have it begin, and hear its greeting. Raises as `Blueprint.connect` does once somebody listens."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Dozes(Blueprint[R], Protocol[R]):
    """A blueprint whose replicas can be started before they are needed, without a credential and without any work."""

    async def doze(self, attempt_id: str, folder: Path, modules: Sequence[str]) -> WorkloadSpec:
        """As `spec`, of a replica that loads these `modules` and then waits until its first connection wakes it."""
        ...

    async def meet(self, folder: Path) -> Dozer[R]:
        """Connect to the replica of this folder once it dozes. Raises `OSError` while nobody listens, `Broken`."""
        ...
