"""Code snapshots: the files that a job ran, addressed by what is in them.

A client sends the manifest, is told which contents are not here yet, sends these, and sends the manifest
again, which then is the snapshot. Contents travel and are stored in packs, many files in one blob, so
that a thousand small files cost one fsync, not a thousand. They are kept per project: that something is
here already tells nobody about another project.
"""

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import anyio.to_thread
from sqlalchemy import Connection, Row, delete, insert, select

from stratal.compute import manifest
from stratal.compute.manifest import LINK, PROGRAM, CodeFile
from stratal.compute.tables import code_files, snapshots
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound, TooLarge
from stratal.kernel.events import emit

_ENTRY = 32 + 8
_ASKED_AT_ONCE = 500
_HASHED_HERE = 4096  # a thread hop costs more than hashing so little


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A committed snapshot: `id` is the SHA-256 of its manifest."""

    id: str
    files: int
    bytes: int
    created_at: int
    created_by: str


@dataclass(frozen=True, slots=True)
class Offer:
    """The answer to a manifest: its id, and the contents still to be sent; none: it is committed."""

    id: str
    missing: Sequence[str]


@dataclass(frozen=True, slots=True)
class Proof:
    """What recomputing every hash of a snapshot found: `broken` are paths whose bytes are not those recorded."""

    id: str
    manifest_ok: bool
    files: int
    broken: Sequence[str]

    @property
    def ok(self) -> bool:
        return self.manifest_ok and not self.broken


class Snapshots:
    def __init__(self, database: Database, blobs: BlobStore, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock

    # -- receiving -----------------------------------------------------------------------------

    async def offer(self, who: Principal, project_id: str, files: Sequence[CodeFile]) -> Offer:
        """Commit the snapshot of these files, or say which contents must be sent first.

        Raises `Invalid` and `TooLarge` for what no snapshot may hold (see `manifest`).
        """
        require(who, "jobs.run", project_id)
        listed = await anyio.to_thread.run_sync(manifest.checked, files)
        data = manifest.canonical(listed)
        id_ = manifest.snapshot_id(data)
        if await self._database.read(lambda c: _find(c, project_id, id_)) is not None:
            return Offer(id_, ())
        wanted = {file.sha256: file.size for file in listed}
        places = await self._places(project_id, list(wanted))
        for digest, size in wanted.items():
            if digest in places and places[digest].size != size:
                raise Invalid(f"The content {digest} has {places[digest].size} bytes, not {size}.")
        missing = [digest for digest in wanted if digest not in places]
        if missing:
            return Offer(id_, missing)
        for file in listed:
            if file.mode == LINK:
                manifest.check_link(file.path, await self._content(places[file.sha256]))
        await self._commit(who, project_id, id_, data, listed)
        return Offer(id_, ())

    async def _commit(
        self, who: Principal, project_id: str, id_: str, data: bytes, files: Sequence[CodeFile]
    ) -> None:
        blob = await self._blobs.put(data)
        total = sum(file.size for file in files)

        def work(c: Connection) -> bool:
            if _find(c, project_id, id_) is not None:
                return False
            c.execute(
                insert(snapshots).values(
                    project_id=project_id,
                    id=id_,
                    manifest_blob=blob.key,
                    files=len(files),
                    bytes=total,
                    created_at=self._clock(),
                    created_by=who.actor,
                )
            )
            emit(c, "code.stored", id_, actor=who.actor, project_id=project_id, files=len(files))
            return True

        if not await self._database.write(work):
            await self._blobs.delete(blob.key)

    async def receive(self, who: Principal, project_id: str, pack: AsyncIterator[bytes]) -> int:
        """Store a pack of contents; returns how many were new.

        A pack is, for each content: its SHA-256 (32 bytes), its length (8 bytes, big-endian), its bytes.
        Raises `Invalid` when a hash is not that of the bytes or the pack breaks off (then nothing of it
        is kept), `TooLarge` beyond the size of the largest snapshot.
        """
        require(who, "jobs.run", project_id)
        reader = _PackReader()
        writer = await self._blobs.create()
        try:
            async for chunk in pack:
                if len(chunk) > _HASHED_HERE:
                    await anyio.to_thread.run_sync(reader.feed, chunk)
                else:
                    reader.feed(chunk)
                await writer.write(chunk)
            reader.finish()
            if not reader.entries:
                return 0
            blob = await writer.commit()
        finally:
            await writer.abort()  # does nothing once committed

        def work(c: Connection) -> int:
            new = 0
            for digest, (offset, size) in reader.entries.items():
                if not _places_now(c, project_id, [digest]):
                    values = {"sha256": digest, "size": size, "blob": blob.key, "offset": offset}
                    c.execute(insert(code_files).values(project_id=project_id, **values))
                    new += 1
            return new

        stored = await self._database.write(work)
        if not stored:
            await self._blobs.delete(blob.key)
        return stored

    # -- using ---------------------------------------------------------------------------------

    async def get(self, project_id: str, id_: str) -> Snapshot:
        """Raises `NotFound`, also for a snapshot of another project."""
        row = await self._row(project_id, id_)
        return Snapshot(row.id, row.files, row.bytes, row.created_at, row.created_by)

    async def show(self, who: Principal, project_id: str, id_: str) -> tuple[Snapshot, list[CodeFile]]:
        """A snapshot and its entries, for whoever may look at the project's jobs. Raises `NotFound`."""
        require(who, "jobs.read", project_id, what="such snapshot")
        return await self.get(project_id, id_), await self.files(project_id, id_)

    async def files(self, project_id: str, id_: str) -> list[CodeFile]:
        """The snapshot's entries, as recorded. Raises `NotFound`."""
        row = await self._row(project_id, id_)
        return manifest.read(await self._blobs.read_all(row.manifest_blob))

    async def lay_out(self, project_id: str, id_: str, folder: Path) -> None:
        """Write the snapshot's files below `folder`, which must be new and empty.

        Every hash is checked on the way: raises `Invalid` (reason ``code_damaged``) rather than run other
        code than was recorded.
        """
        files = await self.files(project_id, id_)
        if manifest.snapshot_id(manifest.canonical(files)) != id_:
            raise Invalid(f"The stored manifest of snapshot {id_[:12]} is damaged.", reason="code_damaged")
        places = await self._places(project_id, [file.sha256 for file in files])
        for file in files:
            place = places.get(file.sha256)
            if place is None or not await self._write(file, place, folder / file.path):
                raise Invalid(
                    f"The stored bytes of {file.path!r} in snapshot {id_[:12]} are damaged.",
                    reason="code_damaged",
                )

    async def prove(self, project_id: str, id_: str) -> Proof:
        """Read every byte of the snapshot again and compare the hashes. Raises `NotFound`."""
        row = await self._row(project_id, id_)
        try:
            data = await self._blobs.read_all(row.manifest_blob)
        except NotFound:
            return Proof(id_, False, row.files, ())
        if manifest.snapshot_id(data) != id_:
            return Proof(id_, False, row.files, ())
        files = manifest.read(data)
        places = await self._places(project_id, [file.sha256 for file in files])
        broken = [file.path for file in files if not await self._is_whole(file, places.get(file.sha256))]
        return Proof(id_, True, len(files), broken)

    async def purge(self, project_id: str) -> None:
        """Remove every snapshot of the project and the bytes; may be repeated."""
        keys = await self._database.read(
            lambda c: [
                *c.execute(
                    select(code_files.c.blob).where(code_files.c.project_id == project_id).distinct()
                ).scalars(),
                *c.execute(
                    select(snapshots.c.manifest_blob).where(snapshots.c.project_id == project_id)
                ).scalars(),
            ]
        )
        for key in keys:
            await self._blobs.delete(key)

        def work(c: Connection) -> None:
            c.execute(delete(code_files).where(code_files.c.project_id == project_id))
            c.execute(delete(snapshots).where(snapshots.c.project_id == project_id))

        await self._database.write(work)

    # -- bytes ---------------------------------------------------------------------------------

    async def _row(self, project_id: str, id_: str) -> Row[tuple[object, ...]]:
        row = await self._database.read(lambda c: _find(c, project_id, id_))
        if row is None:
            raise NotFound(f"There is no code snapshot {id_[:80]!r}.", reason="no_such_snapshot")
        return row

    async def _places(self, project_id: str, digests: Sequence[str]) -> dict[str, Row[tuple[object, ...]]]:
        wanted = list(dict.fromkeys(digests))
        return await self._database.read(lambda c: _places_now(c, project_id, wanted))

    async def _content(self, place: Row[tuple[object, ...]]) -> bytes:
        return b"".join([chunk async for chunk in self._blobs.read(place.blob, place.offset, place.size)])

    async def _write(self, file: CodeFile, place: Row[tuple[object, ...]], path: Path) -> bool:
        """Write one file; False when its bytes are not those recorded."""
        if file.mode == LINK:
            target = await self._content(place)
            if hashlib.sha256(target).hexdigest() != file.sha256:
                return False
            manifest.check_link(file.path, target)
            await anyio.to_thread.run_sync(_make_link, path, target)
            return True
        digest = hashlib.sha256()
        stream = await anyio.to_thread.run_sync(_create, path, file.mode == PROGRAM)
        try:
            if place.size:
                async for chunk in self._blobs.read(place.blob, place.offset, place.size):
                    await anyio.to_thread.run_sync(_append, stream, digest, chunk)
        except NotFound:
            return False
        finally:
            await anyio.to_thread.run_sync(stream.close)
        return digest.hexdigest() == file.sha256

    async def _is_whole(self, file: CodeFile, place: Row[tuple[object, ...]] | None) -> bool:
        if place is None or place.size != file.size:
            return False
        digest = hashlib.sha256()
        if place.size:
            try:
                async for chunk in self._blobs.read(place.blob, place.offset, place.size):
                    await anyio.to_thread.run_sync(digest.update, chunk)
            except NotFound:
                return False
        return digest.hexdigest() == file.sha256


