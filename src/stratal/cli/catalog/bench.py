"""Measures: what is asked of a set, and the number that comes out."""

from collections.abc import Callable
from typing import Any

from stratal.cli.catalog.sets import read_sample

Ask = Callable[[list[str]], list[Any]]


def measure(task: str, given: dict[str, Any], ask: Ask) -> dict[str, Any]:
    """`metric`, `value`, `count` and what was missed."""
    if task == "embed":
        return _closer(given["triples"], ask)
    if task in {"sentiment", "language"}:
        key = {"sentiment": "label", "language": "language"}[task]
        told = [one[key] for one in ask([text for _, text in given["texts"]])]
        misses = [
            f"{said} for {wanted}: {text}"
            for said, (wanted, text) in zip(told, given["texts"], strict=True)
            if said != wanted
        ]
        count = len(given["texts"])
        return {"metric": "accuracy", "value": 1 - len(misses) / count, "count": count, "misses": misses}
    texts = ask([read_sample(name) for name, _ in given["files"]])
    said = [" ".join(str(one["text"] if isinstance(one, dict) else one).split()) for one in texts]
    wanted = [text for _, text in given["files"]]
    split: Callable[[str], list[str]] = list if task == "ocr" else str.split
    wrong = sum(distance(split(a), split(b)) for a, b in zip(said, wanted, strict=True))
    return {
        "metric": "character error rate" if task == "ocr" else "word error rate",
        "value": wrong / sum(len(split(text)) for text in wanted),
        "count": len(wanted),
        "misses": [f"{a!r} for {b!r}" for a, b in zip(said, wanted, strict=True) if a != b],
    }


def _closer(triples: list[list[str]], ask: Ask) -> dict[str, Any]:
    vectors = ask([text for triple in triples for text in triple])
    misses = []
    for number, triple in enumerate(triples):
        first, alike, other = vectors[3 * number : 3 * number + 3]
        if _product(first, alike) <= _product(first, other):
            misses.append(triple[0])
    count = len(triples)
    return {"metric": "accuracy", "value": 1 - len(misses) / count, "count": count, "misses": misses}


def _product(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def distance(one: list[str], other: list[str]) -> int:
    """How many pieces must be changed, added or removed to make one list the other (Levenshtein)."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        above, row = row, [i]
        for j, b in enumerate(other, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]
