"""What a model's own files say about it: its ``MLmodel``, ``config.json``, ``model_index.json`` and requirements, as text.

A pickle is told by its name, or where a name says nothing (``.bin``) by its first bytes. The files are
anybody's, so they are parsed without running anything (YAML's safe subset), within limits, and what cannot
be understood is left out: a strange file makes a model poorer in facts, never unregistrable.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from stratal.ai.models.model import Facts

DESCRIPTION = "MLmodel"
REQUIREMENTS = "requirements.txt"
CONFIG = "config.json"
PIPELINE = "model_index.json"
CATALOGUED = "stratal.json"
READ = (DESCRIPTION, REQUIREMENTS, CONFIG, PIPELINE, CATALOGUED)
MAX_BYTES = 1024 * 1024
HEAD_BYTES = 512
MAX_HEADS = 1000

_MAX_VALUES = 100_000
_CHARACTERS = 100
"""So many of a text weigh as much as a value."""
_PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".cpkl", ".cloudpickle")
_PICKLE_FORMATS = {"pickle", "cloudpickle", "joblib", "dill"}
_BY_SUFFIX = {
    ".skops": "skops",
    ".onnx": "onnx",
    ".safetensors": "safetensors",
    ".ubj": "ubj",
    ".gguf": "gguf",
}
_PART = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")
_PLAIN = (".json", ".txt", ".md", ".py", ".yaml", ".yml", ".toml", ".csv", ".jinja", *_BY_SUFFIX)


def is_opaque(path: str) -> bool:
    """May the file hold a pickle without its name saying so?"""
    return not path.lower().endswith((*_PLAIN, *_PICKLES)) and path not in READ


def is_pickle_name(path: str) -> bool:
    """Does the file's name say that it is a pickle?"""
    return path.lower().endswith(_PICKLES)


def read_facts(
    texts: Mapping[str, bytes], paths: Sequence[str], heads: Mapping[str, bytes] | None = None
) -> Facts:
    """The facts of a model with the files `paths`.

    `texts` holds the contents of those of `READ` it has, `heads` the first bytes of files whose names say
    nothing. Takes CPU time in proportion to the texts: not for the event loop.
    """
    described = _yaml(texts.get(DESCRIPTION, b""))
    flavors = {
        str(name): _plain(settings)
        for name, settings in _mapping(described.get("flavors")).items()
        if isinstance(settings, dict)
    }
    formats = {str(f["serialization_format"]) for f in flavors.values() if "serialization_format" in f}
    formats |= {kind for path in paths for suffix, kind in _BY_SUFFIX.items() if path.endswith(suffix)}
    if catalogued := _catalogued(texts.get(CATALOGUED, b"")):
        flavors["stratal"] = catalogued
    if "transformers" not in flavors and (config := _transformers(texts.get(CONFIG, b""))):
        flavors["transformers"] = config
    if pipeline := _diffusers(texts.get(PIPELINE, b"")):
        flavors["diffusers"] = pipeline
    onnx = [path for path in paths if path.endswith(".onnx")]
    if len(onnx) == 1 and not set(flavors) - {"transformers"} and not _has_safetensors(paths):
        flavors["onnx"] = {"data": onnx[0]}
    if ggufs := _first_ggufs(paths):
        flavors["gguf"] = {"files": ggufs}
    pickled = (
        any(path.lower().endswith(_PICKLES) for path in paths)
        or any(is_pickle(head) for head in (heads or {}).values())
        or bool(formats & _PICKLE_FORMATS)
    )
    if pickled and not formats & _PICKLE_FORMATS:
        formats.add("pickle")
    return Facts(
        flavors=flavors,
        formats=tuple(sorted(formats)),
        signature=_signature(described.get("signature")),
        requirements=texts.get(REQUIREMENTS, b"").decode(errors="replace"),
        python_version=str(_mapping(flavors.get("python_function")).get("python_version", "")),
        labels=_labels(flavors, pickled=pickled),
    )


def is_pickle(head: bytes) -> bool:
    """A pickle of protocol 2 or newer, or what torch.save writes: a ZIP archive whose first member is one."""
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return True
    return head[:4] == b"PK\x03\x04" and b"data.pkl" in head


def _catalogued(data: bytes) -> dict[str, object]:
    """What a model of the catalogue says it is; {} when it is none."""
    try:
        said = _mapping(orjson.loads(data))
    except orjson.JSONDecodeError:
        return {}
    kept = {key: said[key] for key in ("entry", "task", "implementation") if isinstance(said.get(key), str)}
    return kept if len(kept) == 3 else {}


