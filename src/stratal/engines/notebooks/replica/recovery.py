"""What people typed, and no save had caught yet when this was killed: put into the files before anybody opens them.

Every change of a shared document is in the store of documents at once, in its file a second later. Jupyter itself,
finding the two apart, takes the file. So before it starts, a document whose last change is younger than its file is
written to the file; the store then agrees with it. Where the file is younger, somebody else wrote it, and it stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

_SLACK_SECONDS = 0.02


def recover(place: str) -> list[str]:
    """Write what is younger in the store than on the disk; returns the files' paths."""
    found: list[str] = []
    try:
        for kind, path, updates in _younger(f"{place}/state", f"{place}/files"):
            try:
                if asyncio.run(_write(kind, path, updates)):
                    found.append(path)
            except Exception as error:
                print(f"{path} could not be brought up to date: {error}", file=sys.stderr)
    except (sqlite3.Error, OSError) as error:
        print(f"the store of documents could not be read: {error}", file=sys.stderr)
    return found


def _younger(state: str, root: str) -> Iterator[tuple[str, str, list[bytes]]]:
    """(type, file, updates) of every document that was changed after its file was."""
    if not os.path.exists(f"{state}/documents.db") or not os.path.exists(f"{state}/files.db"):
        return
    with closing(sqlite3.connect(f"{state}/files.db")) as ids:
        paths = dict(ids.execute("SELECT id, path FROM Files"))
    with closing(sqlite3.connect(f"{state}/documents.db")) as store:
        named = store.execute("SELECT path, MAX(timestamp) FROM yupdates GROUP BY path").fetchall()
        for name, changed in named:
            kind, _, number = name.removeprefix(".").removesuffix(".y").partition(":")
            if number not in paths:
                continue
            path = os.path.join(root, paths[number])
            if os.path.isfile(path) and changed > os.stat(path).st_mtime + _SLACK_SECONDS:
                yield kind, path, _updates(store, name)


def _updates(store: sqlite3.Connection, name: str) -> list[bytes]:
    start = store.execute("SELECT checkpoint, timestamp FROM ycheckpoints WHERE path = ?", (name,)).fetchone()
    checkpoint, since = start or (None, 0.0)
    query = "SELECT yupdate FROM yupdates WHERE path = ? AND timestamp >= ? ORDER BY timestamp"
    later = [row[0] for row in store.execute(query, (name, since))]
    return later if checkpoint is None else [checkpoint, *later]


async def _write(kind: str, path: str, updates: list[bytes]) -> bool:
    """Write the document that these updates make, unless the file says the same; was it written?"""
    from jupyter_ydoc import ydocs
    from pycrdt import Doc
    from stratal_workspace.contents import whole

    shared: Any = Doc()
    for update in updates:
        shared.apply_update(update)
    content = ydocs.get(kind, ydocs["file"])(shared).get()
    text = _notebook(path, content) if kind == "notebook" else _text(path, content)
    if text is None:
        return False
    with whole(path) as file:
        file.write(text)
    return True


def _notebook(path: str, content: dict[str, Any]) -> str | None:
    import nbformat

    with open(path, encoding="utf-8") as file:
        present = nbformat.read(file, as_version=4)
    made = nbformat.from_dict(content)
    if not made.get("cells") and present.get("cells"):
        return None  # a document that was never filled
    same = json.dumps(made.get("cells"), sort_keys=True) == json.dumps(present.get("cells"), sort_keys=True)
    return None if same else str(nbformat.writes(made)) + "\n"


def _text(path: str, content: object) -> str | None:
    with open(path, encoding="utf-8") as file:
        present = file.read()
    return content if isinstance(content, str) and content and content != present else None
