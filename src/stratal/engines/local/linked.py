"""What every engine behind a `Link` has in common: asking its companion, and telling whoever watches."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stratal.compute.engine import Isolation, Usage, WorkloadStatus
from stratal.engines.local.link import Companion, Link, Status
from stratal.kernel.errors import Invalid

_HOT_BYTES = 64 << 10
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")


class Linked:
    """An engine whose `companion` keeps attempts, and their logs, in folders of `run_dir`."""

    def __init__(self, run_dir: Path, companion: Companion) -> None:
        self._attempts = run_dir / "attempts"
        self._link = Link(run_dir, self._heard_all, self._heard_one, companion)
        self._known: dict[str, WorkloadStatus] = {}
        self._watchers: set[_Watcher] = set()

    async def close(self) -> None:
        """Let go: the companion and all workloads go on."""
        await self._link.close()

    async def shutdown(self, *, kill: bool, grace_seconds: float = 10.0) -> None:
        """End the companion: after all its workloads ended (`kill`), or sparing them for the next one."""
        await self._link.shutdown(kill=kill, grace_seconds=grace_seconds)

    # -- Engine --------------------------------------------------------------------------------

    async def adopt(self) -> Sequence[WorkloadStatus]:
        return [status_of(status) for status in await self._link.ask("list")]

    async def watch(self) -> AsyncIterator[WorkloadStatus]:
        watcher = _Watcher(dict(self._known))
        self._watchers.add(watcher)
        try:
            while True:
                await watcher.news.wait()
                watcher.news.clear()
                while watcher.pending:
                    yield watcher.pending.pop(next(iter(watcher.pending)))
        finally:
            self._watchers.discard(watcher)

    async def stop(self, attempt_id: str, grace_seconds: float) -> None:
        await self._link.ask("stop", attempt_id=attempt_id, grace_seconds=grace_seconds)

    async def logs(
        self, attempt_id: str, offset: int, limit: int = 1 << 20, *, rank: int | None = None
    ) -> bytes:
        check_id(attempt_id)
        name = "log" if rank is None else f"log.{int(rank)}"
        path = self._attempts / attempt_id / name
        hot = read_hot(path, offset, limit)
        return hot if hot is not None else await asyncio.to_thread(read_log, path, offset, limit)

    async def release(self, attempt_id: str) -> None:
        await self._link.ask("release", attempt_id=attempt_id)
        self._known.pop(attempt_id, None)

    # -- what comes from the companion -------------------------------------------------------------

    def _started(self, status: Status) -> WorkloadStatus:
        news = status_of(status)
        self._known.setdefault(news.attempt_id, news)
        return news

    def _heard_all(self, statuses: list[Status]) -> None:
        now = {status["attempt_id"]: status_of(status) for status in statuses}
        before, self._known = self._known, now
        for attempt_id, status in now.items():
            if before.get(attempt_id) != status:
                self._tell(status)

    def _heard_one(self, status: Status) -> None:
        news = status_of(status)
        self._known[news.attempt_id] = news
        self._tell(news)

    def _tell(self, status: WorkloadStatus) -> None:
        for watcher in self._watchers:
            watcher.pending[status.attempt_id] = status
            watcher.news.set()


class _Watcher:
    """One reader of `watch`: the newest status of each attempt that it has not seen yet, oldest first."""

    def __init__(self, known: dict[str, WorkloadStatus]) -> None:
        self.pending = known
        self.news = asyncio.Event()
        self.news.set()


def status_of(plain: Mapping[str, Any]) -> WorkloadStatus:
    """A status as it comes over the wire."""
    isolation = dict(plain["isolation"])
    isolation["other_inputs"] = tuple(isolation.get("other_inputs", ()))
    values = {**plain, "usage": Usage(**plain["usage"]), "isolation": Isolation(**isolation)}
    return WorkloadStatus(**values)


def check_id(attempt_id: str) -> None:
    """Raise `Invalid` for what could not name an attempt's folder."""
    if not _ID.match(attempt_id):
        raise Invalid(f"{attempt_id[:60]!r} cannot be an attempt's id.", reason="bad_attempt")


def read_hot(path: Path, offset: int, limit: int) -> bytes | None:
    """As `read_log`, some of it at least, when no disk has to be waited for; else None. What was written last is there."""
    if not hasattr(os, "RWF_NOWAIT") or offset < 0 or limit <= 0:
        return None
    try:
        log = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        data = bytearray(min(limit, _HOT_BYTES))
        return bytes(data[: os.preadv(log, [data], offset, os.RWF_NOWAIT)])
    except OSError:  # it lies on the disk, or its file system cannot tell
        return None
    finally:
        os.close(log)


def read_log(path: Path, offset: int, limit: int) -> bytes:
    """Up to `limit` bytes of a log from `offset`; empty when there are none, or no log. Raises `Invalid`."""
    if offset < 0 or limit < 0:
        raise Invalid("A log is read from an offset of 0 or more.")
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)
    except FileNotFoundError:
        return b""
