"""Versions made file by file, as clients of a model hub make them: a commit is the next version of a model.

A model's history is one line. Its head is the newest version; a commit names what changes against it, and
the result is pinned like any other version, sharing the bytes that stay the same. Large files arrive before
the commit and are kept, by their checksum, in a directory of the project until a commit names them or a
week has passed.
"""

import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, select, update

from stratal.ai.models.lent import home_of
from stratal.ai.models.model import STAGES, Facts, ModelVersion, RegisteredModel
from stratal.ai.models.pinning import insert_pinned
from stratal.ai.models.registry import Models
from stratal.ai.models.rows import alias_target, find_model, version_number, version_of, with_files
from stratal.ai.models.tables import model_versions, registered_models
from stratal.collab.artifacts import check_path, file_at, files_below, insert_root, release, remove
from stratal.collab.model import Artifact, Root, RootKind
from stratal.collab.rules import check_text
from stratal.collab.tables import artifact_roots, artifacts
from stratal.collab.upsert import upsert
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.blobs import Blob, BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound, PreconditionFailed
from stratal.kernel.ids import new_id
from stratal.ledger.lineage import Lineage, Mode
from stratal.ledger.past import refused_in_past

MAIN = "main"
_OID = re.compile(r"[0-9a-f]{64}\Z")
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")
_KEPT = 7 * 24 * 3600 * 1000  # how long bytes wait for a commit, in milliseconds
_MAX_NAME = 255
_MAX_TITLE = 500
_MAX_MESSAGE = 65_000


@dataclass(frozen=True, slots=True)
class Add:
    """A file whose bytes come along."""

    path: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Link:
    """A file whose bytes are here already, by their SHA-256; `size` None where the client does not say."""

    path: str
    oid: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """A file, or with `folder` everything below a directory."""

    path: str
    folder: bool = False


Change = Add | Link | Remove


@dataclass(frozen=True, slots=True)
class NewCommit:
    """`parent` is the commit that the head must be at, "" for whichever it is."""

    title: str
    description: str
    parent: str
    changes: Sequence[Change]


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a model's history: its commit, and its version (None before the first one)."""

    model: RegisteredModel
    commit: str
    version: ModelVersion | None


