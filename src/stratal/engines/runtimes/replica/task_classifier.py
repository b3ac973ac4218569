"""Classes of texts: a fine-tuned head on the encoder's embeddings, softmax over its classes."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from . import task_embedding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def load(read: Callable[[str], bytes], options: dict[str, Any]) -> Callable[[list[str]], dict[str, Any]]:
    encode = task_embedding.load(read, {})
    head = safetensors.numpy.load(read("head.safetensors"))
    weight, bias = head["weight"].T.astype("f8"), head["bias"].astype("f8")
    classes = [str(one) for one in options["classes"]]
    if weight.shape[1] != len(classes):
        raise ValueError("the head has another number of classes than its description")

    def answer(texts: list[str]) -> dict[str, Any]:
        scores = encode(texts)["embedding"].astype("f8") @ weight + bias
        powers = np.exp(scores - scores.max(1, keepdims=True))
        told = powers / powers.sum(1, keepdims=True)
        return {"label": [classes[at] for at in told.argmax(1)], "probabilities": told}

    return answer
