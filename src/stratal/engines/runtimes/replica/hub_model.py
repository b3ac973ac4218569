"""Models of a hub for one task, by transformers, from safetensors only and without code of their own.

Which task, the model's architecture says (`stratal.engines.runtimes.adapter` reads it); what is taken and told is what
the catalogue's models of that task take and tell.
"""

from __future__ import annotations

import io
import json
import os
import sys

import numpy as np

from .arrays import Invalid
from .model import hash_below
from .offline import stay_offline
from .pictures import check_picture, may_be_transparent
from .task_commands import RATE, read_wave
from .task_model import TaskModel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Answer = Callable[[list[Any]], dict[str, Any]]

_ONLY = {"local_files_only": True, "trust_remote_code": False}
_MOST_LABELS = 50
_MOST_TOKENS = 256
_AT_ONCE = 16
_HEARD_AT_ONCE = 30
"""Seconds: models of Whisper's kind hear no more of a sound at once."""
_LABEL, _SCORE = ("label", "BYTES", [-1]), ("score", "FP64", [-1])


def load(plan: dict[str, Any]) -> TaskModel:
    """Load the plan's model for its ``task``. Raises what the library raises, and `ImportError` without it."""
    stay_offline()
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    files: dict[str, str] = {}
    hash_below(plan["model"], "", files)
    made = _TASKS[plan["task"]](_Hub(plan["model"]))
    libraries = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    model = TaskModel(made.answer, made.kind, made.outputs, files, libraries, made.beside)
    model.interface["task"] = plan["task"]
    model.interface["classes"] = made.classes
    model.interface["translates"] = made.kind == "audio" and bool(made.beside)
    return model


class Made:
    """What a task is made of: what is taken, told and said beside, as `task_model.TaskModel` has it, and who answers."""

    def __init__(
        self,
        kind: str,
        outputs: list[tuple[str, str, list[int]]],
        answer: Answer,
        beside: list[tuple[str, str, Any]] | None = None,
        classes: list[str] | None = None,
    ) -> None:
        self.kind, self.outputs, self.answer = kind, outputs, answer
        self.beside = beside or []
        self.classes = classes


