"""The word to the platform: held open for as long as this process lives, so its end is noticed at once."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import Any


class Channel:
    """Listens at `path`. Whoever connects is told when this is ready, and from then on when it is busy."""

    def __init__(self, path: str, secret: str) -> None:
        self._secret = secret
        self._busy = False
        self._ready = False
        self._lock = threading.Lock()
        self._told: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(8)
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def ready(self) -> None:
        with self._lock:
            self._ready = True
            for other in self._told:
                self._greet(other)

    def fail(self, why: str) -> None:
        """Say why this cannot start, to whoever asks."""
        with self._lock:
            for other in self._told:
                self._send(other, {"failed": why})

    def tell(self, *, busy: bool) -> None:
        with self._lock:
            if busy == self._busy:
                return
            self._busy = busy
            for other in self._told:
                self._send(other, {"busy": busy})

    def _accept(self) -> None:
        while True:
            other, _ = self._listener.accept()
            other.setblocking(False)
            with self._lock:
                self._told.append(other)
                if self._ready:
                    self._greet(other)

    def _greet(self, other: socket.socket) -> None:
        self._send(other, {"secret": self._secret, "busy": self._busy})

    def _send(self, other: socket.socket, said: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it went away; the next one connects anew
            other.send(json.dumps(said).encode() + b"\n")
