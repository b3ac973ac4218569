"""A request's body: from ASGI messages to plain bytes, and what they have to agree with."""

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from starlette.types import Receive

from stratal.data.objects.checksums import ALGORITHMS, Digests
from stratal.data.objects.model import MAX_PUT_BYTES, Checks
from stratal.gateway.s3.chunked import ChunkedDecoder
from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.request import S3Request
from stratal.gateway.s3.sigv4 import UNSIGNED, ChunkSigner, Claim

IDLE_SECONDS = 60.0
MAX_DOCUMENT_BYTES = 8 * 1024 * 1024
_HEX64 = re.compile(r"[0-9a-f]{64}\Z")
_STREAMING = {
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER": False,
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD": True,
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": True,
}
_BATCH = 256 * 1024
_DIGEST_BYTES = {"md5": 16, "crc32": 4, "crc32c": 4, "crc64nvme": 8, "sha1": 20, "sha256": 32}


@dataclass(frozen=True, slots=True)
class Body:
    """The decoded bytes, and the checks that they must pass (whose `expected` trailers may still fill)."""

    data: AsyncIterator[bytes]
    checks: Checks


def open_body(
    request: S3Request,
    claim: Claim | None,
    key: bytes | None,
    receive: Receive,
    *,
    also: tuple[str, ...] = (),
) -> Body:
    """Prepare to read the body. `also` names checksums to keep beside the one the client sends.

    Raises InvalidArgument, InvalidRequest, InvalidDigest, EntityTooLarge, MissingContentLength before
    a byte is read; the data raises IncompleteBody, RequestTimeout, SignatureDoesNotMatch.
    """
    payload = claim.payload if claim is not None else UNSIGNED
    length = _length(request, "content-length")
    expected = sent_checksums(request)
    announced = _announced(request)
    if request.header("x-amz-sdk-checksum-algorithm") and not expected and not announced:
        raise refusal(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer "
            "headers were found.",
        )
    record = tuple(dict.fromkeys([name for name in (*expected, *announced, *also) if name != "md5"]))
    if payload in _STREAMING:
        size = _length(request, "x-amz-decoded-content-length")
        if size is None:
            raise refusal("MissingContentLength", "A body in chunks needs x-amz-decoded-content-length.")
        signer = ChunkSigner(key, claim) if _STREAMING[payload] and key is not None and claim else None
        data = _decoded(receive, ChunkedDecoder(signer), expected, announced, on_thread=signer is not None)
        content_sha256 = None
    else:
        size = length
        if length is None and request.head.header("transfer-encoding") is None:
            raise refusal("MissingContentLength", "The request needs a Content-Length.")
        content_sha256 = _content_sha256(payload)
        data = incoming(receive)
    if size is not None and size > MAX_PUT_BYTES:
        raise refusal("EntityTooLarge", f"At most {MAX_PUT_BYTES} bytes are taken at once; use parts.")
    return Body(data, Checks(record, expected, content_sha256, size))


def _content_sha256(payload: str) -> str | None:
    if payload == UNSIGNED:
        return None
    if payload.startswith("STREAMING-"):
        raise refusal("NotImplemented", f"Bodies of the form {payload[:60]} are not served.")
    if not _HEX64.match(payload):
        raise refusal(
            "InvalidArgument", "x-amz-content-sha256 is not UNSIGNED-PAYLOAD, a STREAMING- form or a SHA-256."
        )
    return payload


def _length(request: S3Request, name: str) -> int | None:
    value = request.header(name)
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{1,15}", value):
        raise refusal("InvalidArgument", f"{name} is not a number.")
    return int(value)


def sent_checksums(request: S3Request) -> dict[str, str]:
    """The checksums in the headers (algorithm → base64, also ``md5``). Raises InvalidRequest, InvalidDigest."""
    found: dict[str, str] = {}
    for algorithm in ALGORITHMS:
        value = request.header(f"x-amz-checksum-{algorithm}")
        if value:
            found[algorithm] = value
    if len(found) > 1:
        raise refusal(
            "InvalidRequest",
            "Expecting a single x-amz-checksum- header. Multiple checksum types are not allowed.",
        )
    for algorithm, value in found.items():
        if _decoded_length(value.rsplit("-", 1)[0]) != _DIGEST_BYTES[algorithm]:
            raise refusal("InvalidRequest", f"Value for x-amz-checksum-{algorithm} header is invalid.")
    md5 = request.header("content-md5")
    if md5:
        if _decoded_length(md5) != _DIGEST_BYTES["md5"]:
            raise refusal("InvalidDigest", "The Content-MD5 you specified was invalid.")
        found["md5"] = md5
    return found


