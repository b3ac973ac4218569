"""What a worker has yet to tell the platform's journal, and in which pages.

Most calls are told together with what came of them: such a step is one row, written once. So a call waits for the first
entry that is of its step, and no longer than that gathers. Calls are told in their order, which is that of a run's steps.
An end that is noted on this machine's disk is noted with the calls before it: what is told of a step that the platform does
not know is not taken.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
MOST = 800
"""Entries of a page; the platform takes a few more."""


class Untold:
    """`call` and `add` put into it, `page` takes out."""

    def __init__(self) -> None:
        self._calls: deque[Json] = deque()
        self._numbers: dict[str, int] = {}
        """Of `_calls`, by name: the how many-th of all."""
        self._told = 0
        self._noted = 0
        self._entries: deque[Json] = deque()

    def __bool__(self) -> bool:
        return bool(self._entries or self._calls)

    @property
    def entries(self) -> int:
        """How many there are that are no calls."""
        return len(self._entries)

    def call(self, entry: Json) -> None:
        """A step was called."""
        self._numbers[entry["name"]] = self._told + len(self._calls)
        self._calls.append(entry)

    def add(self, entry: Json) -> None:
        """What became of a call, or is asked about it."""
        self._entries.append(entry)

    def to_note(self, end: Json) -> Iterator[Json]:
        """An end, after the calls up to its own that were neither told nor given out here before."""
        last = self._numbers.get(end["name"], -1)
        for number in range(max(self._told, self._noted), last + 1):
            yield self._calls[number - self._told]
        self._noted = max(self._noted, last + 1)
        yield end

    def note_again(self) -> None:
        """What was noted is there no more."""
        self._noted = 0

    def page(self, *, calls: bool) -> list[Json]:
        """The next of it, each after its call; with `calls` also calls that nothing came of yet, when there is room."""
        some: list[Json] = []
        while self._entries and len(some) < MOST:
            while self._entries[0]["name"] in self._numbers and len(some) < MOST:
                some.append(self._next_call())
            if len(some) < MOST:
                some.append(self._entries.popleft())
        while calls and self._calls and not self._entries and len(some) < MOST:
            some.append(self._next_call())
        return some

    def _next_call(self) -> Json:
        entry = self._calls.popleft()
        del self._numbers[entry["name"]]
        self._told += 1
        return entry
