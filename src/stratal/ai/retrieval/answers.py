"""Answers from passages: sentences taken as they are, or what a generating model is asked and what it cited. Pure."""

import re
from collections.abc import Sequence

from stratal.ai.retrieval.model import Citation, Passage
from stratal.ai.retrieval.terms import asked_terms, terms_of

EXTRACTED = "No generating model was asked: these are sentences of the documents."
ABSTAINED = "These documents do not seem to answer that."
UNCITED = "The model cited none of the passages: take what it wrote as its own words."
DOUBTFUL = "Written by a model. The passages do not bear out what it cites them for: {}. Look there before you rely on it."
GENERATED = "Written by a model from the passages that it cites."
_SHOWN = 2
_WORDS = 0.3  # how much shared words count beside likeness of meaning
_PLACE = (
    0.1  # what each passage before it takes off: the passage's rank counts more than one sentence's likeness
)
_NEAR = 0.85  # of the best sentence's mark: what a further one must have
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[^\sa-z])|\n")
_CITED = re.compile(r"\[(\d{1,2})\]")
_QUOTE = 280

_TASK = (
    "Answer the question from the numbered passages only. Put the number of each passage that you use in square "
    "brackets, like [1]. When they do not answer it, say so."
)


def extract(question: str, passages: Sequence[Passage]) -> tuple[str, list[Citation]]:
    """The parts of the passages, the best first, that fit the question best, each with its citation."""
    asked = set(asked_terms(question))
    marks = []
    for place, passage in enumerate(passages):
        for part, near in _parts(passage):
            shared = len(asked & set(terms_of(part))) / len(asked) if asked else 0.0
            marks.append((near + _WORDS * shared - _PLACE * place, place, part))
    marks.sort(key=lambda mark: -mark[0])
    chosen = [mark for mark in marks[:_SHOWN] if mark[0] >= _NEAR * marks[0][0]]
    numbers: dict[int, int] = {}
    parts: list[str] = []
    citations: list[Citation] = []
    for _, place, part in chosen:
        number = numbers.setdefault(place, len(numbers) + 1)
        parts.append(f"{part} [{number}]")
        if len(citations) < number:
            citations.append(Citation(number, passages[place], part))
    return " ".join(parts), citations


def _parts(passage: Passage) -> list[tuple[str, float]]:
    """What of a passage may be quoted, and how near it is; its sentences, all as near as it, where it has no parts."""
    if passage.parts:
        return list(zip(passage.parts, passage.part_near, strict=True))
    plain = (" ".join(sentence.split()) for sentence in _SENTENCE.split(passage.text))
    return [(sentence, passage.near) for sentence in plain if len(sentence) > 2]


def prompt(question: str, passages: Sequence[Passage]) -> list[dict[str, str]]:
    """The messages for a generating model."""
    listed = "\n\n".join(
        f"[{number}] {passage.title}\n{passage.text}" for number, passage in enumerate(passages, start=1)
    )
    return [
        {"role": "system", "content": _TASK},
        {"role": "user", "content": f"{listed}\n\nQuestion: {question}"},
    ]


def cited(text: str, passages: Sequence[Passage]) -> list[Citation]:
    """The passages that the text cites, in the order in which it does; numbers that name none are left out.

    Each is held against the sentences that cite it: their numbers, and half of their telling words, must stand in it.
    """
    claims: dict[int, list[str]] = {}
    for sentence in _sentences_with_marks(text):
        for number in _CITED.findall(sentence):
            claims.setdefault(int(number), []).append(_CITED.sub(" ", sentence))
    found = []
    for number, sentences in claims.items():
        if 1 <= number <= len(passages):
            passage = passages[number - 1]
            supported = all(_bears_out(passage.text, sentence) for sentence in sentences)
            found.append(Citation(number, passage, _telling(passage.text, sentences), supported))
    return found


def note_of(citations: Sequence[Citation]) -> str:
    """What is said of a written answer with these citations."""
    if not citations:
        return UNCITED
    doubtful = [f"[{one.number}]" for one in citations if not one.supported]
    return DOUBTFUL.format(", ".join(doubtful)) if doubtful else GENERATED


def _sentences_with_marks(text: str) -> list[str]:
    """Sentences; the mark of a passage that stands behind a sentence's end belongs to it."""
    whole = re.sub(r"([.!?])((?:\s*\[\d{1,2}\])+)", r"\2\1", text)
    return [part for part in _SENTENCE.split(whole) if part.strip()]


def _bears_out(passage: str, sentence: str) -> bool:
    said = set(asked_terms(sentence))
    if not said:
        return True
    there = set(terms_of(passage))
    numbers = {term for term in said if any(sign.isdigit() for sign in term)}
    return numbers <= there and len(said & there) >= len(said) / 2


def _telling(passage: str, sentences: Sequence[str]) -> str:
    """The sentence of the passage that shares most words with those that cite it."""
    said = {term for sentence in sentences for term in asked_terms(sentence)}
    parts = [" ".join(part.split()) for part in _SENTENCE.split(passage) if part.strip()]
    best = max(parts, key=lambda part: len(said & set(terms_of(part))), default=passage)
    return best[:_QUOTE]
