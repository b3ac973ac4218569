"""Several texts written in turns by one model: what a real one is told apart from is in tests/clients/openai."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stratal.engines.runtimes.replica.arrays import Invalid
from stratal.engines.runtimes.replica.gguf_model import GgufModel
from stratal.engines.runtimes.replica.transformers_model import TransformersModel

pytestmark = pytest.mark.fast


class Numbers:
    """A tensor, as far as it is asked."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, "f8")

    def __getitem__(self, at: Any) -> "Numbers":
        return Numbers(self.values[at])

    def float(self) -> "Numbers":
        return self

    def cpu(self) -> "Numbers":
        return self

    def numpy(self) -> Any:
        return self.values


class Torch(ModuleType):
    """PyTorch's mode: one for the whole thread, and what was made in it cannot be used outside of it."""

    inferring = False

    @contextlib.contextmanager
    def inference_mode(self) -> Iterator[None]:
        before, self.inferring = self.inferring, True
        try:
            yield
        finally:
            self.inferring = before

    @staticmethod
    def tensor(values: Any, device: str) -> Numbers:
        return Numbers(values)


class Letters:
    """A model that writes its prompt again, and a tokenizer whose tokens are letters."""

    config = SimpleNamespace(max_position_embeddings=100, vocab_size=128)
    generation_config = SimpleNamespace(eos_token_id=0)
    device = "cpu"
    chat_template = None

    def __init__(self, torch: Torch) -> None:
        self.torch = torch
        self.asked: list[dict[str, Any]] = []

    def forward(self, input_ids: Any, logits_to_keep: int = 0) -> None:
        """Only looked at."""

    def __call__(
        self, text: Any = None, input_ids: Any = None, past_key_values: Any = None, **more: Any
    ) -> Any:
        if text is not None:
            return {"input_ids": [ord(one) for one in text]}
        assert self.torch.inferring, "what it remembers was made in the mode"
        self.asked.append(more)
        rest = [int(one) for one in input_ids.values[0]] if past_key_values is None else past_key_values
        scores = np.zeros((1, 1, 128))
        scores[0, 0, rest[0] if rest else 0] = 1
        return SimpleNamespace(logits=Numbers(scores), past_key_values=rest[1:])

    def decode(self, made: list[int], skip_special_tokens: bool) -> str:
        return "".join(map(chr, made))


def test_texts_written_in_turns_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = Torch("torch")
    monkeypatch.setitem(sys.modules, "torch", torch)
    letters = Letters(torch)
    model = TransformersModel(letters, letters, {}, {})
    asked = ["long one", "b", "middle"]
    writing = {text: model.generate({"prompt": text, "temperature": 0, "max_tokens": 50}) for text in asked}
    written = dict.fromkeys(asked, "")
    while writing:
        for text, pieces in list(writing.items()):
            piece = next(pieces)
            assert not torch.inferring, "others would be in this one's mode"
            written[text] += piece.get("text", "")
            if "finish" in piece:
                assert (piece["finish"], piece["completion_tokens"]) == ("stop", len(text))
                del writing[text]
    assert written == {text: text for text in asked}
    assert all(more["logits_to_keep"] == 1 for more in letters.asked)


@pytest.mark.parametrize("name", ["text", "input-0"])
def test_a_text_without_a_name_is_the_models_only_input(name: str) -> None:
    """As ``{"instances": ["a text"]}`` comes in."""
    letters = Letters(Torch("torch"))
    for writer in (TransformersModel(letters, letters, {}, {}), GgufModel.__new__(GgufModel)):
        given = np.array([["a text"], ["another"]], object)
        assert writer.arrange([(name, given)], None, strict=False).tolist() == ["a text", "another"]
        with pytest.raises(Invalid, match="one input"):
            writer.arrange([("other", given)], None, strict=False)
