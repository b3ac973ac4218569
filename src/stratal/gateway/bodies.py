"""Reading a request's whole body within a limit, for doors whose clients send it in one piece."""

import zlib
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

import anyio.to_thread
from starlette.types import Receive, Scope

from stratal.kernel.errors import Invalid, TooLarge, Unsupported

P = ParamSpec("P")
T = TypeVar("T")

_DRAINED = 64 << 20
_FEW = 128 << 10
_WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body, decompressed when it says that it is gzip or deflate.

    Raises `TooLarge` for more than `limit` bytes, before or after decompression (after having read on for
    a while, so that a client that only listens when it has sent all gets the answer), `Invalid` when it
    breaks off or is not what its Content-Encoding says, `Unsupported` for other encodings.
    """
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise Invalid("The request broke off.", reason="broken_body")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit + _DRAINED:
            break
        if not message.get("more_body", False):
            break
    if size > limit:
        raise too_large(limit)
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    encoding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"identity")
    encoding = encoding.strip().lower()
    if encoding == b"identity":
        return body
    return await beside(len(body), _decompress, body, encoding, limit)


async def beside(size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do `work` on `size` bytes: at once when they are few, else in a thread, so that nobody else waits for it."""
    if size <= _FEW:
        return work(*args, **kwargs)
    return await anyio.to_thread.run_sync(partial(work, *args, **kwargs))


def _decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    window = _WINDOWS.get(encoding)
    if window is None:
        raise Unsupported(
            f"The Content-Encoding {encoding[:40]!r} is not taken: send gzip, deflate or none.",
            reason="unsupported_encoding",
        )
    stream = zlib.decompressobj(window)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise Invalid(f"The body is not {encoding.decode()}: {error}.", reason="broken_body") from None
    if len(plain) > limit:
        raise too_large(limit)
    if not stream.eof:
        raise Invalid(f"The {encoding.decode()} body breaks off.", reason="broken_body")
    return plain


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The request's body is larger than {limit >> 20} MiB.",
        hint="Send fewer rows at once.",
        reason="body_too_large",
    )
