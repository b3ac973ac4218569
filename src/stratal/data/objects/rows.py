"""The room's rows: the SQL that its services share. Each function runs inside a read or a write.

Statements of the hot path are built once, with bound parameters: building one costs several times
what running it does, and everybody's writes wait for it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, insert, select, update

from stratal.data.objects.model import Bucket, BucketKind, Condition, ObjectVersion, VersionState
from stratal.data.objects.tables import blob_trash, buckets, object_versions, objects, upload_parts, uploads
from stratal.identity.model import Principal
from stratal.identity.permissions import may, require
from stratal.identity.shares import is_lent
from stratal.kernel.errors import Denied, NotFound, PreconditionFailed
from stratal.kernel.events import emit

GRACE_MS = 5_000
"""How long the bytes of a replaced version stay, so that who is about to read them can record that."""


_BUCKET = select(buckets).where(buckets.c.name == bindparam("name"))
_BUCKET_EXISTS = select(buckets.c.id).where(buckets.c.id == bindparam("bucket_id"))
_CURRENT = (
    select(object_versions)
    .join(objects, objects.c.version_id == object_versions.c.id)
    .where(objects.c.bucket_id == bindparam("bucket_id"), objects.c.key == bindparam("key"))
)
_VERSION = select(object_versions).where(object_versions.c.id == bindparam("version_id"))
_INSERT_VERSION = insert(object_versions)
_INSERT_OBJECT = insert(objects)
_HERE = (objects.c.bucket_id == bindparam("at_bucket")) & (objects.c.key == bindparam("at_key"))
_UPDATE_OBJECT = update(objects).where(_HERE).values(version_id=bindparam("version"))
_DELETE_OBJECT = delete(objects).where(_HERE)
_END_VERSION = (
    update(object_versions)
    .where(object_versions.c.id == bindparam("version_id"))
    .values(
        state=bindparam("new_state"),
        blob_key=bindparam("new_blob_key"),
        ended_at=bindparam("now"),
        ended_by=bindparam("actor"),
    )
)
_INSERT_TRASH = insert(blob_trash)


def no_such_bucket(name: str) -> NotFound:
    return NotFound(
        f"There is no bucket {name[:70]!r} for this key.",
        hint="List them with: stratal buckets",
        reason="no_such_bucket",
        bucket=name[:70],
    )


def no_such_key(key: str) -> NotFound:
    return NotFound(f"There is no object {key[:200]!r}.", reason="no_such_key", key=key[:1024])


def find_bucket(connection: Connection, who: Principal, action: str, name: str) -> Bucket:
    """The bucket, when `who` may do `action` in its project. Raises `NotFound`, also for others' buckets."""
    row = connection.execute(_BUCKET, {"name": name}).one_or_none()
    if row is None:
        raise no_such_bucket(name)
    if row.project_id != who.project_id and not who.is_admin:
        if is_lent(connection, who.project_id, "bucket", row.id):
            raise Denied(
                f"The bucket {name!r} is another project's, which shares it to be read.",
                hint="Copy what you need into a bucket of this project.",
                reason="shared_read_only",
            )
        raise no_such_bucket(name)
    require(who, action, row.project_id)
    return to_bucket(row)


Lender = Callable[[Connection, str, Bucket, str], bool]
"""May the project (by id) read this one key of another's bucket, though the bucket is not shared with it?"""


def find_readable(
    connection: Connection, who: Principal, name: str, key: str | None = None, lender: Lender | None = None
) -> Bucket:
    """The bucket to read: of the caller's project, or shared with it; with `key` also one of which that key is.

    Raises `NotFound`, also for others' buckets.
    """
    row = connection.execute(_BUCKET, {"name": name}).one_or_none()
    if row is None:
        raise no_such_bucket(name)
    if row.project_id == who.project_id or who.is_admin:
        require(who, "objects.read", row.project_id)
        return to_bucket(row)
    require(who, "objects.read", who.project_id)
    bucket = to_bucket(row)
    if is_lent(connection, who.project_id, "bucket", bucket.id):
        return bucket
    if key is not None and lender is not None and lender(connection, who.project_id, bucket, key):
        return bucket
    raise no_such_bucket(name)


