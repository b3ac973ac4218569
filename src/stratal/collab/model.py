"""Values of experiments, runs and artifacts."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")

ACTIVE, DELETED = "active", "deleted"


class View(StrEnum):
    """Which of the living and the deleted a search looks at."""

    ACTIVE_ONLY = "ACTIVE_ONLY"
    DELETED_ONLY = "DELETED_ONLY"
    ALL = "ALL"

    @property
    def lifecycles(self) -> tuple[str, ...]:
        return {
            View.ACTIVE_ONLY: (ACTIVE,),
            View.DELETED_ONLY: (DELETED,),
            View.ALL: (ACTIVE, DELETED),
        }[self]


class RunStatus(StrEnum):
    RUNNING = "RUNNING"
    SCHEDULED = "SCHEDULED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @property
    def is_final(self) -> bool:
        return self in {RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED}


@dataclass(frozen=True, slots=True)
class Experiment:
    """`id` is what clients know: ``0`` is the default of whichever project asks. `key` is the row's own."""

    key: int
    id: str
    project_id: str
    name: str
    lifecycle: str
    created_at: int
    updated_at: int
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def artifact_location(self) -> str:
        return f"mlflow-artifacts:/{self.id}"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's newest value; with the logged model and data set it was measured on, where that was said."""

    key: str
    value: float
    timestamp: int
    step: int
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a run read, as its script described it."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Run:
    """A run with the newest of what was logged. `experiment` is its name. Times are epoch milliseconds.

    `workload` made the run by its own credential (``job:12``); None when a person did.
    """

    id: str
    project_id: str
    experiment_id: str
    experiment: str
    name: str
    user_id: str
    status: RunStatus
    start_time: int
    end_time: int | None
    lifecycle: str
    created_by: str
    workload: str | None
    metrics: tuple[Metric, ...] = ()
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    datasets: tuple[Dataset, ...] = ()
    input_models: tuple[str, ...] = ()
    output_models: tuple[tuple[str, int], ...] = ()

    @property
    def artifact_uri(self) -> str:
        return f"mlflow-artifacts:/{self.experiment_id}/{self.id}/artifacts"


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of what was found, and the token of the next page (empty: this was the last)."""

    items: list[T]
    next_token: str = ""


class RootKind(StrEnum):
    """Whose directory of artifacts it is. `UPLOADS` are a project's bytes that wait to be named; they and forms
    have no place on the wire."""

    RUN = "run"
    LOGGED_MODEL = "logged_model"
    MODEL_VERSION = "model_version"
    MODEL_FORM = "model_form"
    UPLOADS = "uploads"


@dataclass(frozen=True, slots=True)
class Root:
    """A directory of artifacts; `location` is its path on the wire, `sealed` ones are read-only."""

    id: str
    project_id: str
    kind: RootKind
    location: str
    name: str
    sealed: bool


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file: its path inside its root, and where its bytes lie."""

    path: str
    size: int
    sha256: str
    blob_key: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory of a listing; `path` is inside the root, `size` None for a directory."""

    path: str
    size: int | None

    @property
    def is_directory(self) -> bool:
        return self.size is None
