"""The list of files that a code snapshot is: checked, canonical, hashed. Pure.

A manifest comes from outside and its paths become paths on this machine, so it is trusted in nothing:
only relative paths that stay below the folder they are laid out in, no ``.git``, nothing twice, no file
where another one needs a folder, and links that cannot leave the folder by any detour.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import orjson

from stratal.kernel.errors import Invalid, TooLarge

MAX_FILES = 20_000
MAX_BYTES = 512 * 1024 * 1024
MAX_PATH_BYTES = 1024
MAX_LINK_BYTES = 4096

FILE, PROGRAM, LINK = "100644", "100755", "120000"
"""The modes, as git writes them: a file, one that may be executed, a symbolic link (its bytes: the target)."""

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True, slots=True, order=True)
class CodeFile:
    """One entry: where it lies, its mode, the SHA-256 (hex) and length of its bytes."""

    path: str
    mode: str
    sha256: str
    size: int


def checked(files: Iterable[CodeFile]) -> list[CodeFile]:
    """The entries in canonical order. Raises `Invalid` naming the first that is refused, `TooLarge` over a limit."""
    listed = sorted(files, key=lambda file: file.path.encode("utf-8", "surrogatepass"))
    if len(listed) > MAX_FILES:
        raise TooLarge(
            f"{len(listed)} files are more than the {MAX_FILES} that a job's code may have.",
            hint="Leave out what the code does not need with a .gitignore; data belongs into buckets and tables.",
        )
    for file in listed:
        _check(file)
    total = sum(file.size for file in listed)
    if total > MAX_BYTES:
        raise TooLarge(
            f"The code has {total / 2**20:.0f} MiB; {MAX_BYTES / 2**20:.0f} MiB is the limit.",
            hint=f"The biggest: {_biggest(listed)}. Leave out what the code does not need with a .gitignore.",
        )
    names = {file.path for file in listed}
    if len(names) < len(listed):
        raise _refused(next(a.path for a, b in itertools.pairwise(listed) if a.path == b.path), "twice")
    for file in listed:
        parts = file.path.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in names:
                raise _refused(file.path, "below something that is no folder")
    return listed


def _check(file: CodeFile) -> None:
    path = file.path
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise _refused(path, "not text in UTF-8") from error
    if not path or len(encoded) > MAX_PATH_BYTES:
        raise _refused(path, f"longer than {MAX_PATH_BYTES} bytes" if path else "empty")
    if "\0" in path or "\n" in path:
        raise _refused(path, "with a NUL or a line end")
    for part in path.split("/"):
        if part in {"", ".", ".."}:
            raise _refused(path, "not a plain relative path")
        if part.lower() == ".git":
            raise _refused(path, "inside .git")
        if len(part.encode()) > 255:
            raise _refused(path, "with a name longer than 255 bytes")
    if file.mode not in {FILE, PROGRAM, LINK}:
        raise _refused(path, f"of mode {file.mode[:20]!r}, not 100644, 100755 or 120000")
    if not _SHA256.match(file.sha256):
        raise _refused(path, "without a SHA-256 in 64 small hex digits")
    if not 0 <= file.size <= MAX_BYTES or (file.mode == LINK and file.size > MAX_LINK_BYTES):
        raise TooLarge(f"{path!r} has {file.size / 2**20:.0f} MiB; {MAX_BYTES / 2**20:.0f} MiB is the limit.")


def check_link(path: str, target: bytes) -> None:
    """Raise `Invalid` unless the link at `path` must lead to somewhere inside the folder.

    ``..`` may stand only at the beginning, and no more often than the link lies deep. Folders in a
    manifest are never links, so those steps are what they seem, and what follows only goes down,
    perhaps through other links that were checked alike.
    """
    parts = [part for part in target.split(b"/") if part not in {b"", b"."}]
    up = 0
    while up < len(parts) and parts[up] == b"..":
        up += 1
    if (
        not target
        or target.startswith(b"/")
        or b"\0" in target
        or b".." in parts[up:]
        or up > path.count("/")
        or any(part.lower() == b".git" for part in parts)
    ):
        shown = target[:100].decode("utf-8", "backslashreplace")
        raise Invalid(
            f"The link {path[:200]!r} leads to {shown!r}, out of the code's folder.",
            hint="Leave it out with a .gitignore, or put what it leads to into the folder.",
            reason="bad_path",
        )


def canonical(files: Sequence[CodeFile]) -> bytes:
    """The manifest's bytes, of which the snapshot's id is the SHA-256: one entry per line, in order of the paths."""
    return b"".join(orjson.dumps([f.path, f.mode, f.sha256, f.size]) + b"\n" for f in files)


def read(manifest: bytes) -> list[CodeFile]:
    """The entries of canonical bytes."""
    return [CodeFile(*orjson.loads(line)) for line in manifest.splitlines()]


def snapshot_id(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()


def _biggest(files: Sequence[CodeFile]) -> str:
    top = sorted(files, key=lambda file: -file.size)[:5]
    return ", ".join(f"{file.path[:100]} ({file.size / 2**20:.1f} MiB)" for file in top)


def _refused(path: str, why: str) -> Invalid:
    shown = path if len(path) <= 200 else path[:197] + "..."
    return Invalid(f"The path {shown!r} cannot be part of a snapshot: it is {why}.", reason="bad_path")
