"""A socket that is neither waited for when reading nor when writing, in a loop of `selectors`."""

from __future__ import annotations

import contextlib
import selectors

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

_RECEIVED = 256 << 10


class Channel:
    """Frames to and from one peer. `heard` is told each frame, `lost` once that the peer is gone."""

    def __init__(
        self,
        connection: socket.socket,
        selector: selectors.BaseSelector,
        heard: Callable[[int, int, bytes], None],
        lost: Callable[[], None],
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._selector = selector
        self._heard = heard
        self._lost = lost
        self._splitter = frames.Splitter()
        self._unsent = bytearray()
        self._open = True
        selector.register(connection, selectors.EVENT_READ, self._ready)

    def send(self, frame: bytes) -> None:
        """Send it as soon as that is possible; nothing when the peer is gone."""
        if not self._open:
            return
        self._unsent += frame
        self._flush()

    def last_words(self, frame: bytes) -> None:
        """Send it now, and wait until it is sent."""
        self._socket.settimeout(5)
        with contextlib.suppress(OSError):
            self._socket.sendall(bytes(self._unsent) + frame)

    def drain(self) -> None:
        """Take what lies there already."""
        while self._open and self._read():
            pass

    def close(self) -> None:
        if self._open:
            self._open = False
            self._selector.unregister(self._socket)
            self._socket.close()

    def _ready(self, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush()
        if mask & selectors.EVENT_READ and self._open:
            self._read()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
            del self._unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._gone()
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
        if self._selector.get_key(self._socket).events != wanted:
            self._selector.modify(self._socket, wanted, self._ready)

    def _read(self) -> bool:
        """Read once; False when there is nothing (any more)."""
        try:
            data = self._socket.recv(_RECEIVED)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._gone()
            return False
        try:
            for frame in self._splitter.feed(data):
                self._heard(*frame)
        except (ValueError, KeyError, TypeError):
            self._gone()  # whoever speaks otherwise is not listened to any more
            return False
        return True

    def _gone(self) -> None:
        if self._open:
            self.close()
            self._lost()
