"""The port to model libraries: what can serve a model, how its replica is started, and how it is asked.

Adapters live in `stratal.engines.runtimes`. A model is loaded by the replica's own process, in the
model's environment and sandbox; what crosses this port are tensors, checksums and descriptions.

A runtime more takes two steps there:

1. `adapter.Runtimes.plan` recognises the model by its MLflow flavors and files and returns a `Plan`: the
   runtime's name, and as plain JSON what its loader has to know. What nothing can load is refused here.
2. `replica/<name>_model.py` has ``load(plan) -> Model`` (`replica.model.Model`), and the name is listed in
   `replica.serve.RUNTIMES`. It runs on any Python from 3.9 in the model's own environment, so it imports
   nothing but the standard library, NumPy and what the model needs. `arrange` says what a request lacks
   (`columns.Expected` reads tables and matrices), `predict` answers; ``rowwise = True`` has rows of several
   requests asked together.

A *task* more (text in, an image in) is a model whose `interface` names its inputs and outputs so: text and
bytes are ``BYTES`` tensors. Doors that speak another protocol turn their requests into `Inputs` and ask
`serving.Serving.infer`, which wakes, shares out, records and meters as for any request; they add nothing here.
What streams, or is no tensor, is a service of its own kind on `stratal.compute.services`, not a runtime.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.tensors import Tensor
from stratal.compute.services import port as services
from stratal.compute.services.port import Broken, CannotStart

__all__ = ["Broken", "CannotLoad", "Command", "Greeting", "Plan", "Replica", "Runtime"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is loaded: the runtime's name, and what that runtime needs to know (plain JSON values).

    `requirements` are the packages it needs where the model's own files name none.
    """

    runtime: str
    options: Mapping[str, Any]
    requirements: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """What a replica runs. `files` are put into its folder before it starts; `readable` it must be able to read."""

    argv: Sequence[str]
    files: Mapping[str, bytes]
    readable: Sequence[Path]


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a replica that is ready says of itself.

    `interface`: ``inputs`` and ``outputs`` (each ``{"name", "datatype", "shape"}``), ``columns`` (names or
    None), ``classes`` (or None), ``answers`` (the output that is the answer, or None: all). `loaded`: the
    SHA-256 of every file it read, by path.
    """

    interface: Mapping[str, Any]
    loaded: Mapping[str, str]
    libraries: Mapping[str, str]
    seconds: float


class CannotLoad(CannotStart):
    """The replica says that it cannot load the model; the message is its own."""


class Replica(services.Replica, Protocol):
    """A connected replica of a model."""

    greeting: Greeting

    async def infer(self, inputs: Inputs, outputs: Sequence[str] | None) -> list[Tensor]:
        """The named outputs, all when None. Raises `Invalid` for inputs the model does not take, `Internal`
        when the model fails, `Broken` when the replica goes away meanwhile."""
        ...

    def generate(
        self, asked: Mapping[str, Any], *, seconds: float
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """What is made piece by piece: text as any number of ``{"text"}``, then ``{"finish", "prompt_tokens",
        "completion_tokens"}``.

        `asked` has ``messages`` or ``prompt``, and ``max_tokens``, ``temperature``, ``top_p``, ``seed``, ``stop``; it may
        have ``schema`` (the text is JSON of it), ``tools``, ``tool_choice`` (``auto``, ``none``, ``required``, ``=NAME``)
        and ``parallel``. What the model calls stands in the end's ``calls``, each ``{"name", "arguments"}``.
        A model that draws is asked with ``prompt``, ``count`` and what its interface lists beside a text; its pieces say how
        far it is, and the end has ``images``, PNG files in base64, and the ``seed``.
        Closing the iterator makes the replica stop. Raises as `infer`, and `TimeoutError` when nothing comes
        for so many `seconds`.
        """
        ...


class Runtime(Protocol):
    def plan(
        self, flavors: Mapping[str, Any], signature: Mapping[str, Any] | None, files: Sequence[str]
    ) -> Plan:
        """How to load the model with these MLflow flavors, signature and files. Raises `Invalid` when nothing here can."""
        ...

    def command(
        self, plan: Plan, python: Path, model: Path, folder: Path, doze: Sequence[str] | None = None
    ) -> Command:
        """What to run so that a replica of the model whose files lie in `model` listens in `folder`.

        `doze`: it imports these modules, and reads no file of the model until it is woken.
        """
        ...

    async def connect(self, folder: Path) -> Replica:
        """Connect to the replica that listens in `folder` and wait for its greeting.

        Raises `OSError` while nobody listens, `CannotLoad`, and `Broken` when it goes away before greeting.
        """
        ...

    async def meet(self, folder: Path) -> services.Dozer[Replica]:
        """Connect to the replica that dozes in `folder`, and hear that it has loaded what it could.

        Raises `OSError` while nobody listens, and `Broken` when it goes away.
        """
        ...
