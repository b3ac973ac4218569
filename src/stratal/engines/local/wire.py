"""What launcher and entry say to each other: groups of strings in one length-prefixed message.

Neither JSON (its modules cost a bare interpreter ten milliseconds) nor anything that could run code
when read: what comes out of a sandbox is not trusted. Standard library only.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence

LIMIT = 16 << 20


def pack(groups: Sequence[Sequence[str]]) -> bytes:
    """One message: 8 digits of length in base 16, then each group as its count and its strings, NUL-ended."""
    body = b"".join(
        b"%d\0" % len(group) + b"".join(os.fsencode(text) + b"\0" for text in group) for group in groups
    )
    return b"%08x" % len(body) + body


def unpack(body: bytes) -> list[list[str]]:
    """The groups of a message's body. Raises `ValueError` when it is not one."""
    words = body.split(b"\0")
    if words.pop() != b"":
        raise ValueError("a message that breaks off")
    groups = []
    at = 0
    while at < len(words):
        count = int(words[at])
        group = words[at + 1 : at + 1 + count]
        if count < 0 or len(group) != count:
            raise ValueError("a message that breaks off")
        groups.append([os.fsdecode(word) for word in group])
        at += 1 + count
    return groups


def receive(channel: socket, head: bytes = b"") -> list[list[str]] | None:
    """The next message of a blocking stream; None at its end. Raises `ValueError`, `OSError`.

    `head` is what was read of it already (with the descriptors that came along).
    """
    head += _exactly(channel, 8 - len(head))
    if not head:
        return None
    length = int(head, 16)
    if not 0 <= length <= LIMIT:
        raise ValueError("a message over the limit")
    return unpack(_exactly(channel, length))


def _exactly(channel: socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = channel.recv(count - len(data))
        if not part:
            if data:
                raise ValueError("a message that breaks off")
            break
        data += part
    return data
