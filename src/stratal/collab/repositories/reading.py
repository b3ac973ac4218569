"""Looking into a repository: its tree, a file, its history, a commit's diff, who wrote a line, a search.

A revision is checked, made a commit's id by git, and only that id is used from then on; a path is checked
and comes after an id, so that neither can be an option or lead anywhere else. Every answer has an end.
"""

import re

from stratal.collab.repositories import git
from stratal.collab.repositories.model import (
    BlameLine,
    Change,
    Commit,
    Found,
    Repository,
    TreeEntry,
    check_path,
    check_revision,
)
from stratal.collab.repositories.service import Store
from stratal.kernel.errors import Invalid, NotFound, TooLarge

MOST_FILE = 1 << 20
MOST_DIFF = 512 << 10
MOST_TREE = 4 << 20
MOST_BLAMED = 20_000
"""Lines: each is a row of a page."""
_FORMAT = "%H%x00%P%x00%an%x00%ae%x00%at%x00%ct%x00%s%x00%B%x00"
_LAST_SECOND = 253_402_300_799
"""Of the year 9999: what a commit says of its time is its author's to write."""
_KINDS = {"040000": "folder", "100644": "file", "100755": "program", "120000": "link", "160000": "submodule"}
_HEX = re.compile(r"[0-9a-f]{40}\Z")


class Reading:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def resolve(self, repository: Repository, revision: str) -> str:
        """The commit that a branch, a tag or the beginning of an id names; "": HEAD's. Raises `NotFound`."""
        if revision:
            check_revision(revision)
        plain = revision in {"", "HEAD"} or _HEX.match(revision)
        for name in (revision or "HEAD",) if plain else (f"refs/heads/{revision}", revision):
            try:
                found, _ = await self._store.ask(
                    repository.id,
                    "rev-parse",
                    "--verify",
                    "--quiet",
                    "--end-of-options",
                    f"{name}^{{commit}}",
                )
            except git.Failed:
                continue
            if _HEX.match(id_ := found.decode().strip()):
                return id_
        raise NotFound(
            f"There is no branch, tag or commit {revision[:80]!r} in {repository.name}."
            if revision
            else f"Nothing was pushed to {repository.name} yet.",
            hint="See what there is: stratal repo show " + repository.name,
            reason="no_such_revision",
        )

    async def tree(self, repository: Repository, commit: str, path: str = "") -> list[TreeEntry]:
        """What lies in a folder: folders first, then by name. Raises `NotFound`."""
        place = f"{commit}:{check_path(path)}"
        try:
            listed, _ = await self._store.ask(repository.id, "ls-tree", "-z", "--long", place, most=MOST_TREE)
        except git.Failed as error:
            raise _no_path(repository, path) from error
        entries = []
        for line in listed.split(b"\0"):
            if not line:
                continue
            head, _, name = line.partition(b"\t")
            mode, _, object_, size = head.decode().split()
            shown = name.decode("utf-8", "replace")
            entries.append(
                TreeEntry(shown, _KINDS.get(mode, "file"), object_, int(size) if size.isdigit() else None)
            )
        return sorted(entries, key=lambda entry: (entry.kind != "folder", entry.name))

    async def file(
        self, repository: Repository, commit: str, path: str, *, most: int = MOST_FILE
    ) -> tuple[bytes, bool]:
        """A file's bytes, and whether they were cut at `most`. Raises `NotFound`."""
        if not path:
            raise _no_path(repository, path)
        try:
            return await self._store.ask(
                repository.id, "cat-file", "blob", f"{commit}:{check_path(path)}", most=most
            )
        except git.Failed as error:
            raise _no_path(repository, path) from error

    async def log(
        self, repository: Repository, commit: str, *, path: str = "", skip: int = 0, limit: int = 50
    ) -> list[Commit]:
        """The history behind a commit, newest first; of one path when it is given."""
        below = [check_path(path)] if path else []
        told, _ = await self._store.ask(
            repository.id,
            *log_arguments(limit, skip),
            commit,
            "--",
            *below,
            most=4 << 20,
        )
        return commits_of(told)

    async def commit(self, repository: Repository, commit: str) -> tuple[Commit, list[Change], str, bool]:
        """A commit, the paths it touched, its diff against its first parent, and whether that was cut."""
        told = await self.log(repository, commit, limit=1)
        if not told:
            raise TooLarge("What this commit says of itself is too long.", reason="commit_too_long")
        found = told[0]
        fixed = (
            "--root",
            "--no-commit-id",
            "-r",
            "-m",
            "--first-parent",
            "-M",
            "--no-ext-diff",
            "--no-textconv",
        )
        counted, _ = await self._store.ask(
            repository.id, "diff-tree", *fixed, "--numstat", "-z", commit, most=1 << 20
        )
        patch, cut = await self._store.ask(
            repository.id, "diff-tree", *fixed, "-p", "--no-color", commit, most=MOST_DIFF
        )
        return found, changes_of(counted), patch.decode("utf-8", "replace"), cut

    async def blame(self, repository: Repository, commit: str, path: str) -> list[BlameLine]:
        """Who wrote each line of a text file. Raises `NotFound`, `Invalid` for one that is too long."""
        data, cut = await self.file(repository, commit, path)
        if cut or b"\0" in data[:8000] or data.count(b"\n") > MOST_BLAMED:
            raise Invalid(f"{path[:80]!r} is too long, or no text.", reason="no_blame")
        told, cut = await self._store.ask(
            repository.id, "blame", "--line-porcelain", commit, "--", path, most=16 << 20
        )
        return _blamed(told)

    async def search(
        self, repository: Repository, commit: str, words: str, *, limit: int = 200
    ) -> tuple[list[Found], bool]:
        """Lines of text files that hold `words`, whatever their case; and whether there are more."""
        if not words.strip() or len(words) > 200 or "\0" in words or "\n" in words:
            raise Invalid("Search for 1 to 200 characters.", reason="bad_search")
        try:
            told, cut = await self._store.ask(
                repository.id,
                "grep",
                "-I",
                "-n",
                "-z",
                "--ignore-case",
                "--fixed-strings",
                "--full-name",
                "--max-count=50",
                "-e",
                words,
                commit,
                most=1 << 20,
            )
        except git.Failed as error:
            if error.code == 1:
                return [], False
            raise
        found = []
        for line in told.decode("utf-8", "replace").splitlines():
            path, _, rest = line.removeprefix(f"{commit}:").partition("\0")
            number, _, text = rest.partition("\0")
            if number.isdigit():
                found.append(Found(path, int(number), text[:500]))
        return found[:limit], cut or len(found) > limit

    async def knows(self, repository: Repository, commit: str) -> bool:
        """Does the repository hold this very commit?"""
        if not _HEX.match(commit):
            return False
        try:
            await self._store.ask(repository.id, "cat-file", "-e", f"{commit}^{{commit}}")
        except git.Failed:
            return False
        return True


