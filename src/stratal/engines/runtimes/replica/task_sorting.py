"""Texts sorted into classes that are named beside each: the class whose name lies closest to the text by its embedding.

No model of entailment is asked, so it is likeness of topic that is told, not what follows from what.
"""

from __future__ import annotations

import json

import numpy as np

from . import task_embedding
from .hub_model import labels_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SHARPNESS = 20.0
_KEPT = 1_000


def load(
    read: Callable[[str], bytes], options: dict[str, Any]
) -> Callable[[list[tuple[str, str]]], dict[str, Any]]:
    encode = task_embedding.load(read, options)
    known: dict[str, Any] = {}

    def places(labels: list[str]) -> Any:
        new = [label for label in labels if label not in known]
        if len(known) + len(new) > _KEPT:
            known.clear()
            new = labels
        if new:
            vectors = encode([f"a text about {label}" for label in new])["embedding"]
            known.update(zip(new, vectors))  # noqa: B905 - py3.9
        return np.stack([known[label] for label in labels])

    def answer(rows: list[tuple[str, str]]) -> dict[str, Any]:
        vectors = encode([text for text, _ in rows])["embedding"]
        told: dict[str, list[Any]] = {"label": [], "score": [], "scores": []}
        for vector, (_, named) in zip(vectors, rows):  # noqa: B905 - py3.9
            labels = labels_of(named)
            near = places(labels) @ vector * _SHARPNESS
            shares = np.exp(near - near.max())
            shares /= shares.sum()
            order = [int(at) for at in np.argsort(-shares)]
            told["label"].append(labels[order[0]])
            told["score"].append(float(shares[order[0]]))
            told["scores"].append(
                json.dumps({labels[at]: float(shares[at]) for at in order}, ensure_ascii=False)
            )
        return told

    return answer
