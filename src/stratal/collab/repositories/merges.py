"""Merge requests: one branch asked to go into another, looked at by others, checked, and merged once."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Row, func, insert, select, update

from stratal.collab.repositories.checks import Checks
from stratal.collab.repositories.merging import Joined, Merging
from stratal.collab.repositories.model import Change, Check, Commit, Repository
from stratal.collab.repositories.reading import Reading
from stratal.collab.repositories.service import Repositories
from stratal.collab.repositories.tables import merge_requests, repositories
from stratal.collab.rules import check_text
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound
from stratal.kernel.events import emit

Method = Literal["auto", "commit", "fast_forward"]
MOST_SHOWN = 200
_LOOKS, _LOOK_SECONDS = 50, 0.1
"""How often, and how far apart, a merge looks whether the pushes so far have been looked at for checks."""


@dataclass(frozen=True, slots=True)
class Merge:
    """A merge request as recorded. Commits are set once it has ended. Times are epoch milliseconds."""

    number: int
    repository: str
    title: str
    text: str
    source: str
    target: str
    state: str
    created_at: int
    created_by: str
    ended_at: int | None
    ended_by: str | None
    source_commit: str | None
    target_commit: str | None
    merge_commit: str | None


@dataclass(frozen=True, slots=True)
class Standing:
    """How an open merge request stands now: its commits, how they join, and what checked the source."""

    source_commit: str | None
    target_commit: str | None
    joined: Joined | None
    checks: Sequence[Check]


class Merges:
    def __init__(
        self,
        database: Database,
        service: Repositories,
        reading: Reading,
        merging: Merging,
        checks: Checks,
        clock: Clock,
    ) -> None:
        self._database = database
        self._repositories = service
        self._reading = reading
        self._merging = merging
        self._checks = checks
        self._clock = clock

    async def create(
        self, who: Principal, project_id: str, name: str, *, source: str, target: str, title: str, text: str
    ) -> Merge:
        """Ask that a branch go into another ("": HEAD's). Raises `NotFound`, `Conflict`, `Invalid`."""
        found = await self._repositories.get(who, project_id, name)
        require(who, "repositories.write", project_id)
        refs = await self._repositories.refs(found)
        target = target or refs.head
        for branch in (source, target):
            if branch not in refs.branches:
                raise NotFound(f"There is no branch {branch[:100]!r} in {name}.", reason="no_such_branch")
        title = " ".join(title.split())
        if not 0 < len(title) <= 200 or len(text) > 20_000:
            raise Invalid("A title has 1 to 200 characters, the text at most 20,000.", reason="bad_title")
        check_text("title", title)
        check_text("text", text)
        joined = await self._merging.look(found, refs.branches[target], refs.branches[source])
        if joined.ahead == 0:
            raise Conflict(f"{target} has everything of {source} already.", reason="nothing_to_merge")
        now = self._clock()

        def work(c: Connection) -> int:
            mine = merge_requests.c.repository_id == found.id
            same = mine & (merge_requests.c.source == source) & (merge_requests.c.target == target)
            query = select(merge_requests.c.number).where(same, merge_requests.c.state == "open")
            other = c.execute(query).scalar()
            if other is not None:
                raise Conflict(f"Merge request {other} asks the same already.", reason="merge_request_exists")
            number = (c.execute(select(func.max(merge_requests.c.number)).where(mine)).scalar() or 0) + 1
            c.execute(
                insert(merge_requests).values(
                    repository_id=found.id,
                    number=number,
                    project_id=project_id,
                    title=title,
                    text=text,
                    source=source,
                    target=target,
                    state="open",
                    created_at=now,
                    created_by=who.actor,
                )
            )
            _emit(c, "created", found, number, who, title=title, source=source, target=target)
            return int(number)

        number = await self._database.write(work)
        return await self._row(found, number)

    async def list(self, who: Principal, project_id: str, name: str, *, state: str = "") -> Sequence[Merge]:
        """A repository's merge requests, newest first; at most 500."""
        found = await self._repositories.get(who, project_id, name)
        query = (
            select(merge_requests)
            .where(merge_requests.c.repository_id == found.id)
            .order_by(merge_requests.c.number.desc())
            .limit(500)
        )
        if state:
            query = query.where(merge_requests.c.state == state)
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [_merge(row, found.name) for row in rows]

    async def get(self, who: Principal, project_id: str, name: str, number: int) -> tuple[Merge, Standing]:
        """One, and how it stands. Raises `NotFound`."""
        found = await self._repositories.get(who, project_id, name)
        merge = await self._row(found, number)
        return merge, await self._standing(found, merge)

    async def named(self, who: Principal, project_id: str, words: str) -> Merge:
        """By what people call it, ``repository!3``. Raises `NotFound`."""
        name, _, number = words.rpartition("!")
        found = await self._repositories.get(who, project_id, name)
        if not number.isdecimal() or len(number) > 9:
            raise _none(words)
        return await self._row(found, int(number))

    async def changes(
        self, who: Principal, project_id: str, name: str, number: int
    ) -> tuple[Sequence[Commit], Sequence[Change], str, bool]:
        """Its commits, the paths it changes, its diff, and whether that was cut. Raises `NotFound`, `Conflict`."""
        found = await self._repositories.get(who, project_id, name)
        merge = await self._row(found, number)
        standing = await self._standing(found, merge)
        source, target, joined = standing.source_commit, standing.target_commit, standing.joined
        if source is None or target is None or joined is None:
            raise _gone(merge)
        if joined.base is None:
            raise _unrelated(merge)
        changes, diff, cut = await self._merging.diff(found, joined.base, source)
        commits = await self._merging.commits(found, target, source, most=MOST_SHOWN)
        return commits, changes, diff, cut

    async def merge(
        self,
        who: Principal,
        project_id: str,
        name: str,
        number: int,
        *,
        method: Method = "auto",
        despite_checks: bool = False,
    ) -> Merge:
        """Merge it: move the target on when nothing else came, else by a merge commit.

        Raises `Conflict`: it has ended, the two conflict (the paths are in `details`), its checks have not passed,
        or the target moved meanwhile.
        """
        found = await self._repositories.get(who, project_id, name)
        require(who, "repositories.write", project_id)
        merge = await self._row(found, number)
        if merge.state != "open":
            raise Conflict(f"Merge request {number} is {merge.state} already.", reason="merge_request_ended")
        if not despite_checks:
            await self._until_looked_at(found)
        standing = await self._standing(found, merge)
        source, target, joined = standing.source_commit, standing.target_commit, standing.joined
        if source is None or target is None or joined is None:
            raise _gone(merge)
        if joined.ahead == 0:  # pushed by hand, or by a merge that was cut off
            return await self._end(who, found, merge, "merged", source, target, target)
        waits = [one for one in standing.checks if one.state != "succeeded"]
        if waits and not despite_checks:
            raise Conflict(
                f"Its checks have not passed: {', '.join(f'{one.name} ({one.state})' for one in waits)}.",
                hint="Wait for them or push a fix; or merge despite them: stratal merge accept … --despite-checks",
                reason="checks_not_passed",
            )
        if joined.base is None:
            raise _unrelated(merge)
        if joined.conflicts:
            raise Conflict(
                f"{merge.source} and {merge.target} conflict in {', '.join(joined.conflicts[:10])}.",
                hint=f"Merge {merge.target} into {merge.source} where you work, resolve it, and push.",
                reason="merge_conflict",
                conflicts=list(joined.conflicts),
            )
        if joined.fast_forward and method != "commit":
            new = source
        elif method == "fast_forward":
            raise Conflict(
                f"{merge.target} has commits that {merge.source} lacks.",
                hint=f"Rebase {merge.source}, or merge by a commit.",
                reason="not_fast_forward",
            )
        else:
            tree = joined.tree or f"{source}^{{tree}}"
            words = f"Merge {merge.source}: {merge.title} (!{number})"
            new = await self._merging.commit(found, tree, [target, source], words, who.name)
        await self._merging.move(found, merge.target, new, target)
        return await self._end(who, found, merge, "merged", source, target, new)

    async def close(self, who: Principal, project_id: str, name: str, number: int) -> Merge:
        """Close it unmerged. Raises `NotFound`, `Conflict`."""
        found = await self._repositories.get(who, project_id, name)
        require(who, "repositories.write", project_id)
        merge = await self._row(found, number)
        standing = await self._standing(found, merge)
        return await self._end(
            who, found, merge, "closed", standing.source_commit, standing.target_commit, None
        )

    async def _end(
        self,
        who: Principal,
        found: Repository,
        merge: Merge,
        state: str,
        source: str | None,
        target: str | None,
        new: str | None,
    ) -> Merge:
        now = self._clock()

        def work(c: Connection) -> None:
            mine = (merge_requests.c.repository_id == found.id) & (merge_requests.c.number == merge.number)
            values = {
                "state": state,
                "ended_at": now,
                "ended_by": who.actor,
                "source_commit": source,
                "target_commit": target,
                "merge_commit": new,
            }
            done = c.execute(
                update(merge_requests)
                .where(mine, merge_requests.c.state == "open")
                .values(values)
                .returning(merge_requests.c.number)
            ).first()
            if done is None:
                raise Conflict(
                    f"Merge request {merge.number} has ended already.", reason="merge_request_ended"
                )
            _emit(c, state, found, merge.number, who, title=merge.title, commit=new)
            if new is not None and new != target:
                c.execute(
                    update(repositories)
                    .where(repositories.c.id == found.id)
                    .values(pushed_at=now, pushed_by=who.actor)
                )
                emit(
                    c, "repository.pushed", found.id, actor=who.actor, project_id=found.project_id,
                    name=found.name, ref=f"refs/heads/{merge.target}", old=target, new=new,
                )  # fmt: skip

        await self._database.write(work)
        return await self._row(found, merge.number)

    async def _until_looked_at(self, found: Repository) -> None:
        """Let every push so far be looked at for checks. Raises `Conflict` when that takes long."""
        for _ in range(_LOOKS):
            told = await self._repositories.is_recorded(found)
            if told and await self._checks.has_seen_all(found):
                return
            await asyncio.sleep(_LOOK_SECONDS)
        raise Conflict(
            f"What was pushed to {found.name} last is still being looked at for checks.",
            hint="Try again in a moment.",
            reason="checks_not_known",
        )

    async def _standing(self, found: Repository, merge: Merge) -> Standing:
        source, target = merge.source_commit, merge.target_commit
        if merge.state == "open":
            refs = await self._repositories.refs(found)
            source, target = refs.branches.get(merge.source), refs.branches.get(merge.target)
        if source is None or target is None:
            return Standing(source, target, None, ())
        joined = await self._merging.look(found, target, source)
        return Standing(source, target, joined, await self._checks.of_commit(found.id, source))

    async def _row(self, found: Repository, number: int) -> Merge:
        mine = (merge_requests.c.repository_id == found.id) & (merge_requests.c.number == number)
        row = await self._database.read(lambda c: c.execute(select(merge_requests).where(mine)).one_or_none())
        if row is None:
            raise _none(f"{found.name}!{number}")
        return _merge(row, found.name)


def _emit(c: Connection, what: str, found: Repository, number: int, who: Principal, **told: object) -> None:
    emit(
        c, f"merge_request.{what}", f"{found.name}!{number}", actor=who.actor, project_id=found.project_id,
        repository=found.id, **told,
    )  # fmt: skip


def _merge(row: Row[tuple[object, ...]], repository: str) -> Merge:
    return Merge(
        number=row.number,
        repository=repository,
        title=row.title,
        text=row.text,
        source=row.source,
        target=row.target,
        state=row.state,
        created_at=row.created_at,
        created_by=row.created_by,
        ended_at=row.ended_at,
        ended_by=row.ended_by,
        source_commit=row.source_commit,
        target_commit=row.target_commit,
        merge_commit=row.merge_commit,
    )


def _none(words: str) -> NotFound:
    return NotFound(
        f"There is no merge request {words[:100]!r}.",
        hint="List them with: stratal merge ls REPOSITORY",
        reason="no_such_merge_request",
    )


def _gone(merge: Merge) -> Conflict:
    return Conflict(
        f"A branch of merge request {merge.number} is gone: {merge.source} or {merge.target}.",
        hint="Push it again, or close the request.",
        reason="branch_gone",
    )


def _unrelated(merge: Merge) -> Conflict:
    return Conflict(
        f"{merge.source} and {merge.target} have no commit in common.",
        hint="Rebase one onto the other.",
        reason="unrelated_histories",
    )
