"""Multipart uploads: an object that arrives in numbered parts, in any order, and becomes one at the end.

Each part is a blob of its own. Completing reads the parts in order into one new blob, hashing on the
way, so that a finished object is a single file with a single SHA-256 whichever way it came.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import orjson
from sqlalchemy import Connection, Row, delete, insert, select, update

from stratal.data.objects import rows
from stratal.data.objects.checksums import composite, multipart_etag
from stratal.data.objects.listing import Page, list_page
from stratal.data.objects.model import (
    ALWAYS,
    MAX_OBJECT_BYTES,
    NO_CHECKS,
    Bucket,
    Checks,
    Condition,
    Description,
    ObjectVersion,
    check_description,
    encode_key,
)
from stratal.data.objects.receiving import receive
from stratal.data.objects.service import Objects
from stratal.data.objects.tables import upload_parts, uploads
from stratal.identity.model import Principal
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound, StratalError, TooLarge
from stratal.kernel.ids import new_id

MAX_PARTS = 10_000
_LAST_ID = "~"  # sorts behind every upload's id
MIN_PART_BYTES = 5 * 1024**2


@dataclass(frozen=True, slots=True)
class Upload:
    """One upload under way. `algorithm` is the checksum its maker asked for; `composite` whether the
    object's will be made of the parts' checksums rather than of the whole content."""

    id: str
    bucket: str
    key: str
    description: Description
    algorithm: str | None
    composite: bool
    created_at: int
    created_by: str
    completed_as: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A stored part. `etag` is its MD5 in hex; `checksums` algorithm → base64."""

    number: int
    size: int
    etag: str
    checksums: Mapping[str, str]
    created_at: int
    blob_key: str = field(repr=False, default="")


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part as the completing client names it."""

    number: int
    etag: str
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadsPage:
    """A page of uploads; `next_after` is the entry (key or prefix), and id, behind which the next page begins."""

    uploads: list[Upload]
    prefixes: list[str]
    next_after: tuple[str, str] | None


class Uploads:
    """The service. Objects that come of uploads are committed through `Objects`."""

    def __init__(self, database: Database, blobs: BlobStore, objects: Objects, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._objects = objects
        self._clock = clock

    async def create(
        self,
        who: Principal,
        bucket: str,
        key: str,
        *,
        description: Description,
        algorithm: str | None = None,
        composite: bool = True,
    ) -> Upload:
        """Begin an upload. Raises `NotFound` (no such bucket), `Invalid` or `TooLarge` for the key or metadata."""
        raw = encode_key(key)
        check_description(description)
        upload = Upload(
            new_id("upl"), bucket, key, description, algorithm, composite, self._clock(), who.actor
        )

        def work(connection: Connection) -> Upload:
            place = rows.find_bucket(connection, who, "objects.write", bucket)
            connection.execute(
                insert(uploads).values(
                    id=upload.id,
                    bucket_id=place.id,
                    project_id=place.project_id,
                    key=raw,
                    content_type=description.content_type,
                    metadata=rows.as_json(description.metadata),
                    headers=rows.as_json(description.headers),
                    algorithm=algorithm,
                    composite=int(composite),
                    created_at=upload.created_at,
                    created_by=who.actor,
                )
            )
            return upload

        return await self._database.write(work)

    async def get(self, who: Principal, bucket: str, key: str, upload_id: str) -> Upload:
        """Raises `NotFound` (``no_such_upload``)."""
        raw = encode_key(key)

        def work(connection: Connection) -> Upload:
            place = rows.find_bucket(connection, who, "objects.write", bucket)
            return _to_upload(_find(connection, place, raw, upload_id), bucket)

        return await self._database.read(work)

    async def put_part(
        self,
        who: Principal,
        bucket: str,
        key: str,
        upload_id: str,
        number: int,
        body: AsyncIterator[bytes],
        *,
        checks: Checks = NO_CHECKS,
    ) -> Part:
        """Store one part; a part of the same number before is replaced.

        Raises `NotFound` (``no_such_upload``), `Invalid` (``bad_part_number``), and what `receive` does.
        """
        if not 1 <= number <= MAX_PARTS:
            raise Invalid(f"A part has a number from 1 to {MAX_PARTS}.", reason="bad_part_number")
        raw = encode_key(key)
        upload = await self._open_upload(who, bucket, key, upload_id)
        if upload.algorithm is not None and upload.algorithm not in checks.record:
            checks = replace(checks, record=(*checks.record, upload.algorithm))
        received = await receive(self._blobs, body, checks, also=("md5",))
        kept = {name: received.digests[name] for name in checks.record}
        blob = received.blob
        part = Part(number, blob.size, received.md5, kept, self._clock(), blob.key)

        def work(connection: Connection) -> None:
            place = rows.find_bucket(connection, who, "objects.write", bucket)
            if _find(connection, place, raw, upload_id).completed_at is not None:
                raise _no_such_upload(upload_id)
            here = (upload_parts.c.upload_id == upload_id) & (upload_parts.c.number == number)
            old = connection.execute(delete(upload_parts).where(here).returning(upload_parts.c.blob_key))
            for blob_key in old.scalars().all():
                rows.condemn(connection, blob_key, self._clock() + rows.GRACE_MS)
            connection.execute(insert(upload_parts).values(_part_row(upload_id, part)))

        try:
            await self._database.write(work)
        except Exception:  # on a cancellation the write goes on, and so must the blob
            await self._blobs.delete(blob.key)
            raise
        self._objects.wake_collector()
        return part

    async def complete(
        self,
        who: Principal,
        bucket: str,
        key: str,
        upload_id: str,
        named: Sequence[NamedPart],
        *,
        checks: Checks = NO_CHECKS,
        condition: Condition = ALWAYS,
    ) -> ObjectVersion:
        """Make the object of the named parts. Completing again answers with the object made the first time.

        Raises `NotFound` (``no_such_upload``), `Invalid` (``bad_part``, ``bad_part_order``,
        ``bad_digest``, ``incomplete_body``), `TooLarge`, `PreconditionFailed`; the upload then goes on.
        """
        upload = await self.get(who, bucket, key, upload_id)
        if upload.completed_as is None:
            try:
                return await self._complete(who, upload, named, checks, condition)
            except StratalError:
                upload = await self.get(who, bucket, key, upload_id)
                if upload.completed_as is None:
                    raise
        # This or another request completed it meanwhile, and the answer was lost: say it again.
        version = await self._objects.by_id(upload.completed_as)
        if version is None:
            raise _no_such_upload(upload.id)
        return version

    async def _complete(
        self,
        who: Principal,
        upload: Upload,
        named: Sequence[NamedPart],
        checks: Checks,
        condition: Condition,
    ) -> ObjectVersion:
        stored = {part.number: part for part in await self._parts(upload.id)}
        parts = _chosen(named, stored)
        etag = multipart_etag([part.etag for part in parts])
        composed = _composed(upload, parts, checks)
        whole = Checks(
            record=() if composed or not upload.algorithm else (upload.algorithm,),
            expected={} if composed else checks.expected,
            size=checks.size,
            limit=MAX_OBJECT_BYTES,
        )
        received = await receive(self._blobs, self._joined(parts), whole)
        kept = composed or {
            name: received.digests[name] for name in {*whole.record, *whole.expected} if name != "md5"
        }
        place = await self._objects.bucket(who, upload.bucket)
        made = await self._objects.commit(
            who,
            place,
            upload.key,
            received,
            etag=etag,
            checksums=kept,
            description=upload.description,
            condition=condition,
            parts=tuple(part.size for part in parts),
            finish=lambda connection, version: self._finish(connection, place, upload, parts, version),
        )
        self._objects.wake_collector()
        return made

    async def abort(self, who: Principal, bucket: str, key: str, upload_id: str) -> None:
        """Give the upload up; its parts' bytes go. Raises `NotFound` (``no_such_upload``)."""
        raw = encode_key(key)

        def work(connection: Connection) -> None:
            place = rows.find_bucket(connection, who, "objects.write", bucket)
            if _find(connection, place, raw, upload_id).completed_at is not None:
                raise _no_such_upload(upload_id)
            rows.drop_uploads(connection, uploads.c.id == upload_id, self._clock())

        await self._database.write(work)
        self._objects.wake_collector()

    async def list_parts(
        self, who: Principal, bucket: str, key: str, upload_id: str, *, after: int = 0, limit: int = 1000
    ) -> tuple[Upload, Sequence[Part], bool]:
        """The upload, its parts numbered above `after`, and whether there are more than `limit`."""
        upload = await self._open_upload(who, bucket, key, upload_id)
        found = await self._parts(upload_id, after=after, limit=limit + 1)
        return upload, found[:limit], len(found) > limit

    async def list(
        self,
        who: Principal,
        bucket: str,
        *,
        prefix: str = "",
        delimiter: str = "",
        after: str = "",
        after_id: str = "",
        limit: int = 1000,
    ) -> UploadsPage:
        """Uploads under way by key, then by when they began; those behind the key `after` (and its `after_id`)."""

        def work(connection: Connection) -> UploadsPage:
            place = rows.find_bucket(connection, who, "objects.read", bucket)
            start = _cursor(after.encode(), after_id or _LAST_ID) if after else b""
            page = list_page(
                lambda low, high, count: _scan(connection, place, low, high, count),
                prefix=prefix.encode(),
                delimiter=delimiter.encode(),
                after=start,
                limit=limit,
            )
            return _uploads_page(page, bucket)

        return await self._database.read(work)

    # -- within --------------------------------------------------------------------------------

    async def _open_upload(self, who: Principal, bucket: str, key: str, upload_id: str) -> Upload:
        upload = await self.get(who, bucket, key, upload_id)
        if upload.completed_as is not None:
            raise _no_such_upload(upload_id)
        return upload

    async def _parts(self, upload_id: str, *, after: int = 0, limit: int = MAX_PARTS) -> Sequence[Part]:
        query = (
            select(upload_parts)
            .where(upload_parts.c.upload_id == upload_id, upload_parts.c.number > after)
            .order_by(upload_parts.c.number)
            .limit(limit)
        )
        found = await self._database.read(lambda c: c.execute(query).all())
        return [
            Part(r.number, r.size, r.etag, orjson.loads(r.checksums), r.created_at, r.blob_key) for r in found
        ]

    async def _joined(self, parts: Sequence[Part]) -> AsyncIterator[bytes]:
        for part in parts:
            size = 0
            async for chunk in self._blobs.read(part.blob_key):
                size += len(chunk)
                yield chunk
            if size != part.size:
                raise Invalid(f"Part {part.number} was damaged; upload it again.", reason="bad_part")

    def _finish(
        self, connection: Connection, place: Bucket, upload: Upload, parts: Sequence[Part], version: str
    ) -> None:
        """In the transaction that makes the object: the upload is over, and its parts are as they were read."""
        row = _find(connection, place, upload.key.encode(), upload.id)
        if row.completed_at is not None:
            raise Conflict("The upload was completed by another request.", reason="upload_completed")
        ours = {part.number: part.blob_key for part in parts}
        query = select(upload_parts.c.number, upload_parts.c.blob_key).where(
            upload_parts.c.upload_id == upload.id
        )
        now = self._clock()
        for number, blob_key in connection.execute(query).all():
            if ours.pop(number, blob_key) != blob_key:
                raise Conflict(f"Part {number} changed meanwhile; complete again.", reason="upload_changed")
            rows.condemn(connection, blob_key, now)
        if ours:
            raise Conflict("Parts went away meanwhile; complete again.", reason="upload_changed")
        connection.execute(delete(upload_parts).where(upload_parts.c.upload_id == upload.id))
        connection.execute(
            update(uploads).where(uploads.c.id == upload.id).values(completed_at=now, version_id=version)
        )


