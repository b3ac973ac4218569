"""A job's log to whoever reads it: the logs of its attempts one behind the other, as far as they go."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from sqlalchemy import Connection, bindparam, select

from stratal.compute import records
from stratal.compute.joblogs import JobLogs
from stratal.compute.model import Attempt, Job
from stratal.compute.tables import attempts, rank_logs
from stratal.kernel.database import Database
from stratal.kernel.errors import NotFound

_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.004, 0.15
"""How soon to look for more where nobody tells of it: at once where something was just said or began, then less often."""
_QUIET_SECONDS = 5.0


class Changes(Protocol):
    async def wait(self, seconds: float) -> None:
        """Until some job changed, but no longer than `seconds`."""
        ...


class LogStream:
    def __init__(self, database: Database, logs: JobLogs, changed: Changes) -> None:
        self._database = database
        self._logs = logs
        self._changed = changed

    async def read(
        self, job_id: int, attempt: int | None, offset: int, *, follow: bool
    ) -> AsyncIterator[bytes]:
        """The bytes from `offset` of the whole log or of one attempt's; with `follow` until that has ended."""
        number = attempt or 1
        pause = _SHORTEST_SECONDS
        while True:
            job, now = await self._database.read(lambda c, number=number: _state(c, job_id, number))  # type: ignore[misc]
            if now is not None and now.state.ended:
                size = now.log_bytes or 0
                if now.log_blob is not None and offset < size:
                    async for chunk in self._logs.stored(now.log_blob, offset, size - offset):
                        yield chunk
                offset = max(0, offset - size)
                number += 1
                if attempt is not None:
                    return
                continue
            if now is None and job.state.ended:
                return
            chunk = b"" if now is None else await self._logs.live(f"job-{job_id}-{number}", offset)
            offset += len(chunk)
            if chunk:
                yield chunk
                pause = _SHORTEST_SECONDS
            elif follow and now is None:
                await self._changed.wait(_QUIET_SECONDS)
                pause = _SHORTEST_SECONDS
            elif follow:
                told = await self._more(f"job-{job_id}-{number}", offset, pause)
                pause = _SHORTEST_SECONDS if told else min(pause * 1.5, _LONGEST_SECONDS)
                chunk = await self._logs.live(
                    f"job-{job_id}-{number}", offset
                )  # before asking what became of it
                offset += len(chunk)
                if chunk:
                    yield chunk
            elif now is None or not await self._ended_meanwhile(job_id, number):
                return

    async def _more(self, attempt_id: str, offset: int, pause: float) -> bool:
        """Wait for more of a log, or for a change of some job; where nobody tells of more (False), only so long."""
        growing = asyncio.ensure_future(self._logs.grown(attempt_id, offset, _QUIET_SECONDS))
        changing = asyncio.ensure_future(self._changed.wait(_QUIET_SECONDS))
        try:
            await asyncio.wait([growing, changing], return_when=asyncio.FIRST_COMPLETED)
            if not growing.done() or growing.result():
                return True
            await asyncio.wait([changing], timeout=pause)
            return changing.done()
        finally:
            growing.cancel()
            changing.cancel()
            await asyncio.gather(growing, changing, return_exceptions=True)

    async def read_rank(
        self, job_id: int, number: int, rank: int, offset: int, *, follow: bool
    ) -> AsyncIterator[bytes]:
        """What one member of a gang wrote in an attempt, from `offset`; with `follow` until that has ended."""
        stored = select(rank_logs.c.blob, rank_logs.c.bytes).where(
            rank_logs.c.job_id == job_id, rank_logs.c.number == number, rank_logs.c.rank == rank
        )
        pause = _SHORTEST_SECONDS
        while True:
            _, now = await self._database.read(lambda c: _state(c, job_id, number))
            if now is None or now.state.ended:
                row = await self._database.read(lambda c: c.execute(stored).one_or_none())
                if row is not None and offset < row.bytes:
                    async for chunk in self._logs.stored(row.blob, offset, row.bytes - offset):
                        yield chunk
                return
            chunk = await self._logs.live_rank(f"job-{job_id}-{number}", rank, offset)
            offset += len(chunk)
            if chunk:
                yield chunk
                pause = _SHORTEST_SECONDS
            elif follow:
                await self._changed.wait(pause)
                pause = min(pause * 1.5, _LONGEST_SECONDS)
            elif not await self._ended_meanwhile(job_id, number):
                return

    async def _ended_meanwhile(self, job_id: int, number: int) -> bool:
        _, now = await self._database.read(lambda c: _state(c, job_id, number))
        return now is not None and now.state.ended


_ATTEMPT = select(attempts).where(
    attempts.c.job_id == bindparam("job_id"), attempts.c.number == bindparam("number")
)


def _state(c: Connection, job_id: int, number: int) -> tuple[Job, Attempt | None]:
    found = records.row_of(c, job_id)
    if found is None:
        raise NotFound(f"There is no job {job_id} any more.", reason="no_such_job")
    row = c.execute(_ATTEMPT, {"job_id": job_id, "number": number}).mappings().one_or_none()
    return records.job_of(found), None if row is None else records.attempt_of(dict(row))
