"""Repositories as things that a project has: made, listed, protected, removed, their quota."""

import asyncio
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread
import orjson
from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from stratal.collab.repositories import git
from stratal.collab.repositories.leftovers import INCOMING
from stratal.collab.repositories.model import DEFAULT_QUOTA, Refs, Repository, check_patterns
from stratal.collab.repositories.tables import (
    checks,
    lfs_objects,
    lfs_trash,
    merge_requests,
    repositories,
    repository_quotas,
)
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Busy, Conflict, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.kernel.names import check_name

log = logging.getLogger("stratal.repositories")

MOST = 1000
"""Repositories in one project."""
_AT_ONCE = 8
"""Questions to git at the same time."""
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Store:
    """Where repositories lie, and how git is run on them. `path` is where programs are found."""

    root: Path
    path: str
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    @property
    def hooks(self) -> Path:
        return self.root / "hooks"

    @property
    def pushes(self) -> Path:
        """A file for each push that goes on: who pushes, then what changed."""
        return self.root / "pushes"

    def place(self, repository_id: str) -> Path:
        return self.root / f"{repository_id}.git"

    def environment(self, **more: str) -> dict[str, str]:
        return git.environment(self.path, self.hooks, more=more)

    async def ask(
        self, repository_id: str, *arguments: str, most: int = 1 << 20, seconds: float = 20.0
    ) -> tuple[bytes, bool]:
        """What ``git <arguments>`` says in the repository, and whether it was cut at `most` bytes.

        Raises `Busy` when too many such questions are being answered.
        """
        place = self.place(repository_id)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self.turns.acquire()
        except TimeoutError as error:
            raise Busy(
                "Many others are looking into repositories.",
                hint="Try again in a moment.",
                retry_after_seconds=5,
            ) from error
        try:
            return await git.run(
                [f"--git-dir={place}", *arguments], self.environment(), cwd=place, most=most, seconds=seconds
            )
        finally:
            self.turns.release()