def _transformers(data: bytes) -> dict[str, object]:
    """What transformers' ``config.json`` says the model is; {} when it is none."""
    try:
        config = _mapping(orjson.loads(data))
    except orjson.JSONDecodeError:
        return {}
    kept = {key: config[key] for key in ("model_type", "architectures", "auto_map") if key in config}
    return _plain(kept) if "model_type" in kept or "architectures" in kept else {}


def _diffusers(data: bytes) -> dict[str, object]:
    """What diffusers' ``model_index.json`` says which pipeline it is; {} when it is none."""
    try:
        index = _mapping(orjson.loads(data))
    except orjson.JSONDecodeError:
        return {}
    return _plain({"class": index["_class_name"]}) if "_class_name" in index else {}


def _has_safetensors(paths: Sequence[str]) -> bool:
    return any(path.endswith(".safetensors") for path in paths)


def _first_ggufs(paths: Sequence[str]) -> list[str]:
    """The GGUF files that each stand for a model: of one in parts the first, no projectors of pictures."""
    found = []
    for path in paths:
        name = path.rpartition("/")[2].lower()
        part = _PART.search(name)
        if name.endswith(".gguf") and not name.startswith("mmproj") and (part is None or int(part[1]) == 1):
            found.append(path)
    return sorted(found)[:MAX_HEADS]


def _labels(flavors: Mapping[str, Mapping[str, object]], *, pickled: bool) -> tuple[str, ...]:
    """A skops file loads only types known to be harmless, and those that its own description names."""
    trusting = any(settings.get("skops_trusted_types") for settings in flavors.values())
    coded = any(settings.get("auto_map") for settings in flavors.values())
    return (
        *(["contains pickle"] if pickled else []),
        *(["names trusted types"] if trusting else []),
        *(["brings its own code"] if coded else []),
    )


def _yaml(data: bytes) -> dict[str, Any]:
    try:
        return _mapping(read_yaml(data))
    except ValueError:
        return {}


def read_yaml(data: bytes | str, most: int | None = None) -> object:
    """What the YAML says, plain values only. Raises `ValueError`, also where it stands for more than `most` values.

    An alias stands for all that its anchor holds, one of aliases for all of theirs: nine times nine, ten times over, is
    more than fits into memory once somebody copies it. Keys that are merged (``<<``) are copied here, so they are few.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc,unused-ignore]
        spent = merged = 0

        def __init__(self, stream: bytes | str) -> None:
            super().__init__(stream)
            self.weights: dict[int, int] = {}

        def compose_node(self, parent: Any, index: Any) -> Any:
            is_alias = self.check_event(yaml.AliasEvent)
            before = self.spent
            node = super().compose_node(parent, index)
            if is_alias:
                self.spent += self.weights.get(id(node), 1)
            else:
                self.spent += 1 + (len(node.value) // _CHARACTERS if isinstance(node.value, str) else 0)
                self.weights[id(node)] = self.spent - before
            if most is not None and self.spent > most:
                raise ValueError("it stands for too many values")
            return node

        def flatten_mapping(self, node: Any) -> None:
            super().flatten_mapping(node)
            self.merged += len(node.value)
            if self.merged > _MAX_VALUES:
                raise ValueError("it merges too many keys")

    try:
        return yaml.load(data, Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _signature(value: object) -> dict[str, object] | None:
    """MLflow writes inputs, outputs and params as JSON inside YAML; they are kept unfolded."""
    parts = _mapping(value)
    result: dict[str, object] = {}
    for name in ("inputs", "outputs", "params"):
        text = parts.get(name)
        if isinstance(text, str):
            try:
                result[name] = orjson.loads(text)
            except orjson.JSONDecodeError:
                continue
    return result or None


def _plain(settings: dict[Any, Any]) -> dict[str, object]:
    """The settings as JSON can hold them; nothing of them when they are too many.

    YAML knows dates, numbers as keys, and aliases, by which a few lines can stand for billions of values.
    """
    seen = 0

    def copy(value: object) -> object:
        nonlocal seen
        seen += 1
        if seen > _MAX_VALUES:
            raise OverflowError
        if isinstance(value, dict):
            return {str(key): copy(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item) for item in value]
        return value if isinstance(value, str | int | float | None) else str(value)

    try:
        return _mapping(copy(settings))
    except (OverflowError, RecursionError):
        return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
