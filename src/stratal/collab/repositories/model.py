"""Repositories and what is in them, as values; and what may name a revision or a path. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stratal.kernel.errors import Invalid

DEFAULT_QUOTA = 20 << 30
"""How much a project's repositories may hold together until an admin says otherwise."""

_NEVER = r"\x00-\x20\x7f\ud800-\udfff:?\[\\"
"""What git lets into no name of a branch (git-check-ref-format), and what is no text."""
_REVISION = re.compile(rf"[^{_NEVER}*./^~-][^{_NEVER}*]{{0,249}}\Z")
_BRANCH = re.compile(rf"[^{_NEVER}~^$;'\"`|<>()&./-][^{_NEVER}~^$;'\"`|<>()&]{{0,199}}\Z")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository as recorded. `protected` are patterns of branches whose history only grows."""

    id: str
    project_id: str
    name: str
    description: str
    protected: Sequence[str]
    bytes: int
    created_at: int
    created_by: str
    pushed_at: int | None
    pushed_by: str | None


@dataclass(frozen=True, slots=True)
class Refs:
    """The branches and tags, each with the commit it is at, and the branch that HEAD names (born or not)."""

    head: str
    branches: dict[str, str]
    tags: dict[str, str]


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """`kind` is ``folder``, ``file``, ``program``, ``link`` or ``submodule``; `size` is None for what has none."""

    name: str
    kind: str
    object: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Commit:
    """Times are epoch milliseconds. `message` is the whole, `subject` its first line."""

    id: str
    parents: Sequence[str]
    author: str
    email: str
    authored_at: int
    committed_at: int
    subject: str
    message: str


@dataclass(frozen=True, slots=True)
class Change:
    """A path that a commit touched, and how many lines came and went (None for what is not text)."""

    path: str
    added: int | None
    removed: int | None


@dataclass(frozen=True, slots=True)
class Check:
    """What checked a commit, and how: its job's state, or ``failed`` with words where none could be queued."""

    name: str
    state: str
    job: int | None
    words: str
    created_at: int


@dataclass(frozen=True, slots=True)
class BlameLine:
    """A line and the commit that wrote it."""

    commit: str
    author: str
    at: int
    subject: str
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """A line in which a search found its words."""

    path: str
    line: int
    text: str


def check_revision(revision: str) -> str:
    """Return what can name a revision: a branch, a tag, a commit, perhaps with ``~2`` or ``^``. Raises `Invalid`."""
    if not _REVISION.match(revision) or any(odd in revision for odd in ("..", "@{", "^{", "//")):
        raise Invalid(
            f"{revision[:80]!r} is no branch, tag or commit.",
            hint="Name a branch, a tag, or a commit's id, as in: main, v1.2, 3f2a91c.",
            reason="bad_revision",
        )
    return revision


def check_path(path: str) -> str:
    """Return a path within a tree ("" is its top), plain and relative. Raises `Invalid`."""
    if path == "":
        return path
    parts = path.split("/")
    if len(path) > 4096 or any(p in {"", ".", ".."} or "\0" in p or "\n" in p for p in parts):
        raise Invalid(f"{path[:80]!r} is no path within a repository.", reason="bad_path")
    return path


def check_patterns(patterns: Sequence[str]) -> list[str]:
    """Return patterns of branches to protect (``main``, ``release/*``). Raises `Invalid`."""
    for pattern in patterns:
        if not _BRANCH.match(pattern) or ".." in pattern:
            raise Invalid(
                f"{pattern[:80]!r} cannot name branches.",
                hint="Name a branch, with * for any letters: main, release/*.",
                reason="bad_branch",
            )
    if len(patterns) > 50:
        raise Invalid("At most 50 patterns of branches can be protected.", reason="too_many")
    return list(dict.fromkeys(patterns))
