"""From a folder to a program that answers on a socket in it."""

from __future__ import annotations

import importlib
import os
import secrets
import tempfile

from stratal_workspace.channel import Channel
from stratal_workspace.outbox import Outbox

DRAIN_SECONDS = 10.0
_MODULES = {"jupyter": "lab", "terminal": "lab", "marimo": "marimo_server"}


def main(folder: str, place: str, program: str) -> None:
    """Serve `place`'s files by `program`; `folder` is this start's own."""
    directory = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    near = f"/proc/self/fd/{directory}"  # a socket's path holds 107 bytes, whatever the folder's is
    os.environ["HOME"] = f"{place}/home"
    os.environ["JUPYTER_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="jupyter-")
    secret = secrets.token_urlsafe(32)
    channel = Channel(f"{near}/control.sock", secret)
    outbox = Outbox.begin(f"{place}/state/outbox", f"{place}/files")
    module = importlib.import_module(f"stratal_workspace.{_MODULES[program]}")
    try:
        module.serve(program, near, place, secret, channel, outbox)
    except BaseException as error:
        if not isinstance(error, SystemExit):
            channel.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        outbox.drain(DRAIN_SECONDS)
