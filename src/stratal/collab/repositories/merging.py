"""Joining two histories inside a bare repository: what git itself says of it, and refs moved only from where they were."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stratal.collab.repositories import git
from stratal.collab.repositories.model import Change, Commit, Repository
from stratal.collab.repositories.reading import MOST_DIFF, Reading, changes_of, commits_of, log_arguments
from stratal.collab.repositories.service import Store
from stratal.kernel.errors import Conflict

_HEX = re.compile(r"[0-9a-f]{40}\Z")
_FIXED = ("-r", "-M", "--no-ext-diff", "--no-textconv", "--no-color")


@dataclass(frozen=True, slots=True)
class Joined:
    """How two commits stand: `base` is their newest common ancestor (None: none at all).

    `ahead` says how many commits the source has that the target lacks; `conflicts` are paths that both changed.
    """

    base: str | None
    ahead: int
    fast_forward: bool
    conflicts: Sequence[str]
    tree: str | None


class Merging:
    def __init__(self, store: Store, reading: Reading) -> None:
        self._store = store
        self._reading = reading

    async def look(self, repository: Repository, target: str, source: str) -> Joined:
        """How the commit `source` would go into the commit `target`."""
        base = await self._base(repository, target, source)
        ahead = await self._count(repository, target, source)
        if base == target or ahead == 0:
            return Joined(base, ahead, base == target, (), None)
        if base is None:
            return Joined(None, ahead, False, (), None)
        tree, conflicts = await self._tree(repository, target, source)
        return Joined(base, ahead, False, conflicts, tree)

    async def diff(
        self, repository: Repository, base: str, source: str
    ) -> tuple[Sequence[Change], str, bool]:
        """What the source changed since `base`: the paths, the diff, and whether that was cut."""
        counted, _ = await self._store.ask(
            repository.id, "diff-tree", *_FIXED, "--numstat", "-z", base, source, most=1 << 20
        )
        patch, cut = await self._store.ask(
            repository.id, "diff-tree", *_FIXED, "-p", base, source, most=MOST_DIFF
        )
        return changes_of(counted), patch.decode("utf-8", "replace"), cut

    async def commits(
        self, repository: Repository, target: str, source: str, *, most: int
    ) -> Sequence[Commit]:
        """What the source has and the target lacks, newest first."""
        told, _ = await self._store.ask(
            repository.id, *log_arguments(most), source, f"^{target}", "--", most=4 << 20
        )
        return commits_of(told)

    async def commit(
        self, repository: Repository, tree: str, parents: Sequence[str], message: str, author: str
    ) -> str:
        """Make a commit of a tree, in `author`'s name; its id."""
        who = {"NAME": author, "EMAIL": f"{author}@localhost"}
        env = self._store.environment(
            **{f"GIT_{role}_{name}": value for role in ("AUTHOR", "COMMITTER") for name, value in who.items()}
        )
        place = self._store.place(repository.id)
        named = [word for parent in parents for word in ("-p", parent)]
        made, _ = await git.run(
            [f"--git-dir={place}", "commit-tree", tree, *named, "-m", message], env, cwd=place, most=1 << 12
        )
        return made.decode().strip()

    async def move(self, repository: Repository, branch: str, new: str, old: str) -> None:
        """Point the branch at `new` if it is still at `old`. Raises `Conflict`."""
        env = self._store.environment(GIT_COMMITTER_NAME="stratal", GIT_COMMITTER_EMAIL="stratal@localhost")
        place = self._store.place(repository.id)
        try:
            await git.run(
                [f"--git-dir={place}", "update-ref", f"refs/heads/{branch}", new, old],
                env,
                cwd=place,
                most=1 << 12,
            )
        except git.Failed as error:
            raise Conflict(
                f"{branch} was pushed to meanwhile; nothing was merged.",
                hint="Look at it again, and merge again.",
                reason="branch_moved",
            ) from error

    async def _base(self, repository: Repository, target: str, source: str) -> str | None:
        try:
            found, _ = await self._store.ask(repository.id, "merge-base", target, source)
        except git.Failed as error:
            if error.code == 1:
                return None
            raise
        return found.decode().split()[0]

    async def _count(self, repository: Repository, target: str, source: str) -> int:
        counted, _ = await self._store.ask(repository.id, "rev-list", "--count", source, f"^{target}", "--")
        return int(counted)

    async def _tree(
        self, repository: Repository, target: str, source: str
    ) -> tuple[str | None, Sequence[str]]:
        """The merged tree, or the paths in conflict (git 2.38 and newer)."""
        place = self._store.place(repository.id)
        process = await git.start(
            [
                f"--git-dir={place}",
                "merge-tree",
                "--write-tree",
                "--name-only",
                "--no-messages",
                "-z",
                target,
                source,
            ],
            self._store.environment(),
            cwd=place,
        )
        said = await git.ended(process, seconds=60.0)
        parts = [part.decode("utf-8", "replace") for part in said.out.split(b"\0") if part]
        if said.code == 0 and parts and _HEX.match(parts[0]):
            return parts[0], ()
        if said.code == 1 and len(parts) > 1:
            return None, list(dict.fromkeys(parts[1:]))
        raise git.failure(said.code, said.err)
