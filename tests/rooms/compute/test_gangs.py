"""Gangs as jobs: counted whole, started whole, tried again whole, each rank with a log of its own."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stratal.compute.engine import Capacity, Gang, Gpu
from stratal.kernel.errors import Invalid, NotFound

from .room import Room

pytestmark = pytest.mark.fast
InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


def test_a_gang_of_three_starts_whole_or_not_at_all(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.engine.machine = Capacity(3, 16 << 30)
        small = await room.submit(cpus=1, memory_bytes=1 << 30)
        await room.until(small, "running")
        gang = await room.submit(cpus=1, memory_bytes=1 << 30, nodes=3)
        waiting = await room.jobs.get(room.ann, "prj_a", gang.id)
        assert waiting.reason == "waits for 3 cpus (2 free)"
        assert room.engine.starts == ["job-1-1"]
        room.engine.end("job-1-1")
        await room.until(gang, "running")
        spec = room.engine.specs["job-2-1"]
        assert spec.gang == Gang(3, 1, 0, 0, "job-2-1")
        assert (spec.cpus, spec.memory_bytes) == (3, 3 << 30)
        behind = await room.submit(cpus=0.5, memory_bytes=1 << 30)
        assert (await room.jobs.get(room.ann, "prj_a", behind.id)).reason == "waits for 0.5 cpus (0 free)"

    in_room(story)


def test_when_a_member_fails_the_gang_is_tried_again_whole_from_its_checkpoint(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(nodes=2, procs_per_node=1, cpus=1, retries=2)
        await room.until(job, "running")
        (room.home / "checkpoints" / "job-1" / "step").write_text("5")
        for rank in range(2):
            room.engine.output[f"job-1-1/{rank}"] = f"first {rank}\n".encode()
        assert await room.log(job, rank=1) == b"first 1\n"
        room.engine.end("job-1-1", 137)
        await room.until(job, "queued")
        assert await room.log(job, rank=1) == b"first 1\n"
        room.engine.output["job-1-2/0"] = b"second 0\n"
        await room.later(1)
        async with asyncio.timeout(20):
            while "job-1-2" not in room.engine.specs:
                await room.reconciler.changed.wait(0.01)
        assert room.engine.specs["job-1-2"].gang == Gang(2, 1, 1, 2, "job-1-2")
        assert (room.home / "checkpoints" / "job-1" / "step").read_text() == "5"
        room.engine.end("job-1-2")
        await room.until(job, "succeeded")
        assert await room.log(job, rank=0) == b"second 0\n"
        assert await room.log(job, rank=1) == b""
        assert await room.log(job, rank=0, attempt=1) == b"first 0\n"
        with pytest.raises(NotFound, match="no rank 2"):
            await room.log(job, rank=2)
        stored = [path for path in (room.home / "blobs").rglob("*") if path.is_file()]
        assert len(stored) == 6  # of two attempts: the log and the logs of two ranks
        await room.jobs.purge("prj_a")
        assert not any(path.exists() for path in stored)

    in_room(story)


def test_each_node_gets_what_was_asked_and_gpus_are_counted_for_all(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        gpus = [Gpu(f"GPU-{n}", "h100", "H100", 1 << 30) for n in range(4)]
        room.engine.machine = Capacity(8, 16 << 30, gpus)
        job = await room.submit(nodes=2, procs_per_node=2, gpus=2)
        running = await room.until(job, "running")
        assert (running.cpus, running.world_size) == (2, 4)
        spec = room.engine.specs["job-1-1"]
        assert spec.env["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1,GPU-2,GPU-3"
        assert spec.env["OMP_NUM_THREADS"] == "1"
        with pytest.raises(Invalid, match="asks for 6 GPUs"):
            await room.submit(nodes=3, gpus=2)

    in_room(story)


@pytest.mark.parametrize(
    "asked",
    [{"nodes": 0}, {"nodes": -1}, {"procs_per_node": 0}, {"nodes": 257}, {"nodes": 16, "procs_per_node": 17}],
)
def test_a_gang_of_no_sense_is_refused(in_room: InRoom, asked: dict[str, int]) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(Invalid, match="A gang has 1 to 256"):
            await room.submit(**asked)

    in_room(story)


def test_a_gang_that_could_never_fit_is_refused_as_a_whole(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(Invalid, match="for each of its 3 nodes") as refused:
            await room.submit(nodes=3, cpus=1)
        assert "--cpus 0.666667" in refused.value.hint
        plain = await room.submit(cpus=1)
        with pytest.raises(NotFound, match="no rank 0"):
            await room.log(plain, rank=0)

    in_room(story)
