"""The replica's life: listen, load, greet, answer one request after the other, drain on SIGTERM.

One thread does all: NumPy-sized work gains nothing from handing requests between threads. What arrives
while the model is at work waits in the connections; when it is done, all of that is taken together, and
requests that fit together are one call of the model (`batches`). Nobody ever waits for a batch to fill.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback

from . import doze, frames
from .batches import Asked, Batches, one_line
from .texts import Texts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from .model import Model

SOCKET = "replica.sock"
RUNTIMES = ("sklearn", "onnx", "pyfunc", "task", "transformers", "gguf", "hub", "onnxtext", "diffusers")
PLAN = "plan.json"
_CHUNK = 256 << 10


def main(folder: str) -> None:
    """Serve the plan in `folder` on the socket in `folder` until SIGTERM. Exit code 0 then, 1 when it cannot load."""
    listener = _listen(folder)
    wakeup, waker = socket.socketpair()
    for end in (wakeup, waker):
        end.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(f"{folder}/{PLAN}", "rb") as file:  # noqa: PTH123
        plan = json.load(file)
    woken = None
    if "doze" in plan:
        woken = doze.until_woken(listener, wakeup, plan.pop("doze"), f"{__package__}.{plan['runtime']}_model")
        if woken is None:
            sys.exit(0)
    started = time.monotonic()
    try:
        model = _load(plan)
    except ImportError as error:
        traceback.print_exc()
        _say_failed(listener, woken, f"The model's environment lacks what it needs: {one_line(error)}")
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        _say_failed(listener, woken, f"The model cannot be loaded: {one_line(error)}")
        sys.exit(1)
    seconds = time.monotonic() - started
    print(f"loaded {plan['model']} in {seconds:.2f} s", flush=True)
    hello = {
        "interface": model.interface,
        "files": model.files,
        "libraries": model.libraries,
        "seconds": round(seconds, 3),
        "pid": os.getpid(),
        "modules": [name for name in sys.modules if not name.startswith(("replica", "__"))],
    }
    server = _Server(listener, wakeup, model, frames.pack(0, frames.HELLO, json.dumps(hello).encode()))
    if woken is not None:
        server.greet(woken)
    server.run()
    if (close := getattr(model, "close", None)) is not None:
        close()
    print("drained", flush=True)


def _load(plan: dict[str, Any]) -> Model:
    """The model as its runtime makes it: the module ``<runtime>_model`` of this package."""
    if plan["runtime"] not in RUNTIMES:
        raise LookupError(f"there is no runtime {plan['runtime']!r}")
    made: Model = importlib.import_module(f".{plan['runtime']}_model", __package__).load(plan)
    return made


def _listen(folder: str) -> socket.socket:
    """Bind the socket in `folder` however long that path is (sun_path holds 107 bytes)."""
    os.chdir(folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    listener.listen(16)
    return listener


def _say_failed(listener: socket.socket, woken: socket.socket | None, message: str) -> None:
    """Tell whoever woke it, or connects within a while, why there will be no answers."""
    listener.settimeout(20)
    with contextlib.suppress(OSError):
        connection = woken if woken is not None else listener.accept()[0]
        connection.sendall(frames.pack(0, frames.FAILED, json.dumps({"message": message}).encode()))
        connection.close()


class _Server:
    def __init__(self, listener: socket.socket, wakeup: socket.socket, model: Model, hello: bytes) -> None:
        self._listener = listener
        self._wakeup = wakeup
        self._batches = Batches(model)
        self._texts = Texts(model)
        self._hello = hello
        self._selector = selectors.DefaultSelector()
        self._ending = False

    def run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        while True:
            at_once = self._ending or self._batches.waiting or self._texts.waiting
            ready = self._selector.select(0 if at_once else None)
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self.greet(self._listener.accept()[0])
                elif key.fileobj is self._wakeup:
                    self._stop_listening()
                else:
                    self._receive(key.fileobj, key.data)
            if self._batches.waiting:
                self._answer(self._batches.answer())
            elif self._ending and not ready and not self._texts.waiting:
                return
            if self._texts.waiting:
                self._answer(self._texts.go_on())

    def greet(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(self._hello)
        self._selector.register(connection, selectors.EVENT_READ, frames.Splitter())

    def _stop_listening(self) -> None:
        if signal.SIGTERM in self._wakeup.recv(64) and not self._ending:
            self._ending = True
            self._selector.unregister(self._listener)
            self._listener.close()

    def _receive(self, connection: Any, splitter: frames.Splitter) -> None:
        try:
            data = connection.recv(_CHUNK)
            if not data:
                raise ConnectionResetError
            for request, kind, body in splitter.feed(data):
                if kind == frames.INFER:
                    self._batches.add(Asked(connection, request, body))
                elif kind == frames.GENERATE:
                    self._texts.add(connection, request, body)
                elif kind == frames.CANCEL:
                    self._texts.cancel(connection, request)
        except (OSError, ValueError):
            self._drop(connection)

    def _answer(self, made: Iterable[tuple[Any, bytes]]) -> None:
        """Send what was made for requests that waited; each connection is written to once."""
        answers: dict[Any, list[bytes]] = {}
        for connection, answer in made:
            answers.setdefault(connection, []).append(answer)
        for connection, parts in answers.items():
            try:
                connection.sendall(b"".join(parts))
            except OSError:
                self._drop(connection)

    def _drop(self, connection: Any) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection)
        self._texts.forget(connection)
        connection.close()
