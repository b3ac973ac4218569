"""Finding passages by meaning and by words, and answering from them.

Both are one SQL statement over one snapshot of the index's table, in a query worker: the embeddings of the passages and
of their parts are multiplied with the question's, and BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75) is summed
over its words. A passage is as near as its whole and its nearest part are on average: a whole alone hides a sentence
that answers, a sentence alone says too little of what it is about. What else the document says counts `_ABOUT` as much,
so that a page about the matter comes before one that mentions it; the words count at most `_WORDS`. The question is
embedded by the index's endpoint, so it is recorded, priced and explained like any prediction.
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson

from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.serving import Serving
from stratal.ai.endpoints.tensors import Tensor, nested, pack
from stratal.ai.retrieval import answers
from stratal.ai.retrieval.model import NAMESPACE, Answer, Found, Index, Passage
from stratal.ai.retrieval.terms import asked_terms
from stratal.data.lake.model import Place
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

# The confidence leaves the nearest part out: words of one sentence, as a calibration asks them, would be too sure by it.
# An index that was built before its passages had parts goes on being searched without them.
_SQL = """
WITH stored AS (
  SELECT * FROM {table}
  UNION ALL BY NAME SELECT CAST(NULL AS VARCHAR[]) AS parts, CAST(NULL AS DOUBLE[][]) AS part_embeddings WHERE false
),
multiplied AS (
  SELECT *, list_inner_product(embedding, CAST($1 AS DOUBLE[])) AS whole,
    list_transform(part_embeddings, lambda e: list_inner_product(e, CAST($1 AS DOUBLE[]))) AS part_near
  FROM stored WHERE document <> $3
),
passages AS (
  SELECT *, (whole + coalesce(list_max(part_near), whole)) / 2 AS near, avg(whole) OVER (PARTITION BY document) AS about
  FROM multiplied
),
asked AS (SELECT DISTINCT unnest(string_split($2, ' ')) AS term),
held AS (SELECT id, length, unnest(terms) AS term FROM passages),
hits AS (
  SELECT held.id, held.term, any_value(held.length) AS length, count(*) AS tf
  FROM held JOIN asked ON held.term = asked.term GROUP BY held.id, held.term
),
seen AS (SELECT term, count(*) AS df FROM hits GROUP BY term),
weights AS (
  SELECT asked.term, ln(1 + ((SELECT count(*) FROM passages) - coalesce(df, 0) + 0.5) / (coalesce(df, 0) + 0.5)) AS idf
  FROM asked LEFT JOIN seen ON seen.term = asked.term
),
words AS (
  SELECT hits.id,
    sum(idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * hits.length / (SELECT avg(length) FROM passages)))) AS bm25,
    sum(idf) / (SELECT sum(idf) FROM weights) AS share
  FROM hits JOIN weights ON weights.term = hits.term GROUP BY hits.id
),
ranked AS (
  SELECT passages.*, coalesce(bm25, 0) AS words, coalesce(share, 0) AS share,
    coalesce(bm25 / nullif(max(bm25) OVER (), 0), 0) AS worded
  FROM passages LEFT JOIN words ON words.id = passages.id
)
SELECT id, document, version, title, page, "position", text, near, words,
  near + {about} * about + {weight} * worded AS score,
  (greatest(whole, 0) + share) / 2 AS confidence, parts, part_near,
  max((greatest(whole, 0) + share) / 2) OVER () AS most
FROM ranked ORDER BY score DESC, id
"""


class Search:
    def __init__(self, warehouse: Warehouse, serving: Serving) -> None:
        self._warehouse = warehouse
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
        params = [orjson.dumps(vector).decode(), " ".join(asked_terms(question)), without]
        sql = _SQL.format(table=f'"{NAMESPACE}"."{index.name}"', about=_ABOUT, weight=_WORDS)
        ask = Ask(sql, params, limit=limit)
        async with self._warehouse.query(who, place, ask) as answer:
            rows = orjson.loads(b"".join([chunk async for chunk in answer.chunks()]))
            snapshot = next((str(one["snapshot_id"]) for one in answer.snapshots), "")
        passages = [replace(Passage(*row[:-3]), parts=row[-3] or (), part_near=row[-2] or ()) for row in rows]
        return Found(passages, float(rows[0][-1]) if rows else 0.0, snapshot)

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