class _PackReader:
    """Takes a pack apart while it arrives: digest → (offset of its bytes in the pack, length)."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[int, int]] = {}
        self._position = 0
        self._header = b""
        self._expected = ""
        self._begin = 0
        self._left = 0
        self._digest = hashlib.sha256()

    def feed(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        self._position += len(view)
        if self._position > manifest.MAX_BYTES + manifest.MAX_FILES * _ENTRY:
            raise TooLarge(f"A pack may have {manifest.MAX_BYTES / 2**20:.0f} MiB.")
        while view:
            if not self._expected:
                taken = min(_ENTRY - len(self._header), len(view))
                self._header += bytes(view[:taken])
                view = view[taken:]
                if len(self._header) < _ENTRY:
                    return
                self._open(self._position - len(view))
            taken = min(self._left, len(view))
            self._digest.update(view[:taken])
            self._left -= taken
            view = view[taken:]
            if not self._left:
                self._close()

    def finish(self) -> None:
        """Raises `Invalid` when something is missing at the end."""
        if self._expected or self._header:
            raise Invalid("The pack breaks off.", hint="Send it again.", reason="bad_pack")

    def _open(self, begin: int) -> None:
        self._expected = self._header[:32].hex()
        self._left = int.from_bytes(self._header[32:], "big")
        self._header = b""
        self._begin = begin
        self._digest = hashlib.sha256()
        if self._left > manifest.MAX_BYTES:
            raise TooLarge(f"A file of code may have {manifest.MAX_BYTES / 2**20:.0f} MiB.")
        if len(self.entries) >= manifest.MAX_FILES:
            raise TooLarge(f"A pack may hold {manifest.MAX_FILES} files.")
        self._size = self._left

    def _close(self) -> None:
        if self._digest.hexdigest() != self._expected:
            raise Invalid(
                f"The bytes sent for {self._expected} have another SHA-256.",
                hint="The file changed while it was sent? Try again.",
                reason="bad_digest",
            )
        self.entries[self._expected] = (self._begin, self._size)
        self._expected = ""


def _find(connection: Connection, project_id: str, id_: str) -> Row[tuple[object, ...]] | None:
    query = select(snapshots).where(snapshots.c.project_id == project_id, snapshots.c.id == id_)
    return connection.execute(query).one_or_none()


def _places_now(
    connection: Connection, project_id: str, digests: Sequence[str]
) -> dict[str, Row[tuple[object, ...]]]:
    found = {}
    for start in range(0, len(digests), _ASKED_AT_ONCE):
        some = digests[start : start + _ASKED_AT_ONCE]
        query = select(code_files).where(code_files.c.project_id == project_id, code_files.c.sha256.in_(some))
        found.update({row.sha256: row for row in connection.execute(query)})
    return found


def _create(path: Path, program: bool) -> IO[bytes]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o755 if program else 0o644
    )
    return os.fdopen(descriptor, "wb")


def _append(stream: IO[bytes], digest: "hashlib._Hash", chunk: bytes) -> None:
    digest.update(chunk)
    stream.write(chunk)


def _make_link(path: Path, target: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.fsdecode(target))
