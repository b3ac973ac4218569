"""What attempts do with the GPUs that they were given: looked at every few seconds, kept across restarts.

A GPU is given whole, so what it does is what its job does. Between two looks it is taken to have been as busy
as at the later one; what was counted is written to the attempt's row now and then, and read there by
the next server. Seconds in which no server lived are not counted as busy.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, select, update

from stratal.compute import records
from stratal.compute.engine import Engine, GpuSample, Usage
from stratal.compute.model import Job
from stratal.compute.tables import attempts
from stratal.kernel.database import Database

log = logging.getLogger("stratal.compute")

LOOK_SECONDS = 3.0
_WRITE_SECONDS = 15.0
_LONGEST_SECONDS = 3 * LOOK_SECONDS


@dataclass(slots=True)
class _Count:
    job: Job
    looked_at: float
    written_at: float
    busy_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def add(self, samples: Sequence[GpuSample], now: float) -> None:
        passed = min(now - self.looked_at, _LONGEST_SECONDS)
        self.looked_at = now
        for sample in samples:
            self.busy_seconds += sample.busy * passed
            self.peak_memory_bytes = max(self.peak_memory_bytes, sample.memory_bytes)


class GpuMeter:
    """`begin` with each attempt that runs, `end` it for what it used; `run` looks, for ever."""

    def __init__(self, database: Database, engine: Engine) -> None:
        self._database = database
        self._engine = engine
        self._counts: dict[str, _Count] = {}

    async def begin(self, job: Job) -> None:
        """Count for this attempt from now on, on top of what an earlier server counted."""
        if not job.gpu_uuids:
            return
        query = select(attempts.c.usage).where(attempts.c.job_id == job.id, attempts.c.number == job.attempt)
        earlier = records.usage_of(await self._database.read(lambda c: c.execute(query).scalar_one()))
        now = time.monotonic()
        self._counts[job.attempt_id] = _Count(
            job, now, now, earlier.gpu_busy_seconds, earlier.gpu_peak_memory_bytes
        )

    async def end(self, job: Job, usage: Usage) -> Usage:
        """`usage` with what the attempt did with its GPUs."""
        if not job.gpu_uuids:
            return usage
        count = self._counts.get(job.attempt_id)
        if count is None:  # it had ended before this server could look
            await self.begin(job)
            count = self._counts[job.attempt_id]
        del self._counts[job.attempt_id]
        held = usage.wall_seconds * len(job.gpu_uuids)
        return replace(
            usage,
            gpu_seconds=held,
            gpu_busy_seconds=min(count.busy_seconds, held),
            gpu_peak_memory_bytes=count.peak_memory_bytes,
        )

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.look()
            except Exception:
                log.exception("looking at the GPUs failed")

    async def look(self) -> None:
        counts = list(self._counts.values())
        if not counts:
            return
        uuids = [uuid for count in counts for uuid in count.job.gpu_uuids]
        samples: Mapping[str, GpuSample] = await self._engine.gpu_samples(uuids)
        now = time.monotonic()
        for count in counts:
            count.add([samples[uuid] for uuid in count.job.gpu_uuids if uuid in samples], now)
            if now - count.written_at >= _WRITE_SECONDS and count.job.attempt_id in self._counts:
                count.written_at = now
                await self._write(count)

    async def _write(self, count: _Count) -> None:
        usage = Usage(gpu_busy_seconds=count.busy_seconds, gpu_peak_memory_bytes=count.peak_memory_bytes)
        job = count.job

        def work(c: Connection) -> None:
            mine = update(attempts).where(attempts.c.job_id == job.id, attempts.c.number == job.attempt)
            c.execute(mine.where(attempts.c.ended_at.is_(None)).values(usage=records.usage_json(usage)))

        await self._database.write(work)
