"""`Runtimes`: which of the runtimes takes a model, the replica's command line, and connecting to it."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from stratal.ai.endpoints.runtime import Command, Plan
from stratal.engines.runtimes.link import ReplicaLink, connect, meet
from stratal.kernel.errors import Invalid

_PROGRAM = Path(__file__).parent / "replica"
TASKS = (
    *("minilm", "vader", "py3langid", "rapidocr", "haar", "pocketsphinx", "espeak", "silero"),
    *("minilm-classifier", "minilm-projection", "minilm-sorter"),
)
"""What answers for models of the catalogue (the replica's `task_model` has the same names)."""
LANGUAGE_PACKAGES = "llguidance>=1.9\nnumpy>=2\nsafetensors>=0.4\ntorch>=2.4\ntransformers>=5\n"
"""What a language model's replica needs where the model does not say."""
GGUF_PACKAGES = "gguf>=0.19\nllguidance>=1.9\nnumpy>=2\nxllamacpp>=2026.10\n"
HUB_PACKAGES = "numpy>=2\nsafetensors>=0.4\nsentencepiece>=0.2\ntorch>=2.4\ntransformers>=5\n"
ONNX_PACKAGES = "numpy>=2\nonnxruntime>=1.20\n"
ONNX_TEXT_PACKAGES = ONNX_PACKAGES + "tokenizers>=0.20\n"
PICTURE_PACKAGES = "pillow>=11\n"
DRAWING_PACKAGES = "accelerate>=1\ndiffusers>=0.42\n" + HUB_PACKAGES + PICTURE_PACKAGES
_LOOKING = ("classify-image", "detect")
_BY_ENDING = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "entities",
    "ForQuestionAnswering": "answer",
    "ForImageClassification": "classify-image",
    "ForObjectDetection": "detect",
    "ForCTC": "transcribe",
    "ForSpeechSeq2Seq": "transcribe",
}
_LISTENING = ("WhisperForConditionalGeneration", "Speech2TextForConditionalGeneration")
_REWRITING = frozenset(
    {
        *("t5", "mt5", "umt5", "longt5", "bart", "mbart", "marian", "pegasus", "pegasus_x", "m2m_100"),
        *("led", "bigbird_pegasus", "blenderbot", "blenderbot-small", "prophetnet", "plbart"),
    }
)
"""Kinds of models (`model_type`) that make a text of a text."""
_FORMATS = ("skops", "cloudpickle", "pickle")


class Runtimes:
    """Scikit-learn and ONNX by plain library calls; everything else with a ``python_function`` flavor through MLflow."""

    def plan(
        self, flavors: Mapping[str, Any], signature: Mapping[str, Any] | None, files: Sequence[str]
    ) -> Plan:
        if not flavors:
            raise Invalid(
                "The model's MLmodel file names no flavors, so nothing knows how to load it.",
                reason="unservable",
            )
        catalogued = flavors.get("stratal")
        if isinstance(catalogued, Mapping):
            return _task(catalogued, files)
        signature = _signature(signature)
        pyfunc = flavors.get("python_function")
        predict = pyfunc.get("predict_fn") if isinstance(pyfunc, Mapping) else None
        sklearn = flavors.get("sklearn")
        if isinstance(sklearn, Mapping):
            options = _sklearn(sklearn, files)
            if predict in (None, "predict", "predict_proba"):
                return Plan("sklearn", {**options, "signature": signature, "predict_fn": predict})
        onnx = flavors.get("onnx")
        if isinstance(onnx, Mapping):
            if task := _text_task(flavors.get("transformers"), files):
                return Plan("onnxtext", {**_onnx(onnx, files), "task": task}, ONNX_TEXT_PACKAGES)
            return Plan("onnx", {**_onnx(onnx, files), "signature": signature}, ONNX_PACKAGES)
        drawing = flavors.get("diffusers")
        if isinstance(drawing, Mapping) and not isinstance(pyfunc, Mapping):
            return _diffusers(drawing, files)
        language = flavors.get("transformers")
        gguf = flavors.get("gguf")
        if isinstance(gguf, Mapping) and not any(path.endswith(".safetensors") for path in files):
            return _gguf(gguf, files)
        if isinstance(language, Mapping) and not isinstance(pyfunc, Mapping):
            return _transformers(language, files)
        if isinstance(pyfunc, Mapping):
            loader = pyfunc.get("loader_module")
            return Plan("pyfunc", {"signature": signature, "loader": str(loader) if loader else None})
        raise Invalid(
            f"No runtime here serves the flavors {', '.join(map(str, flavors))}.",
            hint="Served are scikit-learn models, ONNX models and everything with MLflow's python_function flavor.",
            reason="unservable",
        )

    def command(
        self, plan: Plan, python: Path, model: Path, folder: Path, doze: Sequence[str] | None = None
    ) -> Command:
        wanted = {"runtime": plan.runtime, "model": str(model), **plan.options}
        if doze is not None:
            wanted["doze"] = list(doze)
        argv = [str(python), "-I", "-B", "-u", str(_PROGRAM / "__main__.py"), str(folder)]
        return Command(argv, {"plan.json": orjson.dumps(wanted)}, [_PROGRAM, model])

    async def connect(self, folder: Path) -> ReplicaLink:
        return await connect(folder)

    async def meet(self, folder: Path) -> ReplicaLink:
        return await meet(folder)


def _task(flavor: Mapping[str, Any], files: Sequence[str]) -> Plan:
    implementation = flavor.get("implementation")
    if implementation not in TASKS or "stratal.json" not in files:
        raise Invalid(
            f"The catalogue's implementation {str(implementation)[:40]!r} is not known here.",
            hint=f"Known are {', '.join(TASKS)}.",
            reason="unservable",
        )
    return Plan("task", {"implementation": implementation})