def _chosen(named: Sequence[NamedPart], stored: Mapping[int, Part]) -> list[Part]:
    """The stored parts that the client named. Raises `Invalid` or `TooLarge` where S3 does."""
    if not named:
        raise Invalid("An upload needs at least one part.", reason="malformed_parts")
    numbers = [part.number for part in named]
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise Invalid("The parts are not in ascending order.", reason="bad_part_order")
    chosen: list[Part] = []
    for part in named:
        found = stored.get(part.number)
        if found is None or found.etag != part.etag.strip('"') or not _agree(part, found):
            raise Invalid(
                f"Part {part.number} is not there, or its ETag or checksum is another one.", reason="bad_part"
            )
        chosen.append(found)
    for small in chosen[:-1]:
        if small.size < MIN_PART_BYTES:
            raise Invalid(
                f"Part {small.number} has {small.size} bytes; all but the last need {MIN_PART_BYTES}.",
                reason="part_too_small",
            )
    if sum(part.size for part in chosen) > MAX_OBJECT_BYTES:
        raise TooLarge("The object would be too large.", reason="entity_too_large")
    return chosen


def _agree(named: NamedPart, stored: Part) -> bool:
    return all(stored.checksums.get(name, value) == value for name, value in named.checksums.items())


def _composed(upload: Upload, parts: Sequence[Part], checks: Checks) -> dict[str, str]:
    """The checksum made of the parts' checksums, where the upload has one. Raises `Invalid` when another was expected."""
    algorithm = upload.algorithm
    if algorithm is None or not upload.composite:
        return {}
    pieces = [part.checksums.get(algorithm) for part in parts]
    whole = [piece for piece in pieces if piece is not None]
    if len(whole) < len(pieces):
        raise Invalid(f"A part came without its {algorithm} checksum.", reason="bad_part")
    value = composite(algorithm, whole)
    expected = checks.expected.get(algorithm)
    if expected is not None and expected not in {value, value.rsplit("-", 1)[0]}:
        raise Invalid(f"The parts' {algorithm} is not the one that was sent along.", reason="bad_digest")
    return {algorithm: value}


