"""Filtering, sorting and paging a list as its page's address says: ``?q=state:running lr<1e-3&sort=-time&page=2``.

Words in `q` must all match. ``field:text`` looks for text in one column, ``field<3`` (also ``<= > >= =``)
compares a number, any other word is looked for in every text column.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stratal.console.native import Json
from stratal.console.shown import state_name

PAGE_ROWS = 100

_COMPARISON = re.compile(r"([^\s<>=:]+)(<=|>=|<|>|=)(-?[\d.]+(?:[eE][-+]?\d+)?)\Z")
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name in the address, its head, and how its value is read off an item.

    `text` is what is shown of an item where that is not its value: a parameter as it was logged.
    """

    name: str
    label: str
    value: Callable[[Json], Any]
    numeric: bool = False
    text: Callable[[Json], Any] | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The rows to show, and what the page says of the rest. `sort` is as in the address (``-`` for descending)."""

    rows: Sequence[Json]
    columns: Sequence[Column]
    total: int
    matched: int
    page: int
    pages: int
    sort: str
    more: bool = False
    """There are more on the server than were looked through."""


def arrange(
    items: Sequence[Json],
    columns: Sequence[Column],
    address: Mapping[str, str],
    *,
    default: str = "",
    more: bool = False,
) -> Listing:
    """Apply the address's `q`, `sort` and `page`; what cannot be understood there is ignored."""
    matching = [item for item in items if _matches(item, columns, address.get("q", ""))]
    sort = address.get("sort", default)
    by = next((c for c in columns if c.name == sort.lstrip("-")), None)
    if by is not None:
        matching = _ordered(matching, by, descending=sort.startswith("-"))
    pages = max(1, -(-len(matching) // PAGE_ROWS))
    asked = address.get("page", "1")
    page = min(max(int(asked), 1), pages) if asked.isdecimal() and len(asked) < 9 else 1
    rows = matching[(page - 1) * PAGE_ROWS : page * PAGE_ROWS]
    return Listing(rows, columns, len(items), len(matching), page, pages, sort, more)


def _ordered(items: list[Json], column: Column, *, descending: bool) -> list[Json]:
    """Sorted by a column; items without a value come last in both directions."""
    known = [item for item in items if _sortable(column.value(item)) is not None]
    rest = [item for item in items if _sortable(column.value(item)) is None]
    return [
        *sorted(known, key=lambda i: _sortable(column.value(i)) or (0, 0.0, ""), reverse=descending),
        *rest,
    ]


def _sortable(value: Any) -> tuple[int, float, str] | None:
    """A key under which figures and words can stand in one column; None when there is nothing to sort by."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, str(value).lower())


def _matches(item: Json, columns: Sequence[Column], query: str) -> bool:
    return all(_word_matches(item, columns, word) for word in query.split())


def _word_matches(item: Json, columns: Sequence[Column], word: str) -> bool:
    by_name = {column.name.lower(): column for column in columns}
    compared = _COMPARISON.match(word)
    if compared is not None and compared[1].lower() in by_name:
        value = by_name[compared[1].lower()].value(item)
        try:
            return value is not None and _COMPARE[compared[2]](float(value), float(compared[3]))
        except (TypeError, ValueError):
            return False
    name, colon, text = word.partition(":")
    if colon and name.lower() in by_name:
        return text.lower() in _text(by_name[name.lower()], item)
    return any(word.lower() in _text(column, item) for column in columns if not column.numeric)


def _text(column: Column, item: Json) -> str:
    """What a column says of an item, as people may type it: a state by its own word and by the one shown."""
    value = column.value(item)
    if value is None:
        return ""
    return f"{value} {state_name(value)}".lower() if column.name == "state" else str(value).lower()
