"""Values of the registry."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

STAGES = ("None", "Staging", "Production", "Archived")
"""MLflow's stages of a version; aliases have taken their place."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One pinned file: its path inside the model's directory, and where its bytes lie (`Models.blobs`)."""

    path: str
    size: int
    sha256: str
    blob_key: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model's own ``MLmodel`` and requirements files say about it. Read as text, never executed.

    `flavors` are the flavor names with their settings, `formats` the serialization formats of the
    weights (``skops``, ``cloudpickle``, ``pickle``, ``onnx`` …), `signature` the inputs and outputs as
    MLflow writes them, `requirements` the text of requirements.txt, `python_version` e.g. ``3.11.9``.
    `labels` are warnings a person should see, such as ``contains pickle``.
    """

    flavors: dict[str, dict[str, object]] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    signature: dict[str, object] | None = None
    requirements: str = ""
    python_version: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a registered model. `id` (``mv_…``) is what lineage and endpoints refer to.

    `run_id` is the run that made the files, `workload` the job that made the run (``job:12``; None when
    it was a person), `logged_model_id` MLflow's ``m-…`` when the files were a logged model's.
    """

    id: str
    project_id: str
    name: str
    version: int
    source: str
    run_id: str | None
    run_link: str
    logged_model_id: str | None
    workload: str | None
    description: str
    stage: str
    created_at: int
    updated_at: int
    created_by: str
    facts: Facts
    files: tuple[ModelFile, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def job_id(self) -> str | None:
        """The number of the job that made the model, as text."""
        kind, _, number = (self.workload or "").partition(":")
        return number if kind == "job" else None

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A name under which versions are kept; `latest` holds the newest version of each stage."""

    id: str
    project_id: str
    name: str
    description: str
    created_at: int
    updated_at: int
    created_by: str
    tags: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    latest: tuple[ModelVersion, ...] = ()


class FormState(StrEnum):
    """How far a form is.  waiting ──▶ converting ──▶ made | refused | failed;  the last two may be asked for again."""

    WAITING = "waiting"
    """Nobody asked for it: it is begun when nothing else is to do."""
    CONVERTING = "converting"
    """Its job is queued or runs."""
    MADE = "made"
    """Its files are here, and it answers like the version."""
    REFUSED = "refused"
    """The version cannot be converted, or what came of it answers otherwise; `why` says so."""
    FAILED = "failed"
    """The job came to no result; `why` says how it ended."""


ONNX = "onnx"
"""The one kind of form that there is."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a version was converted to: other files that answer like its own. It is no version and has no number.

    `parity` is how both were compared, as the job noted: ``rows`` in all, ``real_rows`` of them logged with the model,
    ``apart`` the largest difference, ``form``, ``precision``, ``estimator_ms`` and ``onnx_ms`` for one row.
    """

    id: str
    project_id: str
    version_id: str
    kind: str
    state: FormState
    why: str
    job_id: str | None
    parity: Mapping[str, Any]
    created_at: int
    ended_at: int | None
    created_by: str
    files: tuple[ModelFile, ...] = ()

    @property
    def size(self) -> int:
        """Of its files, in bytes."""
        return sum(file.size for file in self.files)


class State(StrEnum):
    """What recomputing a stored file's hash showed."""

    VERIFIED = "verified"
    BROKEN = "broken"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class FileCheck:
    """The hash that was pinned and the one found on the medium just now (None: the bytes are gone)."""

    path: str
    expected: str
    found: str | None
    state: State
