"""Language models by transformers, from safetensors only and without code of their own; text comes token by token."""

from __future__ import annotations

import inspect
import os
import sys

import numpy as np

from . import calling, vllm_model
from .arrays import Invalid
from .guiding import Guides
from .model import hash_below
from .offline import stay_offline
from .writer import Writer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .guiding import Guide

_DEFAULT_TOKENS = 256
_UNFINISHED = "\ufffd"


def load(plan: dict[str, Any]) -> TransformersModel | vllm_model.VllmModel:
    """Load the plan's model. Raises what the library raises, and `ImportError` when it is not there."""
    if vllm_model.is_wanted():
        return vllm_model.load(plan)
    stay_offline()
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    files: dict[str, str] = {}
    hash_below(plan["model"], "", files)
    only = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = transformers.AutoTokenizer.from_pretrained(plan["model"], **only)
    model = transformers.AutoModelForCausalLM.from_pretrained(plan["model"], use_safetensors=True, **only)
    if torch.cuda.is_available():
        model = model.to("cuda")
    libraries = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return TransformersModel(model.eval(), tokenizer, files, libraries)


class TransformersModel(Writer):
    def __init__(self, model: Any, tokenizer: Any, files: dict[str, str], libraries: dict[str, str]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self.files = files
        self.libraries = libraries
        self._context = int(getattr(model.config, "max_position_embeddings", 0) or 2048)
        ends = getattr(model.generation_config, "eos_token_id", None)
        self._ends = set(ends if isinstance(ends, list) else [ends]) - {None}
        # Of a prompt of thousands of tokens the scores of all would be gigabytes; only the last one's are looked at.
        takes = inspect.signature(model.forward).parameters
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._guides = Guides(tokenizer, int(model.config.vocab_size), self._ends)
        self.interface: dict[str, Any] = {
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "columns": None,
            "outputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}],
            "classes": None,
            "answers": "text",
            "generates": True,
            "chats": bool(getattr(tokenizer, "chat_template", None)),
            "context": self._context,
            "holds_schemas": self._guides.ready,
        }

    def _written(self, asked: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import torch

        ids = self._ids(asked)
        room = self._context - len(ids)
        if room < 1:
            raise Invalid(
                f"The prompt has {len(ids)} tokens; the model reads {self._context} with its answer."
            )
        most = min(int(asked.get("max_tokens") or _DEFAULT_TOKENS), room)
        choose = _Chooser(asked)
        forced = calling.forced(asked)
        schema = calling.call_schema(forced) if forced else asked.get("schema")
        guide = None if schema is None else self._guides.of(schema)
        stops = [stop for stop in asked.get("stop") or [] if stop]
        made: list[int] = []
        told, finish, cache, whole = "", "length", None, False
        device = self._model.device
        step = torch.tensor([ids], device=device)
        while len(made) < most:
            with (
                torch.inference_mode()
            ):  # not around what is yielded: the mode is the thread's, and others write in turns
                out = self._model(input_ids=step, past_key_values=cache, use_cache=True, **self._last)
            cache = out.past_key_values
            token = choose(out.logits[0, -1], guide)
            if token in self._ends:
                finish = "stop"
                break
            made.append(token)
            step = torch.tensor([[token]], device=device)
            text = self._tokenizer.decode(made, skip_special_tokens=True)
            cut = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
            if cut >= 0:
                if cut > len(told):
                    yield {"text": text[len(told) : cut]}
                told, finish, whole = text[:cut], "stop", True
                break
            if guide is not None and not guide.take(token):
                finish = "stop"
                break
            safe = _safe(text, stops)
            if safe > len(told):
                yield {"text": text[len(told) : safe]}
                told = text[:safe]
            else:
                yield {"text": ""}
        rest = "" if whole else self._tokenizer.decode(made, skip_special_tokens=True)[len(told) :]
        if rest:  # what was held back
            yield {"text": rest}
        yield {"finish": finish, "prompt_tokens": len(ids), "completion_tokens": len(made)}

    def _ids(self, asked: dict[str, Any]) -> list[int]:
        if asked.get("messages") is None:
            return list(self._tokenizer(str(asked["prompt"]))["input_ids"]) or [self._start()]
        if not getattr(self._tokenizer, "chat_template", None):
            raise Invalid("The model has no chat template: it completes text, it does not chat.")
        tools, messages = calling.offered(asked), asked["messages"]
        known = "tools" in str(self._tokenizer.chat_template)
        if not known:
            messages, tools = calling.described(messages, tools), []
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tools=tools or None, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            raise Invalid(f"The model's chat template does not take these messages: {error}") from None
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"]) or [self._start()]

    def _start(self) -> int:
        return int(self._tokenizer.bos_token_id or 0)


def _safe(text: str, stops: list[str]) -> int:
    """How much of the text can be told: not half a character, and nothing that may be the beginning of a stop."""
    end = len(text)
    while end and text[end - 1] == _UNFINISHED:
        end -= 1
    for stop in stops:
        for size in range(min(len(stop) - 1, end), 0, -1):
            if text[:end].endswith(stop[:size]):
                end = min(end, len(text[:end]) - size)
                break
    return end


class _Chooser:
    """The next token: the likeliest at temperature 0, else drawn from the smallest set with `top_p` of the weight."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._temperature = float(1.0 if asked.get("temperature") is None else asked["temperature"])
        self._top_p = float(1.0 if asked.get("top_p") is None else asked["top_p"])
        self._random = np.random.default_rng(asked.get("seed"))

    def __call__(self, logits: Any, guide: Guide | None = None) -> int:
        scores = logits.float().cpu().numpy().astype("f8")
        if guide is not None:
            guide.allow(scores)
        if self._temperature <= 0:
            return int(scores.argmax())
        weights = np.exp((scores - scores.max()) / self._temperature)
        weights /= weights.sum()
        order = np.argsort(-weights)
        kept = order[: int(np.searchsorted(np.cumsum(weights[order]), self._top_p)) + 1]
        chosen = weights[kept] / weights[kept].sum()
        return int(self._random.choice(kept, p=chosen))
