"""Saves of files that programs write by themselves: an editor in a terminal, or a notebook that is a Python file.

Every second the workspace's files are looked through, and one that was changed is kept as a save. That is for what
people write: text of the usual kinds, of a sensible size. Standard library only.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

from stratal_workspace.outbox import Outbox

_EVERY_SECONDS = 1.0
MOST_BYTES = 4 << 20
MOST_FILES = 20_000
"""More are not looked through: whoever unpacks a data set here did not write it."""
_KINDS = (
    *(
        ".py",
        ".ipynb",
        ".md",
        ".qmd",
        ".rst",
        ".txt",
        ".sql",
        ".sh",
        ".r",
        ".jl",
        ".tex",
        ".html",
        ".css",
        ".js",
    ),
    *(".toml", ".yaml", ".yml", ".json", ".ini", ".cfg"),
)
_NOT_WRITTEN = {"__pycache__", "node_modules", "site-packages", "__marimo__"}


def watch(place: str, outbox: Outbox) -> None:
    """Begin to. What was changed since the last look, when nobody looked any more, is kept first."""
    looker = Looker(f"{place}/files", f"{place}/state/looked", outbox)
    threading.Thread(target=looker.run, name="watching", daemon=True).start()


class Looker:
    """`mark` is a file whose time is that of the last look that was complete."""

    def __init__(self, root: str, mark: str, outbox: Outbox) -> None:
        self._root = root
        self._mark = mark
        self._outbox = outbox
        self._seen: dict[str, tuple[int, int]] | None = None

    def run(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:
                print(f"the files could not be looked through: {error}", file=sys.stderr)
            time.sleep(_EVERY_SECONDS)

    def look(self) -> None:
        since = self._since() if self._seen is None else None
        began = time.time_ns()
        found: dict[str, tuple[int, int]] = {}
        for path, stat in self._written():
            state = (stat.st_mtime_ns, stat.st_size)
            new = stat.st_mtime_ns >= since if since is not None else (self._seen or {}).get(path) != state
            if new:
                with suppress(FileNotFoundError):  # gone meanwhile
                    self._outbox.put(path)
            found[path] = state
        self._seen = found
        with open(self._mark, "a"):
            os.utime(self._mark, ns=(began, began))

    def _since(self) -> int:
        """Changes after this are unknown; all are, when nobody has looked yet."""
        try:
            return os.stat(self._mark).st_mtime_ns
        except FileNotFoundError:
            return 0

    def _written(self) -> Iterator[tuple[str, os.stat_result]]:
        count = 0
        for folder, folders, files in os.walk(self._root):
            folders[:] = sorted(
                name for name in folders if not name.startswith(".") and name not in _NOT_WRITTEN
            )
            for name in sorted(files):
                count += 1
                if count > MOST_FILES:
                    return
                path = os.path.join(folder, name)
                if name.startswith(".") or not name.lower().endswith(_KINDS):
                    continue
                with suppress(FileNotFoundError):
                    stat = os.lstat(path)
                    if os.path.isfile(path) and not os.path.islink(path) and stat.st_size <= MOST_BYTES:
                        yield path, stat
