"""The replica's beginning: listen first, so that whoever wakes it can wait."""

from __future__ import annotations

import contextlib
import json
import os
import socket

from . import frames

SOCKET = "replica.sock"
PLAN = "plan.json"


def main(folder: str) -> None:
    """Serve the plan in `folder` on the socket in `folder` until SIGTERM. Exit code 0 then, 1 when it cannot load."""
    listener = _listen(folder)
    with open(PLAN, "rb") as file:  # noqa: PTH123
        plan = json.load(file)
    if plan.get("kind") == "app":
        from . import asgi

        asgi.serve(listener, plan)
    from . import supervisor

    supervisor.serve(listener, plan)


def _listen(folder: str) -> socket.socket:
    """Bind the socket in `folder` however long that path is (sun_path holds 107 bytes)."""
    os.chdir(folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    listener.listen(16)
    return listener


def say_failed(listener: socket.socket, message: str) -> None:
    """Tell whoever connects within a while why there will be no answers."""
    listener.settimeout(20)
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        connection.sendall(frames.pack(0, frames.FAILED, json.dumps({"message": message}).encode()))
        connection.close()
