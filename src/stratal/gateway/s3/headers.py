"""Headers that describe an object, conditions and ranges: S3's spelling to our types and back. Pure."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from stratal.data.objects.model import DEFAULT_CONTENT_TYPE, Condition, Description, ObjectVersion
from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.request import S3Request

META = "x-amz-meta-"
_KEPT = ("cache-control", "content-disposition", "content-encoding", "content-language", "expires")
_OVERRIDES = {f"response-{name}": name for name in (*_KEPT, "content-type")}
_REFUSED_PREFIXES = (
    "x-amz-server-side-encryption",
    "x-amz-object-lock",
    "x-amz-bucket-object-lock",
    "x-amz-website-redirect",
    "x-amz-grant-",
)
_REFUSED = {"x-amz-tagging", "x-amz-write-offset-bytes"}
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*\Z", re.IGNORECASE)
_ETAGS = re.compile(r'\s*(?:W/)?(?:"([^"]*)"|([^",\s]+))\s*(?:,|\Z)')


def refuse_unserved(request: S3Request) -> None:
    """Raise NotImplemented for a header that asks for something that would not happen."""
    for raw, value in request.head.headers:
        name = raw.decode("latin-1")
        if name in _REFUSED or name.startswith(_REFUSED_PREFIXES):
            raise refusal(
                "NotImplemented", f"A header you provided implies functionality that is not served: {name}"
            )
        if name == "x-amz-acl" and value not in {b"private", b"bucket-owner-full-control"}:
            raise refusal(
                "NotImplemented", "Access control lists are not served; access is by the keys of projects."
            )
        if name == "x-amz-storage-class" and value != b"STANDARD":
            raise refusal("InvalidStorageClass", "The only storage class is STANDARD.")


def description_of(request: S3Request) -> Description:
    """What the request says about the object that it writes."""
    kept = {name: request.header(name) for name in _KEPT if request.head.header(name) is not None}
    encodings = [part.strip() for part in kept.pop("content-encoding", "").split(",")]
    encoding = ", ".join(part for part in encodings if part and part.lower() != "aws-chunked")
    if encoding:
        kept["content-encoding"] = encoding
    return Description(
        content_type=request.header("content-type") or DEFAULT_CONTENT_TYPE,
        metadata=_metadata(request),
        headers=kept,
    )


def _metadata(request: S3Request) -> dict[str, str]:
    """User metadata: names in lower case; values as UTF-8 where they are, else byte for byte."""
    found: dict[str, str] = {}
    for raw, value in request.head.headers:
        name = raw.decode("latin-1")
        if name.startswith(META):
            text = _decode(value.strip())
            name = name[len(META) :]
            found[name] = f"{found[name]},{text}" if name in found else text
    return found


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def object_headers(version: ObjectVersion, overrides: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers that describe a version, some perhaps replaced by the query's ``response-…``."""
    shown = {"content-type": version.content_type, **version.headers, **overrides}
    headers = [(name.encode(), _encode(value)) for name, value in shown.items()]
    headers += [
        (f"{META}{name}".encode("latin-1"), _encode_metadata(value))
        for name, value in version.metadata.items()
    ]
    headers += [
        (b"etag", f'"{version.etag}"'.encode()),
        (b"last-modified", http_date(version.created_at).encode()),
        (b"accept-ranges", b"bytes"),
    ]
    return headers


def overrides_of(request: S3Request) -> dict[str, str]:
    """The ``response-…`` parameters of the query. Raises InvalidArgument for what no header can hold."""
    found = {header: request.query[name] for name, header in _OVERRIDES.items() if request.query.get(name)}
    for name, value in found.items():
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            raise refusal("InvalidArgument", f"The value of response-{name} contains control characters.")
    return found


def _encode(value: str) -> bytes:
    try:
        return value.encode("latin-1")
    except UnicodeEncodeError:
        return value.encode()


def _encode_metadata(value: str) -> bytes:
    """ASCII as it is; anything else as RFC 2047 has it, as S3 does."""
    if value.isascii() and value.isprintable():
        return value.encode()
    return b"=?UTF-8?B?" + base64.b64encode(value.encode()) + b"?="


def checksum_headers(version: ObjectVersion) -> list[tuple[bytes, bytes]]:
    """The version's checksums as headers, with their type."""
    headers = [
        (f"x-amz-checksum-{name}".encode(), value.encode()) for name, value in version.checksums.items()
    ]
    if headers:
        headers.append((b"x-amz-checksum-type", checksum_type(version).encode()))
    return headers


def checksum_type(version: ObjectVersion) -> str:
    return "COMPOSITE" if any("-" in value for value in version.checksums.values()) else "FULL_OBJECT"


def http_date(milliseconds: int) -> str:
    return format_datetime(datetime.fromtimestamp(milliseconds // 1000, UTC), usegmt=True)


# -- conditions ------------------------------------------------------------------------------------


def write_condition(request: S3Request) -> Condition:
    """When a write may happen. Raises NotImplemented for conditions that S3 does not have on writes."""
    if_none, if_match = request.header("if-none-match"), request.header("if-match")
    if if_none and if_none.strip() != "*":
        raise refusal("NotImplemented", "On writes If-None-Match only takes *.")
    return Condition(if_match=if_match.strip().strip('"') or None, if_absent=bool(if_none))


def check_read(request: S3Request, version: ObjectVersion, prefix: str = "") -> bool:
    """False when the client has this version already (304). Raises PreconditionFailed. RFC 9110 §13.2.2.

    `prefix` is ``x-amz-copy-source-`` for the source of a copy.
    """
    modified = version.created_at // 1000
    if_match = request.header(f"{prefix}if-match")
    if_none = request.header(f"{prefix}if-none-match")
    unmodified_since = _seconds(request.header(f"{prefix}if-unmodified-since"))
    modified_since = _seconds(request.header(f"{prefix}if-modified-since"))
    if if_match:
        if not _matches(if_match, version.etag):
            raise _failed("If-Match")
    elif unmodified_since is not None and modified > unmodified_since:
        raise _failed("If-Unmodified-Since")
    if if_none:
        return not _matches(if_none, version.etag)
    return modified_since is None or modified > modified_since


def _failed(condition: str) -> Exception:
    return refusal(
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
        condition=condition,
    )


def _matches(header: str, etag: str) -> bool:
    if header.strip() == "*":
        return True
    return etag in {quoted or bare for quoted, bare in _ETAGS.findall(header)}


def _seconds(header: str) -> int | None:
    if not header:
        return None
    try:
        return int(parsedate_to_datetime(header).timestamp())
    except (ValueError, TypeError, OverflowError):
        return None  # RFC 9110: a date that cannot be read is no condition


# -- ranges ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes [start, start + length) of an object."""

    start: int
    length: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.start + self.length - 1}/{size}"


def parse_range(header: str, size: int) -> Span | None:
    """The span that a Range header asks for; None for the whole object (absent, unreadable, several ranges).

    Raises InvalidRange when it lies outside. RFC 9110 §14.
    """
    match = _RANGE.match(header.strip())
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if length == 0:
            raise _unsatisfiable(header, size)
        return Span(size - length, length)
    start = int(match[1])
    end = int(match[2]) if match[2] else size - 1
    if match[2] and end < start:
        return None
    if start >= size:
        raise _unsatisfiable(header, size)
    return Span(start, min(end, size - 1) - start + 1)


def _unsatisfiable(header: str, size: int) -> Exception:
    return refusal(
        "InvalidRange",
        "The requested range is not satisfiable",
        rangeRequested=header[:100],
        actualObjectSize=size,
    )
