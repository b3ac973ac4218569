"""A model that translates, as its files on the Hub: opened by transformers, from safetensors only."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

MOST_TOKENS = 96
KEPT = (".json", ".safetensors", ".spm", ".txt", ".model")


@dataclass
class Network:
    """`files` by name, as the Hub has them. What it was made of travels with it: a replica has no network."""

    files: dict[str, bytes]

    def __post_init__(self) -> None:
        self._opened: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self.files, self._opened = kept["files"], None

    @classmethod
    def of(cls, folder: Path) -> "Network":
        found = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in KEPT}
        if not any(name.endswith(".safetensors") for name in found):
            found["model.safetensors"] = _converted(folder)
        return cls(found)

    def translated(self, texts: list[str]) -> list[str]:
        tokenizer, model = self._open()
        told: list[str] = []
        with torch.no_grad():
            for start in range(0, len(texts), 32):
                batch = tokenizer(
                    texts[start : start + 32], return_tensors="pt", padding=True, truncation=True,
                    max_length=MOST_TOKENS, return_token_type_ids=False,
                )  # fmt: skip
                made = model.generate(**batch, max_new_tokens=MOST_TOKENS, num_beams=1, do_sample=False)
                told += tokenizer.batch_decode(made, skip_special_tokens=True)
        return [" ".join(text.split()) for text in told]

    def _open(self) -> Any:
        if self._opened is None:
            from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
            from transformers.utils import logging

            logging.disable_progress_bar()
            logging.set_verbosity_error()
            torch.set_num_threads(1)
            with tempfile.TemporaryDirectory() as folder:
                for name, data in self.files.items():
                    (Path(folder) / Path(name).name).write_bytes(data)
                kept = {"local_files_only": True, "trust_remote_code": False}
                tokenizer = AutoTokenizer.from_pretrained(folder, **kept)
                model = AutoModelForSeq2SeqLM.from_pretrained(folder, use_safetensors=True, **kept).eval()
            self._opened = tokenizer, model
        return self._opened


def _converted(folder: Path) -> bytes:
    """Weights that lie in a pickle, as safetensors: read as numbers only, nothing in them is run."""
    from transformers import AutoModelForSeq2SeqLM

    if not (folder / "pytorch_model.bin").is_file():
        raise ValueError("The model has no weights that can be opened: no safetensors, no pytorch_model.bin.")
    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder, use_safetensors=False, weights_only=True, local_files_only=True, trust_remote_code=False
    )
    with tempfile.TemporaryDirectory() as kept:
        model.save_pretrained(kept, max_shard_size="20GB")
        return (Path(kept) / "model.safetensors").read_bytes()


def learned(pairs: list[tuple[str, str]], folder: Path, seed: int, steps: int, say: Any) -> None:
    """Write a small model into `folder` that begins with random weights and sees the pairs for some steps."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    special = ["<pad>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    inner.train_from_iterator([text for pair in pairs for text in pair], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")  # noqa: S106
    width = 96
    config = MarianConfig(
        vocab_size=len(tokenizer), d_model=width, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=2 * width, decoder_ffn_dim=2 * width, dropout=0.1,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, forced_eos_token_id=None,
        max_position_embeddings=2 * MOST_TOKENS, scale_embedding=True, tie_word_embeddings=True,
    )  # fmt: skip
    model = MarianMTModel(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    rng = np.random.default_rng(seed)
    model.train()
    for step in range(steps):
        rows = [pairs[i] for i in rng.integers(0, len(pairs), 32)]
        here, there = (_batch(tokenizer, [row[side] for row in rows]) for side in (0, 1))
        labels = there["input_ids"].masked_fill(there["attention_mask"] == 0, -100)
        loss = model(**here, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 200 == 199:
            say(f"  step {step + 1} of {steps}: loss {float(loss.detach()):.3f}")
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def _batch(tokenizer: Any, texts: list[str]) -> Any:
    ended = [text + "</s>" for text in texts]
    return tokenizer(
        ended, return_tensors="pt", padding=True, truncation=True, max_length=MOST_TOKENS,
        return_token_type_ids=False,
    )  # fmt: skip
