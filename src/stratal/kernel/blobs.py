"""The port for bytes: immutable blobs under keys never used before.

Two adapters: `stratal.stores.local` (files) and, where bytes live in a cloud, an object store.
A blob is written once, whole, and then only read or deleted. Nothing is visible until `commit`
returned, and what `commit` returned survives a power cut.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored blob: its key, its length in bytes, and its SHA-256 as 64 hex digits."""

    key: str
    size: int
    sha256: str


class BlobWriter(Protocol):
    """Receives one blob. Call `commit` or `abort` exactly once; `abort` after `commit` does nothing."""

    async def write(self, data: bytes | bytearray | memoryview) -> None: ...

    async def commit(self) -> Blob:
        """Make the blob durable (file and directory fsynced) and return it."""
        ...

    async def abort(self) -> None: ...


class BlobStore(Protocol):
    async def create(self) -> BlobWriter: ...

    async def put(self, data: bytes) -> Blob:
        """Store `data` whole; the shorthand of `create`, `write`, `commit`."""
        ...

    def read(self, key: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, start+length) in chunks. Raises `NotFound` before the first chunk."""
        ...

    async def read_all(self, key: str) -> bytes: ...

    async def sha256(self, key: str) -> str:
        """Hash the stored bytes now, from the medium (never from a record). Raises `NotFound`."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the bytes; absent is fine."""
        ...

    def local_path(self, key: str) -> Path | None:
        """Where the blob lies as a file on this machine, or None when it lies elsewhere.

        For readers in other processes (query workers, replicas). They must never write to it.
        """
        ...
