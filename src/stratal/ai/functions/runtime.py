"""The ports to the programs that run functions and apps: what a replica is told, how it is asked, how it answers."""

from collections.abc import AsyncIterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from stratal.compute.services.port import Replica
from stratal.kernel.errors import StratalError


@dataclass(frozen=True, slots=True)
class Command:
    """What a replica runs. `files` are put into its folder before it starts; `readable` it must be able to read."""

    argv: Sequence[str]
    files: Mapping[str, bytes]
    readable: Sequence[Path]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a replica that is ready says of itself: whether its calls interleave (``async def``), seconds it loaded."""

    interleaves: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """One call: everything that the handler may learn of it."""

    id: str
    body: bytes
    content_type: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    caller: str | None = None
    trigger: str = "http"
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Start:
    """The beginning of an answer. `length` None: it is a stream, and nobody knows how long."""

    status: int
    headers: Mapping[str, str]
    length: int | None


class Failed(StratalError):
    """The function failed at a call. `kind` is its exception's name."""

    code, status = "function_failed", 500

    @property
    def kind(self) -> str:
        return str(self.details.get("type", ""))


class TimedOut(Failed):
    code, status = "function_timeout", 504


class Exchange(Protocol):
    """A call that a replica is at."""

    @property
    def log(self) -> bytes:
        """What the call wrote so far."""
        ...

    @property
    def ended(self) -> bool: ...

    async def start(self) -> Start:
        """Wait for the answer's beginning.

        Raises `Failed`, `TimedOut`, `Invalid` for a body that is not what its content type says, `Broken`.
        """
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The answer's bytes, as the function makes them. Raises as `start` does when it breaks off."""
        ...

    async def close(self) -> None:
        """Nobody wants more of it: have it ended, and wait for that a while."""
        ...


class FunctionReplica(Replica, Protocol):
    """A connected replica. Calls share its connection."""

    greeting: Greeting

    def call(self, call: Call) -> Exchange:
        """Begin a call. Raises `Broken`."""
        ...


Message = MutableMapping[str, Any]
"""A message of ASGI (https://asgi.readthedocs.io/en/latest/specs/www.html)."""


class Conversation(Protocol):
    """A request to an app, or a WebSocket: ASGI's messages both ways, as they come."""

    async def send(self, message: Message) -> None:
        """Tell the app what the client sent; waits while it takes no more. Nothing once it has ended."""
        ...

    async def receive(self) -> Message:
        """What the app says next. Raises `Failed` when it raised, `Broken` when its replica is gone."""
        ...

    def close(self) -> None:
        """The client is gone, or has all that it wanted: the app hears so."""
        ...


class AppReplica(Replica, Protocol):
    """A connected replica of an app. Requests share its connection."""

    def open(self, scope: Mapping[str, Any]) -> Conversation:
        """Begin a request, or a WebSocket, with what ASGI's scope of it says. Raises `Broken`."""
        ...


R_co = TypeVar("R_co", bound=Replica, covariant=True)


class Program(Protocol[R_co]):
    def command(
        self, python: Path, target: str, code: Path, folder: Path, told: Mapping[str, object]
    ) -> Command:
        """What to run so that a replica of `target` (``app.py:handler``) in `code` listens in `folder`.

        `told`: ``kind``, ``function`` (its name), ``project``, ``revision``, ``timeout`` (seconds), ``concurrency``.
        """
        ...

    async def connect(self, folder: Path) -> R_co:
        """Connect to the replica that listens in `folder` and wait for its greeting.

        Raises `OSError` while nobody listens, `CannotStart`, and `Broken` when it goes away before greeting.
        """
        ...
