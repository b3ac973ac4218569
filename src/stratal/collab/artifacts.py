"""Artifacts: files below a root (a run's directory, a logged model's, a model version's).

A file is received whole and durable before its row commits, so readers see the old or the new one and
never a part. The same bytes may be named by several roots (a model version pins what its run logged);
they are removed when the last one lets go.
"""

import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote

from sqlalchemy import Connection, delete, func, insert, select, update

from stratal.collab.model import Artifact, Entry, Root, RootKind
from stratal.collab.tables import artifact_roots, artifact_trash, artifacts
from stratal.collab.upsert import upsert
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.identity.shares import Share
from stratal.kernel.blobs import Blob, BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Denied, Invalid, NotFound
from stratal.ledger.lineage import Kind, Lineage

MAX_PATH = 1000
_LOCATION = re.compile(
    r"(?P<location>[^/]+/(?:models/)?(?P<id>[^/]+)/artifacts)(?:/(?P<path>.*))?\Z", re.DOTALL
)
_ROOM = {RootKind.RUN: "runs", RootKind.LOGGED_MODEL: "models", RootKind.MODEL_VERSION: "models"}
_LINEAGE: dict[RootKind, Kind] = {
    RootKind.RUN: "run",
    RootKind.LOGGED_MODEL: "model",
    RootKind.MODEL_VERSION: "model",
}


Lender = Callable[[Connection, str, str], Share | None]
"""By which share a project (by id) may read the files at a root (by id) of another; None: by none."""


def _keeps(_connection: Connection, _receiver_id: str, _root_id: str) -> None:
    """Without anybody who lends, nothing is lent."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file about to be sent: its size, and its bytes as they are read."""

    artifact: Artifact
    body: AsyncIterator[bytes]


