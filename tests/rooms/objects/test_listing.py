"""Paging through keys agrees with sorting all of them, whatever the prefix, delimiter and page size."""

from bisect import bisect_left
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.data.objects.listing import list_page

pytestmark = pytest.mark.fast

ALPHABET = "ab/é😀 +%.\x01\x7f"
keys = st.text(alphabet=ALPHABET, min_size=1, max_size=6)
texts = st.text(alphabet=ALPHABET, max_size=3)


@dataclass(frozen=True)
class Row:
    key: bytes


def entries(stored: list[bytes], prefix: bytes, delimiter: bytes) -> list[bytes]:
    """The oracle: every entry of an unpaged listing, in order."""
    found = set()
    for key in stored:
        if key.startswith(prefix):
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            found.add(key if at < 0 else key[: at + len(delimiter)])
    return sorted(found)


@given(st.sets(keys, max_size=30), texts, texts, texts, st.integers(1, 7))
def test_pages_add_up_to_the_whole_listing(
    names: set[str], prefix: str, delimiter: str, start: str, limit: int
) -> None:
    stored = sorted(name.encode() for name in names)

    def scan(low: bytes, high: bytes | None, count: int) -> list[Row]:
        end = len(stored) if high is None else bisect_left(stored, high)
        return [Row(key) for key in stored[bisect_left(stored, low) : end][:count]]

    p, d, after = prefix.encode(), delimiter.encode(), start.encode()
    expected = [entry for entry in entries(stored, p, d) if entry > after]
    seen: list[bytes] = []
    while True:
        page = list_page(scan, prefix=p, delimiter=d, after=after, limit=limit)
        here = sorted([*(row.key for row in page.rows), *page.prefixes])
        assert len(here) <= limit
        seen += here
        if page.next_after is None:
            break
        assert len(here) == limit  # a page that says there is more is full
        after = page.next_after
    assert seen == expected


def test_a_page_of_nothing_is_empty_and_not_truncated() -> None:
    page = list_page(lambda *_: [Row(b"a")], prefix=b"", delimiter=b"", after=b"", limit=0)
    assert (page.rows, page.prefixes, page.next_after) == ([], [], None)


def test_a_rolled_up_prefix_costs_one_look_however_many_keys_it_hides() -> None:
    stored = [f"d{n // 10_000}/{n:06}".encode() for n in range(30_000)]
    looks = 0

    def scan(low: bytes, high: bytes | None, count: int) -> list[Row]:
        nonlocal looks
        looks += 1
        return [Row(key) for key in stored[bisect_left(stored, low) :][:count]]

    page = list_page(scan, prefix=b"", delimiter=b"/", after=b"", limit=1000)
    assert page.prefixes == [b"d0/", b"d1/", b"d2/"]
    assert looks <= 4
