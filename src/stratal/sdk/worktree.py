"""Reading the working tree that a job is run from: which files, and what git says of them.

In a git repository the files are what ``git ls-files`` lists: tracked ones as they lie there, untracked
ones too, ignored ones not; of submodules and repositories within it likewise. Elsewhere: every file
below the folder but for a few that never belong to the code. The whole repository is sent also when
called from a folder within it; the job then starts in that folder.
"""

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

MAX_FILES = 20_000
MAX_BYTES = 512 * 1024 * 1024
MAX_DIFF_BYTES = 1024 * 1024
MAX_UNTRACKED = 1000
NEVER_CODE = (".git", "__pycache__", ".venv", "node_modules")
_FILE, _PROGRAM, _LINK = "100644", "100755", "120000"


class TreeError(Exception):
    """The working tree cannot be sent; the message says what and `hint` what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Entry:
    """A file to send: its path within the tree, git's mode, its size, and where it lies."""

    path: str
    mode: str
    size: int
    place: Path

    def read(self) -> Iterator[bytes]:
        """Its bytes in chunks; of a link, where it points."""
        if self.mode == _LINK:
            yield os.fsencode(self.place.readlink())
            return
        with self.place.open("rb") as file:
            while chunk := file.read(1 << 20):
                yield chunk

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for chunk in self.read():
            digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class WorkTree:
    """What to send: `entries` below `root`, the folder within it to start in, what git says (`source`, as the
    API takes it), and `notes` that a person should read."""

    root: Path
    cwd: str
    entries: Sequence[Entry]
    source: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)


def read_worktree(folder: Path, *, without: Path | None = None) -> WorkTree:
    """The tree around `folder`. `without` is a folder never to send (the platform's home).

    Raises `TreeError`: not readable, a link that leads out, too much.
    """
    folder = folder.resolve()
    repository = _repository(folder)
    if repository is None:
        return _plain_folder(folder, without)
    root, cwd = repository
    notes: list[str] = []
    paths, submodules = _listed(root, "", notes)
    entries = _entries(root, paths, without, notes)
    return WorkTree(root, cwd, entries, _source(root, submodules), notes)


# -- git -----------------------------------------------------------------------------------------------


def _git(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"},
        stdin=subprocess.DEVNULL,
    )


def _repository(folder: Path) -> tuple[Path, str] | None:
    """The repository's top folder and `folder` within it; None where there is none (or no git)."""
    try:
        asked = _git(folder, "rev-parse", "--is-inside-work-tree", "--show-toplevel", "--show-prefix")
    except FileNotFoundError:
        return None
    if asked.returncode != 0:
        said = asked.stderr.decode(errors="replace").strip()
        if "not a git repository" in said.lower():
            return None
        if "must be run in a work tree" in said:
            raise TreeError(
                f"{folder} lies inside a git repository's own files.", "Run from its working tree."
            )
        # Sending everything instead would send what is ignored, secrets among it.
        raise TreeError(f"git cannot read the repository around {folder}: {said}")
    _, top, prefix = [*asked.stdout.decode("utf-8", "surrogateescape").split("\n"), "", ""][:3]
    if prefix and _git(folder, "check-ignore", "-q", ".").returncode == 0:
        return None  # a folder that its repository ignores is a project of its own
    return Path(top), prefix.rstrip("/")


