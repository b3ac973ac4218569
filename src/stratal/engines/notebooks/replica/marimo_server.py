"""marimo, served on a socket and to the platform only.

Its own command listens on a port and asks people for a password; here it is told to ask nobody, and what it makes
is served on a socket instead, behind a look at the secret that the platform alone has.
"""

from __future__ import annotations

import hmac
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from stratal_workspace.channel import Channel
from stratal_workspace.outbox import Outbox
from stratal_workspace.watching import watch

_LOOK_SECONDS = 2.0
_BUSY_SHARE = 0.1
"""Of one processor, used below this process since the last look."""
_TICKS = os.sysconf("SC_CLK_TCK")
# Live co-editing, and no news of other software; people may change it for themselves later.
_SETTINGS = '[experimental]\nrtc_v2 = true\n\n[save]\nautosave = "after_delay"\nautosave_delay = 1000\n'


def serve(program: str, near: str, place: str, secret: str, channel: Channel, outbox: Outbox) -> None:
    _settle_in(f"{place}/home/.config/marimo")
    watch(place, outbox)
    path = f"{near}/server.sock"
    _serve_on(path, secret.encode())
    _let_all_edit()
    threading.Thread(target=_greet, args=(path, channel), name="ready", daemon=True).start()
    threading.Thread(target=_tell_when_busy, args=(channel,), name="busy", daemon=True).start()
    from marimo._cli.cli import main

    asked = ["edit", f"{place}/files", "--headless", "--no-token", "--skip-update-check", "--no-sandbox"]
    main.main(["--quiet", "--yes", *asked, "--port", "2718"], standalone_mode=False)


def _settle_in(folder: str) -> None:
    if not os.path.exists(f"{folder}/marimo.toml"):
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/marimo.toml", "w") as file:
            file.write(_SETTINGS)


def _serve_on(path: str, secret: bytes) -> None:
    """Have uvicorn listen on this socket, whatever it is told, and let in only who bears the secret."""
    import uvicorn

    class Config(uvicorn.Config):
        def __init__(self, app: Any, *, host: str, port: int, **more: Any) -> None:
            super().__init__(Guarded(app, secret), uds=path, access_log=False, **more)

    uvicorn.Config = Config  # type: ignore[assignment,misc]


def _let_all_edit() -> None:
    """Whoever comes in may edit and run: marimo lets one person at a time, and the next only by taking over.

    This and `_serve_on` reach into marimo, whose exact version the environment has.
    """
    from marimo._messaging.notification import ConsumerCapabilities
    from marimo._session.room import Room

    add = Room.add_consumer

    def add_consumer(room: Any, consumer: Any, *, main: bool, capabilities: Any = None) -> None:
        add(room, consumer, main=main, capabilities=capabilities or ConsumerCapabilities.EDITOR)

    Room.add_consumer = add_consumer


class Guarded:
    """An ASGI application that only the platform can ask."""

    def __init__(self, app: Any, secret: bytes) -> None:
        self._app = app
        self._secret = secret

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            given = next((value for name, value in scope["headers"] if name == b"x-stratal-secret"), b"")
            if not hmac.compare_digest(given, self._secret):
                if scope["type"] == "websocket":
                    await receive()
                    await send({"type": "websocket.close", "code": 1008})
                    return
                await send({"type": "http.response.start", "status": 403, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await self._app(scope, receive, send)


def _greet(path: str, channel: Channel) -> None:
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.connect(path)
            break
        time.sleep(0.05)
    channel.ready()


# -- while it runs -------------------------------------------------------------------------------


def _tell_when_busy(channel: Channel) -> None:
    before = _used()
    while True:
        time.sleep(_LOOK_SECONDS)
        now = _used()
        channel.tell(busy=now - before > _BUSY_SHARE * _LOOK_SECONDS)
        before = now


def _used() -> float:
    """Seconds of processor time that the kernels, which are processes below this one, used so far."""
    total, waiting = 0.0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children") as file:
                    for child in map(int, file.read().split()):
                        waiting.append(child)
                        with open(f"/proc/{child}/stat") as stat:
                            fields = stat.read().rpartition(")")[2].split()
                        total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total
