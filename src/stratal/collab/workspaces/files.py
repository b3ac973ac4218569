"""The folders that workspaces keep their files in, read and written by the server with care.

What lies in them was put there by users' programs: no link is followed on the way to a file, a file is replaced
by a whole one or not at all, and nothing but plain files is read.

    <id>/files   what people see: the notebook server's root
    <id>/home    its programs' home: settings, histories
    <id>/state   what the notebook server keeps for itself: shared documents, saves on their way to the platform
"""

import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio.to_thread

from stratal.compute.environments import remove_tree
from stratal.kernel.errors import Conflict, TooLarge
from stratal.kernel.ids import random_token

_PARTS = ("files", "home", "state")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folders:
    """Below `root`, one folder per workspace, named by its id."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def place(self, workspace_id: str) -> Path:
        return self._root / workspace_id

    async def make(self, workspace_id: str) -> Path:
        """The workspace's folder, with its parts; made if need be."""

        def work() -> Path:
            place = self.place(workspace_id)
            for part in _PARTS:
                (place / part).mkdir(mode=0o700, parents=True, exist_ok=True)
            return place

        return await anyio.to_thread.run_sync(work)

    async def remove(self, workspace_id: str) -> None:
        await anyio.to_thread.run_sync(remove_tree, self.place(workspace_id))

    async def read(self, workspace_id: str, path: str, most: int) -> bytes | None:
        """The file's bytes; None when there is none. Raises `Conflict` for what is no plain file, `TooLarge`."""
        return await anyio.to_thread.run_sync(partial(_read, self.place(workspace_id) / "files", path, most))

    async def write(self, workspace_id: str, path: str, content: bytes) -> None:
        """Put a whole file in the place of whatever is at `path`, durably. Raises `Conflict` where that cannot be."""
        await anyio.to_thread.run_sync(partial(_write, self.place(workspace_id) / "files", path, content))


def _read(root: Path, path: str, most: int) -> bytes | None:
    folder, name = _parent(root, path, make=False)
    if folder is None:
        return None
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _in_the_way(path) from error
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _in_the_way(path)
    with os.fdopen(file, "rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise TooLarge(f"{path} is larger than {most >> 20} MiB.", reason="save_too_large")
    return content


def _write(root: Path, path: str, content: bytes) -> None:
    folder, name = _parent(root, path, make=True)
    assert folder is not None
    scratch = f".{random_token(12)}.restoring"
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise _in_the_way(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(scratch, flags, 0o644, dir_fd=folder), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(scratch, dir_fd=folder)
            raise
        os.fsync(folder)
    finally:
        os.close(folder)


def _parent(root: Path, path: str, *, make: bool) -> tuple[int | None, str]:
    """The open folder that the file lies in, reached without following a link, and the file's name in it."""
    *parts, name = path.split("/")
    folder = os.open(root, _FOLDER)
    for part in parts:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=folder)
            below = os.open(part, _FOLDER, dir_fd=folder)
        except FileNotFoundError:
            os.close(folder)
            return None, name
        except OSError as error:
            os.close(folder)
            raise _in_the_way(path) from error
        os.close(folder)
        folder = below
    return folder, name


def _in_the_way(path: str) -> Conflict:
    return Conflict(
        f"Something that is no plain file or folder lies at or on the way to {path!r}.",
        hint="Name another path: stratal workspace restore … --to PATH",
        reason="not_a_file",
    )
