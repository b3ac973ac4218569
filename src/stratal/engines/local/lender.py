"""The process that mounts a workload's own folders into a box which was built before the workload was known.

It is a fork of the launcher, so it has run nobody else's code, and lives outside of the box: with the zygote's
namespace of users, in which the box's lies, and a copy of the machine's mounts that nobody shares. So it has the right
to mount into that box and no right over anything of the machine. It does it once, before anything runs in the box, and
ends. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket

from stratal.engines.local import namespaces, process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS = 10.0
_MESSAGE = 128 << 10


class Lender:
    """From the launcher's side. Raises `OSError`, `ValueError` when it cannot get ready."""

    def __init__(self, box: Sequence[int]) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.settimeout(_SECONDS)
        launcher = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            self._channel.close()
            _stand_by(theirs, box, launcher)
        theirs.close()
        self._expect(b"here")

    def lend(self, paths: Sequence[str], mounts: int) -> None:
        """Have these mounted into the box with this namespace of mounts. Raises `OSError`."""
        socket.send_fds(self._channel, [json.dumps(list(paths)).encode()], [mounts])

    def finish(self) -> None:
        """Until they are. Raises `OSError`, `ValueError`: it may be half done."""
        self._expect(b"lent")
        self._channel.close()

    def _expect(self, word: bytes) -> None:
        if self._channel.recv(16) != word:
            raise ValueError("its own folders could not be mounted into the box")


def _stand_by(channel: socket.socket, box: Sequence[int], launcher: int) -> None:
    """In the fork. Does not return."""
    try:
        process.die_with_parent(launcher)
        namespaces.enter(box[:2])
        namespaces.own_mounts()
        os.umask(0o022)
        keep = channel.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, 1024)
        channel.send(b"here")
        data, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE, 1)
        if data:
            namespaces.lend(json.loads(data), descriptors[0])
            channel.send(b"lent")
            os._exit(0)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"stratal: {type(error).__name__}: {error}\n".encode())
    os._exit(125)
