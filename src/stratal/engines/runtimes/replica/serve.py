"""The replica's life: listen, load, greet, answer one request after the other, drain on SIGTERM.

One thread does all: NumPy-sized work gains nothing from handing requests between threads, and what
has arrived meanwhile waits in the connection, where a batch can be made of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback

from . import frames
from .arrays import Invalid, from_array, to_array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .model import Model

SOCKET = "replica.sock"
PLAN = "plan.json"
_CHUNK = 256 << 10
_MESSAGE = 1_000


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
    started = time.monotonic()
    try:
        model = _load(plan)
    except ImportError as error:
        traceback.print_exc()
        _say_failed(listener, f"The model's environment lacks what it needs: {_one_line(error)}")
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        _say_failed(listener, f"The model cannot be loaded: {_one_line(error)}")
        sys.exit(1)
    seconds = time.monotonic() - started
    print(f"loaded {plan['model']} in {seconds:.2f} s", flush=True)
    hello = {
        "interface": model.interface,
        "files": model.files,
        "libraries": model.libraries,
        "seconds": round(seconds, 3),
        "pid": os.getpid(),
    }
    _Server(listener, wakeup, model, frames.pack(0, frames.HELLO, json.dumps(hello).encode())).run()
    print("drained", flush=True)


def _load(plan: dict[str, Any]) -> Model:
    if plan["runtime"] == "sklearn":
        from . import sklearn_model

        return sklearn_model.load(plan)
    if plan["runtime"] == "pyfunc":
        from . import pyfunc_model

        return pyfunc_model.load(plan)
    raise LookupError(f"there is no runtime {plan['runtime']!r}")


def _listen(folder: str) -> socket.socket:
    """Bind the socket in `folder` however long that path is (sun_path holds 107 bytes)."""
    os.chdir(folder)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)  # noqa: PTH108
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(SOCKET)
    listener.listen(16)
    return listener


def _say_failed(listener: socket.socket, message: str) -> None:
    """Tell whoever connects within a while why there will be no answers."""
    listener.settimeout(20)
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        connection.sendall(frames.pack(0, frames.FAILED, json.dumps({"message": message}).encode()))
        connection.close()


def _one_line(error: BaseException) -> str:
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:_MESSAGE]


class _Server:
    def __init__(self, listener: socket.socket, wakeup: socket.socket, model: Model, hello: bytes) -> None:
        self._listener = listener
        self._wakeup = wakeup
        self._model = model
        self._hello = hello
        self._selector = selectors.DefaultSelector()
        self._ending = False

    def run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        while True:
            ready = self._selector.select(0 if self._ending else None)
            if self._ending and not ready:
                return
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._greet()
                elif key.fileobj is self._wakeup:
                    self._stop_listening()
                else:
                    self._receive(key.fileobj, key.data)

    def _greet(self) -> None:
        connection, _ = self._listener.accept()
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
                    connection.sendall(self._answer(request, body))
        except (OSError, ValueError):
            self._selector.unregister(connection)
            connection.close()

    def _answer(self, request: int, body: memoryview) -> bytes:
        started = time.perf_counter()
        try:
            header, data = frames.split_tensors(body)
            asked = json.loads(header)
            pieces = frames.cut(data, [tensor[3] for tensor in asked["inputs"]])
            arrays = [
                (name, to_array(datatype, tuple(shape), piece))
                for (name, datatype, shape, _), piece in zip(asked["inputs"], pieces)  # noqa: B905 - py3.9
            ]
            outputs = self._model.answer(
                arrays, asked["columns"], asked["outputs"], strict=bool(asked["strict"])
            )
            listed, buffers = [], []
            for name, array in outputs:
                datatype, shape, raw = from_array(array)
                listed.append([name, datatype, shape, len(raw)])
                buffers.append(raw)
            spent = (time.perf_counter() - started) * 1000
            answer = json.dumps({"outputs": listed, "ms": round(spent, 3)}).encode()
            return frames.pack_tensors(request, frames.ANSWER, answer, buffers)
        except Invalid as error:
            return _error(request, "invalid", str(error)[:_MESSAGE])
        except (ValueError, TypeError, KeyError) as error:
            # Estimators say so when rows are not to their taste (NaN, unknown categories, text for numbers).
            return _error(request, "invalid", "The model refused the input: " + _one_line(error))
        except Exception as error:
            traceback.print_exc()
            return _error(request, "failed", "The model failed: " + _one_line(error))


def _error(request: int, code: str, message: str) -> bytes:
    return frames.pack(request, frames.ERROR, json.dumps({"code": code, "message": message}).encode())
