"""What a call writes to stdout and stderr, kept apart from what others write at the same time.

A worker's own stdout is a pipe to the supervisor, which knows the one call that a serial worker is at. Where
calls interleave in one event loop, `CALL` says whose turn it is, and their lines travel as frames of their own.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import os
import sys
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CALL: contextvars.ContextVar[Callable[[bytes], None] | None] = contextvars.ContextVar("call", default=None)
"""Takes what the present call writes; None: it goes to the worker's own stdout."""

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep  # noqa: PTH100, PTH120


class _Bytes(io.RawIOBase):
    def __init__(self, plain: Any) -> None:
        self._plain = plain

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        take = CALL.get()
        if take is None:
            self._plain.write(data)
            self._plain.flush()
        else:
            take(bytes(data))
        return len(data)

    def fileno(self) -> int:
        number: int = self._plain.fileno()
        return number


def route() -> None:
    """Have `sys.stdout` and `sys.stderr` give each call its own."""
    for name in ("stdout", "stderr"):
        plain = getattr(sys, name).buffer
        routed = io.TextIOWrapper(_Bytes(plain), "utf-8", "backslashreplace", write_through=True)  # type: ignore[type-var]
        setattr(sys, name, routed)


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def show(error: BaseException) -> None:
    """Print the traceback, from where it leaves this program's own files."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_HERE):
        trace = trace.tb_next
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace)
