"""The ``aws-chunked`` framing: a body in chunks, each perhaps signed, perhaps with trailers behind. Pure.

https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html and …-trailers.html

    1000;chunk-signature=<64 hex>\\r\\n <0x1000 bytes> \\r\\n
    0;chunk-signature=<64 hex>\\r\\n
    x-amz-checksum-crc32:<base64>\\r\\n
    x-amz-trailer-signature:<64 hex>\\r\\n \\r\\n

Data is given out as it arrives, before its chunk's signature could be checked: who stores it must not
make it visible until `finish` returned.
"""

import hashlib
import hmac
import re
from enum import Enum, auto

from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.sigv4 import ChunkSigner
from stratal.kernel.errors import StratalError

_MAX_LINE = 8 * 1024
_MAX_TRAILERS = 32
_SIZE = re.compile(rb"([0-9a-fA-F]{1,12})(?:;chunk-signature=([0-9a-f]{64}))?\Z")


class _State(Enum):
    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    DONE = auto()


class ChunkedDecoder:
    """Feed it bytes, take data out; `signer` is None where chunks are not signed."""

    def __init__(self, signer: ChunkSigner | None) -> None:
        self._signer = signer
        self._state = _State.SIZE
        self._buffer = bytearray()
        self._left = 0
        self._signature = ""
        self._digest = hashlib.sha256()
        self._trailers: dict[str, str] = {}
        self._trailer_signature: str | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """Take in what arrived and return the pieces of data in it.

        Raises IncompleteBody for broken framing, SignatureDoesNotMatch for a chunk that was not signed so.
        """
        self._buffer += data
        out: list[bytes] = []
        while self._step(out):
            pass
        return out

    def finish(self) -> dict[str, str]:
        """The trailers (names in lower case), once the body has ended. Raises IncompleteBody when it has not."""
        if self._state is not _State.DONE:
            raise _broken("The body ended before its last chunk.")
        return self._trailers

    def _step(self, out: list[bytes]) -> bool:
        """Do one thing with what is in the buffer; False when more has to arrive first."""
        match self._state:
            case _State.DATA:
                return self._take_data(out)
            case _State.DONE:
                if self._buffer:
                    raise _broken("Something follows the last chunk.")
                return False
            case _:
                line = self._take_line()
                if line is None:
                    return False
                self._take(line)
                return True

    def _take_data(self, out: list[bytes]) -> bool:
        if not self._buffer:
            return False
        piece = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        self._left -= len(piece)
        if self._signer is not None:
            self._digest.update(piece)
        out.append(piece)
        if self._left == 0:
            self._check_chunk()
            self._state = _State.DATA_END
        return True

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0 and len(self._buffer) <= _MAX_LINE:
            return None
        if end < 0 or end > _MAX_LINE:
            raise _broken("A line between chunks is too long.")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take(self, line: bytes) -> None:
        if self._state is _State.DATA_END:
            if line:
                raise _broken("A chunk is longer than its size.")
            self._state = _State.SIZE
        elif self._state is _State.SIZE:
            self._take_size(line)
        else:
            self._take_trailer(line)

    def _take_size(self, line: bytes) -> None:
        match = _SIZE.match(line)
        if match is None:
            raise _broken("A chunk's size cannot be read.")
        self._left = int(match[1], 16)
        self._signature = (match[2] or b"").decode()
        self._digest = hashlib.sha256()
        if self._left == 0:
            self._check_chunk()
            self._state = _State.TRAILER
        else:
            self._state = _State.DATA

    def _take_trailer(self, line: bytes) -> None:
        if not line:
            self._check_trailers()
            self._state = _State.DONE
            return
        name, colon, value = line.decode("latin-1").strip().partition(":")
        if not colon or len(self._trailers) >= _MAX_TRAILERS:
            raise _broken("A trailer cannot be read.")
        if name.lower() == "x-amz-trailer-signature":
            self._trailer_signature = value.strip()
        else:
            self._trailers[name.strip().lower()] = value.strip()

    def _check_chunk(self) -> None:
        if self._signer is None:
            return
        expected = self._signer.chunk(self._digest.hexdigest())
        if not hmac.compare_digest(expected, self._signature):
            raise refusal("SignatureDoesNotMatch", "A chunk of the body is not the one that was signed.")

    def _check_trailers(self) -> None:
        if self._signer is None or (self._trailer_signature is None and not self._trailers):
            return
        canonical = "".join(f"{name}:{value}\n" for name, value in sorted(self._trailers.items()))
        expected = self._signer.trailer(canonical.encode("latin-1"))
        if not hmac.compare_digest(expected, self._trailer_signature or ""):
            raise refusal("SignatureDoesNotMatch", "The body's trailers are not the ones that were signed.")


def _broken(message: str) -> StratalError:
    return refusal("IncompleteBody", message)
