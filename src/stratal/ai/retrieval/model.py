"""Values of retrieval. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

NAMESPACE = "indexes"
"""The lake's namespace in which the tables of passages lie, each under its index's name."""


class IndexState(StrEnum):
    BUILDING = "building"
    """Its job waits or runs; one that was built before goes on being searched."""
    READY = "ready"
    FAILED = "failed"
    """Its newest job failed (`failure`); one that was built before goes on being searched."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """How confident a question's best passage must make us, found on some questions and measured on others.

    `answered` is the share of questions that the documents answer which would be answered, `refused` the share of
    those that they do not answer which would be refused; both on questions that the threshold was not chosen by
    (None: there were none of that kind).
    """

    threshold: float
    questions: int
    answered: float | None
    refused: float | None
    source: str
    """Whose questions: ``documents`` (made of their own sentences) or ``people``."""
    at_most_wrong: float | None = None
    """What share of questions that are not answered may be answered all the same, where somebody said so."""


@dataclass(frozen=True, slots=True)
class Built:
    """What the job said when it was done."""

    documents: int
    passages: int
    skipped: Sequence[Mapping[str, str]] = ()
    at: int = 0


@dataclass(frozen=True, slots=True)
class Index:
    """An index as recorded. `source` is ``s3://bucket/prefix/**``, `embedder` and `ocr` are endpoints."""

    id: str
    project_id: str
    name: str
    source: str
    embedder: str
    ocr: str | None
    job_id: int
    built: Built | None
    calibration: Calibration | None
    created_at: int
    created_by: str

    @property
    def table(self) -> str:
        return f"{NAMESPACE}.{self.name}"


@dataclass(frozen=True, slots=True)
class IndexView:
    """An index with what its job is doing."""

    index: Index
    state: IndexState
    failure: str


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage that was found. `near` is the likeness of meaning (-1 to 1), `words` BM25's score, `score` what it
    is ranked by; `confidence` (0 to 1) is what abstention is decided by. `parts` are its sentences, items, rows and
    lines of code, `part_near` their likeness; none where its index was built before there were any."""

    id: str
    document: str
    version: str
    title: str
    page: int | None
    position: int
    text: str
    near: float
    words: float
    score: float
    confidence: float
    parts: Sequence[str] = ()
    part_near: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of an index's table; it never changes."""

    project_id: str
    table_id: str
    snapshot_id: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What passages are ranked by: the question's vector and words; `without` leaves out those of one document.

    `about` is what all of a document's passages count on average, `weight` what the words count at most.
    """

    vector: Sequence[float]
    terms: Sequence[str]
    limit: int
    without: str
    about: float
    weight: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best passages as `Passage` has them, and the greatest confidence of all."""

    passages: Sequence[Mapping[str, Any]]
    confidence: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, best first, of which snapshot of the table."""

    passages: Sequence[Passage]
    confidence: float
    snapshot_id: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that an answer rests on; `quote` is what of it stands in the answer, or what says most of it.

    `supported`: does the passage bear out the sentences that cite it, by their words and numbers?
    """

    number: int
    passage: Passage
    quote: str
    supported: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """`mode` is ``extractive``, ``generated`` or ``abstained``; `note` says in words what that means."""

    text: str
    mode: str
    note: str
    confidence: float
    threshold: float | None
    citations: Sequence[Citation] = ()
    snapshot_id: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Question:
    """A question to calibrate by; `document` is one that answers it (its key or a part of it), None: none does."""

    text: str
    document: str | None
    group: str = ""
