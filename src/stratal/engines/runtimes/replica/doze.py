"""Waiting to be needed: everything that a model's libraries need is loaded, nothing of the model is.

The one connection that comes is the lifeline: when it goes, nobody needs this replica any more.
"""

from __future__ import annotations

import contextlib
import importlib
import selectors
import signal
import socket
import sys
import warnings

from . import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_UNMET_SECONDS = 60.0
"""Whoever had it started connects at once. When nobody did for so long, that one was killed meanwhile."""


def until_woken(
    listener: socket.socket, wakeup: socket.socket, modules: Sequence[str], runtime: str
) -> socket.socket | None:
    """The connection over which it was woken; None when it is to end.

    `modules` are those that an earlier replica had loaded, `runtime` is the module that will load the model.
    `wakeup` tells of signals.
    """
    splitter = frames.Splitter()
    connection: socket.socket | None = None
    loaded = False
    with selectors.DefaultSelector() as ears:
        ears.register(listener, selectors.EVENT_READ)
        ears.register(wakeup, selectors.EVENT_READ)
        while True:
            heard = ears.select(_UNMET_SECONDS if connection is None else None)
            if not heard and connection is None:
                return None
            for key, _ in heard:
                if key.fileobj is wakeup:
                    if signal.SIGTERM in wakeup.recv(64):
                        return None
                elif key.fileobj is listener:
                    if connection is not None:
                        ears.unregister(connection)
                        connection.close()
                    connection, _ = listener.accept()
                    ears.register(connection, selectors.EVENT_READ)
                elif connection is not None:
                    data = connection.recv(4096)
                    if not data:
                        return None
                    if any(kind == frames.WAKE for _, kind, _ in splitter.feed(data)):
                        return connection
            if not loaded and connection is not None:
                loaded = True
                _load([*modules, runtime])
                connection.sendall(frames.pack(0, frames.DOZING, b""))


def _load(modules: Sequence[str]) -> None:
    """Import what is not there yet; what cannot be is the model's to complain about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            if name not in sys.modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)
