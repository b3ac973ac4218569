"""From a stream of bytes to a durable blob that agrees with what its sender said about it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from stratal.data.objects.checksums import Digests
from stratal.data.objects.model import Checks
from stratal.kernel.blobs import Blob, BlobStore, BlobWriter
from stratal.kernel.errors import Invalid, TooLarge

_BLOCK = 1024 * 1024
_INLINE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Received:
    """A committed blob and the digests that were computed on the way (algorithm → base64)."""

    blob: Blob
    digests: dict[str, str]

    @property
    def md5(self) -> str:
        """The MD5 in hex, when it was asked for."""
        return base64.b64decode(self.digests["md5"]).hex()


async def receive(
    blobs: BlobStore, body: AsyncIterator[bytes], checks: Checks, *, also: Iterable[str] = ()
) -> Received:
    """Store the body. Nothing stays behind when it breaks off, is too large or disagrees with `checks`.

    Blocks of 1 MiB are hashed on one thread while another writes the block before and the next arrives.
    Raises `TooLarge`, `Invalid` (``bad_digest``, ``content_sha256_mismatch``, ``incomplete_body``) and
    whatever `body` raises.
    """
    algorithms = {*checks.record, *checks.expected, *also} - {"sha256"}  # the store computes that one anyway
    digests = Digests(algorithms)
    writer = await blobs.create()
    try:
        size = await _pump(writer, body, digests, checks.limit)
        if checks.size is not None and size != checks.size:
            raise Invalid(
                f"{size} bytes arrived where {checks.size} were announced.", reason="incomplete_body"
            )
        found = digests.results()
        _compare(found, checks)
        blob = await writer.commit()
    except BaseException:
        await writer.abort()
        raise
    found["sha256"] = base64.b64encode(bytes.fromhex(blob.sha256)).decode()
    try:
        _compare_sha256(blob, found, checks)
    except Invalid:
        await blobs.delete(blob.key)
        raise
    return Received(blob, found)


async def _pump(writer: BlobWriter, body: AsyncIterator[bytes], digests: Digests, limit: int) -> int:
    loop = asyncio.get_running_loop()
    hashing: asyncio.Future[None] | None = None
    size = held_size = 0
    held: list[bytes] = []
    async for data in body:
        size += len(data)
        if size > limit:
            raise TooLarge(f"More than {limit} bytes at once are not accepted.", reason="entity_too_large")
        held.append(data)
        held_size += len(data)
        if held_size >= _BLOCK:
            block = b"".join(held)
            held, held_size = [], 0
            if hashing is not None:
                await hashing
            hashing = loop.run_in_executor(None, digests.update, block)
            await writer.write(block)
    if hashing is not None:
        await hashing
    block = b"".join(held)
    if len(block) <= _INLINE:
        digests.update(block)
    else:
        await loop.run_in_executor(None, digests.update, block)
    await writer.write(block)
    return size


def _compare(found: dict[str, str], checks: Checks) -> None:
    for algorithm, expected in checks.expected.items():
        if algorithm != "sha256" and found.get(algorithm) != expected:
            raise _bad_digest(algorithm)


def _compare_sha256(blob: Blob, found: dict[str, str], checks: Checks) -> None:
    if checks.expected.get("sha256", found["sha256"]) != found["sha256"]:
        raise _bad_digest("sha256")
    if checks.content_sha256 is not None and checks.content_sha256 != blob.sha256:
        raise Invalid(
            "The body is not the one whose SHA-256 was signed.",
            reason="content_sha256_mismatch",
            signed=checks.content_sha256,
            found=blob.sha256,
        )


def _bad_digest(algorithm: str) -> Invalid:
    return Invalid(
        f"The body's {algorithm} is not the one that was sent along: it was damaged on the way.",
        reason="bad_digest",
        algorithm=algorithm,
    )
