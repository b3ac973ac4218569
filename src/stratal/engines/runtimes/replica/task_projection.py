"""Sentence embeddings turned by a fine-tuned linear map, of length 1 again."""

from __future__ import annotations

import numpy as np
import safetensors.numpy

from . import task_embedding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def load(read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[str]], dict[str, Any]]:
    encode = task_embedding.load(read, {})
    projection = safetensors.numpy.load(read("head.safetensors"))["projection"].astype("f4")

    def answer(texts: list[str]) -> dict[str, Any]:
        found = encode(texts)
        turned = found["embedding"] @ projection
        turned /= np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)
        return {"embedding": np.ascontiguousarray(turned, "f4"), "tokens": found["tokens"]}

    return answer
