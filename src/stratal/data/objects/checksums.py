"""The checksums that S3 clients send and ask for, computed while bytes stream by."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from stratal.kernel.errors import Invalid

ALGORITHMS = ("crc32", "crc32c", "crc64nvme", "sha1", "sha256")
COMPOSABLE = ("crc32", "crc32c", "sha1", "sha256")
"""Algorithms of which a multipart object may have a checksum of its parts' checksums."""


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, step: Callable[[bytes, int], int], width: int) -> None:
        self._step = step
        self._width = width
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._step(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._width, "big")


def new_digest(algorithm: str) -> Digest:
    """A running digest; raises `Invalid` for an algorithm that is not one of `ALGORITHMS` or ``md5``."""
    match algorithm:
        case "md5":
            return hashlib.md5(usedforsecurity=False)
        case "sha1":
            return hashlib.sha1(usedforsecurity=False)
        case "sha256":
            return hashlib.sha256()
        case "crc32":
            return _Crc(zlib.crc32, 4)
        case "crc32c" | "crc64nvme":
            # 60 ms and 6 MB that only those pay whose clients use these two.
            from awscrt import checksums

            return _Crc(getattr(checksums, algorithm), 4 if algorithm == "crc32c" else 8)
    raise Invalid(f"There is no checksum algorithm {algorithm[:40]!r}.", reason="bad_checksum_algorithm")


class Digests:
    """Several digests over the same bytes."""

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._digests = {name: new_digest(name) for name in algorithms}

    def update(self, data: bytes) -> None:
        for digest in self._digests.values():
            digest.update(data)

    def results(self) -> dict[str, str]:
        """Algorithm → base64 of the digest."""
        return {name: base64.b64encode(d.digest()).decode() for name, d in self._digests.items()}


def composite(algorithm: str, parts: Sequence[str]) -> str:
    """The checksum over the parts' checksums, as S3 writes it: base64, then ``-`` and the number of parts.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/tutorial-s3-mpu-additional-checksums.html
    """
    digest = new_digest(algorithm)
    for part in parts:
        digest.update(base64.b64decode(part))
    return f"{base64.b64encode(digest.digest()).decode()}-{len(parts)}"


def multipart_etag(etags: Sequence[str]) -> str:
    """The etag of a multipart object: MD5 over the parts' MD5s, then ``-`` and the number of parts."""
    digest = hashlib.md5(b"".join(bytes.fromhex(etag) for etag in etags), usedforsecurity=False)
    return f"{digest.hexdigest()}-{len(etags)}"
