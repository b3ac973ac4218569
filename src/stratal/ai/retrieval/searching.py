"""Finding passages by meaning and by words, and answering from them.

One snapshot of the index's table is ranked, laid out on this machine (`Layouts`) when it is searched first. The question is
embedded by the index's endpoint, so it is recorded, priced and explained like any prediction; which snapshot was read is
recorded as for any query. What else a document says counts `_ABOUT` as much as a passage's own meaning; the words count at
most `_WORDS`.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.serving import Serving
from stratal.ai.endpoints.tensors import Tensor, nested, pack
from stratal.ai.retrieval import answers
from stratal.ai.retrieval.model import NAMESPACE, Answer, Found, Index, Mark, Passage, Ranked, Snapshot
from stratal.ai.retrieval.terms import asked_terms
from stratal.data.lake.model import Place, TableName
from stratal.data.queries.service import Ask, Warehouse
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.errors import Invalid

MAX_QUESTION = 2_000
MAX_PASSAGES = 50
_USED = 5  # passages that an answer is made from
_ANSWER_TOKENS = 400
_ABOUT = 0.3
_WORDS = 0.15

_ROWS = """
SELECT id, document, version, title, page, "position", text, parts, terms, length, CAST(embedding AS FLOAT[]) AS embedding,
  CAST(part_embeddings AS FLOAT[][]) AS part_embeddings
FROM (
  SELECT * FROM {table} AT (VERSION => {snapshot})
  UNION ALL BY NAME SELECT CAST(NULL AS VARCHAR[]) AS parts, CAST(NULL AS DOUBLE[][]) AS part_embeddings WHERE false
)
"""
"""An index that was built before its passages had parts has none."""

Rows = Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]


class Layouts(Protocol):
    """Ranks the passages of snapshots; `rows` are read, as an Arrow stream, of those that it has not laid out."""

    async def rank(self, snapshot: Snapshot, rows: Rows, mark: Mark) -> Ranked: ...

    async def forget(self, project_id: str, table_id: str | None = None) -> None: ...


class Search:
    def __init__(self, warehouse: Warehouse, layouts: Layouts, serving: Serving) -> None:
        self._warehouse = warehouse
        self._layouts = layouts
        self._serving = serving

    async def find(
        self,
        who: Principal,
        place: Place,
        index: Index,
        question: str,
        *,
        limit: int,
        request_id: str,
        without: str = "",
    ) -> Found:
        """The passages that fit the question best; `without` leaves out those of one document.

        Raises `Invalid` for an empty or endless question, and what the endpoint and the warehouse raise.
        """
        require(who, "indexes.search", place.id, what=f"index {index.name!r}")
        question = _checked(question)
        if not 1 <= limit <= MAX_PASSAGES:
            raise Invalid(f"limit must be between 1 and {MAX_PASSAGES}.", reason="bad_limit")
        vector = (await self.embed(who, place, index, [question], request_id))[0]
        table = TableName((NAMESPACE,), index.name)
        info = await self._warehouse.reading(who, place, table)
        if info.snapshot_id is None:
            return Found([], 0.0, "")
        terms = " ".join(asked_terms(question)).split(" ")
        mark = Mark(vector, terms, limit, without, _ABOUT, _WORDS)
        sql = _ROWS.format(table=f'"{NAMESPACE}"."{index.name}"', snapshot=info.snapshot_id)

        @asynccontextmanager
        async def rows() -> AsyncIterator[AsyncIterator[bytes]]:
            async with self._warehouse.query(who, place, Ask(sql, format="arrow")) as answer:
                yield answer.chunks()

        ranked = await self._layouts.rank(Snapshot(place.id, info.id, info.snapshot_id), rows, mark)
        passages = [Passage(**told) for told in ranked.passages]
        return Found(passages, ranked.confidence, str(info.snapshot_id))

    async def answer(
        self, who: Principal, place: Place, index: Index, question: str, *, model: str | None, request_id: str
    ) -> Answer:
        """An answer with citations: written by the endpoint `model`, or without one sentences of the documents.

        Abstains when the best passage is less convincing than the index's calibration asks for.
        """
        found = await self.find(who, place, index, question, limit=_USED, request_id=request_id)
        threshold = None if index.calibration is None else index.calibration.threshold
        known = Answer("", "", "", found.confidence, threshold, snapshot_id=found.snapshot_id)
        if not found.passages or (threshold is not None and found.confidence < threshold):
            return replace(known, text=answers.ABSTAINED, mode="abstained", note=_abstained(known))
        if model is not None:
            return await self._written(who, place, question, found, model, request_id, known)
        text, citations = answers.extract(question, found.passages)
        return replace(known, text=text, mode="extractive", note=answers.EXTRACTED, citations=citations)

    async def _written(
        self,
        who: Principal,
        place: Place,
        question: str,
        found: Found,
        model: str,
        request_id: str,
        known: Answer,
    ) -> Answer:
        asked = {
            "messages": answers.prompt(question, found.passages),
            "max_tokens": _ANSWER_TOKENS,
            "temperature": 0.0,
            "top_p": 1.0,
            "seed": None,
            "stop": [],
        }
        parts: list[str] = []
        end: dict[str, Any] = {}
        writing = self._serving.generate(who, place.id, model, asked, request_id=request_id)
        async with aclosing(writing) as pieces:
            async for piece in pieces:
                if "finish" in piece:
                    end = dict(piece)
                else:
                    parts.append(str(piece["text"]))
        text = "".join(parts)
        citations = answers.cited(text, found.passages)
        note = answers.note_of(citations)
        return replace(known, text=text, mode="generated", note=note, citations=citations, usage=end)

    async def embed(
        self, who: Principal, place: Place, index: Index, texts: Sequence[str], request_id: str
    ) -> list[list[float]]:
        """Vectors of length 1 by the index's endpoint."""
        tensor = Tensor("text", "BYTES", (len(texts),), pack("BYTES", list(texts)))
        answer = await self._serving.infer(
            who, place.id, index.embedder, Inputs([tensor]), ["embedding"], request_id=request_id
        )
        vectors: list[list[float]] = nested(answer.outputs[0])
        return vectors


def _checked(question: str) -> str:
    plain = " ".join(question.split())
    if not plain or len(plain) > MAX_QUESTION:
        raise Invalid(f"A question has 1 to {MAX_QUESTION} characters.", reason="bad_question")
    try:
        plain.encode()
    except UnicodeEncodeError:
        raise Invalid("The question is not valid Unicode.", reason="bad_question") from None
    return plain


def _abstained(known: Answer) -> str:
    if known.threshold is None:
        return "Nothing was found."
    return (
        f"The best passage convinces by {known.confidence:.2f}; below {known.threshold:.2f}, as calibrated on "
        "questions, no answer is given."
    )