def _find(connection: Connection, place: Bucket, key: bytes, upload_id: str) -> Row[tuple[object, ...]]:
    row = connection.execute(
        select(uploads).where(
            uploads.c.id == upload_id, uploads.c.bucket_id == place.id, uploads.c.key == key
        )
    ).one_or_none()
    if row is None:
        raise _no_such_upload(upload_id)
    return row


def _no_such_upload(upload_id: str) -> NotFound:
    return NotFound(
        f"There is no upload {upload_id[:60]!r}; it was completed or given up.", reason="no_such_upload"
    )


def _to_upload(row: Row[tuple[object, ...]], bucket: str) -> Upload:
    description = Description(row.content_type, orjson.loads(row.metadata), orjson.loads(row.headers))
    return Upload(
        row.id,
        bucket,
        row.key.decode(),
        description,
        row.algorithm,
        bool(row.composite),
        row.created_at,
        row.created_by,
        row.version_id if row.completed_at is not None else None,
    )


def _part_row(upload_id: str, part: Part) -> dict[str, object]:
    return {
        "upload_id": upload_id,
        "number": part.number,
        "size": part.size,
        "etag": part.etag,
        "blob_key": part.blob_key,
        "checksums": rows.as_json(part.checksums),
        "created_at": part.created_at,
    }