def check_readable(
    connection: Connection, who: Principal, version: ObjectVersion, lender: Lender | None
) -> None:
    """Raises `NotFound` unless the caller may read that version's bytes."""
    if not may(who, "objects.read", version.project_id):
        find_readable(connection, who, version.bucket, version.key, lender)


def to_bucket(row: Row[Any]) -> Bucket:
    return Bucket(row.id, row.name, row.project_id, BucketKind(row.kind), row.created_at)


def current_version(connection: Connection, bucket_id: str, key: bytes) -> ObjectVersion | None:
    row = connection.execute(_CURRENT, {"bucket_id": bucket_id, "key": key}).one_or_none()
    return None if row is None else to_version(row)


def version_by_id(connection: Connection, version_id: str) -> ObjectVersion | None:
    row = connection.execute(_VERSION, {"version_id": version_id}).one_or_none()
    return None if row is None else to_version(row)


def to_version(row: Row[Any]) -> ObjectVersion:
    return ObjectVersion(
        id=row.id,
        bucket=row.bucket,
        project_id=row.project_id,
        key=row.key.decode(),
        size=row.size,
        sha256=row.sha256,
        etag=row.etag,
        blob_key=row.blob_key,
        content_type=row.content_type,
        metadata=orjson.loads(row.metadata),
        headers=orjson.loads(row.headers),
        checksums=orjson.loads(row.checksums),
        parts=tuple(orjson.loads(row.parts)),
        state=VersionState(row.state),
        created_at=row.created_at,
        created_by=row.created_by,
        ended_at=row.ended_at,
    )


def as_json(value: object) -> str:
    return orjson.dumps(value).decode()


def put_version(
    connection: Connection, bucket_id: str, version: ObjectVersion, condition: Condition, now: int
) -> ObjectVersion:
    """Make `version` what its key names, and retire the one before. Returns it with its time of creation.

    Raises `NotFound` when the bucket has gone meanwhile, `PreconditionFailed` when `condition` does not hold.
    """
    if connection.execute(_BUCKET_EXISTS, {"bucket_id": bucket_id}).scalar() is None:
        raise no_such_bucket(version.bucket)
    key = version.key.encode()
    old = current_version(connection, bucket_id, key)
    check_condition(version.key, old, condition)
    version = replace(version, created_at=now)
    connection.execute(_INSERT_VERSION, _version_row(bucket_id, version))
    if old is None:
        connection.execute(_INSERT_OBJECT, {"bucket_id": bucket_id, "key": key, "version_id": version.id})
    else:
        here = {"at_bucket": bucket_id, "at_key": key}
        connection.execute(_UPDATE_OBJECT, {**here, "version": version.id})
        _end(connection, old, VersionState.REPLACED, version.created_by, now)
    emit(
        connection,
        "object.created",
        version.id,
        actor=version.created_by,
        project_id=version.project_id,
        bucket=version.bucket,
        key=version.key,
        size=version.size,
    )
    return version


def put_aside(connection: Connection, bucket_id: str, version: ObjectVersion, now: int) -> ObjectVersion:
    """Record `version` without making it what its key names: kept, like a replaced one, while lineage refers to it."""
    if connection.execute(_BUCKET_EXISTS, {"bucket_id": bucket_id}).scalar() is None:
        raise no_such_bucket(version.bucket)
    version = replace(version, created_at=now)
    connection.execute(_INSERT_VERSION, _version_row(bucket_id, version))
    _end(connection, version, VersionState.REPLACED, version.created_by, now)
    return replace(version, state=VersionState.REPLACED, ended_at=now)


