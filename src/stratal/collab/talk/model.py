"""Values of talk, and which words of a text mention somebody."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid

MOST_TEXT = 10_000
_MENTION = re.compile(r"(?<![\w@./-])@([A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?)")

Look = Callable[[Principal, str, str], Awaitable[object]]
"""Find a thing by what people call it: ``(who, project_id, id)``. Raises `NotFound`, `Denied`."""

Subjects = Mapping[str, Look]
"""What can be talked about, by kind."""


@dataclass(frozen=True, slots=True)
class Comment:
    """What somebody said about a thing of the project. Times are epoch milliseconds."""

    id: str
    on_kind: str
    on_id: str
    text: str
    author: str
    author_id: str
    created_at: int
    edited_at: int | None


@dataclass(frozen=True, slots=True)
class Notification:
    id: str
    project: str
    kind: str
    words: str
    on_kind: str
    on_id: str
    created_at: int
    read_at: int | None


@dataclass(frozen=True, slots=True)
class Webhook:
    id: str
    url: str
    kinds: tuple[str, ...]
    created_at: int
    created_by: str
    rests: bool = False
    """Whoever made it left the project: it is told nothing any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one webhook. `state` is due, delivered or dead."""

    id: str
    kind: str
    state: str
    attempts: int
    due_at: int
    status: int | None
    error: str
    created_at: int
    ended_at: int | None


def check_text(text: str) -> str:
    """Raises `Invalid` for nothing, and for too much."""
    text = text.strip()
    if not text or len(text) > MOST_TEXT or "\0" in text:
        raise Invalid(f"A comment has 1 to {MOST_TEXT:,} characters.", reason="bad_comment")
    return text


def mentioned(text: str) -> Sequence[str]:
    """The names after an ``@``, each once, in order; at most 50."""
    return list(dict.fromkeys(_MENTION.findall(text)))[:50]
