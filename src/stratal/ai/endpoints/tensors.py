"""Tensors as the platform holds them: a name, an Open Inference datatype, a shape, and little-endian bytes.

The server has no NumPy: numbers are packed and unpacked by the standard library's `array`, which
does it in C. ``BYTES`` elements are each a u32 length and that many bytes, as in the binary tensor
extension (https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md).
``JSON`` is our own, for table columns without one datatype: a JSON list of scalars and nulls.
"""

import math
import struct
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import orjson

from stratal.kernel.errors import Invalid

_ARRAY_CODES = {
    "BOOL": "B",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP32": "f",
    "FP64": "d",
}
ITEM_BYTES = {**{name: array(code).itemsize for name, code in _ARRAY_CODES.items()}, "FP16": 2, "BF16": 2}
DATATYPES = (*ITEM_BYTES, "BYTES")
"""The datatypes of the Open Inference protocol."""
_U32 = struct.Struct("<I")
_EXACT = 2**53
_NUMBERS = frozenset({int, float, type(None)})
_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1


# -- values → bytes ------------------------------------------------------------------------------


def pack(datatype: str, values: Sequence[Any]) -> bytes:
    """The bytes of a flat list of JSON values. Raises `Invalid` for values that are not of the datatype."""
    code = _ARRAY_CODES.get(datatype)
    try:
        if datatype == "BOOL":
            return bytes(bytearray(_bit(value) for value in values))
        if code is not None:
            if code in "fd" and None in values:
                values = [_NAN if value is None else value for value in values]
            packed = array(code, values)
            if sys.byteorder == "big":
                packed.byteswap()
            return packed.tobytes()
        if datatype == "FP16":
            return struct.pack(f"<{len(values)}e", *values)
        if datatype == "BYTES":
            return _pack_texts(values)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise Invalid(
            f"The data does not fit the datatype {datatype}: {error}.", reason="bad_tensor"
        ) from None
    raise Invalid(
        f"The datatype {str(datatype)[:40]!r} cannot be sent as JSON; known are {', '.join(DATATYPES)}.",
        reason="bad_tensor",
    )


def _bit(value: object) -> int:
    if value is True or value is False or value in (0, 1):
        return int(bool(value))
    raise ValueError(f"{value!r} is not a boolean")


def _pack_texts(values: Sequence[Any]) -> bytes:
    parts = []
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{str(value)[:40]!r} is not text")
        text = value.encode()
        parts.append(_U32.pack(len(text)))
        parts.append(text)
    return b"".join(parts)


def flatten(data: Any, shape: Sequence[int]) -> list[Any]:
    """The values of a tensor's JSON data, flat or nested as `shape` says. Raises `Invalid` when they are not so many."""
    count = math.prod(shape)
    if not isinstance(data, list):
        raise Invalid("A tensor's data must be a list.", reason="bad_tensor")
    flat = data
    while flat and isinstance(flat[0], list):
        if not all(isinstance(part, list) for part in flat):
            raise Invalid("A tensor's data is nested unevenly.", reason="bad_tensor")
        flat = list(chain.from_iterable(flat))
    if len(flat) != count:
        raise Invalid(
            f"The data has {len(flat)} values; the shape {list(shape)} needs {count}.", reason="bad_tensor"
        )
    return flat


def check_size(datatype: str, shape: Sequence[int], data: bytes | memoryview) -> None:
    """Raise `Invalid` unless `data` is as long as `datatype` and `shape` say."""
    count = math.prod(shape)
    if datatype == "BYTES":
        at = seen = 0
        while at + 4 <= len(data):
            at += 4 + _U32.unpack_from(data, at)[0]
            seen += 1
        if at != len(data) or seen != count:
            raise Invalid(f"The BYTES data does not hold {count} elements.", reason="bad_tensor")
        return
    size = ITEM_BYTES.get(datatype)
    if size is None:
        raise Invalid(
            f"The datatype {str(datatype)[:40]!r} is not known; known are {', '.join(DATATYPES)}.",
            reason="bad_tensor",
        )
    if len(data) != count * size:
        raise Invalid(
            f"The data has {len(data)} bytes; {datatype} of shape {list(shape)} needs {count * size}.",
            reason="bad_tensor",
        )


