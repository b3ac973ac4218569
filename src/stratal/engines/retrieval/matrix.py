"""Ranking the passages of one snapshot: their vectors are multiplied with the question's, all in one product.

The files that `pack` made are mapped, not read: what is not looked at takes no memory, and what is, the machine may take
back. A passage is as near as its whole and its nearest part are on average: a whole alone hides a sentence that answers, a
sentence alone says too little of what it is about. What else the document says counts `about` as much, so that a page about
the matter comes before one that mentions it; the words, by BM25 (Robertson and Zaragoza 2009, k1 = 1.2, b = 0.75), count at
most `weight`. The confidence leaves the nearest part out: words of one sentence, as a calibration asks them, would be too
sure by it. A passage without parts, as older indexes have them, is as near as its whole.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TOLD = ("id", "document", "version", "title", "page", "position", "text", "parts")
"""What is told of a passage, as the table has it."""


class Matrix:
    def __init__(self, folder: Path) -> None:
        """Open what `pack` laid out. Raises `OSError` or `ValueError` where it is not whole."""
        meta = json.loads((folder / "meta.json").read_text())
        self._rows, width = int(meta["rows"]), int(meta["width"])
        self._numbers = {document: number for number, document in enumerate(meta["documents"])}
        names = ("ids", "lengths", "documents", "lines", "bounds", "words", "starts", "where", "times")
        self._of: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
        self._told = folder / "told.jsonl"
        self._wholes = _mapped(folder / "wholes.f32", self._rows, width)
        self._parts = _mapped(folder / "parts.f32", int(self._of["bounds"][-1]), width)

    def rank(
        self,
        vector: Sequence[float],
        terms: Sequence[str],
        *,
        limit: int,
        without: str,
        about: float,
        weight: float,
    ) -> tuple[list[dict[str, Any]], float]:
        """The best `limit` passages, each with its marks, and the greatest confidence of all; none of `without`."""
        kept = np.ones(self._rows, bool)
        if (left_out := self._numbers.get(without)) is not None:
            kept = np.asarray(self._of["documents"]) != left_out
        if not kept.any():
            return [], 0.0
        asked = np.asarray(vector, np.float32)
        whole = (self._wholes @ asked).astype(np.float64)
        part_near = (self._parts @ asked).astype(np.float64)
        near = (whole + self._nearest(part_near, whole)) / 2
        bm25, share = self._by_words(sorted(set(terms)), kept)
        most_words = float(bm25.max())
        score = near + about * self._of_documents(whole) + (weight / most_words * bm25 if most_words else 0.0)
        confidence = (np.maximum(whole, 0) + share) / 2
        best = self._best(np.where(kept, score, -np.inf), min(limit, int(kept.sum())))
        marks = {"near": near, "words": bm25, "score": score, "confidence": confidence}
        bounds = self._of["bounds"]
        found = []
        for row, told in zip(best, self._lines(best), strict=True):
            mine = {name: float(values[row]) for name, values in marks.items()}
            nears = part_near[bounds[row] : bounds[row + 1]].tolist()
            found.append({**told, "parts": (told["parts"] or [])[: len(nears)], "part_near": nears, **mine})
        return found, float(confidence[kept].max())

    def _nearest(self, part_near: Any, whole: Any) -> Any:
        """How near each passage's nearest part is."""
        bounds = np.asarray(self._of["bounds"])
        some = bounds[1:] > bounds[:-1]
        nearest = whole.copy()
        if some.any():
            nearest[some] = np.maximum.reduceat(part_near, bounds[:-1][some])
        return nearest

    def _of_documents(self, whole: Any) -> Any:
        """What each passage's document has of meaning on average."""
        numbers = np.asarray(self._of["documents"])
        return (np.bincount(numbers, whole) / np.bincount(numbers))[numbers]

    def _by_words(self, terms: Sequence[str], kept: Any) -> tuple[Any, Any]:
        """BM25, and the share of the question's words, weighed by how rare they are, that stands in each passage."""
        bm25, share = np.zeros(self._rows), np.zeros(self._rows)
        count = int(kept.sum())
        lengths = np.asarray(self._of["lengths"], np.float64)
        average = float(lengths[kept].mean()) or 1.0
        total = 0.0
        for term in terms:
            where, times = self._stands(term)
            mine = kept[where]
            where, times = where[mine], times[mine].astype(np.float64)
            idf = float(np.log(1 + (count - len(where) + 0.5) / (len(where) + 0.5)))
            total += idf
            share[where] += idf
            bm25[where] += idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * lengths[where] / average))
        return bm25, share / total if total else share

    def _stands(self, term: str) -> tuple[Any, Any]:
        words, key = self._of["words"], np.uint64(word_key(term))
        at = int(np.searchsorted(words, key))
        if at == len(words) or words[at] != key:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        start, end = (int(one) for one in self._of["starts"][at : at + 2])
        return np.asarray(self._of["where"][start:end]), np.asarray(self._of["times"][start:end])

    def _best(self, score: Any, limit: int) -> list[int]:
        """Rows by score, those that are equal by id."""
        least = np.partition(score, len(score) - limit)[len(score) - limit]
        rows = np.flatnonzero(score >= least)
        order = np.lexsort([self._of["ids"][rows], -score[rows]])
        return [int(row) for row in rows[order][:limit]]

    def _lines(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        lines = self._of["lines"]
        found = []
        with self._told.open("rb") as file:
            for row in rows:
                file.seek(int(lines[row]))
                found.append(json.loads(file.read(int(lines[row + 1] - lines[row]))))
        return found


def word_key(word: str) -> int:
    """A word's place in the order of words: 64 bits of its hash."""
    return int.from_bytes(hashlib.blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "big")


def _mapped(path: Path, rows: int, width: int) -> Any:
    if not rows or not width:
        return np.zeros((0, width), np.float32)
    return np.memmap(path, np.float32, "r", shape=(rows, width))
