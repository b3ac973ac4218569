"""A request as S3 reads it: taken from the raw, undecoded address, so that a key may hold anything."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from stratal.gateway.s3.errors import refusal

_VIRTUAL_HOST = re.compile(rb"([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])\.localhost(?::\d+)?\Z")


@dataclass(frozen=True)
class Head:
    """Method, raw path and query, and headers (names in lower case), as they came."""

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: tuple[tuple[bytes, bytes], ...]

    def header(self, name: str) -> bytes | None:
        """The header's value (repeated ones joined with commas), or None."""
        wanted = name.encode()
        values = [value.strip() for key, value in self.headers if key == wanted]
        return b",".join(values) if values else None

    @cached_property
    def query(self) -> tuple[tuple[bytes, bytes], ...]:
        """The query's pairs, decoded, in order; a name without ``=`` has an empty value."""
        pairs = (piece.partition(b"=") for piece in self.raw_query.split(b"&") if piece)
        return tuple((_decode_query(name), _decode_query(value)) for name, _, value in pairs)


def head_of(scope: Scope) -> Head:
    """The request's head; made once per request, as every step of the chain asks for it."""
    head = scope["state"].get("s3.head")
    if not isinstance(head, Head):
        head = Head(scope["method"], scope["raw_path"], scope["query_string"], tuple(scope["headers"]))
        scope["state"]["s3.head"] = head
    return head


def _decode_query(raw: bytes) -> bytes:
    raw = raw.replace(b"+", b" ")
    return unquote_to_bytes(raw) if b"%" in raw else raw


@dataclass(frozen=True, slots=True)
class S3Request:
    """What is asked of which bucket and key (empty when the address names none)."""

    head: Head
    bucket: str
    key: str
    query: Mapping[str, str]
    request_id: str = ""

    @property
    def method(self) -> str:
        return self.head.method

    def header(self, name: str, default: str = "") -> str:
        """The header's value as text, byte for byte (latin-1)."""
        value = self.head.header(name)
        return default if value is None else value.decode("latin-1")

    def number(self, name: str, default: int) -> int:
        """The query's `name` as a number that is not negative. Raises InvalidArgument."""
        value = self.query.get(name, "")
        if not value:
            return default
        if not re.fullmatch(r"[0-9]{1,10}", value) or int(value) >= 2**31:
            raise refusal("InvalidArgument", f"{name} is not a number from 0 to 2147483647: {value[:40]!r}.")
        return int(value)


def parse(head: Head, request_id: str) -> S3Request:
    """Read bucket, key and query. Raises InvalidURI, InvalidArgument for what is not UTF-8 or holds NUL."""
    bucket, key = address(head)
    query: dict[str, str] = {}
    for name, value in head.query:
        text = _text(value, "InvalidArgument", f"The query's {name[:40]!r}")
        query.setdefault(_text(name, "InvalidArgument", "A name in the query"), text)
    return S3Request(
        head, _text(bucket, "InvalidBucketName", "The bucket"), _text(key, "InvalidURI", "The key"), query, request_id
    )  # fmt: skip


def address(head: Head) -> tuple[bytes, bytes]:
    """The (bucket, key) that the address names, percent-decoded once: path style, or ``BUCKET.localhost``."""
    host = _VIRTUAL_HOST.match(head.header("host") or b"")
    path = head.raw_path.removeprefix(b"/")
    if host is not None:
        return host[1], unquote_to_bytes(path)
    bucket, _, key = path.partition(b"/")
    return unquote_to_bytes(bucket), unquote_to_bytes(key)


def _text(raw: bytes, code: str, what: str) -> str:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise refusal(code, f"{what} is not UTF-8.") from error
    if "\0" in text:
        raise refusal(code, f"{what} contains NUL.")
    return text