class Repositories:
    def __init__(self, database: Database, store: Store, clock: Clock) -> None:
        self._database = database
        self._store = store
        self._clock = clock

    async def create(
        self, who: Principal, project_id: str, name: str, *, description: str = ""
    ) -> Repository:
        """Make an empty repository. Its HEAD follows the first branch pushed. Raises `Conflict`, `Denied`."""
        require(who, "repositories.write", project_id)
        check_name("repository", name)
        if name.endswith(".git"):
            raise Invalid("A repository's name does not end in '.git'; its address does.", reason="bad_name")
        if len(description) > 1000:
            raise Invalid("A description has at most 1,000 characters.", reason="bad_description")
        made = Repository(
            new_id("repo"), project_id, name, description, (), 0, self._clock(), who.actor, None, None
        )
        if await self._database.read(lambda c: _find(c, project_id, name)) is not None:
            raise _taken(name)
        place = self._store.place(made.id)
        await git.run(
            ["init", "--bare", "--quiet", "--template=", "--initial-branch=main", str(place)],
            self._store.environment(),
            cwd=self._store.root,
            most=1 << 16,
        )

        def work(c: Connection) -> None:
            count = select(func.count()).where(repositories.c.project_id == project_id)
            if c.execute(count).scalar_one() >= MOST:
                raise Invalid(f"A project has at most {MOST} repositories.", reason="too_many")
            c.execute(
                insert(repositories).values(
                    id=made.id,
                    project_id=project_id,
                    name=name,
                    description=description,
                    protected="[]",
                    bytes=0,
                    created_at=made.created_at,
                    created_by=made.created_by,
                )
            )
            emit(c, "repository.created", made.id, actor=who.actor, project_id=project_id, name=name)

        try:
            await self._database.write(work)
        except (IntegrityError, Invalid) as error:
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(place, ignore_errors=True))
            if isinstance(error, Invalid):
                raise
            raise _taken(name) from error
        return made

    async def list(self, who: Principal, project_id: str) -> Sequence[Repository]:
        """The project's repositories, by name."""
        require(who, "repositories.read", project_id)
        query = (
            select(repositories).where(repositories.c.project_id == project_id).order_by(repositories.c.name)
        )
        return [_repository(row) for row in await self._database.read(lambda c: c.execute(query).all())]

    async def get(self, who: Principal, project_id: str, name: str) -> Repository:
        """Raises `NotFound`."""
        require(who, "repositories.read", project_id, what=f"repository {name[:100]!r}")
        row = await self._database.read(lambda c: _find(c, project_id, name))
        if row is None:
            raise NotFound(
                f"There is no repository {name[:100]!r} in this project.",
                hint="List them with: stratal repo ls. Make one with: stratal repo create NAME",
                reason="no_such_repository",
            )
        return _repository(row)

    async def refs(self, repository: Repository) -> Refs:
        """Its branches and tags as they are now."""
        head, _ = await self._store.ask(repository.id, "symbolic-ref", "HEAD")
        listed, _ = await self._store.ask(
            repository.id,
            "for-each-ref",
            "--sort=-committerdate",
            "--count=2000",
            "--format=%(refname)%00%(objectname)%00%(*objectname)",
            "refs/heads",
            "refs/tags",
            most=4 << 20,
        )
        branches: dict[str, str] = {}
        tags: dict[str, str] = {}
        for line in listed.decode("utf-8", "backslashreplace").split("\n"):
            if line.count("\0") != 2:
                continue
            ref, object_, peeled = line.split("\0")
            if ref.startswith("refs/heads/"):
                branches[ref.removeprefix("refs/heads/")] = object_
            else:
                tags[ref.removeprefix("refs/tags/")] = peeled or object_
        return Refs(head.decode().strip().removeprefix("refs/heads/"), branches, tags)

    async def change(
        self,
        who: Principal,
        project_id: str,
        name: str,
        *,
        protected: Sequence[str] | None = None,
        head: str | None = None,
        description: str | None = None,
    ) -> Repository:
        """Change what is protected, which branch HEAD names, or the description; what is None stays. Raises `NotFound`."""
        found = await self.get(who, project_id, name)
        require(who, "repositories.manage", project_id)
        values: dict[str, object] = {}
        if protected is not None:
            values["protected"] = orjson.dumps(check_patterns(protected)).decode()
        if description is not None:
            if len(description) > 1000:
                raise Invalid("A description has at most 1,000 characters.", reason="bad_description")
            values["description"] = description
        if head is not None:
            if head not in (await self.refs(found)).branches:
                raise NotFound(f"There is no branch {head[:100]!r}.", reason="no_such_branch")
            await self._store.ask(found.id, "symbolic-ref", "HEAD", f"refs/heads/{head}")

        def work(c: Connection) -> None:
            if values:
                c.execute(update(repositories).where(repositories.c.id == found.id).values(values))
            told = {**values, **({"head": head} if head is not None else {})}
            emit(c, "repository.changed", found.id, actor=who.actor, project_id=project_id, name=name, **told)

        await self._database.write(work)
        return await self.get(who, project_id, name)

    async def remove(self, who: Principal, project_id: str, name: str) -> None:
        """Remove a repository with everything in it. Raises `NotFound`, `Denied`."""
        found = await self.get(who, project_id, name)
        require(who, "repositories.manage", project_id)

        def work(c: Connection) -> None:
            for table in (merge_requests, checks):
                c.execute(delete(table).where(table.c.repository_id == found.id))
            _trash(c, lfs_objects.c.repository_id == found.id)
            c.execute(delete(repositories).where(repositories.c.id == found.id))
            emit(c, "repository.removed", found.id, actor=who.actor, project_id=project_id, name=name)

        await self._database.write(work)
        await self._unlink(found.id)

    async def is_recorded(self, repository: Repository) -> bool:
        """Are all pushes to it recorded that have changed a ref?"""
        return not await anyio.to_thread.run_sync(_is_unrecorded, self._store.pushes, repository.id)

    # -- quotas --------------------------------------------------------------------------------

    async def room_left(self, project_id: str) -> int:
        """How many bytes may still be pushed into the project's repositories."""
        return await self._database.read(lambda c: room_in(c, project_id))

    async def quota(self, who: Principal, project_id: str) -> tuple[int, int]:
        """The project's quota of bytes, and how many its repositories hold."""
        require(who, "repositories.read", project_id)
        total = await self._database.read(lambda c: _quota(c, project_id))
        return total, total - await self.room_left(project_id)

    async def set_quota(self, who: Principal, project_id: str, size: int | None) -> None:
        """Set the quota; None: the instance's own again. Instance admins only."""
        require(who, "instance.manage", project_id)
        if size is not None and not 0 <= size <= 2**60:
            raise Invalid("A quota is a number of bytes.", reason="bad_quota")

        def work(c: Connection) -> None:
            c.execute(delete(repository_quotas).where(repository_quotas.c.project_id == project_id))
            if size is not None:
                c.execute(insert(repository_quotas).values(project_id=project_id, bytes=size))
            emit(c, "repository_quota.set", project_id, actor=who.actor, project_id=project_id, bytes=size)

        await self._database.write(work)

    async def weighed(self) -> dict[str, int]:
        """The bytes stored, by project id: for the meter."""
        query = select(repositories.c.project_id, func.sum(repositories.c.bytes)).group_by(
            repositories.c.project_id
        )
        rows = await self._database.read(lambda c: c.execute(query).all())
        large = select(lfs_objects.c.project_id, func.sum(lfs_objects.c.size)).group_by(
            lfs_objects.c.project_id
        )
        sizes = {project_id: int(size) for project_id, size in rows}
        for project_id, size in await self._database.read(lambda c: c.execute(large).all()):
            sizes[project_id] = sizes.get(project_id, 0) + int(size)
        return sizes

    # -- life ----------------------------------------------------------------------------------

    async def purge(self, project_id: str) -> None:
        """Remove every repository of a project. May be repeated."""

        def work(c: Connection) -> list[str]:
            gone = c.execute(
                delete(repositories)
                .where(repositories.c.project_id == project_id)
                .returning(repositories.c.id)
            ).scalars()
            ids = list(gone)
            for table in (merge_requests, checks):
                c.execute(delete(table).where(table.c.project_id == project_id))
            _trash(c, lfs_objects.c.project_id == project_id)
            c.execute(delete(repository_quotas).where(repository_quotas.c.project_id == project_id))
            return ids

        for repository_id in await self._database.write(work):
            await self._unlink(repository_id)

    async def sweep(self) -> None:
        """Remove folders that no row knows: what a kill left of a creation or a removal. Called at start."""
        known = set(await self._database.read(lambda c: list(c.execute(select(repositories.c.id)).scalars())))
        for place in self._store.root.glob("repo_*.git"):
            if place.name.removesuffix(".git") not in known:
                log.info("removing what is left of a repository: %s", place.name)
                await self._unlink(place.name.removesuffix(".git"))

    async def _unlink(self, repository_id: str) -> None:
        place = self._store.place(repository_id)
        await anyio.to_thread.run_sync(lambda: shutil.rmtree(place, ignore_errors=True))