class _Hub:
    """The folder of the model, and what is made of it."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def model(self, kind: str) -> Any:
        import torch
        import transformers

        made = getattr(transformers, kind).from_pretrained(self.folder, use_safetensors=True, **_ONLY).eval()
        return made.to("cuda") if torch.cuda.is_available() else made

    def tokenizer(self) -> Any:
        import transformers

        return transformers.AutoTokenizer.from_pretrained(self.folder, **_ONLY)

    def pipeline(self, task: str, model: Any, **parts: Any) -> Any:
        import transformers

        return transformers.pipeline(task, model=model, device=model.device, **parts)

    def read(self, name: str) -> Any:
        try:
            with open(os.path.join(self.folder, name), encoding="utf-8") as file:  # noqa: PTH118, PTH123
                return json.load(file)
        except OSError:
            return None


# -- texts ---------------------------------------------------------------------------------------


def _classify(hub: _Hub) -> Made:
    """Classes of texts; a model of entailment sorts into classes that are named with each text instead."""
    model, tokenizer = hub.model("AutoModelForSequenceClassification"), hub.tokenizer()
    named = {str(label).lower(): number for number, label in model.config.id2label.items()}
    if any(label.startswith("entail") for label in named):
        return _sort(hub.pipeline("zero-shot-classification", model, tokenizer=tokenizer))
    ask = hub.pipeline("text-classification", model, tokenizer=tokenizer, top_k=None)
    classes = [str(model.config.id2label[number]) for number in sorted(model.config.id2label)]

    def answer(texts: list[str]) -> dict[str, Any]:
        told = np.zeros((len(texts), len(classes)))
        for row, found in enumerate(ask(texts, truncation=True, batch_size=_AT_ONCE)):
            for one in found:
                told[row, classes.index(one["label"])] = one["score"]
        return {"label": [classes[at] for at in told.argmax(1)], "probabilities": told}

    return Made("text", [_LABEL, ("probabilities", "FP64", [-1, len(classes)])], answer, classes=classes)


def _sort(ask: Any) -> Made:
    def answer(rows: list[tuple[str, str]]) -> dict[str, Any]:
        found = [ask(text, labels_of(labels), multi_label=False, truncation=True) for text, labels in rows]
        scores = [dict(zip(one["labels"], map(float, one["scores"]))) for one in found]  # noqa: B905 - py3.9
        return {
            "label": [one["labels"][0] for one in found],
            "score": [float(one["scores"][0]) for one in found],
            "scores": [json.dumps(one, ensure_ascii=False) for one in scores],
        }

    return Made("text", [_LABEL, _SCORE, ("scores", "BYTES", [-1])], answer, [("labels", "BYTES", "")])


def labels_of(text: str) -> list[str]:
    """The classes that are named in one text, as a JSON list or with commas between them. Raises `Invalid`."""
    try:
        read = json.loads(text) if text.lstrip().startswith("[") else text.split(",")
    except ValueError:
        read = text.split(",")
    labels = list(dict.fromkeys(str(one).strip() for one in read if str(one).strip()))
    if not 2 <= len(labels) <= _MOST_LABELS:
        raise Invalid(f"labels names 2 to {_MOST_LABELS} classes, with commas between them.")
    return labels


def _entities(hub: _Hub) -> Made:
    model, tokenizer = hub.model("AutoModelForTokenClassification"), hub.tokenizer()
    ask = hub.pipeline("token-classification", model, tokenizer=tokenizer, aggregation_strategy="simple")

    def answer(texts: list[str]) -> dict[str, Any]:
        told = []
        for text, found in zip(texts, ask(texts, batch_size=_AT_ONCE)):  # noqa: B905 - py3.9
            listed = [
                {
                    "text": text[one["start"] : one["end"]],
                    "kind": str(one["entity_group"]),
                    "start": int(one["start"]),
                    "end": int(one["end"]),
                    "score": float(one["score"]),
                }
                for one in found
            ]
            told.append(json.dumps(listed, ensure_ascii=False))
        return {"entities": told}

    return Made("text", [("entities", "BYTES", [-1])], answer)


def _answer(hub: _Hub) -> Made:
    """The span of the text that answers the question, its two ends likeliest together."""
    import torch

    model, tokenizer = hub.model("AutoModelForQuestionAnswering"), hub.tokenizer()

    def one(text: str, question: str) -> tuple[str, float, int, int]:
        if not question.strip():
            raise Invalid("question must be asked beside each text.")
        given = tokenizer(
            question,
            text,
            truncation="only_second",
            max_length=min(tokenizer.model_max_length, 512),
            stride=128,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=True,
            return_tensors="pt",
        )
        offsets = given.pop("offset_mapping")
        given.pop("overflow_to_sample_mapping", None)
        with torch.inference_mode():
            told = model(**{name: value.to(model.device) for name, value in given.items()})
        best = ("", 0.0, 0, 0)
        for number in range(len(offsets)):
            inside = torch.tensor([part == 1 for part in given.sequence_ids(number)])
            if not inside.any():
                continue
            first, last = (
                logits[number].float().cpu().masked_fill(~inside, -torch.inf).softmax(0)
                for logits in (told.start_logits, told.end_logits)
            )
            both = torch.triu(first[:, None] * last[None, :]) - torch.triu(
                first[:, None] * last[None, :], diagonal=32
            )
            score = float(both.max())
            if score > best[1]:
                start, end = divmod(int(both.argmax()), len(last))
                span = int(offsets[number][start][0]), int(offsets[number][end][1])
                best = (text[span[0] : span[1]], score, *span)
        return best

    def answer(rows: list[tuple[str, str]]) -> dict[str, Any]:
        found = [one(*row) for row in rows]
        names = ("answer", "score", "start", "end")
        return {name: [row[place] for row in found] for place, name in enumerate(names)}

    places = [("start", "INT64", [-1]), ("end", "INT64", [-1])]
    return Made("text", [("answer", "BYTES", [-1]), _SCORE, *places], answer, [("question", "BYTES", "")])


def _rewrite(hub: _Hub) -> Made:
    """Texts made of texts: summaries, translations, whatever the model was trained for."""
    import torch

    model, tokenizer = hub.model("AutoModelForSeq2SeqLM"), hub.tokenizer()
    told_by_words = _by_words(hub.read("config.json") or {})

    def languages(source: str, target: str) -> dict[str, Any]:
        if source:
            if not hasattr(tokenizer, "src_lang"):
                raise Invalid("This model knows no languages by code: leave source and target out.")
            tokenizer.src_lang = source
        if not target:
            return {}
        token = tokenizer.convert_tokens_to_ids(target)
        if hasattr(tokenizer, "get_lang_id"):
            token = tokenizer.lang_code_to_id.get(target) if hasattr(tokenizer, "lang_code_to_id") else token
        if token in (None, tokenizer.unk_token_id):
            raise Invalid(f"This model knows no language {target[:40]!r}.")
        return {"forced_bos_token_id": token}

    def one(text: str, source: str, target: str, most: float) -> str:
        if not 1 <= most <= 4096:
            raise Invalid("max_tokens is from 1 to 4096.")
        more: dict[str, Any] = {}
        if told_by_words and (source or target):
            pair = f"{source or 'en'}_to_{target}"
            if pair not in told_by_words:
                known = ", ".join(one.replace("_to_", " to ") for one in told_by_words)
                raise Invalid(
                    f"This model translates {known}; not {source or 'en'} to {target or 'nothing'}."
                )
            text = told_by_words[pair] + text
        else:
            more = languages(source, target)
        given = tokenizer(text, return_tensors="pt", truncation=True).to(model.device)
        given.pop("token_type_ids", None)
        with torch.inference_mode():
            made = model.generate(**given, max_new_tokens=int(most), **more)
        return str(tokenizer.decode(made[0], skip_special_tokens=True))

    def answer(rows: list[tuple[str, str, str, float]]) -> dict[str, Any]:
        return {"text": [one(*row) for row in rows]}

    beside = [("source", "BYTES", ""), ("target", "BYTES", ""), ("max_tokens", "FP64", float(_MOST_TOKENS))]
    return Made("text", [("text", "BYTES", [-1])], answer, beside)


def _by_words(config: dict[str, Any]) -> dict[str, str]:
    """What a model like T5 is told before a text to be translated, by ``en_to_de``: its configuration says it."""
    found = {}
    for name, said in (config.get("task_specific_params") or {}).items():
        if name.startswith("translation_") and isinstance(said, dict) and isinstance(said.get("prefix"), str):
            found[name[len("translation_") :]] = said["prefix"]
    return found


def _embed(hub: _Hub) -> Made:
    """Sentence embeddings as sentence-transformers describes them: the encoder, pooled, of length 1 where it says so."""
    import torch

    model, tokenizer = hub.model("AutoModel"), hub.tokenizer()
    pooling = hub.read("1_Pooling/config.json") or {}
    by_first = bool(pooling.get("pooling_mode_cls_token"))
    modules = hub.read("modules.json") or []
    scaled = any(str(one.get("type", "")).endswith("Normalize") for one in modules)
    most = int((hub.read("sentence_bert_config.json") or {}).get("max_seq_length") or 512)
    width = int(model.config.hidden_size)

    def answer(texts: list[str]) -> dict[str, Any]:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found, tokens = np.empty((len(texts), width), np.float32), [0] * len(texts)
        for at in range(0, len(order), _AT_ONCE):
            rows = order[at : at + _AT_ONCE]
            given = tokenizer(
                [texts[i] for i in rows], padding=True, truncation=True, max_length=most, return_tensors="pt"
            ).to(model.device)
            mask = given["attention_mask"]
            with torch.inference_mode():
                hidden = model(**given).last_hidden_state.float()
                weights = mask[:, :, None].float()
                pooled = hidden[:, 0] if by_first else (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
                pooled = torch.nn.functional.normalize(pooled, dim=1) if scaled else pooled
            found[rows] = pooled.cpu().numpy()
            for i, count in zip(rows, mask.sum(1).tolist()):  # noqa: B905 - py3.9
                tokens[i] = int(count)
        return {"embedding": found, "tokens": tokens}

    return Made("text", [("embedding", "FP32", [-1, width]), ("tokens", "INT64", [-1])], answer)


# -- pictures and sounds -------------------------------------------------------------------------


def _picture(data: bytes) -> Any:
    check_picture(data)
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data), formats=("PNG", "JPEG")))
        if may_be_transparent(data):
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        raise Invalid("The picture cannot be read: it is damaged or breaks off.") from None


def _looker(hub: _Hub, task: str, kind: str) -> Any:
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(hub.folder, **_ONLY)
    return hub.pipeline(task, hub.model(kind), image_processor=processor)


def _classify_image(hub: _Hub) -> Made:
    ask = _looker(hub, "image-classification", "AutoModelForImageClassification")

    def answer(pictures: list[bytes]) -> dict[str, Any]:
        found = [ask(_picture(data), top_k=5) for data in pictures]
        scores = [{one["label"]: float(one["score"]) for one in told} for told in found]
        return {
            "label": [told[0]["label"] for told in found],
            "score": [float(told[0]["score"]) for told in found],
            "scores": [json.dumps(one, ensure_ascii=False) for one in scores],
        }

    return Made("image", [_LABEL, _SCORE, ("scores", "BYTES", [-1])], answer)


def _detect(hub: _Hub) -> Made:
    ask = _looker(hub, "object-detection", "AutoModelForObjectDetection")

    def answer(rows: list[tuple[bytes, float]]) -> dict[str, Any]:
        told = []
        for data, threshold in rows:
            if not 0 <= threshold <= 1:
                raise Invalid("threshold is from 0 to 1.")
            listed = []
            for one in ask(_picture(data), threshold=threshold):
                box = one["box"]
                size = {"width": box["xmax"] - box["xmin"], "height": box["ymax"] - box["ymin"]}
                place = {"x": box["xmin"], "y": box["ymin"], **size}
                listed.append({"label": one["label"], "score": float(one["score"]), **place})
            told.append(json.dumps(listed, ensure_ascii=False))
        return {"objects": told}

    return Made("image", [("objects", "BYTES", [-1])], answer, [("threshold", "FP64", 0.5)])


def _transcribe(hub: _Hub) -> Made:
    """What was said; a model of Whisper's kind that knows languages also says it in English (``task`` translate)."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(hub.folder, **_ONLY)
    by_letters = any(str(one).endswith("ForCTC") for one in config.architectures or ())
    model = hub.model("AutoModelForCTC" if by_letters else "AutoModelForSpeechSeq2Seq")
    extractor = transformers.AutoFeatureExtractor.from_pretrained(hub.folder, **_ONLY)
    parts = {"tokenizer": hub.tokenizer(), "feature_extractor": extractor}
    ask = hub.pipeline("automatic-speech-recognition", model, **parts)
    languages = getattr(model.generation_config, "lang_to_id", None) if not by_letters else None

    def one(data: bytes, task: str, language: str) -> str:
        samples = np.frombuffer(read_wave(data), "<i2").astype(np.float32) / 32768
        more: dict[str, Any] = {}
        if languages:
            if task not in ("transcribe", "translate"):
                raise Invalid("task is transcribe or translate.")
            more["task"] = task
            if language:
                if f"<|{language.lower()}|>" not in languages:
                    raise Invalid(f"This model knows no language {language[:40]!r}; codes are like en or de.")
                more["language"] = language.lower()
        said: dict[str, Any] = {"generate_kwargs": more} if more else {}
        if not by_letters and len(samples) > _HEARD_AT_ONCE * RATE:
            said["chunk_length_s"] = _HEARD_AT_ONCE  # with some overlap, put together where the words agree
        told = ask({"raw": samples, "sampling_rate": RATE}, **said)
        return str(told["text"]).strip()

    def answer(rows: list[Any]) -> dict[str, Any]:
        return {"text": [one(*row) if isinstance(row, tuple) else one(row, "transcribe", "") for row in rows]}

    beside = [("task", "BYTES", "transcribe"), ("language", "BYTES", "")] if languages else []
    return Made("audio", [("text", "BYTES", [-1])], answer, beside)


_TASKS: dict[str, Callable[[_Hub], Made]] = {
    "classify": _classify,
    "entities": _entities,
    "answer": _answer,
    "rewrite": _rewrite,
    "embed": _embed,
    "classify-image": _classify_image,
    "detect": _detect,
    "transcribe": _transcribe,
}
