"""Identifiers: sortable by time, safe in URLs, shell words and file names, impossible to guess."""

import secrets
import time

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"


def _base32(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        digits.append(_CROCKFORD[value & 31])
        value >>= 5
    return "".join(reversed(digits))


def new_id(prefix: str) -> str:
    """Return ``<prefix>_<26 characters>``: 48 bits of milliseconds, then 80 random bits.

    The layout is that of ULID (https://github.com/ulid/spec) in lower case, so ids made later
    sort later and an index on them stays compact.
    """
    return f"{prefix}_{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(80), 16)}"


def random_token(length: int = 16) -> str:
    """Return `length` random base-32 characters (5 bits each)."""
    return _base32(secrets.randbits(5 * length), length)
