"""What a tree of processes consumes, counted by looking often enough and no more. Standard library only."""

from __future__ import annotations

import resource
import time

from stratal.engines.local import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SHORTEST, _LONGEST = 0.02, 1.0
_GROWTH = 4 << 30
"""Bytes per second that a workload is expected to be able to grow by: how soon to look again."""
_WORTH_SHARING = 64 << 20
"""Below this, shared pages are not told apart: reading PSS costs milliseconds per gigabyte."""


class Census:
    """Looks at every process that `find` names now and then: memory, its peak and integral, processor time."""

    def __init__(self, find: Callable[[], list[int]], limit: int | None) -> None:
        self._find = find
        self._limit = limit
        self._began = self._last = time.monotonic()
        self._pause = _SHORTEST
        self.memory = 0
        self.peak = 0
        self.byte_seconds = 0.0
        self.live_cpu = 0.0
        self._earlier = 0.0
        """Processor seconds that are not counted."""
        self.members: list[int] = []
        self.due = self._began + _SHORTEST

    def look(self) -> None:
        """Count now, and decide when next."""
        self.members = self._find()
        memory = sum(process.resident(pid) for pid in self.members)
        if len(self.members) > 1 and memory > min(_WORTH_SHARING, self._limit or _WORTH_SHARING):
            memory = sum(process.proportional(pid) for pid in self.members)
        now = time.monotonic()
        self.byte_seconds += (self.memory + memory) / 2 * (now - self._last)
        self.memory, self._last = memory, now
        self.peak = max(self.peak, memory)
        self.live_cpu = process.processor_seconds(self.members)
        self._pause = min(self._pause * 1.5, _LONGEST)
        pause = self._pause
        if self._limit:
            pause = min(pause, max(_SHORTEST, (self._limit - memory) / _GROWTH))
        self.due = now + pause

    def begin_again(self) -> None:
        """Count from now on: what was used before is nobody's."""
        self.look()
        self._earlier = self._processor_seconds(self.live_cpu)
        self._began = self._last
        self.byte_seconds, self.peak = 0.0, self.memory
        self._pause = _SHORTEST

    def over_limit(self) -> bool:
        return self._limit is not None and self.memory > self._limit

    def usage(self, *, ended: bool, apart: tuple[float, int] | None = None) -> dict[str, Any]:
        """The `Usage` so far; once all ended, the kernel's own account of processor time is used.

        `apart`: processor seconds and peak bytes of what another process waited for.
        """
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        now = time.monotonic()
        peak = max(self.peak, spent.ru_maxrss * 1024) if ended else self.peak
        live = self.live_cpu if not ended else 0.0 if apart is None else max(self.live_cpu, apart[0])
        cpu = max(0.0, self._processor_seconds(live) - self._earlier)
        if apart is not None:
            peak = max(self.peak, apart[1])
        integral = self.byte_seconds + self.memory * (now - self._last)
        if ended and integral == 0:  # it was over before it could be looked at
            integral = peak * (now - self._began)
        return {
            "cpu_seconds": round(cpu, 4),
            "peak_memory_bytes": peak,
            "wall_seconds": round(now - self._began, 4),
            "memory_byte_seconds": round(integral, 1),
        }

    def _processor_seconds(self, live: float) -> float:
        """Of the children that ended, and the `live` ones."""
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return spent.ru_utime + spent.ru_stime + live
