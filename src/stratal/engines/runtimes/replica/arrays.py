"""Tensors as they travel (Open Inference datatype, shape, little-endian bytes) and NumPy arrays.

``BYTES`` elements are each a little-endian u32 length and that many bytes
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
``JSON`` is between server and replica only: a JSON list of scalars and nulls, for table columns
that have no one datatype.
"""

from __future__ import annotations

import json
import struct

import numpy as np

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

DTYPES = {
    "BOOL": "?",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
_U32 = struct.Struct("<I")


class Invalid(Exception):
    """The request's input does not fit the model: the message says what was expected."""


def to_array(datatype: str, shape: tuple[int, ...], data: memoryview) -> NDArray[Any]:
    """The array a tensor holds. Raises `Invalid` when bytes, datatype and shape do not agree."""
    code = DTYPES.get(datatype)
    try:
        if code is not None:
            return np.frombuffer(data, code).reshape(shape)
        if datatype == "BF16":  # the upper half of a float32
            wide = np.frombuffer(data, "<u2").astype("<u4") << 16
            return wide.view("<f4").reshape(shape)
        if datatype == "BYTES":
            return _objects(_elements(data)).reshape(shape)
        if datatype == "JSON":
            return _objects(json.loads(bytes(data))).reshape(shape)
    except ValueError as error:
        raise Invalid(f"A {datatype} tensor of shape {list(shape)} does not fit its data: {error}.") from None
    raise Invalid(f"The datatype {datatype!r} is not known.")


def _objects(values: list[Any]) -> NDArray[Any]:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _elements(data: memoryview) -> list[str | bytes]:
    found: list[str | bytes] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise ValueError("an element breaks off")
        (length,) = _U32.unpack_from(data, at)
        if at + 4 + length > len(data):
            raise ValueError("an element breaks off")
        element = bytes(data[at + 4 : at + 4 + length])
        try:
            found.append(element.decode())
        except UnicodeDecodeError:
            found.append(element)
        at += 4 + length
    return found


def from_array(value: NDArray[Any]) -> tuple[str, list[int], bytes]:
    """The datatype, shape and bytes of an array; anything that is not a number travels as BYTES."""
    name = _NAMES.get(value.dtype.newbyteorder("<"))
    if name is not None:
        return name, list(value.shape), np.ascontiguousarray(value, DTYPES[name]).tobytes()
    parts = []
    for element in value.ravel().tolist():
        text = element if isinstance(element, bytes) else str(element).encode()
        parts.append(_U32.pack(len(text)))
        parts.append(text)
    return "BYTES", list(value.shape), b"".join(parts)
