"""Open Inference requests and answers: bytes ↔ tensors. Pure.

With the binary tensor extension a body is a JSON header, its length in the HTTP header
``Inference-Header-Content-Length``, then the bytes of those tensors whose parameters name a
``binary_data_size``, in the header's order
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from stratal.ai.endpoints.scoring import Inputs, parse_json
from stratal.ai.endpoints.tensors import Tensor, check_size, flatten, pack, values
from stratal.kernel.errors import Invalid

HEADER_LENGTH = b"inference-header-content-length"
_MOST_DIMENSIONS = 16
_MOST_ELEMENTS = 1 << 40


@dataclass(frozen=True, slots=True)
class Asked:
    """A decoded request. `outputs` None: all; `binary` says per output (else `binary_all`) how it is to be written."""

    id: str | None
    inputs: Inputs
    outputs: Sequence[str] | None
    binary: Mapping[str, bool]
    binary_all: bool


def read(body: bytes, header_length: int | None) -> Asked:
    """Decode an inference request. Raises `Invalid`."""
    if header_length is not None and not 0 <= header_length <= len(body):
        raise _bad("Inference-Header-Content-Length is longer than the body.")
    view = memoryview(body)
    asked = parse_json(body if header_length is None else view[:header_length])
    raw = view[len(body) if header_length is None else header_length :]
    if not isinstance(asked, dict):
        raise _bad("The request is not a JSON object.")
    listed = asked.get("inputs")
    if not isinstance(listed, list) or not listed:
        raise _bad("The request has no inputs.")
    tensors, at = [], 0
    for item in listed:
        tensor, at = _tensor(item, raw, at)
        tensors.append(tensor)
    if at != len(raw):
        raise _bad(f"The body holds {len(raw) - at} bytes more than its tensors.")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise _bad("Two inputs have the same name.")
    request_id = asked.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise _bad("The request's id must be text.")
    outputs, binary = _outputs(asked.get("outputs"))
    binary_all = _parameters(asked).get("binary_data_output") is True
    return Asked(request_id or None, Inputs(tensors, strict=True), outputs, binary, binary_all)


def _tensor(item: Any, raw: memoryview, at: int) -> tuple[Tensor, int]:
    if not isinstance(item, dict):
        raise _bad("An input is not a JSON object.")
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not name:
        raise _bad("An input has no name.")
    shown = name[:60]
    if not isinstance(datatype, str):
        raise _bad(f"Input {shown!r} has no datatype.")
    if not isinstance(shape, list) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_length, shape)):
        raise _bad(f"Input {shown!r} needs a shape: a list of lengths.")
    parameters = _parameters(item)
    if "shared_memory_region" in parameters:
        raise _bad(f"Input {shown!r} lies in shared memory, which is not offered here.")
    size = parameters.get("binary_data_size")
    try:
        if size is None:
            if "data" not in item:
                raise _bad("it has no data.")
            data = pack(datatype, flatten(item["data"], shape))
            return Tensor(name, datatype, tuple(shape), data), at
        if not _is_length(size) or at + size > len(raw):
            raise _bad("its binary_data_size is more than the body holds.")
        piece = raw[at : at + size]
        check_size(datatype, shape, piece)
        return Tensor(name, datatype, tuple(shape), piece), at + size
    except Invalid as error:
        raise _bad(f"Input {shown!r}: {error.message}") from None


def _outputs(listed: Any) -> tuple[list[str] | None, dict[str, bool]]:
    if not listed:
        return None, {}
    if not isinstance(listed, list):
        raise _bad("outputs must be a list.")
    names, binary = [], {}
    for item in listed:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise _bad("An output has no name.")
        parameters = _parameters(item)
        for unoffered in ("classification", "shared_memory_region"):
            if parameters.get(unoffered):
                raise _bad(f"Output {item['name'][:60]!r}: {unoffered} is not offered here.")
        if item["name"] not in names:
            names.append(item["name"])
        if isinstance(parameters.get("binary_data"), bool):
            binary[item["name"]] = parameters["binary_data"]
    return names, binary


def _parameters(item: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = item.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise _bad("parameters must be a JSON object.")
    return parameters


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_ELEMENTS


def write(
    asked: Asked, name: str, version: str, prediction_id: str, outputs: Sequence[Tensor]
) -> tuple[bytes, int | None]:
    """The answer's body, and the length of its JSON header when binary tensors follow it.

    In JSON a NaN or an infinity is written as null; binary tensors carry them as they are.
    """
    listed, buffers = [], []
    for tensor in outputs:
        item: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if asked.binary.get(tensor.name, asked.binary_all):
            item["parameters"] = {"binary_data_size": len(tensor.data)}
            buffers.append(tensor.data)
        else:
            item["data"] = values(tensor)
        listed.append(item)
    answer: dict[str, Any] = {
        "model_name": name,
        "model_version": version,
        "parameters": {"prediction_id": prediction_id},
        "outputs": listed,
    }
    if asked.id is not None:
        answer["id"] = asked.id
    header = orjson.dumps(answer)
    if not buffers:
        return header, None
    return b"".join((header, *buffers)), len(header)


def _bad(message: str) -> Invalid:
    return Invalid(message, reason="bad_request")
