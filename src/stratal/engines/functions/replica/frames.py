"""Frames between server and replica: many exchanges share one connection, each with its own number.

A frame is ``u32 length, u32 exchange, u8 kind`` (little-endian; the length counts what follows the first eight
bytes) and a body. An exchange begins with `OPEN` and has ended when its answer's `END` or its `ERROR` was sent:

    OPEN     →   a JSON header and the first bytes of input (see `pack_open`)
    DATA    ←→   bytes (of a WebSocket: a binary message)
    TEXT    ←→   UTF-8: a WebSocket's text message
    END     ←→   this direction is done; the answer's carries JSON
    START   ←    JSON: status and headers of the answer
    LOG     ←    what the call wrote to stdout and stderr
    ERROR   ←    JSON: ``code``, ``type``, ``message``
    CANCEL   →   nobody wants the answer any more
    CREDIT  ←→   u32: so many bytes were taken, as many more may be sent (a sender has `WINDOW` at first)

To an app, whose exchanges are requests and WebSockets, the client's bytes follow `OPEN` as `DATA` (and `TEXT`), `END`
says that they are whole, and `START` is JSON with a ``status``, or with a ``subprotocol`` where a WebSocket is accepted.

`HELLO` and `FAILED` greet, `PING` is answered with `PONG`; these have the exchange number 0.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HELLO, FAILED, OPEN, DATA, TEXT, END, START, LOG, ERROR, CANCEL, CREDIT, PING, PONG = range(13)
CHUNK = 64 << 10
"""Longer bytes are sent in pieces of so many."""
WINDOW = 1 << 20
LIMIT = 64 << 20
"""No frame is longer, in bytes."""

_HEAD = struct.Struct("<IIB")
_COUNT = struct.Struct("<I")


def pack(exchange: int, kind: int, body: bytes = b"") -> bytes:
    """One frame."""
    if len(body) >= LIMIT:
        raise ValueError(f"a frame of {len(body)} bytes is over the limit of {LIMIT}")
    return _HEAD.pack(len(body) + 1, exchange, kind) + body


def pack_open(exchange: int, header: bytes, body: bytes) -> bytes:
    """The frame that begins an exchange."""
    return pack(exchange, OPEN, _COUNT.pack(len(header)) + header + body)


def split_open(body: bytes) -> tuple[bytes, bytes]:
    """The JSON header of an `OPEN` body, and the bytes behind it. Raises `ValueError`."""
    if len(body) < 4:
        raise ValueError("a frame that breaks off")
    (count,) = _COUNT.unpack_from(body)
    if count > len(body) - 4:
        raise ValueError("a frame that breaks off")
    return body[4 : 4 + count], body[4 + count :]


def pack_credit(exchange: int, count: int) -> bytes:
    return pack(exchange, CREDIT, count_of(count))


def count_of(count: int) -> bytes:
    """The body of a `CREDIT` frame."""
    return _COUNT.pack(count)


def credit_of(body: bytes) -> int:
    """How many bytes a `CREDIT` body allows. Raises `ValueError`."""
    if len(body) != 4:
        raise ValueError("a frame that breaks off")
    count: int = _COUNT.unpack(body)[0]
    return count


class Splitter:
    """Takes bytes as they come, gives whole frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield ``(exchange, kind, body)`` of every frame that is whole now. Raises `ValueError`."""
        self._data += data
        at, have = 0, len(self._data)
        try:
            while have - at >= 9:
                length, exchange, kind = _HEAD.unpack_from(self._data, at)
                if not 1 <= length <= LIMIT:
                    raise ValueError(f"a frame of {length} bytes")
                if have - at < 8 + length:
                    break
                end = at + 8 + length
                body = bytes(memoryview(self._data)[at + 9 : end])
                at = end
                yield exchange, kind, body
        finally:
            if at:
                del self._data[:at]
