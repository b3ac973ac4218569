"""Objects: what everybody else calls to store, read, list and delete named bytes.

A write is received whole and made durable as a blob first; then one transaction makes it what its key
names. So a reader sees the old content or the new, and what a killed process leaves is only bytes
that no row refers to. A workload's reads and writes are recorded by version before they are answered.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select
from sqlalchemy.exc import IntegrityError

from stratal.data.objects import rows
from stratal.data.objects.collector import Collector, SweptBlobs
from stratal.data.objects.listing import list_page
from stratal.data.objects.model import (
    ALWAYS,
    NO_CHECKS,
    PLAIN,
    Bucket,
    BucketKind,
    Checks,
    Condition,
    Description,
    Listing,
    ObjectVersion,
    Verification,
    VersionState,
    check_bucket_name,
    check_description,
    encode_key,
)
from stratal.data.objects.receiving import Received, receive
from stratal.data.objects.tables import buckets, object_versions, objects, uploads
from stratal.identity.model import Principal
from stratal.identity.permissions import may, require
from stratal.identity.shares import end_shares
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Denied, Internal, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.ledger.lineage import Lineage, Mode
from stratal.ledger.past import NOTHING, Past


def _nothing_more(_connection: Connection, _version_id: str) -> None:
    """Most versions change nothing else."""


MAX_PAGE = 1000
_DELETE_BATCH = 100


class Objects:
    """The service. `start` and `close` run its collector; `wake_collector` is for `multipart.Uploads`."""

    def __init__(self, database: Database, blobs: SweptBlobs, lineage: Lineage, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._lineage = lineage
        self._clock = clock
        self._collector = Collector(database, blobs, clock)
        self._lender: rows.Lender | None = None

    async def start(self) -> None:
        self._collector.start()

    async def close(self) -> None:
        await self._collector.close()

    def wake_collector(self) -> None:
        self._collector.wake()

    def lend(self, lender: rows.Lender) -> None:
        """Have `lender` asked about single keys of buckets that are not shared as a whole (the lake's)."""
        self._lender = lender

    # -- buckets -------------------------------------------------------------------------------

    async def create_bucket(
        self,
        who: Principal,
        name: str,
        *,
        project_id: str | None = None,
        kind: BucketKind = BucketKind.USER,
    ) -> Bucket:
        """Make a bucket in the project (default: the caller's own).

        Names are unique per instance. Raises `Conflict`: ``bucket_owned`` when the project has it
        already, ``bucket_exists`` when another has; `Invalid` for a name that S3 does not allow.
        """
        place = project_id or who.project_id
        require(who, "buckets.manage", place)
        bucket = Bucket(new_id("bkt"), check_bucket_name(name), place, kind, self._clock())

        def work(connection: Connection) -> Bucket:
            taken = connection.execute(select(buckets.c.project_id).where(buckets.c.name == name)).scalar()
            if taken == place:
                raise Conflict(f"This project has a bucket {name!r} already.", reason="bucket_owned")
            if taken is not None:
                raise Conflict(f"The name {name!r} is taken.", hint="Choose another.", reason="bucket_exists")
            connection.execute(
                insert(buckets).values(
                    id=bucket.id,
                    name=name,
                    project_id=place,
                    kind=kind.value,
                    created_at=bucket.created_at,
                    created_by=who.actor,
                )
            )
            emit(connection, "bucket.created", bucket.id, actor=who.actor, project_id=place, name=name)
            return bucket

        try:
            return await self._database.write(work)
        except IntegrityError as error:
            raise Conflict(f"The name {name!r} is taken.", reason="bucket_exists") from error

    async def bucket(self, who: Principal, name: str) -> Bucket:
        """Raises `NotFound` (``no_such_bucket``), also for another project's bucket."""
        return await self._database.read(lambda c: rows.find_bucket(c, who, "objects.read", name))

    async def readable_bucket(self, who: Principal, name: str) -> Bucket:
        """As `bucket`, or one that is shared with the caller's project."""
        return await self._database.read(lambda c: rows.find_readable(c, who, name))

    async def list_buckets(self, who: Principal, *, project_id: str | None = None) -> list[Bucket]:
        """The buckets of the project (default: the caller's own), by name."""
        place = project_id or who.project_id
        require(who, "objects.read", place)
        query = select(buckets).where(buckets.c.project_id == place).order_by(buckets.c.name)
        found = await self._database.read(lambda c: c.execute(query).all())
        return [rows.to_bucket(row) for row in found]

    async def delete_bucket(self, who: Principal, name: str) -> None:
        """Delete an empty bucket; uploads under way in it are given up. Raises `Conflict` (``bucket_not_empty``)."""

        def work(connection: Connection) -> None:
            bucket = rows.find_bucket(connection, who, "buckets.manage", name)
            if bucket.kind is BucketKind.LAKE:
                raise Denied(
                    f"The bucket {name!r} holds the project's tables.", hint="Drop the tables instead."
                )
            inside = select(objects.c.key).where(objects.c.bucket_id == bucket.id).limit(1)
            if connection.execute(inside).first() is not None:
                raise Conflict(
                    f"The bucket {name!r} is not empty.",
                    hint="Delete its objects first.",
                    reason="bucket_not_empty",
                )
            rows.drop_uploads(connection, uploads.c.bucket_id == bucket.id, self._clock())
            end_shares(connection, "bucket", bucket.id, who.actor)
            connection.execute(delete(buckets).where(buckets.c.id == bucket.id))
            emit(
                connection,
                "bucket.deleted",
                bucket.id,
                actor=who.actor,
                project_id=bucket.project_id,
                name=name,
            )

        await self._database.write(work)
        self.wake_collector()

    async def purge(self, project_id: str) -> None:
        """Remove everything the project has here, the rows of replaced and deleted versions included."""
        await self._database.write(lambda c: rows.purge_project(c, project_id, self._clock()))
        await self._collector.collect()

    # -- writing -------------------------------------------------------------------------------

    async def put(
        self,
        who: Principal,
        bucket: str,
        key: str,
        body: AsyncIterator[bytes],
        *,
        description: Description = PLAIN,
        checks: Checks = NO_CHECKS,
        condition: Condition = ALWAYS,
    ) -> ObjectVersion:
        """Store an object; it is durable and visible when this returns, and not at all when it raises.

        Raises `NotFound` (no such bucket), `PreconditionFailed`, and what `receiving.receive` does.
        """
        place = await self._writable(who, bucket, key, description)
        received = await receive(self._blobs, body, checks, also=("md5",))
        kept = {name: received.digests[name] for name in checks.record}
        return await self.commit(
            who, place, key, received, etag=received.md5, checksums=kept, description=description,
            condition=condition,
        )  # fmt: skip

    async def put_bytes(
        self, who: Principal, bucket: str, key: str, data: bytes, *, description: Description = PLAIN
    ) -> ObjectVersion:
        """`put` for what lies in memory already."""
        return await self.put(who, bucket, key, _once(data), description=description)

    async def copy(
        self,
        who: Principal,
        source: ObjectVersion,
        bucket: str,
        key: str,
        *,
        description: Description,
        record: Sequence[str] = (),
        condition: Condition = ALWAYS,
    ) -> ObjectVersion:
        """Store the bytes of `source` once more under another (or the same) key. A workload has then read it."""
        checks = Checks(record=tuple(record), size=source.size, limit=source.size)
        async with aclosing(self.read(who, source)) as body:
            return await self.put(
                who, bucket, key, body, description=description, checks=checks, condition=condition
            )

    async def commit(
        self,
        who: Principal,
        bucket: Bucket,
        key: str,
        received: Received,
        *,
        etag: str,
        checksums: Mapping[str, str],
        description: Description,
        condition: Condition = ALWAYS,
        parts: tuple[int, ...] = (),
        finish: Callable[[Connection, str], None] = _nothing_more,
    ) -> ObjectVersion:
        """Make a received blob the object's content. The blob is removed again when that fails.

        `finish` gets the version's id within the transaction, for what must change together with it.
        """
        version = ObjectVersion(
            id=new_id("obj"),
            bucket=bucket.name,
            project_id=bucket.project_id,
            key=key,
            size=received.blob.size,
            sha256=received.blob.sha256,
            etag=etag,
            blob_key=received.blob.key,
            content_type=description.content_type,
            metadata=dict(description.metadata),
            headers=dict(description.headers),
            checksums=dict(checksums),
            parts=parts,
            state=VersionState.CURRENT,
            created_at=0,
            created_by=who.actor,
        )

        past = await self._past(who, bucket)
        if past is not None:
            rows.check_condition(key, await self._shown(past, bucket, key), condition)

        def write(connection: Connection) -> ObjectVersion:
            finish(connection, version.id)
            if past is not None:
                return rows.put_aside(connection, bucket.id, version, self._clock())
            return rows.put_version(connection, bucket.id, version, condition, self._clock())

        async def work() -> ObjectVersion:
            try:
                return await self._database.write(write)
            except BaseException:
                await self._blobs.delete(received.blob.key)
                raise

        # Shielded: who waits may be cancelled, but then the write still happens or the blob still goes.
        stored = await asyncio.shield(work())
        self.wake_collector()
        await self._record(who, "write", stored)
        if past is not None:
            await self._lineage.pasts.show(
                past, bucket.project_id, "object", f"{bucket.name}/{key}", stored.id
            )
        return stored

    async def _past(self, who: Principal, bucket: Bucket) -> Past | None:
        """The past that the caller is held to. A lake's files have names that nothing had before: they need none."""
        return None if bucket.kind is BucketKind.LAKE else await self._lineage.pasts.of(who)

    async def _shown(self, past: Past, bucket: Bucket, key: str) -> ObjectVersion | None:
        """What the key names in that past; what was not written down then, is as it is now."""
        wanted = past.version("object", f"{bucket.name}/{key}")
        if wanted == NOTHING:
            return None

        def work(connection: Connection) -> ObjectVersion | None:
            if wanted is None:
                return rows.current_version(connection, bucket.id, key.encode())
            return rows.version_by_id(connection, wanted)

        found = await self._database.read(work)
        return None if found is None or found.blob_key is None else found

    async def _writable(self, who: Principal, bucket: str, key: str, description: Description) -> Bucket:
        encode_key(key)
        check_description(description)
        return await self._database.read(lambda c: rows.find_bucket(c, who, "objects.write", bucket))

    # -- reading -------------------------------------------------------------------------------

    async def head(
        self, who: Principal, bucket: str, key: str, version_id: str | None = None
    ) -> ObjectVersion:
        """What the key names now, or an earlier version of it whose bytes are kept.

        Raises `NotFound`: ``no_such_bucket``, ``no_such_key``, ``no_such_version``.
        """
        raw = encode_key(key)
        past = None if version_id is not None else await self._lineage.pasts.of(who)
        if past is not None:
            held = await self._database.read(lambda c: rows.find_readable(c, who, bucket, key, self._lender))
            then = await self._shown(past, held, key)
            if then is None:
                raise rows.no_such_key(key)
            return then

        def work(connection: Connection) -> ObjectVersion:
            place = rows.find_readable(connection, who, bucket, key, self._lender)
            if version_id is None:
                current = rows.current_version(connection, place.id, raw)
                if current is None:
                    raise rows.no_such_key(key)
                return current
            version = rows.version_by_id(connection, version_id)
            if version is None or (version.bucket, version.key) != (bucket, key) or not version.blob_key:
                raise NotFound(f"There is no version {version_id[:60]!r} of it.", reason="no_such_version")
            return version

        return await self._database.read(work)

    async def read(
        self, who: Principal, version: ObjectVersion, start: int = 0, length: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes [start, start+length) of the version, in chunks of at most 1 MiB.

        Once the first chunk is there the rest follows, even when the object is deleted meanwhile.
        A workload's read is recorded before that. Raises `NotFound` (``no_such_blob``) when the bytes
        were collected since `version` was looked up, `Internal` when the medium has lost a part.
        """
        if not may(who, "objects.read", version.project_id):
            await self._database.read(lambda c: rows.check_readable(c, who, version, self._lender))
        if version.blob_key is None:
            raise NotFound(f"The bytes of {version.id} are gone.", reason="no_such_blob")
        left = version.size - start if length is None else min(length, version.size - start)
        recorded = False
        async for chunk in self._blobs.read(version.blob_key, start, left):
            if not recorded:
                await self._record(who, "read", version)
                recorded = True
            left -= len(chunk)
            yield chunk
        if left > 0:
            raise Internal(f"{left} stored bytes of {version.bucket}/{version.key} are missing.")
        if not recorded:
            await self._record(who, "read", version)

    async def read_all(self, who: Principal, version: ObjectVersion) -> bytes:
        """The whole content; for what is known to be small."""
        return b"".join([chunk async for chunk in self.read(who, version)])

    def local_path(self, version: ObjectVersion) -> Path | None:
        """Where the version's bytes lie as a file, for readers in other processes that are recorded otherwise."""
        return None if version.blob_key is None else self._blobs.local_path(version.blob_key)

    async def list(
        self,
        who: Principal,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        after: str = "",
        limit: int = MAX_PAGE,
    ) -> Listing:
        """One page of at most `limit` (up to 1,000) entries that sort after `after`, in UTF-8 order."""
        if not 0 <= limit <= MAX_PAGE:
            raise Invalid(f"A page has 0 to {MAX_PAGE} entries.", reason="bad_page")

        def work(connection: Connection) -> Listing:
            place = rows.find_readable(connection, who, bucket)
            page = list_page(
                lambda low, high, count: _scan(connection, place.id, low, high, count),
                prefix=prefix.encode(),
                delimiter=delimiter.encode(),
                after=after.encode(),
                limit=limit,
            )
            return Listing(
                [entry.version for entry in page.rows],
                [p.decode() for p in page.prefixes],
                None if page.next_after is None else page.next_after.decode(),
            )

        return await self._database.read(work)

    # -- deleting ------------------------------------------------------------------------------

    async def delete(
        self, who: Principal, bucket: str, key: str, *, condition: Condition = ALWAYS
    ) -> ObjectVersion | None:
        """Delete what the key names, bytes and all; None when there was nothing. Its row stays as a tombstone."""
        return (await self.delete_many(who, bucket, [key], condition=condition))[0]

    async def delete_many(
        self, who: Principal, bucket: str, keys: Sequence[str], *, condition: Condition = ALWAYS
    ) -> Sequence[ObjectVersion | None]:
        """Delete each key; the answers stand in the order of `keys`."""
        past = await self._lineage.pasts.of(who)
        if past is not None:
            return await self._delete_aside(who, past, bucket, keys)
        raw = list(enumerate(encode_key(key) for key in keys))
        answers: dict[int, ObjectVersion | None] = {}
        for begin in range(0, len(raw), _DELETE_BATCH):
            batch = raw[begin : begin + _DELETE_BATCH]

            def work(connection: Connection, some: Sequence[tuple[int, bytes]] = batch) -> None:
                place = rows.find_bucket(connection, who, "objects.write", bucket)
                now = self._clock()
                for at, key in some:
                    answers[at] = rows.delete_current(connection, place.id, key, who.actor, now, condition)

            await self._database.write(work)
        self.wake_collector()
        return [answers[at] for at, _ in raw]

    async def _delete_aside(
        self, who: Principal, past: Past, bucket: str, keys: Sequence[str]
    ) -> Sequence[ObjectVersion | None]:
        """From now on the keys name nothing in that past. What they name for everybody else stays."""
        place = await self._database.read(lambda c: rows.find_bucket(c, who, "objects.write", bucket))
        if place.kind is BucketKind.LAKE:
            return [None] * len(keys)
        found = [await self._shown(past, place, key) for key in keys]
        for key in keys:
            await self._lineage.pasts.show(past, place.project_id, "object", f"{place.name}/{key}", NOTHING)
        return found

    # -- for explanations ----------------------------------------------------------------------

    async def by_id(self, version_id: str) -> ObjectVersion | None:
        """The version with that id, whatever became of it. Whoever asks must have been authorised."""
        return await self._database.read(lambda c: rows.version_by_id(c, version_id))

    async def verify(self, version_id: str) -> Verification:
        """Hash the version's stored bytes now and compare. Raises `NotFound` for an id that never was."""
        version = await self.by_id(version_id)
        if version is None:
            raise NotFound(f"There is no object version {version_id[:60]!r}.", reason="no_such_version")
        if version.blob_key is None:
            deleted = version.state is VersionState.DELETED
            return Verification("deleted" if deleted else "dropped", version.sha256, None, version)
        try:
            found = await self._blobs.sha256(version.blob_key)
        except NotFound:
            return Verification("missing", version.sha256, None, version)
        verified = found == version.sha256
        return Verification("verified" if verified else "broken", version.sha256, found, version)

    async def _record(self, who: Principal, mode: Mode, version: ObjectVersion) -> None:
        await self._lineage.record(
            who,
            mode,
            "object",
            version.id,
            project_id=version.project_id,
            name=f"{version.bucket}/{version.key}",
        )


class _Entry:
    """A current object with its key as bytes, for `list_page`."""

    __slots__ = ("key", "version")

    def __init__(self, key: bytes, version: ObjectVersion) -> None:
        self.key = key
        self.version = version


def _scan(connection: Connection, bucket_id: str, low: bytes, high: bytes | None, limit: int) -> list[_Entry]:
    query = (
        select(object_versions)
        .join(objects, objects.c.version_id == object_versions.c.id)
        .where(objects.c.bucket_id == bucket_id, objects.c.key >= low)
        .order_by(objects.c.key)
        .limit(limit)
    )
    if high is not None:
        query = query.where(objects.c.key < high)
    return [_Entry(row.key, rows.to_version(row)) for row in connection.execute(query)]


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
