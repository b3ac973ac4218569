"""The values of the objects room and the rules for names, with no I/O."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from stratal.kernel.errors import Invalid, TooLarge

MAX_KEY_BYTES = 1024
MAX_PUT_BYTES = 5 * 1024**3
MAX_OBJECT_BYTES = 50 * 1024**4
MAX_METADATA_BYTES = 2048
DEFAULT_CONTENT_TYPE = "binary/octet-stream"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+\Z")


class BucketKind(StrEnum):
    """`USER`: made by people. `LAKE`: a project's own, which holds the files of its tables."""

    USER = "user"
    LAKE = "lake"


class VersionState(StrEnum):
    """`CURRENT`: what its key names now. `REPLACED`: overwritten; its bytes are kept only while a recorded
    read or write refers to them. `DELETED`: its owner deleted it, bytes and all."""

    CURRENT = "current"
    REPLACED = "replaced"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Bucket:
    id: str
    name: str
    project_id: str
    kind: BucketKind
    created_at: int


@dataclass(frozen=True, slots=True)
class ObjectVersion:
    """One content that a key had. `id` (``obj_…``) is what lineage records.

    `sha256` is hex; `etag` is as S3 defines it, without quotes; `checksums` maps an algorithm's name
    (crc32, crc32c, crc64nvme, sha1, sha256) to base64 as S3 clients send it, ``-N`` appended when it
    is composed of parts' checksums; `headers` are further HTTP headers to be given back (lower case).
    `parts` are the sizes of a multipart upload's parts. `blob_key` is None once the bytes are gone.
    Times are epoch milliseconds; `ended_at` is when it was replaced or deleted.
    """

    id: str
    bucket: str
    project_id: str
    key: str
    size: int
    sha256: str
    etag: str
    blob_key: str | None
    content_type: str
    metadata: Mapping[str, str]
    headers: Mapping[str, str]
    checksums: Mapping[str, str]
    parts: tuple[int, ...]
    state: VersionState
    created_at: int
    created_by: str
    ended_at: int | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What a writer says about an object beside its bytes."""

    content_type: str = DEFAULT_CONTENT_TYPE
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checks:
    """What a body must agree with.

    `record` names the checksum algorithms to compute and keep. `expected` (algorithm → base64; also
    ``md5``) and `size` are compared when the body has ended, so a body that carries its checksums at
    its end may still fill `expected` while it is read. `content_sha256` is hex, from a signature.
    """

    record: tuple[str, ...] = ()
    expected: Mapping[str, str] = field(default_factory=dict)
    content_sha256: str | None = None
    size: int | None = None
    limit: int = MAX_PUT_BYTES


@dataclass(frozen=True, slots=True)
class Condition:
    """When a write may happen: the current object's etag is `if_match`, or there is none (`if_absent`)."""

    if_match: str | None = None
    if_absent: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of a bucket: objects and rolled-up prefixes, and the entry after which the next page begins."""

    objects: list[ObjectVersion]
    prefixes: list[str]
    next_after: str | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What hashing a version's stored bytes just now showed.

    `status`: *verified* (equal), *broken* (other bytes), *missing* (none there, though they should be)
    or *deleted* (by their owner, at `version.ended_at`) or *dropped* (replaced while nothing referred to them).
    """

    status: Literal["verified", "broken", "missing", "deleted", "dropped"]
    expected: str
    found: str | None
    version: ObjectVersion


NO_CHECKS = Checks()
ALWAYS = Condition()
PLAIN = Description()


def check_bucket_name(name: str) -> str:
    """Return a name that S3 allows for a general-purpose bucket, else raise `Invalid`."""
    if (
        not _BUCKET.match(name)
        or ".." in name
        or _ADDRESS.match(name)
        or name.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
        or name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"))
    ):
        raise Invalid(
            f"{name[:70]!r} cannot name a bucket.",
            hint="Use 3 to 63 lower-case letters, digits, '-' or '.', beginning and ending with a letter or digit.",
            reason="bad_bucket_name",
        )
    return name


def encode_key(key: str) -> bytes:
    """The key as UTF-8, which is how keys are compared. Raises `Invalid`, `TooLarge` for what cannot be a key."""
    try:
        raw = key.encode()
    except UnicodeEncodeError as error:
        raise Invalid("The key is not valid Unicode.", reason="bad_key") from error
    if not raw:
        raise Invalid("The key is empty.", reason="bad_key")
    if b"\0" in raw:
        raise Invalid("A key cannot contain NUL.", reason="bad_key")
    if len(raw) > MAX_KEY_BYTES:
        raise TooLarge(f"The key is longer than {MAX_KEY_BYTES} bytes of UTF-8.", reason="key_too_long")
    return raw


def check_description(description: Description) -> Description:
    """Return `description` unless its metadata is over S3's 2 KiB. Raises `TooLarge`."""
    size = sum(len(k.encode()) + len(v.encode()) for k, v in description.metadata.items())
    if size > MAX_METADATA_BYTES:
        raise TooLarge(
            f"The metadata has {size} bytes; {MAX_METADATA_BYTES} are allowed.", reason="metadata_too_large"
        )
    return description