@dataclass(frozen=True, slots=True)
class _Plan:
    model: RegisteredModel
    head: ModelVersion | None
    files: tuple[Artifact, ...]
    uploaded: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Does the commit change nothing?"""
        return self.head is not None and _by_content(self.files) == _by_content(
            [Artifact(f.path, f.size, f.sha256, f.blob_key) for f in self.head.files]
        )


class Commits:
    def __init__(self, database: Database, models: Models, lineage: Lineage, clock: Clock) -> None:
        self.blobs: BlobStore = models.blobs
        self._database = database
        self._models = models
        self._lineage = lineage
        self._clock = clock

    # -- reading ---------------------------------------------------------------------------------

    async def at(self, who: Principal, project_id: str, name: str, revision: str = MAIN) -> Point:
        """What `revision` names now: ``main``, a commit, a tag (an alias of the registry), or a version's number.

        Raises `NotFound` (reasons ``no_such_model``, ``no_such_revision``). A workload's asking is recorded
        as reading the model.
        """
        require(who, "models.read", project_id)

        def work(connection: Connection) -> Point:
            model = find_model(connection, *home_of(connection, project_id, name))
            found = _version_at(connection, model, revision)
            return Point(
                model, commit_of(found or model), None if found is None else with_files(connection, found)
            )

        point = await self._database.read(work)
        if point.version is not None:
            await self._record(who, "read", point.version)
        return point

    async def is_lent(self, who: Principal, project_id: str, name: str) -> bool:
        """Is that what the project calls a model which another shares with it?"""
        require(who, "models.read", project_id)
        return await self._database.read(lambda c: home_of(c, project_id, name)[0] != project_id)

    async def log(self, who: Principal, project_id: str, name: str, revision: str = MAIN) -> list[Point]:
        """The history up to `revision`, newest first, without files."""
        require(who, "models.read", project_id)

        def work(connection: Connection) -> list[Point]:
            model = find_model(connection, *home_of(connection, project_id, name))
            newest = _version_at(connection, model, revision)
            if newest is None:
                return [Point(model, commit_of(model), None)]
            rows = connection.execute(
                _of_model(model).where(model_versions.c.version <= newest.version)
            ).all()
            return [Point(model, commit_of(version_of(row)), version_of(row)) for row in rows]

        return await self._database.read(work)

    # -- bytes that arrive before their commit ---------------------------------------------------

    async def present(self, who: Principal, project_id: str, name: str, oids: Sequence[str]) -> set[str]:
        """Which of these bytes (by SHA-256) need not be sent again. Forgets uploads that nobody committed."""
        require(who, "models.write", project_id)
        for oid in oids:
            check_oid(oid)
        before = self._clock() - _KEPT

        def work(connection: Connection) -> tuple[set[str], bool]:
            model = find_model(connection, project_id, name)
            head = _version_at(connection, model, MAIN)
            have = set() if head is None else {file.sha256 for file in files_below(connection, head.id)}
            root = _uploads(project_id)
            query = select(artifacts.c.path, artifacts.c.created_at).where(artifacts.c.root_id == root)
            rows = connection.execute(query).all()
            fresh = {row.path for row in rows if row.created_at >= before}
            return (have | fresh) & set(oids), len(fresh) < len(rows)

        found, stale = await self._database.read(work)
        if stale:
            await self._database.write(lambda c: _forget_old(c, project_id, before))
            await self._models.drop_released()
        return found

    async def receive(
        self, who: Principal, project_id: str, oid: str, size: int, body: AsyncIterator[bytes]
    ) -> None:
        """Keep bytes for a commit to come. Raises `Invalid` when they are not `size` bytes with the SHA-256 `oid`."""
        require(who, "models.write", project_id)
        check_oid(oid)
        writer = await self.blobs.create()
        received = 0
        try:
            async for chunk in body:
                received += len(chunk)
                if received > size:
                    raise _wrong_size(oid, size)
                await writer.write(chunk)
            blob = await writer.commit()
        except BaseException:
            await writer.abort()
            raise
        try:
            if blob.size != size:
                raise _wrong_size(oid, size)
            if blob.sha256 != oid:
                raise Invalid(
                    f"The bytes' SHA-256 is {blob.sha256}, not {oid}: they changed on the way. Nothing was kept.",
                    hint="Upload the file again.",
                    reason="wrong_checksum",
                )
            await self._database.write(lambda c: self._keep(c, who, project_id, blob))
        except Exception:
            await self.blobs.delete(blob.key)
            raise
        await self._models.drop_released()

    async def discard(self, who: Principal, project_id: str, oids: Sequence[str]) -> None:
        """Forget bytes that came for a commit which is not made after all."""
        require(who, "models.write", project_id)
        await self._database.write(lambda c: remove(c, _uploads(project_id), oids))
        await self._models.drop_released()

    def _keep(self, connection: Connection, who: Principal, project_id: str, blob: Blob) -> None:
        root = _uploads(project_id)
        known = connection.execute(select(artifact_roots.c.id).where(artifact_roots.c.id == root)).scalar()
        if known is None:
            insert_root(connection, Root(root, project_id, RootKind.UPLOADS, "", "uploads", sealed=True))
        old = [file.blob_key for file in file_at(connection, root, blob.sha256)]
        row = {
            "root_id": root,
            "path": blob.sha256,
            "blob_key": blob.key,
            "size": blob.size,
            "sha256": blob.sha256,
            "created_at": self._clock(),
            "created_by": who.actor,
        }
        upsert(connection, artifacts, [row], ("root_id", "path"))
        release(connection, old)

    # -- committing ------------------------------------------------------------------------------

    async def commit(self, who: Principal, project_id: str, name: str, new: NewCommit) -> Point:
        """Make the next version of `name` by changing its head's files. A commit that changes nothing gives the head.

        Raises `NotFound` for a model that is not there or a file to remove that is not, `Invalid` for a bad
        path, bytes that were not uploaded or no file left, `PreconditionFailed` when the head has moved on.
        """
        require(who, "models.write", project_id)
        if await self._models.in_past(who):
            raise refused_in_past("commit a model's files")
        _check(new)
        placed: dict[int, Blob] = {}
        try:
            for index, change in enumerate(new.changes):
                if isinstance(change, Add):
                    placed[index] = await self.blobs.put(change.data)
            point, is_new = await self._make(who, project_id, name, new, placed)
        except Exception:
            for blob in placed.values():
                await self.blobs.delete(blob.key)
            raise
        used = {file.blob_key for file in point.version.files} if point.version else set()
        for blob in placed.values():
            if blob.key not in used:
                await self.blobs.delete(blob.key)
        if is_new and point.version is not None:
            await self._record(who, "write", point.version)
        return point

    async def _make(
        self, who: Principal, project_id: str, name: str, new: NewCommit, placed: dict[int, Blob]
    ) -> tuple[Point, bool]:
        while True:
            plan = await self._database.read(lambda c: _plan(c, project_id, name, new, placed))
            if plan.same:
                assert plan.head is not None
                return Point(plan.model, commit_of(plan.head), plan.head), False
            facts = await self._models.facts_of(plan.files)
            made = await self._database.write(
                lambda c, p=plan, f=facts: self._pin(c, who, project_id, name, new, placed, p, f)  # type: ignore[misc]
            )
            if made is not None:  # else the head has moved on in between: look again
                return Point(plan.model, commit_of(made), made), True

    def _pin(
        self,
        connection: Connection,
        who: Principal,
        project_id: str,
        name: str,
        new: NewCommit,
        placed: dict[int, Blob],
        planned: _Plan,
        facts: Facts,
    ) -> ModelVersion | None:
        """Insert the version; None when the head is not what was planned upon any more."""
        plan = _plan(connection, project_id, name, new, placed)
        if plan.files != planned.files or plan.model.id != planned.model.id:
            return None
        now = self._clock()
        number = connection.execute(
            update(registered_models)
            .where(registered_models.c.id == plan.model.id)
            .values(last_version=registered_models.c.last_version + 1, updated_at=now)
            .returning(registered_models.c.last_version)
        ).scalar_one()
        made = ModelVersion(
            id=new_id("mv"),
            project_id=project_id,
            name=name,
            version=number,
            source=f"hub:/{name}",
            run_id=None,
            run_link="",
            logged_model_id=None,
            workload=who.workload,
            description="\n\n".join(part for part in (new.title, new.description) if part),
            stage=STAGES[0],
            created_at=now,
            updated_at=now,
            created_by=who.actor,
            facts=facts,
        )
        insert_pinned(connection, made, plan.model.id, plan.files, who.actor)
        remove(connection, _uploads(project_id), plan.uploaded)
        return with_files(connection, made)

    async def _record(self, who: Principal, mode: Mode, version: ModelVersion) -> None:
        await self._lineage.record(
            who,
            mode,
            "model",
            version.id,
            project_id=version.project_id,
            name=f"{version.name}/{version.version}",
        )


def commit_of(point: ModelVersion | RegisteredModel) -> str:
    """The commit that stands for a version (or, before the first, for its model): 40 hex digits of its id's hash."""
    return hashlib.sha256(point.id.encode()).hexdigest()[:40]