# -- bytes → values ------------------------------------------------------------------------------


def values(tensor: Tensor) -> list[Any]:
    """The tensor's elements as a flat list of JSON values (NaN included; text that is not UTF-8 with escapes)."""
    code = _ARRAY_CODES.get(tensor.datatype)
    if code is not None:
        unpacked = array(code)
        unpacked.frombytes(tensor.data)
        if sys.byteorder == "big":
            unpacked.byteswap()
        listed = unpacked.tolist()
        return [bool(bit) for bit in listed] if tensor.datatype == "BOOL" else listed
    if tensor.datatype == "FP16":
        return list(struct.unpack(f"<{len(tensor.data) // 2}e", tensor.data))
    if tensor.datatype == "BF16":
        halves = array("H", bytes(tensor.data))
        return [struct.unpack("<f", struct.pack("<I", half << 16))[0] for half in halves]
    if tensor.datatype == "JSON":
        decoded = orjson.loads(tensor.data)
        return decoded if isinstance(decoded, list) else [decoded]
    texts = []
    at = 0
    while at < len(tensor.data):
        (length,) = _U32.unpack_from(tensor.data, at)
        texts.append(bytes(tensor.data[at + 4 : at + 4 + length]).decode(errors="backslashreplace"))
        at += 4 + length
    return texts


def nested(tensor: Tensor) -> list[Any]:
    """The tensor's elements as lists within lists, as its shape says."""
    listed: list[Any] = values(tensor)
    for axis in range(len(tensor.shape) - 1, 0, -1):
        length = tensor.shape[axis]
        count = math.prod(tensor.shape[:axis])
        listed = [listed[i * length : (i + 1) * length] for i in range(count)]
    return listed


# -- tables → tensors ----------------------------------------------------------------------------


def of_rows(rows: Sequence[Any], columns: Sequence[str] | None) -> list[Tensor]:
    """Tensors of a table's rows (each a list of scalars): one matrix of numbers, else one tensor per column.

    Nulls among numbers become NaN. Raises `Invalid` for rows of unequal length, or text without column names.
    """
    width = len(columns) if columns is not None else (len(rows[0]) if rows else 0)
    for number, row in enumerate(rows):
        if not isinstance(row, (list, tuple)) or len(row) != width:
            raise Invalid(
                f"Row {number} is not a list of {width} values; all rows must be alike.", reason="bad_table"
            )
    flat = list(chain.from_iterable(rows))
    if _is_numeric(flat):
        return [Tensor("input-0", "FP64", (len(rows), width), pack("FP64", flat))]
    if columns is None:
        return [Tensor("input-0", "JSON", (len(rows), width), _json(flat))]
    return [of_column(name, [row[i] for row in rows]) for i, name in enumerate(columns)]


def of_column(name: str, cells: Sequence[Any]) -> Tensor:
    """A table's column as a tensor: numbers as such, whole numbers exactly, all else as JSON."""
    kinds = set(map(type, cells))
    if kinds == {int} and all(-(2**63) <= cell < 2**63 for cell in cells):
        return Tensor(name, "INT64", (len(cells),), pack("INT64", cells))
    if kinds <= {float, type(None)} and float in kinds:
        return Tensor(name, "FP64", (len(cells),), pack("FP64", cells))
    return Tensor(name, "JSON", (len(cells),), _json(cells))


def _is_numeric(flat: Sequence[Any]) -> bool:
    kinds = set(map(type, flat))
    if not kinds <= _NUMBERS or kinds == {type(None)}:
        return False
    if int not in kinds:
        return True
    return all(type(value) is not int or -_EXACT <= value <= _EXACT for value in flat)


def _json(cells: Sequence[Any]) -> bytes:
    for cell in cells:
        if isinstance(cell, (list, dict)):
            raise Invalid("A cell of a table must be a number, text, a boolean or null.", reason="bad_table")
    return orjson.dumps([None if isinstance(cell, float) and cell != cell else cell for cell in cells])