class Artifacts:
    def __init__(self, database: Database, blobs: BlobStore, lineage: Lineage, clock: Clock) -> None:
        self.blobs = blobs
        self._database = database
        self._lineage = lineage
        self._clock = clock
        self._lender: Lender = _keeps

    def lend(self, lender: Lender) -> None:
        """Have `lender` asked about roots of other projects."""
        self._lender = lender

    async def put(
        self, who: Principal, project_id: str, location: str, body: AsyncIterator[bytes]
    ) -> Artifact:
        """Store a file at `location` (``<experiment>/<run>/artifacts/<path>``), replacing the one there.

        Raises `NotFound` when the root is not the project's, `Denied` when it is sealed, `Invalid` for a
        bad path, and whatever `body` raises; then nothing is stored.
        """
        root, path = await self._writable(who, project_id, location)
        if not path:
            raise Invalid("A file needs a path below the artifacts' directory.", reason="bad_path")
        writer = await self.blobs.create()
        try:
            async for chunk in body:
                await writer.write(chunk)
            blob = await writer.commit()
        except BaseException:
            await writer.abort()
            raise
        try:
            freed = await self._database.write(lambda c: self._replace(c, who, root, path, blob))
        except Exception:
            await self.blobs.delete(blob.key)
            raise
        await self._drop(freed)
        return Artifact(path, blob.size, blob.sha256, blob.key)

    async def get(self, who: Principal, project_id: str, location: str) -> Download:
        """A file's bytes. A workload's reading is recorded before the first byte leaves. Raises `NotFound`."""
        root, path = await self._readable(who, project_id, location)
        found = await self._database.read(lambda c: _file(c, root, path))
        while True:
            body = self.blobs.read(found.blob_key)
            try:
                first = await anext(body, b"")
            except NotFound:  # replaced between its row and its bytes: there is another row now, or none
                before, found = found, await self._database.read(lambda c: _file(c, root, path))
                if found.blob_key == before.blob_key:
                    raise
                continue
            break
        await self._lineage.record(
            who, "read", _LINEAGE[root.kind], root.id, project_id=root.project_id, name=root.name
        )
        return Download(found, _chain(first, body))

    async def find(self, who: Principal, project_id: str, location: str) -> Artifact:
        """What is known of a file, without its bytes. Raises `NotFound`."""
        root, path = await self._readable(who, project_id, location)
        return await self._database.read(lambda c: _file(c, root, path))

    async def entries(self, who: Principal, project_id: str, location: str) -> tuple[Root, list[Entry]]:
        """What lies directly in the directory `location`, by path. A file, or nothing there, lists empty."""
        root, path = await self._readable(who, project_id, location)
        prefix = f"{path}/" if path else ""
        files = await self._database.read(lambda c: files_below(c, root.id, path))
        found: dict[str, Entry] = {}
        for file in files:
            name, slash, _ = file.path[len(prefix) :].partition("/")
            found[name] = Entry(prefix + name, None if slash else file.size)
        return root, [found[name] for name in sorted(found)]

    async def delete(self, who: Principal, project_id: str, location: str) -> None:
        """Remove a file, or a directory with all that is in it. Raises `NotFound` when neither is there."""
        root, path = await self._writable(who, project_id, location)

        def work(connection: Connection) -> list[str]:
            files = files_below(connection, root.id, path)
            if path:
                files += file_at(connection, root.id, path)
            if not files and path:
                raise _no_file(path)
            return remove(connection, root.id, [file.path for file in files])

        await self._drop(await self._database.write(work))

    async def drop_trash(self) -> None:
        """Unlink what committed writes released (`release`). Cut off, it is done at the next start."""
        keys = await self._database.read(
            lambda c: list(c.execute(select(artifact_trash.c.blob_key).limit(1000)).scalars())
        )
        await self._drop(keys)

    async def location_of(self, who: Principal, project_id: str, root_id: str) -> str:
        """The location of a root by its id. Raises `NotFound`."""
        root = await self._database.read(lambda c: find_root(c, project_id, root_id))
        if root.kind not in _ROOM:
            raise _no_root(root_id)
        require(who, f"{_ROOM[root.kind]}.read", project_id)
        return root.location

    async def _readable(self, who: Principal, project_id: str, location: str) -> tuple[Root, str]:
        return await self._resolve(who, project_id, location, "read")

    async def _writable(self, who: Principal, project_id: str, location: str) -> tuple[Root, str]:
        root, path = await self._resolve(who, project_id, location, "write")
        if root.sealed:
            raise Denied(
                f"The files of {root.name} are pinned: they never change.",
                hint="Log a new model and register it as the next version.",
                reason="sealed",
            )
        return root, path

    async def _resolve(self, who: Principal, project_id: str, location: str, verb: str) -> tuple[Root, str]:
        match = _LOCATION.match(check_path(location))
        if match is None:
            raise NotFound(
                f"There are no artifacts at {location[:200]!r}.",
                hint="Artifacts lie at <experiment>/<run>/artifacts/<path>.",
                reason="no_such_artifact",
            )
        root = await self._database.read(
            lambda c: self._root(c, project_id, match["id"], lent=verb == "read")
        )
        if root.location != match["location"] or root.kind not in _ROOM:
            raise _no_root(match["id"])
        require(who, f"{_ROOM[root.kind]}.{verb}", project_id)
        return root, match["path"] or ""

    def _root(self, connection: Connection, project_id: str, root_id: str, *, lent: bool) -> Root:
        """The project's, or with `lent` also one that is shared with it, under the name it has there."""
        share = self._lender(connection, project_id, root_id) if lent else None
        if share is None:
            return find_root(connection, project_id, root_id)
        root = find_root(connection, share.giver_id, root_id)
        return replace(root, name=f"{share.giver}.{root.name}")

    def _replace(
        self, connection: Connection, who: Principal, root: Root, path: str, blob: Blob
    ) -> list[str]:
        find_root(connection, root.project_id, root.id)  # it may have been removed while bytes arrived
        ancestors = [path[:i] for i, c in enumerate(path) if c == "/"]
        clash = connection.execute(
            select(artifacts.c.path)
            .where(artifacts.c.root_id == root.id, artifacts.c.path.in_(ancestors))
            .limit(1)
        ).scalar()
        if clash is not None:
            raise Invalid(f"{clash!r} is a file, so nothing can lie below it.", reason="bad_path")
        if files_below(connection, root.id, path, limit=1):
            raise Invalid(f"{path!r} is a directory, so it cannot be a file.", reason="bad_path")
        old = [file.blob_key for file in file_at(connection, root.id, path)]
        row = _row(root.id, Artifact(path, blob.size, blob.sha256, blob.key), self._clock(), who.actor)
        upsert(connection, artifacts, [row], ("root_id", "path"))
        return release(connection, old)

    async def _drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self.blobs.delete(key)
        if keys:
            await self._database.write(
                lambda c: c.execute(delete(artifact_trash).where(artifact_trash.c.blob_key.in_(keys)))
            )


# -- for services whose own writes make, copy or remove directories of artifacts ------------------------


def insert_root(connection: Connection, root: Root) -> None:
    """Make an empty directory of artifacts."""
    connection.execute(
        insert(artifact_roots).values(
            id=root.id,
            project_id=root.project_id,
            kind=root.kind.value,
            location=root.location,
            name=root.name,
            sealed=int(root.sealed),
        )
    )


def insert_files(
    connection: Connection, root_id: str, files: Sequence[Artifact], now: int, actor: str
) -> None:
    """Name stored bytes in a directory that does not have these paths yet."""
    if files:
        connection.execute(insert(artifacts), [_row(root_id, file, now, actor) for file in files])


