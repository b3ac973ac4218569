"""Frames between server and replica: several requests share one connection, answered in any order.

A frame is ``u32 length, u32 request id, u8 kind`` (little-endian; the length counts what follows
the first eight bytes) and a body. The body of `INFER` and `ANSWER` is ``u32 header length``, a JSON
header, then the tensors' bytes one behind the other, as the header lists them; of the other kinds
it is JSON alone. A `GENERATE` is answered by any number of `PIECE` and one `END` (or `ERROR`); `CANCEL`,
with its request id, asks for the end to come now. A replica that dozes says
`DOZING` once it has loaded all but its model; `WAKE` has it begin, and then it greets.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

HELLO, FAILED, INFER, ANSWER, ERROR = 0, 1, 2, 3, 4
GENERATE, PIECE, END, CANCEL = 5, 6, 7, 8
DOZING, WAKE = 9, 10
LIMIT = 256 << 20
"""No frame is longer, in bytes."""

_HEAD = struct.Struct("<IIB")
_COUNT = struct.Struct("<I")


def pack(request: int, kind: int, body: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(len(body) + 1, request, kind) + body


def pack_tensors(request: int, kind: int, header: bytes, buffers: Sequence[bytes]) -> bytes:
    """One frame of a JSON header and the tensors' bytes."""
    length = 5 + len(header) + sum(map(len, buffers))
    if length > LIMIT:
        raise ValueError(f"a frame of {length} bytes is over the limit of {LIMIT}")
    return b"".join((_HEAD.pack(length, request, kind), _COUNT.pack(len(header)), header, *buffers))


def split_tensors(body: memoryview) -> tuple[bytes, memoryview]:
    """The JSON header of an `INFER` or `ANSWER` body, and the tensors' bytes. Raises `ValueError`."""
    if len(body) < 4:
        raise ValueError("a frame that breaks off")
    (count,) = _COUNT.unpack_from(body)
    if count > len(body) - 4:
        raise ValueError("a frame that breaks off")
    return bytes(body[4 : 4 + count]), body[4 + count :]


def cut(data: memoryview, lengths: Iterable[int]) -> list[memoryview]:
    """Cut `data` into pieces of `lengths` bytes. Raises `ValueError` unless they fill it exactly."""
    pieces, at = [], 0
    for length in lengths:
        if length < 0 or at + length > len(data):
            raise ValueError("tensors longer than their frame")
        pieces.append(data[at : at + length])
        at += length
    if at != len(data):
        raise ValueError("a frame longer than its tensors")
    return pieces


class Splitter:
    """Takes bytes as they come, gives whole frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, memoryview]]:
        """Yield ``(request id, kind, body)`` of every frame that is whole now. Raises `ValueError`.

        A body is the caller's own: it stays valid.
        """
        self._data += data
        at, have = 0, len(self._data)
        try:
            while have - at >= 9:
                length, request, kind = _HEAD.unpack_from(self._data, at)
                if not 1 <= length <= LIMIT:
                    raise ValueError(f"a frame of {length} bytes")
                if have - at < 8 + length:
                    break
                end = at + 8 + length
                body = bytes(memoryview(self._data)[at + 9 : end])
                at = end
                yield request, kind, memoryview(body)
        finally:
            if at:
                del self._data[:at]