def _decoded_length(value: str) -> int:
    try:
        return len(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        return -1


def _announced(request: S3Request) -> list[str]:
    """The checksums that will follow as trailers, or that the client asks for by name."""
    names = [name.strip().lower() for name in request.header("x-amz-trailer").split(",") if name.strip()]
    found = []
    for name in names:
        algorithm = name.removeprefix("x-amz-checksum-")
        if algorithm == name or algorithm not in ALGORITHMS:
            raise refusal(
                "InvalidRequest",
                f"The value specified in the x-amz-trailer header is not supported: {name[:60]}",
            )
        found.append(algorithm)
    return found


async def incoming(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises IncompleteBody when the client goes, RequestTimeout when it stalls."""
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await receive()
        except TimeoutError as error:
            raise refusal(
                "RequestTimeout",
                "Your socket connection to the server was not read from or written to within the timeout period.",
            ) from error
        if message["type"] == "http.disconnect":
            raise refusal("IncompleteBody", "The connection broke off before the whole body had arrived.")
        data: bytes = message.get("body", b"")
        if data:
            yield data
        if not message.get("more_body", False):
            return


async def _decoded(
    receive: Receive,
    decoder: ChunkedDecoder,
    expected: dict[str, str],
    announced: list[str],
    *,
    on_thread: bool,
) -> AsyncIterator[bytes]:
    """The data of a chunked body; puts its trailing checksums into `expected` when it ends.

    Raises MalformedTrailerError when one that was announced does not come, besides what `incoming` does.

    Signed chunks are hashed by the decoder, so it then works on a thread, on batches worth the hop.
    """
    held: list[bytes] = []
    size = 0
    async for data in incoming(receive):
        if not on_thread:
            for piece in decoder.feed(data):
                yield piece
            continue
        held.append(data)
        size += len(data)
        if size >= _BATCH:
            for piece in await asyncio.to_thread(decoder.feed, b"".join(held)):
                yield piece
            held, size = [], 0
    for piece in decoder.feed(b"".join(held)):
        yield piece
    for name, value in decoder.finish().items():
        algorithm = name.removeprefix("x-amz-checksum-")
        if algorithm in ALGORITHMS:
            expected[algorithm] = value
    missing = [name for name in announced if name not in expected]
    if missing:
        raise refusal(
            "MalformedTrailerError", f"The announced trailer x-amz-checksum-{missing[0]} did not come."
        )


def open_document(request: S3Request, claim: Claim | None, key: bytes | None, receive: Receive) -> Body:
    """`open_body` for a request whose checksum headers speak of something other than its body."""
    body = open_body(request, claim, key, receive)
    return Body(body.data, replace(body.checks, record=(), expected={}))


async def read_document(request: S3Request, body: Body) -> bytes:
    """The whole body of a request that carries XML, checked like any other. Raises MaxMessageLengthExceeded."""
    pieces: list[bytes] = []
    size = 0
    async for piece in body.data:
        size += len(piece)
        if size > MAX_DOCUMENT_BYTES:
            raise refusal("MaxMessageLengthExceeded", "Your request was too big.")
        pieces.append(piece)
    document = b"".join(pieces)
    await asyncio.to_thread(_check_document, document, body.checks)
    return document


def _check_document(document: bytes, checks: Checks) -> None:
    if checks.size is not None and checks.size != len(document):
        raise refusal("IncompleteBody", "The body is shorter than was announced.")
    digests = Digests({*checks.expected, "sha256"})
    digests.update(document)
    found = digests.results()
    for algorithm, value in checks.expected.items():
        if found[algorithm] != value:
            raise refusal("BadDigest", f"The {algorithm} you specified did not match what we received.")
    if checks.content_sha256 is not None and base64.b64decode(found["sha256"]).hex() != checks.content_sha256:
        raise refusal(
            "XAmzContentSHA256Mismatch",
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        )