def rename_root(connection: Connection, root_id: str, name: str) -> None:
    """Change what a directory is called in lineage and messages; its id and location stay."""
    connection.execute(update(artifact_roots).where(artifact_roots.c.id == root_id).values(name=name))


def find_root(connection: Connection, project_id: str, root_id: str) -> Root:
    """The directory with this id. Raises `NotFound`, also for another project's."""
    row = connection.execute(
        select(artifact_roots).where(
            artifact_roots.c.id == root_id, artifact_roots.c.project_id == project_id
        )
    ).one_or_none()
    if row is None:
        raise _no_root(root_id)
    return Root(row.id, row.project_id, RootKind(row.kind), row.location, row.name, bool(row.sealed))


def files_below(
    connection: Connection, root_id: str, directory: str = "", *, limit: int | None = None
) -> list[Artifact]:
    """The files in a directory of a root and below, by path; of the whole root without one."""
    query = select(artifacts).where(artifacts.c.root_id == root_id)
    if directory:
        prefix = f"{directory}/"
        query = query.where(func.substr(artifacts.c.path, 1, len(prefix)) == prefix)
    rows = connection.execute(query.order_by(artifacts.c.path).limit(limit))
    return [Artifact(row.path, row.size, row.sha256, row.blob_key) for row in rows]


def remove(connection: Connection, root_id: str, paths: Sequence[str]) -> list[str]:
    """Take files out of a root; returns the blobs to delete once this is committed."""
    freed: list[str] = []
    for start in range(0, len(paths), 500):
        here = (artifacts.c.root_id == root_id, artifacts.c.path.in_(paths[start : start + 500]))
        keys = list(connection.execute(select(artifacts.c.blob_key).where(*here)).scalars())
        connection.execute(delete(artifacts).where(*here))
        freed += release(connection, keys)
    return freed


def remove_root(connection: Connection, root_id: str) -> list[str]:
    """Remove a directory with its files; returns the blobs to delete once this is committed."""
    freed = remove(connection, root_id, [file.path for file in files_below(connection, root_id)])
    connection.execute(delete(artifact_roots).where(artifact_roots.c.id == root_id))
    return freed


def release(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Of blobs that lost a name, put those without another one into the trash, and return them."""
    if not keys:
        return []
    still = set(
        connection.execute(select(artifacts.c.blob_key).where(artifacts.c.blob_key.in_(keys))).scalars()
    )
    freed = sorted(set(keys) - still)
    upsert(connection, artifact_trash, [{"blob_key": key} for key in freed], ("blob_key",))
    return freed


def check_path(path: str) -> str:
    """Return `path` when it is relative and names the same file whoever reads it, else raise `Invalid`.

    No empty, ``.`` or ``..`` part, no backslash or control character, at most 1,000 characters, also
    not after being unquoted once more (a proxy in between might do that).
    """
    if len(path) > MAX_PATH:
        raise Invalid(
            f"A path has at most {MAX_PATH} characters; this one has {len(path)}.", reason="bad_path"
        )
    path = path[:-1] if path.endswith("/") else path
    form = path
    for _ in range(3):
        odd = any(ord(c) < 32 or c in "\\\x7f" for c in form)
        if odd or any(part in {"", ".", ".."} for part in form.split("/")):
            raise Invalid(
                f"{path[:200]!r} is not a usable path.",
                hint="Use a relative path without '..', empty parts, backslashes or control characters.",
                reason="bad_path",
            )
        form, before = unquote(form), form
        if form == before:
            break
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise Invalid("The path is not valid Unicode.", reason="bad_path") from error
    return path


def file_at(connection: Connection, root_id: str, path: str) -> list[Artifact]:
    """The file at exactly `path`, as a list of none or one."""
    row = connection.execute(
        select(artifacts).where(artifacts.c.root_id == root_id, artifacts.c.path == path)
    ).one_or_none()
    return [] if row is None else [Artifact(row.path, row.size, row.sha256, row.blob_key)]


def _file(connection: Connection, root: Root, path: str) -> Artifact:
    for found in file_at(connection, root.id, path):
        return found
    raise _no_file(path)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _row(root_id: str, file: Artifact, now: int, actor: str) -> dict[str, object]:
    return {
        "root_id": root_id,
        "path": file.path,
        "blob_key": file.blob_key,
        "size": file.size,
        "sha256": file.sha256,
        "created_at": now,
        "created_by": actor,
    }


def _no_file(path: str) -> NotFound:
    return NotFound(f"There is no artifact at {path[:200]!r}.", reason="no_such_artifact")


def _no_root(root_id: str) -> NotFound:
    return NotFound(f"There are no artifacts of {root_id[:100]!r}.", reason="no_such_artifact")
