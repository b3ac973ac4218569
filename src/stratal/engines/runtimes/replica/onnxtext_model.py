"""Models of a hub for texts in the ONNX format with their tokenizer: classes of texts, and sentence embeddings.

ONNX Runtime and the tokenizers library are all that is needed, no deep-learning library. What is taken and told is what
`hub_model` takes and tells for the same task.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from .model import read_hashed
from .onnx_model import opened
from .task_model import TaskModel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

_AT_ONCE = 16
_FED = ("input_ids", "attention_mask", "token_type_ids")
_POOLED, _EACH = ("sentence_embedding", "pooler_output"), ("last_hidden_state", "token_embeddings")


def load(plan: dict[str, Any]) -> TaskModel:
    """Load the plan's graph for its ``task``. Raises what ONNX Runtime raises, and `ImportError` without a library."""
    import onnxruntime
    import tokenizers

    files: dict[str, str] = {}

    def read(name: str) -> Any:
        try:
            return json.loads(read_hashed(plan["model"], name, files))
        except OSError:
            return {}

    session = opened(plan, files)
    unknown = [one.name for one in session.get_inputs() if one.name not in _FED]
    if unknown:
        raise ValueError(f"the graph takes {unknown[0]!r}, which no tokenizer gives")
    tokenizer = tokenizers.Tokenizer.from_str(read_hashed(plan["model"], "tokenizer.json", files).decode())
    said = read("tokenizer_config.json")
    most = min(
        read("sentence_bert_config.json").get("max_seq_length") or said.get("model_max_length") or 512, 512
    )
    tokenizer.enable_truncation(int(most))
    tokenizer.no_padding()
    ask = _Asker(session, tokenizer)
    config = read("config.json")
    libraries = {
        "python": sys.version.split()[0],
        "onnxruntime": onnxruntime.__version__,
        "tokenizers": tokenizers.__version__,
    }
    if plan["task"] == "classify":
        names = config.get("id2label") or {}
        classes = [str(names[key]) for key in sorted(names, key=int)]
        outputs = [("label", "BYTES", [-1]), ("probabilities", "FP64", [-1, len(classes)])]
        answer = _classifier(ask, classes, alone=_each_alone(config, classes))
    else:
        modules = read("modules.json")
        scaled = any(str(one.get("type", "")).endswith("Normalize") for one in modules or ())
        by_first = bool(read("1_Pooling/config.json").get("pooling_mode_cls_token"))
        answer, width = _embedder(ask, by_first=by_first, scaled=scaled)
        classes = None
        outputs = [("embedding", "FP32", [-1, width]), ("tokens", "INT64", [-1])]
    model = TaskModel(answer, "text", outputs, files, libraries)
    model.interface["task"], model.interface["classes"] = plan["task"], classes
    return model


class _Asker:
    """Runs texts through the graph, those of about the same length together."""

    def __init__(self, session: Any, tokenizer: Any) -> None:
        self._session = session
        self._tokenizer = tokenizer
        self._fed = {one.name: one.type for one in session.get_inputs()}
        self.outputs = [one.name for one in session.get_outputs()]

    def __call__(self, texts: list[str], output: str) -> list[tuple[list[int], NDArray[Any], NDArray[Any]]]:
        """(rows, what the graph said of them, their masks)."""
        encoded = self._tokenizer.encode_batch(texts)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
        found = []
        for at in range(0, len(order), _AT_ONCE):
            rows = order[at : at + _AT_ONCE]
            longest = max(1, *(len(encoded[i].ids) for i in rows))
            given = {name: np.zeros((len(rows), longest), np.int64) for name in _FED}
            for place, i in enumerate(rows):
                one = encoded[i]
                size = len(one.ids)
                given["input_ids"][place, :size] = one.ids
                given["attention_mask"][place, :size] = 1
                given["token_type_ids"][place, :size] = one.type_ids
            mask = given["attention_mask"]
            feed = {
                name: given[name].astype(np.int32) if kind == "tensor(int32)" else given[name]
                for name, kind in self._fed.items()
            }
            (told,) = self._session.run([output], feed)
            found.append((rows, np.asarray(told, np.float32), mask))
        return found


def _each_alone(config: dict[str, Any], classes: list[str]) -> bool:
    """Is each class told by itself, rather than one of them?"""
    return config.get("problem_type") == "multi_label_classification" or len(classes) == 1


def _classifier(ask: _Asker, classes: list[str], *, alone: bool) -> Callable[[list[str]], dict[str, Any]]:
    output = "logits" if "logits" in ask.outputs else ask.outputs[0]

    def answer(texts: list[str]) -> dict[str, Any]:
        told = np.zeros((len(texts), len(classes)))
        for rows, logits, _ in ask(texts, output):
            scores = logits.astype(np.float64)
            if alone:
                told[rows] = 1 / (1 + np.exp(-scores))
            else:
                powers = np.exp(scores - scores.max(1, keepdims=True))
                told[rows] = powers / powers.sum(1, keepdims=True)
        return {"label": [classes[at] for at in told.argmax(1)], "probabilities": told}

    if ask(["text"], output)[0][1].shape[1:] != (len(classes),):
        raise ValueError("the graph tells another number of classes than config.json names")
    return answer


def _embedder(
    ask: _Asker, *, by_first: bool, scaled: bool
) -> tuple[Callable[[list[str]], dict[str, Any]], int]:
    """Pooled as sentence-transformers describes it, unless the graph does that itself."""
    output = next((name for name in (_POOLED[0], *_EACH, _POOLED[1]) if name in ask.outputs), ask.outputs[0])

    def pooled(said: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
        if said.ndim == 3:
            weights = mask[:, :, None].astype(np.float32)
            said = said[:, 0] if by_first else (said * weights).sum(1) / np.maximum(weights.sum(1), 1)
        return said / np.maximum(np.linalg.norm(said, axis=1, keepdims=True), 1e-12) if scaled else said

    def answer(texts: list[str]) -> dict[str, Any]:
        vectors, tokens = np.empty((len(texts), width), np.float32), [0] * len(texts)
        for rows, said, mask in ask(texts, output):
            vectors[rows] = pooled(said, mask)
            for i, count in zip(rows, mask.sum(1).tolist()):  # noqa: B905 - py3.9
                tokens[i] = int(count)
        return {"embedding": vectors, "tokens": tokens}

    ((_, said, mask),) = ask(["text"], output)
    width = int(pooled(said, mask).shape[1])
    return answer, width
