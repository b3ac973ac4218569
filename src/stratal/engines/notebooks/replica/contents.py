"""Files, saved whole or not at all, and every save brought to the platform.

Jupyter's own writing empties the file first and fills it then: a kill in between leaves half a notebook. Here a
file is written under another name, made durable, and takes the old one's place.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from stratal_workspace.outbox import Outbox


class KeptContents(AsyncLargeFileManager):  # type: ignore[misc]
    @contextmanager
    def atomic_writing(self, os_path: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with self.perm_to_403(os_path), whole(os_path, *args, **kwargs) as file:
            yield file

    def run_post_save_hooks(self, model: dict[str, Any], os_path: str) -> None:
        super().run_post_save_hooks(model, os_path)
        if model.get("type") != "directory":
            Outbox.of_this_process().put(os_path)


@contextmanager
def whole(path: str, text: bool = True, encoding: str = "utf-8", **more: Any) -> Iterator[Any]:
    path = os.path.realpath(path) if os.path.islink(path) else path
    folder, name = os.path.split(path)
    scratch = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(6)}.saving")
    newline = more.get("newline", "\n") if text else None
    how: dict[str, Any] = {"encoding": encoding if text else None, "newline": newline}
    file = open(scratch, "x" if text else "xb", **how)  # noqa: SIM115 - closed below
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(scratch, os.stat(path).st_mode & 0o7777)
        os.replace(scratch, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(scratch)
        raise
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
