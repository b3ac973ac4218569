"""Large files of repositories (Git LFS): named by their SHA-256, kept beside git in a blob store of their own.

A file's row comes after its bytes, which are hashed on their way in: what a batch says is here is here, and is
what its name says. Bytes that lost their row are in the trash until they are unlinked; what a kill left without a row
is found at the next start.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from stratal.collab.collector import SweptBlobs
from stratal.collab.repositories.service import Repositories, room_in
from stratal.collab.repositories.tables import lfs_objects, lfs_trash
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound, OverBudget
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.ledger.lineage import Lineage

log = logging.getLogger("stratal.repositories")

MOST_AT_ONCE = 1000
_OID = re.compile(r"[0-9a-f]{64}\Z")
_BATCH = 200
_FIRST = f"blob_{'0' * 26}"


@dataclass(frozen=True, slots=True)
class Pointer:
    """What git keeps in place of a large file."""

    oid: str
    size: int


def check_pointer(oid: object, size: object) -> Pointer:
    """Raises `Invalid` for what names no file."""
    if not isinstance(oid, str) or not _OID.match(oid) or isinstance(size, bool) or not isinstance(size, int):
        raise Invalid("An object has an oid of 64 hex digits and a size.", reason="bad_object")
    if not 0 <= size < 2**50:
        raise Invalid("That is no file's size.", reason="bad_object")
    return Pointer(oid, size)


class Lfs:
    """`blobs` is its own. `start` removes what earlier servers left."""

    def __init__(
        self, database: Database, service: Repositories, blobs: SweptBlobs, lineage: Lineage, clock: Clock
    ) -> None:
        self._database = database
        self._repositories = service
        self._blobs = blobs
        self._lineage = lineage
        self._clock = clock
        self._coming: Counter[str] = Counter()
        """How many bytes are on their way in, by project."""

    async def start(self) -> None:
        started = new_id("blob")
        async for found in self._blobs.keys_after(_FIRST):
            keys = [key for key in found if key < started]
            for start in range(0, len(keys), _BATCH):
                some = keys[start : start + _BATCH]
                known = await self._database.read(lambda c, k=some: _known(c, k))  # type: ignore[misc]
                for key in set(some) - known:
                    await self._blobs.delete(key)
        await self.collect()

    async def there(self, who: Principal, project_id: str, name: str, asked: Sequence[Pointer]) -> set[str]:
        """Which of the files the repository has, by oid. Raises `NotFound`."""
        found = await self._repositories.get(who, project_id, name)
        query = select(lfs_objects.c.oid).where(
            lfs_objects.c.repository_id == found.id, lfs_objects.c.oid.in_([one.oid for one in asked])
        )
        return set(await self._database.read(lambda c: list(c.execute(query).scalars())))

    async def may_take(self, who: Principal, project_id: str, size: int) -> None:
        """Raises `Denied` for a viewer, `OverBudget` when the project's quota does not hold `size` more bytes."""
        require(who, "repositories.write", project_id)
        if size > await self._repositories.room_left(project_id):
            raise _full()

    async def read(
        self, who: Principal, project_id: str, name: str, oid: str
    ) -> tuple[int, AsyncIterator[bytes]]:
        """A file's size and bytes. Raises `NotFound`."""
        found = await self._repositories.get(who, project_id, name)
        mine = (lfs_objects.c.repository_id == found.id) & (lfs_objects.c.oid == oid)
        row = await self._database.read(lambda c: c.execute(select(lfs_objects).where(mine)).one_or_none())
        if row is None:
            raise NotFound("There is no such file in the repository.", reason="no_such_object")
        return row.size, self._blobs.read(row.blob_key)

    async def write(
        self, who: Principal, project_id: str, name: str, oid: str, body: AsyncIterator[bytes]
    ) -> None:
        """Keep a file. Raises `Invalid` unless its bytes have the hash that names it; `OverBudget`."""
        found = await self._repositories.get(who, project_id, name)
        await self.may_take(who, project_id, 1)
        room = await self._repositories.room_left(project_id)
        writer, digest, size = await self._blobs.create(), hashlib.sha256(), 0
        try:
            async for chunk in body:
                size += len(chunk)
                self._coming[project_id] += len(chunk)
                if self._coming[project_id] > room:
                    room = await self._repositories.room_left(project_id)
                    if self._coming[project_id] > room:
                        raise _full()
                digest.update(chunk)
                await writer.write(chunk)
            if digest.hexdigest() != oid:
                raise Invalid("The bytes are not the file that its oid names.", reason="wrong_hash")
            blob = await writer.commit()
        except BaseException:
            await writer.abort()
            raise
        finally:
            self._coming[project_id] -= size

        def work(c: Connection) -> bool | None:
            """Whether it is kept; None: it is there already."""
            mine = (lfs_objects.c.repository_id == found.id) & (lfs_objects.c.oid == oid)
            is_there = c.execute(select(lfs_objects.c.oid).where(mine)).first() is not None
            if is_there or size > room_in(c, project_id):  # others may have come meanwhile
                c.execute(insert(lfs_trash).values(blob_key=blob.key))
                return None if is_there else False
            c.execute(
                insert(lfs_objects).values(
                    repository_id=found.id,
                    oid=oid,
                    project_id=project_id,
                    size=size,
                    blob_key=blob.key,
                    created_at=self._clock(),
                    created_by=who.actor,
                )
            )
            emit(
                c, "repository.file_stored", found.id, actor=who.actor, project_id=project_id,
                name=name, oid=oid, size=size,
            )  # fmt: skip
            return True

        kept = await self._database.write(work)
        if not kept:
            await self.collect()
        if kept is False:
            raise _full()

    async def collect(self) -> None:
        """Unlink what is in the trash."""
        query = select(lfs_trash.c.blob_key).limit(_BATCH)
        while keys := await self._database.read(lambda c: list(c.execute(query).scalars())):
            for key in keys:
                await self._blobs.delete(key)
            gone = delete(lfs_trash).where(lfs_trash.c.blob_key.in_(keys))
            await self._database.write(lambda c, s=gone: c.execute(s))  # type: ignore[misc]


def _full() -> OverBudget:
    return OverBudget(
        "The project's quota for repositories does not hold these files.",
        hint="Remove a repository, or ask an admin for more: stratal repo quota PROJECT SIZE",
        reason="over_quota",
    )


def _known(c: Connection, keys: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for column in (lfs_objects.c.blob_key, lfs_trash.c.blob_key):
        found.update(c.execute(select(column).where(column.in_(keys))).scalars())
    return found