def _need_safetensors(what: str, files: Sequence[str]) -> None:
    if not any(path.endswith(".safetensors") for path in files):
        raise Invalid(
            f"The {what} has no safetensors; pickled weights are not opened.",
            hint="Save it with save_pretrained(…) and upload that.",
            reason="unservable",
        )


def _transformers(flavor: Mapping[str, Any], files: Sequence[str]) -> Plan:
    """A language model as the Hub's clients keep one: config.json, safetensors and a tokenizer."""
    if flavor.get("auto_map"):
        raise Invalid(
            "The model brings Python code of its own, which is not run here.",
            hint="Publish it for a class that transformers has.",
            reason="unservable",
        )
    _need_safetensors("model", files)
    kinds = [str(kind) for kind in flavor.get("architectures") or []]
    if any(kind.endswith(("ForCausalLM", "LMHeadModel")) for kind in kinds):
        return Plan("transformers", {}, LANGUAGE_PACKAGES)
    task = next((found for kind in kinds if (found := _task_of(kind, flavor, files)) is not None), None)
    if task is None:
        raise Invalid(
            f"Nothing here serves {', '.join(kinds) or 'a model that names no architecture'}.",
            hint="Served are models that write, translate, summarise, classify, name entities, answer, embed, "
            "look and listen (docs/pretrained.md); wrap another one with mlflow (pyfunc) and register that.",
            reason="unservable",
        )
    return Plan("hub", {"task": task}, HUB_PACKAGES + PICTURE_PACKAGES * (task in _LOOKING))


def _diffusers(flavor: Mapping[str, Any], files: Sequence[str]) -> Plan:
    """A pipeline as diffusers keeps one: model_index.json, and a folder for each part."""
    kind = flavor.get("class")
    if not isinstance(kind, str) or not kind.endswith("Pipeline"):
        raise Invalid(
            "The model brings Python code of its own, or names no pipeline.",
            hint="Publish it for a pipeline that diffusers has.",
            reason="unservable",
        )
    _need_safetensors("pipeline", files)
    return Plan("diffusers", {}, DRAWING_PACKAGES)


def _task_of(kind: str, flavor: Mapping[str, Any], files: Sequence[str]) -> str | None:
    """What a model of this architecture does, of the tasks that `replica.hub_model` knows."""
    for ending, task in _BY_ENDING.items():
        if kind.endswith(ending):
            return task
    if kind in _LISTENING:
        return "transcribe"
    if flavor.get("model_type") in _REWRITING:
        return "rewrite"
    return "embed" if kind.endswith("Model") and "modules.json" in files else None


def _text_task(flavor: object, files: Sequence[str]) -> str | None:
    """What a graph does with texts that came with its tokenizer: ``classify`` or ``embed``; None: it takes tensors."""
    if not isinstance(flavor, Mapping) or "tokenizer.json" not in files:
        return None
    kinds = [str(kind) for kind in flavor.get("architectures") or []]
    task = next((found for kind in kinds if (found := _task_of(kind, flavor, files)) is not None), None)
    return task if task in ("classify", "embed") else None


def _gguf(flavor: Mapping[str, Any], files: Sequence[str]) -> Plan:
    """A language model as llama.cpp keeps one: one file, or parts of which the first names the others."""
    listed = flavor.get("files")
    firsts = [path for path in listed if path in files] if isinstance(listed, list) else []
    if len(firsts) != 1:
        raise Invalid(
            f"The model has {len(firsts)} GGUF files ({', '.join(firsts[:4])} …), and one is served.",
            hint="Keep one: stratal models pull hf:ORG/NAME --only '*Q4_K_M*', or upload it alone.",
            reason="unservable",
        )
    return Plan("gguf", {"file": firsts[0]}, GGUF_PACKAGES)


def _sklearn(flavor: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
    file = flavor.get("pickled_model")
    form = flavor.get("serialization_format") or "pickle"
    if form not in _FORMATS:
        raise Invalid(
            f"The model is saved as {str(form)[:40]!r}; served are {', '.join(_FORMATS)}.",
            reason="unservable",
        )
    if file not in files:
        raise Invalid(
            f"The model's file {str(file)[:200]!r} is not among its stored files.", reason="unservable"
        )
    code = flavor.get("code")
    if code is not None and not any(path.startswith(f"{code}/") for path in files):
        raise Invalid(
            f"The model's code folder {str(code)[:200]!r} is not among its stored files.", reason="unservable"
        )
    return {"file": file, "format": form, "code": code, "trusted": flavor.get("skops_trusted_types")}


def _onnx(flavor: Mapping[str, Any], files: Sequence[str]) -> dict[str, Any]:
    file = flavor.get("data")
    if file not in files:
        raise Invalid(
            f"The model's file {str(file)[:200]!r} is not among its stored files.", reason="unservable"
        )
    return {"file": file}


def _signature(signature: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The signature's inputs, outputs and params as lists; MLmodel holds them as JSON text. Raises `Invalid`."""
    if signature is None:
        return None
    read = {}
    for side in ("inputs", "outputs", "params"):
        value = signature.get(side) or None
        try:
            read[side] = orjson.loads(value) if isinstance(value, str) else value
        except orjson.JSONDecodeError as error:
            raise Invalid(
                "The model's signature cannot be read.", hint=str(error), reason="unservable"
            ) from None
    return read


def program_files() -> list[Path]:
    """The replica's program, as installed (for tests and for `doctor`)."""
    return sorted(Path(name.path) for name in os.scandir(_PROGRAM) if name.name.endswith(".py"))


assert sys.byteorder == "little", "replicas and server exchange little-endian bytes as they are"
