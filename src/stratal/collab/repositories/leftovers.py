"""What a kill leaves in a repository, and who may still be at work there.

git keeps what comes in with a push in a folder of its own until the push is good, and removes it at its end. Killed, it
does not: the bytes would stay for ever, counted in the project's quota. So would the locks of refs, which no push gets
past. git outlives a server that was killed, for as long as it takes to finish what it received.
"""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

INCOMING = ("tmp_objdir-incoming-", "incoming-")  # since git 2.34, and before


def at_work(root: Path) -> frozenset[int]:
    """Processes that work in repositories below `root`: where there is no ``/proc``, none are found."""
    found: set[int] = set()
    inside = f"{root.resolve()}/"
    with suppress(OSError):
        for name in os.listdir("/proc"):  # noqa: PTH208
            if name.isdigit():
                with suppress(OSError):
                    if os.readlink(f"/proc/{name}/cwd").startswith(inside):  # noqa: PTH115
                        found.add(int(name))
    return frozenset(found)


def incoming(place: Path, before: float = math.inf) -> list[Path]:
    """The folders from before a time in which pushes to the repository at `place` keep what comes in."""
    with suppress(OSError):
        found = [place / "objects" / name for name in os.listdir(place / "objects")]  # noqa: PTH208
        return [path for path in found if path.name.startswith(INCOMING) and _is_older(path, before)]
    return []


def remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def clear_locks(place: Path, before: float) -> None:
    """Remove locks of refs from before a time, whose holders are gone."""
    for path in _locks(place):
        if _is_older(path, before):
            with suppress(OSError):
                path.unlink()


def clear_repacking(place: Path, before: float) -> None:
    """Remove the packs from before a time that a repack did not bring to its end."""
    with suppress(OSError):
        for path in (place / "objects" / "pack").iterdir():
            if path.name.startswith((".tmp-", "tmp_")) and _is_older(path, before):
                path.unlink()


def _locks(place: Path) -> Iterator[Path]:
    yield from (place / name for name in ("HEAD.lock", "packed-refs.lock"))
    for folder, _, names in os.walk(place / "refs"):
        yield from (Path(folder, name) for name in names if name.endswith(".lock"))


def _is_older(path: Path, before: float) -> bool:
    with suppress(OSError):
        return path.stat().st_mtime < before
    return False
