"""What attempts used is in the ledger when, and only when, their end is; and while they run."""

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from sqlalchemy import select

from stratal.compute.engine import Capacity, Gpu, Usage
from stratal.compute.metered import RunningJobs
from stratal.ledger.meter import Meter
from stratal.ledger.tables import usage

from .room import Room

pytestmark = pytest.mark.fast
InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


def ledger(room: Room) -> dict[tuple[str, str], int]:
    """Quantities by source and resource."""
    found: Counter[tuple[str, str]] = Counter()
    for row in room.database.read_now(lambda c: c.execute(select(usage)).all()):
        assert (row.project, row.workload, row.person) == ("a", "job:1", "ann")
        found[row.source, row.resource] += row.quantity
    return dict(found)


def so_far(room: Room, attempt_id: str, used: Usage) -> None:
    room.engine.statuses[attempt_id] = replace(room.engine.statuses[attempt_id], usage=used)


def test_each_attempt_of_a_job_is_in_the_ledger_once(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(retries=1)
        await room.until(job, "running")
        room.engine.end("job-1-1", 3, at=room.now)
        await room.until(job, "queued")
        once = {("job-1-1", "cpu"): 1_500_000, ("job-1-1", "wall"): 2_000_000, ("job-1-1", "memory"): 2}
        assert ledger(room) == once
        await room.later(1)
        await room.until(job, "running")
        assert ledger(room) == once
        room.engine.end("job-1-2", 0, at=room.now)
        await room.until(job, "succeeded")
        assert ledger(room) == once | {("job-1-2", r): n for (_, r), n in once.items()}
        await room.kill()
        await room.start()
        assert len(ledger(room)) == 6

    in_room(story)


def test_what_runs_is_written_down_in_slices_and_the_end_adds_the_rest(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        await room.until(job, "running")
        meter = Meter(room.database, lambda: room.now)
        meter.follow(RunningJobs(room.database, room.workloads))
        so_far(room, "job-1-1", Usage(0.5, 10, 1.0, 1024.0))
        await meter.write_all()
        assert ledger(room) == {
            ("job-1-1", "cpu"): 500_000,
            ("job-1-1", "wall"): 10**6,
            ("job-1-1", "memory"): 1,
        }
        await room.kill()
        await room.start()
        meter = Meter(room.database, lambda: room.now)
        meter.follow(RunningJobs(room.database, room.workloads))
        await meter.write_all()
        assert ledger(room)["job-1-1", "cpu"] == 500_000
        room.engine.end("job-1-1", 0, at=room.now)
        await room.until(job, "succeeded")
        await meter.write_all()
        assert ledger(room) == {
            ("job-1-1", "cpu"): 1_500_000,
            ("job-1-1", "wall"): 2_000_000,
            ("job-1-1", "memory"): 2,
        }

    in_room(story)


def test_an_end_that_is_not_recorded_leaves_nothing_in_the_ledger(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        await room.until(job, "running")
        room.engine.lose("job-1-1")
        await room.kill()
        await room.start()
        ended = await room.until(job, "unknown")
        assert ended.usage == Usage()
        assert ledger(room) == {}

    in_room(story)


def test_gpus_are_metered_by_their_type_for_as_long_as_they_are_held(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.engine.machine = Capacity(
            8, 16 << 30, [Gpu(f"GPU-{n}", "h100", "H100", 80 << 30) for n in range(2)]
        )
        job = await room.submit(gpus=2)
        await room.until(job, "running")
        meter = Meter(room.database, lambda: room.now)
        meter.follow(RunningJobs(room.database, room.workloads))
        so_far(room, "job-1-1", Usage(0.0, 0, 1.5))
        await meter.write_all()
        assert ledger(room)["job-1-1", "gpu:h100"] == 3_000_000
        room.engine.end("job-1-1", 0, at=room.now)
        await room.until(job, "succeeded")
        assert ledger(room)["job-1-1", "gpu:h100"] == 4_000_000

    in_room(story)
