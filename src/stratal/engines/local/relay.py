"""The way out of a closed network namespace: its loopback port, relayed to the platform's unix socket.

One thread of the launcher. Each connection is joined to a fresh one to the socket's *path*, so a
restarted server is found again; while it is away the client's connection waits. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time

_CHUNK = 256 << 10
_ROUNDS = 16
"""Chunks moved before the other connections get their turn."""
_PATIENCE = 20.0
_RETRY = 0.05


class _Stream:
    """One direction of a connection: what was read from `source` and not yet taken by `target`."""

    __slots__ = ("data", "ended", "shut", "source", "target")

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self.source, self.target = source, target
        self.data = memoryview(b"")
        self.ended = False
        self.shut = False

    def move(self) -> bool:
        """Move what can be moved without waiting. False when the connection broke."""
        for _ in range(_ROUNDS):
            try:
                if not self.data and not self.ended:
                    self.data = memoryview(self.source.recv(_CHUNK))
                    self.ended = not self.data
                if self.data:
                    self.data = self.data[self.target.send(self.data) :]
                    if self.data:
                        return True
                elif self.ended:
                    if not self.shut:
                        self.shut = True
                        self.target.shutdown(socket.SHUT_WR)
                    return True
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                return False
        return True


class _Pair:
    """A workload's connection and the platform's, once there is one."""

    __slots__ = ("closed", "down", "inner", "outer", "up")

    def __init__(self, inner: socket.socket, outer: socket.socket) -> None:
        self.inner, self.outer = inner, outer
        self.closed = False
        self.up = _Stream(inner, outer)
        self.down = _Stream(outer, inner)

    def interest(self, side: socket.socket) -> int:
        events = 0
        for stream in (self.up, self.down):
            if stream.source is side and not stream.ended and not stream.data:
                events |= selectors.EVENT_READ
            if stream.target is side and stream.data:
                events |= selectors.EVENT_WRITE
        return events


class Relay(threading.Thread):
    """Relays what `listener` accepts to the unix socket at `path` until the process ends."""

    def __init__(self, listener: socket.socket, path: str) -> None:
        super().__init__(name="relay", daemon=True)
        self._listener = listener
        self._path = path
        self._selector = selectors.DefaultSelector()
        self._waiting: list[tuple[float, socket.socket]] = []

    def run(self) -> None:
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select(_RETRY if self._waiting else None):
                if key.data is None:
                    self._accept()
                elif not key.data.closed:
                    self._advance(key.data)
            if self._waiting:
                waiting, self._waiting = self._waiting, []
                for deadline, inner in waiting:
                    self._join(inner, deadline)

    def _accept(self) -> None:
        try:
            inner, _ = self._listener.accept()
        except OSError:
            time.sleep(_RETRY)  # out of descriptors: wait for some connection to end
            return
        inner.setblocking(False)
        with contextlib.suppress(OSError):
            inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._join(inner, time.monotonic() + _PATIENCE)

    def _join(self, inner: socket.socket, deadline: float) -> None:
        try:
            outer = connect(self._path)
        except OSError:
            if time.monotonic() > deadline:
                inner.close()
            else:
                self._waiting.append((deadline, inner))
            return
        pair = _Pair(inner, outer)
        for side in (inner, outer):
            self._selector.register(side, selectors.EVENT_READ, pair)

    def _advance(self, pair: _Pair) -> None:
        fine = pair.up.move() and pair.down.move()
        if not fine or (pair.up.shut and pair.down.shut):
            pair.closed = True
            for side in (pair.inner, pair.outer):
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(side)
                side.close()
            return
        for side in (pair.inner, pair.outer):
            events = pair.interest(side)
            known = side in self._selector.get_map()
            if events and known:
                self._selector.modify(side, events, pair)
            elif events:
                self._selector.register(side, events, pair)
            elif known:
                self._selector.unregister(side)


def connect(path: str) -> socket.socket:
    """Connect to the unix socket at `path`, however long that is (sun_path holds 107 bytes), or to ``tcp:host:port``.

    The socket does not block. A unix socket not even now: a full backlog raises `BlockingIOError`.
    """
    if path.startswith("tcp:"):
        host, port = path.removeprefix("tcp:").rsplit(":", 1)
        far = socket.create_connection((host, int(port)), timeout=_PATIENCE)
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        far.setblocking(False)
        return far
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.setblocking(False)
        try:
            channel.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
        except BaseException:
            channel.close()
            raise
        return channel
    finally:
        os.close(folder)
