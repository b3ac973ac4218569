"""What is told of a call that failed: the error's type and message to the caller, its traceback to the log."""

from __future__ import annotations

import json

from . import events, output

_MESSAGE = 4_000


def failure(error: BaseException) -> bytes:
    """The `ERROR` frame's body; the traceback goes to the call's log."""
    if isinstance(error, events.BadInput):
        return told("invalid", "BadInput", str(error))
    output.show(error)
    return told("failed", type(error).__name__, str(error))


def told(code: str, kind: str, message: str) -> bytes:
    """An `ERROR` frame's body."""
    return json.dumps({"code": code, "type": kind, "message": message[:_MESSAGE]}).encode()
