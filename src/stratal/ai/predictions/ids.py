"""Prediction ids: where a prediction's row is, and what it must hash to.

``pr_`` and 36 characters of base 32 (180 bits): the endpoint revision's number (32), the spool
segment's (32) and the row's offset in it (32), the first 64 bits of the row's SHA-256, and 20 bits
that catch a mistyped id. So a row is found without an index, an altered row no longer fits the id that
was handed out, and nobody can name a row that they were not given.
"""

import hashlib
from dataclasses import dataclass

from stratal.kernel.errors import NotFound

PREFIX = "pr_"
LENGTH = 36
DIGEST_BYTES = 8
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]


@dataclass(frozen=True, slots=True)
class Place:
    """What an id says: the revision's number, segment and offset of the row, the beginning of the row's SHA-256."""

    revision: int
    segment: int
    offset: int
    digest: bytes


def encode(place: Place) -> str:
    """The id of a place. Numbers must fit 32 bits; the digest's first `DIGEST_BYTES` bytes are used."""
    packed = (
        place.revision.to_bytes(4, "big")
        + place.segment.to_bytes(4, "big")
        + place.offset.to_bytes(4, "big")
        + place.digest[:DIGEST_BYTES]
    )
    value = int.from_bytes(packed, "big") << 20 | _check(packed)
    letters = [_PAIRS[(value >> shift) & 1023] for shift in range(170, -1, -10)]
    return PREFIX + "".join(letters)


def decode(prediction_id: str) -> Place:
    """What the id says. Raises `NotFound` for anything that was never handed out as an id."""
    body = prediction_id.removeprefix(PREFIX)
    if (
        len(body) != LENGTH
        or len(prediction_id) != LENGTH + len(PREFIX)
        or any(c not in _VALUES for c in body)
    ):
        raise no_such(prediction_id)
    value = 0
    for letter in body:
        value = value << 5 | _VALUES[letter]
    packed = (value >> 20).to_bytes(20, "big")
    if value & 0xFFFFF != _check(packed):
        raise no_such(prediction_id)
    revision, segment, offset = (int.from_bytes(packed[i : i + 4], "big") for i in (0, 4, 8))
    return Place(revision, segment, offset, packed[12:])


def no_such(prediction_id: str) -> NotFound:
    """The answer to an id that names nothing the caller may see."""
    return NotFound(
        f"There is no prediction {prediction_id[:60]!r}.",
        hint="Each answer of an endpoint carries its id in the header X-Stratal-Prediction-Id.",
        reason="no_such_prediction",
    )


def _check(packed: bytes) -> int:
    return int.from_bytes(hashlib.sha256(b"stratal prediction" + packed).digest()[:3], "big") & 0xFFFFF