def _version_row(bucket_id: str, version: ObjectVersion) -> dict[str, object]:
    return {
        "id": version.id,
        "bucket_id": bucket_id,
        "bucket": version.bucket,
        "project_id": version.project_id,
        "key": version.key.encode(),
        "size": version.size,
        "sha256": version.sha256,
        "etag": version.etag,
        "blob_key": version.blob_key,
        "content_type": version.content_type,
        "metadata": as_json(version.metadata),
        "headers": as_json(version.headers),
        "checksums": as_json(version.checksums),
        "parts": as_json(version.parts),
        "state": version.state.value,
        "created_at": version.created_at,
        "created_by": version.created_by,
    }


def check_condition(key: str, old: ObjectVersion | None, condition: Condition) -> None:
    if condition.if_absent and old is not None:
        raise PreconditionFailed(f"There is an object {key[:200]!r} already.", condition="If-None-Match")
    if condition.if_match is not None:
        if old is None:
            raise no_such_key(key)
        if condition.if_match not in {"*", old.etag}:
            raise PreconditionFailed(f"The object {key[:200]!r} is another one by now.", condition="If-Match")


def delete_current(
    connection: Connection, bucket_id: str, key: bytes, actor: str, now: int, condition: Condition
) -> ObjectVersion | None:
    """Delete what `key` names, bytes and all; returns it, or None when there was nothing."""
    old = current_version(connection, bucket_id, key)
    if condition.if_match is not None:
        check_condition(key.decode(), old, condition)
    if old is None:
        return None
    connection.execute(_DELETE_OBJECT, {"at_bucket": bucket_id, "at_key": key})
    _end(connection, old, VersionState.DELETED, actor, now)
    emit(
        connection,
        "object.deleted",
        old.id,
        actor=actor,
        project_id=old.project_id,
        bucket=old.bucket,
        key=old.key,
    )
    return old


def _end(connection: Connection, old: ObjectVersion, state: VersionState, actor: str, now: int) -> None:
    deleted = state is VersionState.DELETED
    connection.execute(
        _END_VERSION,
        {
            "version_id": old.id,
            "new_state": state.value,
            "new_blob_key": None if deleted else old.blob_key,
            "now": now,
            "actor": actor,
        },
    )
    if old.blob_key is None:
        return
    if deleted:
        condemn(connection, old.blob_key, now)
    else:
        due = {"blob_key": old.blob_key, "version_id": old.id, "due_at": now + GRACE_MS, "condemned": 0}
        connection.execute(_INSERT_TRASH, due)


def condemn(connection: Connection, blob_key: str, now: int) -> None:
    """Have bytes removed that no row refers to any more."""
    connection.execute(
        _INSERT_TRASH, {"blob_key": blob_key, "version_id": None, "due_at": now, "condemned": 1}
    )


def drop_uploads(connection: Connection, which: ColumnElement[bool], now: int) -> None:
    """Forget uploads and have their parts' bytes removed."""
    inside = select(uploads.c.id).where(which)
    parts = delete(upload_parts).where(upload_parts.c.upload_id.in_(inside))
    for blob_key in connection.execute(parts.returning(upload_parts.c.blob_key)).scalars().all():
        condemn(connection, blob_key, now)
    connection.execute(delete(uploads).where(which))


def purge_project(connection: Connection, project_id: str, now: int) -> None:
    """Remove every row of the project and have all its bytes removed."""
    here = object_versions.c.project_id == project_id
    places = select(buckets.c.id).where(buckets.c.project_id == project_id)
    blobs = select(object_versions.c.blob_key).where(here, object_versions.c.blob_key.is_not(None))
    keys = connection.execute(blobs).scalars().all()
    connection.execute(delete(blob_trash).where(blob_trash.c.blob_key.in_(blobs)))
    drop_uploads(connection, uploads.c.project_id == project_id, now)
    connection.execute(delete(objects).where(objects.c.bucket_id.in_(places)))
    connection.execute(delete(object_versions).where(here))
    connection.execute(delete(buckets).where(buckets.c.project_id == project_id))
    for key in keys:
        condemn(connection, key, now)