class _Entry:
    """An upload under a key that also orders uploads of one object: its key, NUL, the upload's id."""

    __slots__ = ("key", "row")

    def __init__(self, row: Row[tuple[object, ...]]) -> None:
        self.key = _cursor(row.key, row.id)
        self.row = row


def _cursor(key: bytes, upload_id: str) -> bytes:
    return key + b"\0" + upload_id.encode()  # no key contains NUL


def _scan(connection: Connection, place: Bucket, low: bytes, high: bytes | None, limit: int) -> list[_Entry]:
    """Uploads from the cursor `low` on. An index cannot order by cursor, but uploads of one key are few."""
    query = (
        select(uploads)
        .where(
            uploads.c.bucket_id == place.id,
            uploads.c.completed_at.is_(None),
            uploads.c.key >= low.split(b"\0", 1)[0],
        )
        .order_by(uploads.c.key, uploads.c.id)
    )
    if high is not None:
        query = query.where(uploads.c.key < high)
    found: list[_Entry] = []
    with connection.execute(query) as result:
        for row in result:
            entry = _Entry(row)
            if entry.key >= low:
                found.append(entry)
                if len(found) == limit:
                    break
    return found


def _uploads_page(page: Page[_Entry], bucket: str) -> UploadsPage:
    last: tuple[str, str] | None = None
    if page.next_after is not None:
        key, _, upload_id = page.next_after.partition(b"\0")
        last = (key.decode(), upload_id.decode())
    return UploadsPage(
        [_to_upload(entry.row, bucket) for entry in page.rows], [p.decode() for p in page.prefixes], last
    )
