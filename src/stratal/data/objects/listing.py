"""Listing keys in bytewise order, rolled up at a delimiter, a page at a time.

An *entry* is a key or, with a delimiter, a common prefix; a page holds the entries that sort after
`after`. So a page may begin after a common prefix as well as after a key, and what is rolled up is
skipped over by one look into the index, however many keys it stands for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

_BEYOND = b"\xff"  # sorts after every byte that UTF-8 can contain
_MIN_BATCH = 16


class Keyed(Protocol):
    @property
    def key(self) -> bytes: ...


K = TypeVar("K", bound=Keyed)
Scan = Callable[[bytes, bytes | None, int], list[K]]
"""``scan(low, high, limit)``: at most `limit` rows with low <= key < high (None: no upper bound), in order."""


@dataclass(frozen=True, slots=True)
class Page(Generic[K]):
    """`rows` and `prefixes` of one page; `next_after` is its last entry when there are more, else None."""

    rows: list[K]
    prefixes: list[bytes]
    next_after: bytes | None


def list_page(scan: Scan[K], *, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> Page[K]:
    """One page of at most `limit` entries that begin with `prefix` and sort after `after`."""
    if limit == 0:
        return Page([], [], None)
    low = _first(prefix, delimiter, after)
    high = prefix + _BEYOND if prefix else None
    rows: list[K] = []
    prefixes: list[bytes] = []
    last = b""
    while True:
        wanted = max(_MIN_BATCH, limit + 1 - len(rows) - len(prefixes))
        batch = scan(low, high, wanted)
        for row in batch:
            if row.key < low:  # rolled up into the prefix before
                continue
            if len(rows) + len(prefixes) == limit:
                return Page(rows, prefixes, last)
            group = _group(row.key, prefix, delimiter)
            if group is None:
                rows.append(row)
                last = row.key
                low = row.key + b"\0"
            else:
                prefixes.append(group)
                last = group
                low = group + _BEYOND
        if len(batch) < wanted:
            return Page(rows, prefixes, None)


def _first(prefix: bytes, delimiter: bytes, after: bytes) -> bytes:
    """The least key that can belong to an entry after `after`."""
    if after < prefix:
        return prefix
    if not after:
        return b""
    group = _group(after, prefix, delimiter)
    return after + b"\0" if group is None else group + _BEYOND


def _group(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    if not delimiter or not key.startswith(prefix):
        return None
    at = key.find(delimiter, len(prefix))
    return None if at < 0 else key[: at + len(delimiter)]