def check_oid(oid: str) -> str:
    """Return `oid` when it is a SHA-256 in lower-case hex, else raise `Invalid`."""
    if not _OID.match(oid):
        raise Invalid(f"{oid[:80]!r} is not a SHA-256 in hex.", reason="bad_oid")
    return oid


def _check(new: NewCommit) -> None:
    if not new.title.strip():
        raise Invalid("A commit needs a title.", reason="missing_value")
    for text, limit in ((new.title, _MAX_TITLE), (new.description, _MAX_MESSAGE)):
        check_text("the commit's message", text)
        if len(text) > limit:
            raise Invalid(f"A commit's title has at most {_MAX_TITLE} characters, its text {_MAX_MESSAGE}.")
    for change in new.changes:
        if isinstance(change, Link):
            check_oid(change.oid)
        path = _check_path(change.path)
        if path != change.path and not isinstance(change, Remove):
            raise Invalid(f"{change.path[:200]!r} is a directory's path, not a file's.", reason="bad_path")
        if ".git" in path.lower().split("/"):
            raise Invalid("A path must not go through '.git'.", reason="bad_path")


def _plan(
    connection: Connection, project_id: str, name: str, new: NewCommit, placed: dict[int, Blob]
) -> _Plan:
    model = find_model(connection, project_id, name)
    found = _version_at(connection, model, MAIN)
    head = None if found is None else with_files(connection, found)
    if new.parent and new.parent != commit_of(head or model):
        raise PreconditionFailed(
            f"The head of {name!r} is {commit_of(head or model)}, not {new.parent[:60]!r}.",
            hint="Look at what changed, then commit on top of it.",
            reason="stale_parent",
        )
    files = {f.path: Artifact(f.path, f.size, f.sha256, f.blob_key) for f in head.files} if head else {}
    known = {file.sha256: file for file in files.values()}
    uploaded: list[str] = []
    for index, change in enumerate(new.changes):
        if isinstance(change, Remove):
            _remove(files, change)
        elif isinstance(change, Add):
            blob = placed[index]
            files[change.path] = Artifact(change.path, blob.size, blob.sha256, blob.key)
        else:
            bytes_, is_upload = _bytes(connection, project_id, change, known)
            files[change.path] = Artifact(change.path, bytes_.size, bytes_.sha256, bytes_.blob_key)
            if is_upload:
                uploaded.append(change.oid)
    for path in files:
        for end in (i for i, c in enumerate(path) if c == "/"):
            if path[:end] in files:
                raise Invalid(f"{path[:end]!r} is a file, so nothing can lie below it.", reason="bad_path")
    if not files:
        raise Invalid(
            f"No file would be left of {name!r}, and a version holds at least one.",
            hint="Delete the model instead.",
            reason="no_files",
        )
    ordered = tuple(files[path] for path in sorted(files))
    return _Plan(model, head, ordered, tuple(sorted(set(uploaded))))