def log_arguments(limit: int, skip: int = 0) -> tuple[str, ...]:
    """``git log`` in the shape that `commits_of` reads."""
    return ("log", f"--max-count={limit}", f"--skip={skip}", f"--format={_FORMAT}", "--no-show-signature")


def commits_of(told: bytes) -> list[Commit]:
    """No field can hold a NUL; the last message may have been cut."""
    commits = []
    fields = told.decode("utf-8", "replace").split("\0")
    for at in range(0, len(fields) - 7, 8):
        id_, parents, author, email, authored, committed, subject, message = fields[at : at + 8]
        commits.append(
            Commit(
                id_.strip(),
                parents.split(),
                author,
                email,
                _moment(authored),
                _moment(committed),
                subject,
                message.strip(),
            )
        )
    return commits


def changes_of(told: bytes) -> list[Change]:
    """``added TAB removed TAB path NUL``, or for a rename ``… TAB NUL old NUL new NUL``."""
    changes = []
    fields = iter(told.decode("utf-8", "replace").split("\0"))
    for field in fields:
        counts = field.split("\t", 2)
        if len(counts) < 3:
            continue
        added, removed, path = counts
        if not path:
            old, new = next(fields, ""), next(fields, "")
            path = f"{old} → {new}"
        changes.append(
            Change(path, int(added) if added.isdigit() else None, int(removed) if removed.isdigit() else None)
        )
    return changes


def _moment(seconds: str) -> int:
    """Epoch milliseconds, as far as calendars go."""
    return min(max(int(seconds or 0), 0), _LAST_SECOND) * 1000


def _blamed(told: bytes) -> list[BlameLine]:
    lines: list[BlameLine] = []
    facts: dict[str, str] = {}
    commit = ""
    for line in told.decode("utf-8", "replace").split("\n"):
        if line.startswith("\t"):
            lines.append(
                BlameLine(
                    commit,
                    facts.get("author", ""),
                    _moment(facts.get("author-time", "0")),
                    facts.get("summary", ""),
                    line[1:],
                )
            )
            commit, facts = "", {}
        elif not commit:
            commit = line.partition(" ")[0]
        else:
            name, _, value = line.partition(" ")
            facts[name] = value
    return lines


def _no_path(repository: Repository, path: str) -> NotFound:
    return NotFound(f"There is no {path[:100]!r} there in {repository.name}.", reason="no_such_path")


def is_text(data: bytes) -> bool:
    """Would people read it? As git has it: no NUL near the beginning."""
    return b"\0" not in data[:8000]
