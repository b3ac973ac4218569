"""Answers from passages: sentences taken as they are, or what a generating model is asked and what it cited. Pure."""

import re
from collections.abc import Sequence

from stratal.ai.retrieval.model import Citation, Passage
from stratal.ai.retrieval.terms import asked_terms, terms_of

EXTRACTED = "No generating model was asked: these are sentences of the documents."
ABSTAINED = "These documents do not seem to answer that."
UNCITED = "The model cited none of the passages: take what it wrote as its own words."
GENERATED = "Written by a model from the passages that it cites."
MOST_SENTENCES = 60
_SHOWN = 2
_WORDS = 0.3  # how much shared words count beside likeness of meaning
_NEAR = 0.85  # of the best sentence's mark: what a further one must have
_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[^\sa-z])|\n{2,}")
_CITED = re.compile(r"\[(\d{1,2})\]")
_QUOTE = 280

_TASK = (
    "Answer the question from the numbered passages only. Put the number of each passage that you use in square "
    "brackets, like [1]. When they do not answer it, say so."
)


def sentences_of(passages: Sequence[Passage]) -> list[tuple[int, str]]:
    """(the passage's place, sentence), best passages first, at most `MOST_SENTENCES`."""
    found: list[tuple[int, str]] = []
    for place, passage in enumerate(passages):
        for sentence in _SENTENCE.split(passage.text):
            plain = " ".join(sentence.split())
            if len(plain) > 2 and all(plain != other for _, other in found):
                found.append((place, plain))
    return found[:MOST_SENTENCES]


def extract(
    question: str, passages: Sequence[Passage], sentences: Sequence[tuple[int, str]], near: Sequence[float]
) -> tuple[str, list[Citation]]:
    """The sentences that fit the question best, each with its citation. `near`: their likeness to it."""
    asked = set(asked_terms(question))
    marks = []
    for (place, sentence), likeness in zip(sentences, near, strict=True):
        shared = len(asked & set(terms_of(sentence))) / len(asked) if asked else 0.0
        marks.append((likeness + _WORDS * shared - 0.01 * place, place, sentence))
    marks.sort(key=lambda mark: -mark[0])
    chosen = [mark for mark in marks[:_SHOWN] if mark[0] >= _NEAR * marks[0][0]]
    numbers: dict[int, int] = {}
    parts: list[str] = []
    citations: list[Citation] = []
    for _, place, sentence in chosen:
        number = numbers.setdefault(place, len(numbers) + 1)
        parts.append(f"{sentence} [{number}]")
        if len(citations) < number:
            citations.append(Citation(number, passages[place], sentence))
    return " ".join(parts), citations


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
    """The passages that the text cites, in the order in which it does; numbers that name none are left out."""
    numbers = dict.fromkeys(int(number) for number in _CITED.findall(text))
    return [
        Citation(number, passages[number - 1], passages[number - 1].text[:_QUOTE])
        for number in numbers
        if 1 <= number <= len(passages)
    ]
