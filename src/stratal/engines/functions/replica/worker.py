"""A worker: the process, forked by the supervisor, that imports what somebody wrote and calls it."""

from __future__ import annotations

import inspect
import json
import os
import signal
import sys
import time

from . import frames, output
from .interleaved import Interleaved
from .loading import LoadError, load
from .serial import Serial

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any


def run(channel: socket.socket, log: int, plan: dict[str, Any]) -> None:
    """Load the handler and serve calls until the supervisor is gone. Runs in a fresh fork, and never returns to it."""
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    # The whole tree is told to end: the supervisor listens, and lets what is running be finished. A handler, not
    # SIG_IGN, because programs that a call starts would inherit that.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    channel.setblocking(True)
    began = time.monotonic()
    try:
        handler = load(str(plan["target"]), str(plan["code"]))
        arguments = _arguments(handler, str(plan["target"]))
    except LoadError as error:
        if error.__cause__ is not None:
            output.show(error.__cause__)
        output.flush()
        channel.sendall(frames.pack(0, frames.FAILED, json.dumps({"message": str(error)}).encode()))
        os._exit(1)
    interleaves = _is_async(handler)
    imported = [name for name in sys.modules if not name.startswith(("stratal_replica", "__"))]
    facts = {"async": interleaves, "seconds": time.monotonic() - began, "modules": imported}
    output.flush()
    channel.sendall(frames.pack(0, frames.HELLO, json.dumps(facts).encode()))
    if interleaves:
        output.route()
        Interleaved(channel, handler, arguments, plan).run()
    else:
        Serial(channel, handler, arguments, plan).run()
    output.flush()
    os._exit(0)


def _is_async(handler: Any) -> bool:
    called = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)  # noqa: B004
    return inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)


def _arguments(handler: Any, target: str) -> int:
    """How many arguments the handler is given: the event, and the context where it takes a second one."""
    if not callable(handler):
        raise LoadError(f"{target} is {type(handler).__name__}, which cannot be called.")
    try:
        parameters = list(inspect.signature(handler).parameters.values())
    except (ValueError, TypeError):
        return 1  # written in C, and does not tell
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    needed = [p for p in places if p.default is p.empty]
    needed += [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not places or len(needed) > 2 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise LoadError(
            f"{target} must take the event, and may take the context: def handler(event, context)."
        )
    return 2 if len(places) > 1 and (len(needed) > 1 or places[1].name == "context") else 1
