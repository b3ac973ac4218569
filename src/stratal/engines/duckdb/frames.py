"""How server and worker talk: frames of ``<length: 4 bytes, big-endian><kind: 1 byte><payload>`` on a socket pair.

The server sends REQUEST; the worker answers any number of HEAD and DATA and then exactly one END or
ERROR. Payloads are JSON except DATA's, which are the bytes of the result.
"""

import asyncio
import socket
import struct

REQUEST, HEAD, DATA, END, ERROR = b"Q", b"H", b"D", b"Z", b"E"
MAX_FRAME = 256 * 1024 * 1024
_PREFIX = struct.Struct(">Ic")


def pack(kind: bytes, payload: bytes) -> bytes:
    return _PREFIX.pack(len(payload), kind) + payload


async def read(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next frame as (kind, payload). Raises `asyncio.IncompleteReadError` when the worker is gone."""
    length, kind = _PREFIX.unpack(await reader.readexactly(_PREFIX.size))
    return kind, await reader.readexactly(length)


def receive(connection: socket.socket) -> tuple[bytes, bytes] | None:
    """The next frame, waiting for it; None when the other side is gone."""
    prefix = _receive_exactly(connection, _PREFIX.size)
    if prefix is None:
        return None
    length, kind = _PREFIX.unpack(prefix)
    payload = _receive_exactly(connection, length)
    return None if payload is None else (kind, payload)


def _receive_exactly(connection: socket.socket, count: int) -> bytes | None:
    buffer = bytearray(count)
    view = memoryview(buffer)
    have = 0
    while have < count:
        received = connection.recv_into(view[have:])
        if not received:
            return None
        have += received
    return bytes(buffer)
