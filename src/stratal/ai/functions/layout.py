"""A revision's code laid out for its replicas: every hash checked on the way, then read-only, shared by all of them.

A layout is a cache: it is whole under its name or not there. One from before a reboot is made anew, since after a
power cut files may be whole in name only.
"""

import asyncio
import os
from collections.abc import Collection
from functools import partial
from pathlib import Path

import anyio.to_thread

from stratal.ai.functions.model import Revision
from stratal.compute.environments import remove_tree
from stratal.compute.snapshots import Snapshots
from stratal.kernel.errors import Invalid
from stratal.kernel.ids import random_token


class Layouts:
    """Below `root`, one folder per revision."""

    def __init__(self, root: Path, snapshots: Snapshots) -> None:
        self._root = root
        self._snapshots = snapshots
        self._locks: dict[int, asyncio.Lock] = {}

    async def ensure(self, project_id: str, revision: Revision) -> Path:
        """The folder that the revision's target is looked for in. Raises `Invalid` when it, or its code, is damaged."""
        folder = self._root / str(revision.seq)
        async with self._locks.setdefault(revision.seq, asyncio.Lock()):
            if not await anyio.to_thread.run_sync(_is_whole, folder):
                await self._make(project_id, revision, folder)
        return folder / "code" / revision.cwd if revision.cwd else folder / "code"

    async def forget(self, seq: int) -> None:
        """Remove a layout that nobody runs from any more."""
        async with self._locks.setdefault(seq, asyncio.Lock()):
            await anyio.to_thread.run_sync(remove_tree, self._root / str(seq))
        self._locks.pop(seq, None)

    async def forget_all_but(self, seqs: Collection[int]) -> None:
        """Remove what nobody needs, and what killed copies left; only before the first `ensure`."""
        keep = {str(seq) for seq in seqs}

        def work() -> None:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._root.iterdir():
                if path.name not in keep:
                    remove_tree(path)

        await anyio.to_thread.run_sync(work)

    async def _make(self, project_id: str, revision: Revision, folder: Path) -> None:
        scratch = self._root / f".{revision.seq}.{random_token(8)}"
        code = scratch / "code"
        await anyio.to_thread.run_sync(partial(code.mkdir, mode=0o700, parents=True))
        try:
            await self._snapshots.lay_out(project_id, revision.snapshot_id, code)
            if not (code / revision.cwd).is_dir():
                raise Invalid(f"{revision.cwd!r} is no folder of the function's code.", reason="bad_cwd")
            await anyio.to_thread.run_sync(_seal, scratch)
            await anyio.to_thread.run_sync(remove_tree, folder)
            await anyio.to_thread.run_sync(scratch.rename, folder)
        except BaseException:
            await asyncio.shield(anyio.to_thread.run_sync(remove_tree, scratch))
            raise


def _is_whole(folder: Path) -> bool:
    marker = folder / "boot"
    return marker.is_file() and marker.read_text() == _boot_id()


def _seal(scratch: Path) -> None:
    (scratch / "boot").write_text(_boot_id())
    for place, _, names in os.walk(scratch):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o555)


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"