def weigh(place: Path) -> int:
    """The bytes of every file below a folder, as they lie on disk, but for what is only coming in."""
    total, folders = 0, [str(place)]
    while folders:
        try:
            with os.scandir(folders.pop()) as found:
                for one in found:
                    if one.is_dir(follow_symlinks=False):
                        if not one.name.startswith(INCOMING):
                            folders.append(one.path)
                    else:
                        total += one.stat(follow_symlinks=False).st_size
        except OSError:
            continue  # git may tidy up meanwhile
    return total


def room_in(c: Connection, project_id: str) -> int:
    """How many more bytes the project's quota holds."""
    total = func.coalesce(func.sum(repositories.c.bytes), 0)
    used = c.execute(select(total).where(repositories.c.project_id == project_id)).scalar_one()
    return _quota(c, project_id) - int(used) - _large(c, project_id)


def _large(c: Connection, project_id: str) -> int:
    """The bytes of a project's large files."""
    query = select(func.coalesce(func.sum(lfs_objects.c.size), 0)).where(
        lfs_objects.c.project_id == project_id
    )
    return int(c.execute(query).scalar_one())


def _trash(c: Connection, mine: ColumnElement[bool]) -> None:
    """Forget large files; their bytes are unlinked when the trash is."""
    gone = c.execute(delete(lfs_objects).where(mine).returning(lfs_objects.c.blob_key)).scalars().all()
    if gone:
        c.execute(insert(lfs_trash), [{"blob_key": key} for key in gone])


def _quota(c: Connection, project_id: str) -> int:
    query = select(repository_quotas.c.bytes).where(repository_quotas.c.project_id == project_id)
    given = c.execute(query).scalar()
    return DEFAULT_QUOTA if given is None else int(given)


def _find(c: Connection, project_id: str, name: str) -> Row[tuple[object, ...]] | None:
    query = select(repositories).where(repositories.c.project_id == project_id, repositories.c.name == name)
    return c.execute(query).one_or_none()


def _repository(row: Row[tuple[object, ...]]) -> Repository:
    return Repository(
        id=row.id,
        project_id=row.project_id,
        name=row.name,
        description=row.description,
        protected=tuple(orjson.loads(row.protected)),
        bytes=row.bytes,
        created_at=row.created_at,
        created_by=row.created_by,
        pushed_at=row.pushed_at,
        pushed_by=row.pushed_by,
    )


def _taken(name: str) -> Conflict:
    return Conflict(f"There is a repository {name!r} in this project already.", reason="repository_exists")


def _is_unrecorded(pushes: Path, repository_id: str) -> bool:
    """Is there a note of a push to the repository, with changes in it?"""
    for note in pushes.iterdir():
        with suppress(FileNotFoundError):
            first, _, changes = note.read_bytes().partition(b"\n")
            if changes and repository_id.encode() in first:
                return True
    return False
