"""Sentence embeddings by all-MiniLM-L6-v2: BERT's forward pass in NumPy, from safetensors and the model's tokenizer.

Six layers are little enough that a deep-learning library would only be weight: this loads in a fraction of a
second. Texts are taken in order of their length, so that little is computed for padding.
"""

from __future__ import annotations

import json
import math

import numpy as np
import safetensors.numpy
import tokenizers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[np.float32]

MAX_TOKENS = 256
_TOKENS_AT_ONCE = 4096


def load(read: Callable[[str], bytes], _options: dict[str, Any]) -> Callable[[list[str]], dict[str, Any]]:
    config = json.loads(read("config.json"))
    weights = safetensors.numpy.load(read("model.safetensors"))
    tokenizer = tokenizers.Tokenizer.from_str(read("tokenizer.json").decode())
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    model = _Bert(weights, config)

    def answer(texts: list[str]) -> dict[str, Any]:
        encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        found = np.empty((len(texts), int(config["hidden_size"])), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        at = 0
        while at < len(order):
            end = at
            while end < len(order) and (end - at + 1) * len(encoded[order[end]]) <= _TOKENS_AT_ONCE:
                end += 1
            rows = order[at : max(end, at + 1)]
            found[rows] = model.embed([encoded[i] for i in rows])
            at += len(rows)
        return {"embedding": found, "tokens": [len(ids) for ids in encoded]}

    return answer


class _Bert:
    def __init__(self, weights: dict[str, Array], config: dict[str, Any]) -> None:
        self._w = {name.removeprefix("bert."): np.ascontiguousarray(value) for name, value in weights.items()}
        self._heads = int(config["num_attention_heads"])
        self._epsilon = float(config["layer_norm_eps"])
        self._layers = [
            self._layer(f"encoder.layer.{number}.") for number in range(int(config["num_hidden_layers"]))
        ]

    def _layer(self, prefix: str) -> dict[str, tuple[Array, Array]]:
        """A layer's matrices, transposed once; query, key and value as one."""

        def linear(name: str) -> tuple[Array, Array]:
            weight = np.ascontiguousarray(self._w[f"{prefix}{name}.weight"].T)
            return weight, self._w[f"{prefix}{name}.bias"]

        parts = [linear(f"attention.self.{name}") for name in ("query", "key", "value")]
        together = (np.concatenate([w for w, _ in parts], 1), np.concatenate([b for _, b in parts]))
        norms = {
            name: (self._w[f"{prefix}{place}.LayerNorm.weight"], self._w[f"{prefix}{place}.LayerNorm.bias"])
            for name, place in (("norm1", "attention.output"), ("norm2", "output"))
        }
        return {
            "qkv": together,
            "out": linear("attention.output.dense"),
            "up": linear("intermediate.dense"),
            "down": linear("output.dense"),
            **norms,
        }

    def embed(self, rows: list[list[int]]) -> Array:
        """Mean-pooled, normalised embeddings of token ids."""
        length = max(len(row) for row in rows)
        ids = np.zeros((len(rows), length), np.int64)
        mask = np.zeros((len(rows), length), np.float32)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        w = self._w
        hidden = w["embeddings.word_embeddings.weight"][ids]
        hidden = hidden + w["embeddings.position_embeddings.weight"][:length]
        hidden = hidden + w["embeddings.token_type_embeddings.weight"][0]
        norm = (w["embeddings.LayerNorm.weight"], w["embeddings.LayerNorm.bias"])
        hidden = self._normalise(hidden, norm)
        hide = (mask[:, None, None, :] - 1) * np.float32(1e9)
        for layer in self._layers:
            hidden = self._forward(hidden, hide, layer)
        pooled = (hidden * mask[:, :, None]).sum(1) / np.maximum(mask.sum(1, keepdims=True), 1e-9)
        scaled: Array = pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
        return scaled

    def _forward(self, hidden: Array, hide: Array, layer: dict[str, tuple[Array, Array]]) -> Array:
        count, length, width = hidden.shape
        size = width // self._heads
        qkv = (hidden.reshape(-1, width) @ layer["qkv"][0] + layer["qkv"][1]).reshape(
            count, length, 3, self._heads, size
        )
        query, key, value = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(size)) + hide
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        mixed = (scores @ value).transpose(0, 2, 1, 3).reshape(-1, width)
        flat = hidden.reshape(-1, width)
        flat = self._normalise(mixed @ layer["out"][0] + layer["out"][1] + flat, layer["norm1"])
        up = _gelu(flat @ layer["up"][0] + layer["up"][1])
        flat = self._normalise(up @ layer["down"][0] + layer["down"][1] + flat, layer["norm2"])
        return flat.reshape(count, length, width)

    def _normalise(self, x: Array, norm: tuple[Array, Array]) -> Array:
        x = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(self._epsilon))
        scaled: Array = x / spread * norm[0] + norm[1]
        return scaled


def _gelu(x: Array) -> Array:
    """x · Φ(x), with the error function by Abramowitz and Stegun 7.1.26 (off by less than 1.5e-7)."""
    z = np.abs(x) * np.float32(1 / math.sqrt(2))
    t = 1 / (1 + np.float32(0.3275911) * z)
    poly = t * (
        np.float32(0.254829592)
        + t
        * (
            np.float32(-0.284496736)
            + t * (np.float32(1.421413741) + t * (np.float32(-1.453152027) + t * np.float32(1.061405429)))
        )
    )
    erf = np.sign(x) * (1 - poly * np.exp(-z * z))
    bent: Array = x * np.float32(0.5) * (1 + erf)
    return bent
