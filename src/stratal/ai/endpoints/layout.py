"""Model files laid out for replicas: copied from blobs, each checksum verified on the way, then read-only.

A layout is a cache: it is whole under its name or not there, and is made anew whenever it is missing.
Copies, not hard links: nothing that a replica's folder suffers may reach the stored bytes.
"""

import asyncio
import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

import anyio.to_thread

from stratal.ai.endpoints.model import PinnedFile, Revision
from stratal.kernel.blobs import BlobStore
from stratal.kernel.errors import Internal, Invalid
from stratal.kernel.ids import random_token

log = logging.getLogger("stratal.endpoints")


class Layouts:
    """Below `root`, one folder per set of files (`Revision.layout`)."""

    def __init__(self, root: Path, blobs: BlobStore) -> None:
        self._root = root
        self._blobs = blobs
        self._locks: dict[str, asyncio.Lock] = {}

    async def ensure(self, revision: Revision) -> Path:
        """The folder with the revision's files. Raises `Internal` when stored bytes are not the pinned ones."""
        folder = self._folder(revision.layout)
        lock = self._locks.setdefault(revision.layout, asyncio.Lock())
        async with lock:
            if not await anyio.to_thread.run_sync(folder.is_dir):
                await self._make(folder, revision)
        return folder

    async def forget(self, layout: str, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Remove the layout (it was tampered with, or nothing serves it any more) `unless` it is wanted after all."""
        async with self._locks.setdefault(layout, asyncio.Lock()):
            if not unless():
                await anyio.to_thread.run_sync(_remove, self._folder(layout))

    async def clear_scratch(self) -> list[str]:
        """Remove what killed copies left; only before the first `ensure`. Returns what is laid out."""

        def work() -> list[str]:
            found = []
            for path in self._root.iterdir():
                if path.name.startswith("."):
                    _remove(path)
                else:
                    found.append(path.name)
            return found

        return await anyio.to_thread.run_sync(work)

    async def _make(self, folder: Path, revision: Revision) -> None:
        scratch = self._root / f".{revision.layout}.{random_token(8)}"
        await anyio.to_thread.run_sync(partial(scratch.mkdir, mode=0o700))
        try:
            for file in revision.files:
                await self._copy(scratch, file)
            await anyio.to_thread.run_sync(_close_folders, scratch)
            await anyio.to_thread.run_sync(scratch.rename, folder)
        except BaseException:
            await asyncio.shield(anyio.to_thread.run_sync(_remove, scratch))
            raise

    async def _copy(self, scratch: Path, file: PinnedFile) -> None:
        target = scratch / _inside(file.path)
        digest = hashlib.sha256()

        def write(out: IO[bytes], chunk: bytes) -> None:
            digest.update(chunk)
            out.write(chunk)

        def create() -> IO[bytes]:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return target.open("xb")

        out = await anyio.to_thread.run_sync(create)
        try:
            async for chunk in self._blobs.read(file.blob):
                await anyio.to_thread.run_sync(write, out, chunk)
        finally:
            await anyio.to_thread.run_sync(out.close)
        if digest.hexdigest() != file.sha256:
            raise Internal(
                f"The stored bytes of {file.path} are not the ones that the model version pinned "
                f"(SHA-256 {digest.hexdigest()[:12]}… instead of {file.sha256[:12]}…).",
                hint="Restore them from a backup, or register the model again.",
                reason="model_damaged",
            )

    def _folder(self, layout: str) -> Path:
        if not layout.replace("_", "").replace("-", "").isalnum():
            raise Internal(f"{layout[:60]!r} cannot name a folder.")
        return self._root / layout


def _inside(path: str) -> PurePosixPath:
    """`path`, when it stays inside the folder it is relative to. Raises `Invalid`."""
    parts = PurePosixPath(path)
    if parts.is_absolute() or not parts.parts or ".." in parts.parts or "\0" in path:
        raise Invalid(f"{path[:200]!r} cannot be a file of a model.", reason="unservable")
    return parts


def _close_folders(root: Path) -> None:
    for place, _, names in os.walk(root):
        for name in names:
            Path(place, name).chmod(0o444)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