def _listed(root: Path, prefix: str, notes: list[str]) -> tuple[list[str], dict[str, str]]:
    """Every path git lists, those in repositories within included, and the commits of these."""
    asked = _git(root / prefix, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if asked.returncode != 0:
        raise TreeError(f"git cannot list the files: {asked.stderr.decode(errors='replace').strip()}")
    paths: list[str] = []
    commits: dict[str, str] = {}
    for raw in dict.fromkeys(asked.stdout.split(b"\0")):
        if not raw:
            continue
        path = prefix + os.fsdecode(raw).rstrip("/")
        place = root / path
        if place.is_symlink() or not place.is_dir():
            paths.append(path)
        elif (place / ".git").exists():
            inner, deeper = _listed(root, f"{path}/", notes)
            head = _git(place, "rev-parse", "--verify", "-q", "HEAD")
            commits |= {path: head.stdout.decode().strip(), **deeper}
            paths += inner
        else:
            notes.append(f"The submodule {path} is not checked out, so it is not sent.")
    return paths, commits


def _source(root: Path, submodules: Mapping[str, str]) -> dict[str, Any]:
    import base64

    head = _git(root, "rev-parse", "--verify", "-q", "HEAD")
    commit = head.stdout.decode().strip() if head.returncode == 0 else None
    branch = _git(root, "symbolic-ref", "-q", "--short", "HEAD")
    others = _git(root, "ls-files", "-z", "--others", "--exclude-standard").stdout.split(b"\0")
    untracked = [raw.decode(errors="replace") for raw in others if raw]
    diff, cut = _diff(root) if commit else (b"", False)
    return {
        "kind": "git",
        "commit": commit,
        "branch": branch.stdout.decode(errors="replace").strip() or None,
        "remote": _remote(root),
        "dirty": bool(diff or untracked or commit is None),
        "untracked": untracked[:MAX_UNTRACKED],
        "submodules": dict(list(submodules.items())[:MAX_UNTRACKED]),
        "diff": base64.b64encode(diff).decode(),
        "diff_truncated": cut,
    }


def _diff(root: Path) -> tuple[bytes, bool]:
    """What is changed since the last commit, up to its limit, and whether it was cut there."""
    command = [
        "git",
        "-C",
        str(root),
        "diff",
        "HEAD",
        "--binary",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        data = process.stdout.read(MAX_DIFF_BYTES + 1)
        if len(data) > MAX_DIFF_BYTES:
            process.kill()
    return data[:MAX_DIFF_BYTES], len(data) > MAX_DIFF_BYTES


def _remote(root: Path) -> str | None:
    names = _git(root, "remote").stdout.decode(errors="replace").split()
    if not names:
        return None
    chosen = "origin" if "origin" in names else names[0]
    url = _git(root, "remote", "get-url", chosen).stdout.decode(errors="replace").strip()
    return without_credentials(url) or None


def without_credentials(url: str) -> str:
    """A repository's address without password or token; the user of ssh, which is no secret, stays."""
    if "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    user, at, host = parts.netloc.rpartition("@")
    kept = user.partition(":")[0] + at if at and parts.scheme in {"ssh", "git+ssh"} else ""
    return urlunsplit(parts._replace(netloc=kept + host, query="", fragment=""))


# -- no git --------------------------------------------------------------------------------------------


def _plain_folder(folder: Path, without: Path | None) -> WorkTree:
    if folder in {Path(folder.anchor), Path.home().resolve()}:
        raise TreeError(
            f"{folder} is no project's folder: not sending all of it.",
            "Run from the folder of your code, or send none with --no-code.",
        )
    skipped: list[str] = []
    paths: list[str] = []
    for here, folders, files in os.walk(folder):
        keep = []
        for name in sorted(folders):
            place = Path(here) / name
            if place.is_symlink():
                files.append(name)
            elif name in NEVER_CODE or (place / "pyvenv.cfg").exists():
                skipped.append(name)
            else:
                keep.append(name)
        folders[:] = keep
        inside = [
            name for name in files if name.lower() != ".git"
        ]  # what a submodule, or a cache of uv's, has
        paths += [os.path.relpath(Path(here) / name, folder) for name in inside]
        if len(paths) > MAX_FILES:
            raise _too_many(f"more than {MAX_FILES}")
    notes = [f"{folder} is no git repository: all files are sent."]
    if skipped:
        notes[0] = notes[0][:-1] + f", without {', '.join(sorted(set(skipped)))}."
    return WorkTree(folder, "", _entries(folder, paths, without, notes), {"kind": "folder"}, notes)


# -- files ---------------------------------------------------------------------------------------------


def _entries(root: Path, paths: Sequence[str], without: Path | None, notes: list[str]) -> list[Entry]:
    hidden = without.resolve() if without is not None else None
    entries = []
    for path in paths:
        place = root / path
        if hidden is not None and hidden in (place, *place.parents):
            continue
        try:
            status = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue  # tracked, and deleted here
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise TreeError(f"The name of {path!r} is not UTF-8.", "Rename it, or ignore it.") from error
        if stat.S_ISLNK(status.st_mode):
            entries.append(_link(root, path, place))
        elif stat.S_ISREG(status.st_mode):
            if not os.access(place, os.R_OK):
                raise TreeError(f"{path} cannot be read.", "Make it readable, or ignore it.")
            mode = _PROGRAM if status.st_mode & stat.S_IXUSR else _FILE
            entries.append(Entry(path, mode, status.st_size, place))
        else:
            notes.append(f"{path} is neither file nor link, so it is not sent.")
    _check_size(entries)
    return entries


def _link(root: Path, path: str, place: Path) -> Entry:
    target = os.fsencode(place.readlink())
    parts = [part for part in target.split(b"/") if part not in {b"", b"."}]
    up = 0
    while up < len(parts) and parts[up] == b"..":
        up += 1
    if target.startswith(b"/") or up > path.count("/") or b".." in parts[up:] or not target:
        raise TreeError(
            f"The link {path} leads to {os.fsdecode(target)!r}, out of {root}.",
            "A job gets a copy of the tree alone: ignore the link (.gitignore), or copy what it leads to.",
        )
    return Entry(path, _LINK, len(target), place)


def _check_size(entries: Sequence[Entry]) -> None:
    if len(entries) > MAX_FILES:
        raise _too_many(str(len(entries)))
    total = sum(entry.size for entry in entries)
    if total > MAX_BYTES:
        top = sorted(entries, key=lambda entry: -entry.size)[:5]
        named = ", ".join(f"{entry.path} ({entry.size / 2**20:.1f} MiB)" for entry in top)
        raise TreeError(
            f"The code has {total / 2**20:.0f} MiB; {MAX_BYTES / 2**20:.0f} MiB is the limit. The biggest: {named}.",
            "Ignore what the code does not need (.gitignore); put data into a bucket or a table.",
        )


def _too_many(count: str) -> TreeError:
    return TreeError(
        f"There are {count} files; {MAX_FILES} is the limit.",
        "Ignore what the code does not need (.gitignore); put data into a bucket or a table.",
    )