def _check_path(path: str) -> str:
    """As `check_path`; and no part is longer than a file system's name: nobody could download the whole any more."""
    longest = max(check_path(path).split("/"), key=lambda part: len(part.encode()))
    if len(longest.encode()) > _MAX_NAME:
        raise Invalid(
            f"A part of a path has at most {_MAX_NAME} bytes, as file systems hold them; {longest[:100]!r} … has more.",
            reason="bad_path",
        )
    return check_path(path)


def _remove(files: dict[str, Artifact], change: Remove) -> None:
    path = change.path.rstrip("/")
    gone = [p for p in files if (p.startswith(f"{path}/") if change.folder else p == path)]
    if not gone:
        raise NotFound(
            f"A file with this name doesn't exist: {path[:200]!r}.",
            hint="A directory's path ends with '/'.",
            reason="no_such_entry",
        )
    for one in gone:
        del files[one]


def _bytes(
    connection: Connection, project_id: str, link: Link, known: dict[str, Artifact]
) -> tuple[Artifact, bool]:
    """The stored bytes that a link means, and whether they wait among the uploads."""
    found = file_at(connection, _uploads(project_id), link.oid)
    is_upload = bool(found)
    if not found and link.oid in known:
        found = [known[link.oid]]
    if not found:  # copied from another model of the project
        row = connection.execute(
            select(artifacts)
            .join(artifact_roots, artifact_roots.c.id == artifacts.c.root_id)
            .where(
                artifact_roots.c.project_id == project_id,
                artifact_roots.c.kind == RootKind.MODEL_VERSION.value,
                artifacts.c.sha256 == link.oid,
            )
            .limit(1)
        ).one_or_none()
        found = [] if row is None else [Artifact(row.path, row.size, row.sha256, row.blob_key)]
    if not found:
        raise Invalid(
            f"The bytes of {link.path[:200]!r} ({link.oid}) were not uploaded.",
            hint="Upload them first, then commit again.",
            reason="not_uploaded",
        )
    if link.size is not None and link.size != found[0].size:
        raise Invalid(
            f"{link.path[:200]!r} is said to have {link.size} bytes; {found[0].size} were uploaded.",
            reason="wrong_size",
        )
    return found[0], is_upload


def _version_at(connection: Connection, model: RegisteredModel, revision: str) -> ModelVersion | None:
    """The version that a revision names, None for the point before the first. Raises `NotFound`."""
    query = _of_model(model)
    if revision == MAIN or revision == commit_of(model):
        first = None if revision != MAIN else connection.execute(query.limit(1)).one_or_none()
        return None if first is None else version_of(first)
    if _COMMIT.match(revision):
        for row in connection.execute(query):
            version = version_of(row)
            if commit_of(version) == revision:
                return version
    number = version_number(revision.removeprefix("v"))
    if number is None:
        try:
            number = alias_target(connection, model, revision)
        except NotFound:
            number = -1
    found = connection.execute(query.where(model_versions.c.version == number)).one_or_none()
    if found is None:
        raise NotFound(
            f"{model.name!r} has no revision {revision[:100]!r}.",
            hint="Use main, a commit, a tag, or a version's number.",
            reason="no_such_revision",
        )
    return version_of(found)


def _of_model(model: RegisteredModel) -> Select[Any]:
    return (
        select(model_versions)
        .where(model_versions.c.model_id == model.id, model_versions.c.deleted_at.is_(None))
        .order_by(model_versions.c.version.desc())
    )


def _uploads(project_id: str) -> str:
    return f"uploads-{project_id}"


def _forget_old(connection: Connection, project_id: str, before: int) -> None:
    root = _uploads(project_id)
    query = select(artifacts.c.path).where(artifacts.c.root_id == root, artifacts.c.created_at < before)
    remove(connection, root, list(connection.execute(query).scalars()))


def _by_content(files: Sequence[Artifact]) -> dict[str, str]:
    return {file.path: file.sha256 for file in files}


def _wrong_size(oid: str, size: int) -> Invalid:
    return Invalid(
        f"{oid} was announced with {size} bytes; others came. Nothing was kept.",
        hint="Upload the file again.",
        reason="wrong_size",
    )
