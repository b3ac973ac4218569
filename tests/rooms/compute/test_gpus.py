"""GPUs of jobs: whole ones by type and UUID, never one to two jobs, and what was done with them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from stratal.compute.engine import Capacity, Gpu, GpuSample
from stratal.compute.model import Job
from stratal.compute.nodes import Nodes
from stratal.compute.quotas import Quota
from stratal.compute.services import records as replicas
from stratal.compute.services.model import Needs, ServiceName
from stratal.kernel.errors import Invalid

from .room import Room

pytestmark = pytest.mark.fast
InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]

GPUS = [Gpu(f"GPU-{kind}-{n}", kind, kind.upper(), 80 << 30) for kind in ("h100", "a100") for n in range(2)]


def with_gpus(in_room: InRoom, story: Callable[[Room], Awaitable[None]], cpus: float = 8) -> None:
    async def told(room: Room) -> None:
        room.engine.machine = Capacity(cpus, 16 << 30, GPUS)
        await story(room)

    in_room(told)


async def gpus_of(room: Room, job: Job) -> list[str]:
    return list((await room.until(job, "running")).gpu_uuids)


async def waits(room: Room, job: Job) -> list[str]:
    return [wait.words for wait in (await room.jobs.why(room.ann, "prj_a", job.id))[1]]


def test_each_job_gets_gpus_of_its_own_and_those_without_see_none(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        two = await room.submit(gpus=2, gpu_type="h100", memory_bytes=1 << 30)
        one = await room.submit(gpus=1, memory_bytes=1 << 30)
        none = await room.submit(memory_bytes=1 << 30)
        assert sorted(await gpus_of(room, two)) == ["GPU-h100-0", "GPU-h100-1"]
        assert await gpus_of(room, one) == ["GPU-a100-0"]
        await room.until(none, "running")
        env = {n: room.engine.specs[f"job-{n}-1"].env["CUDA_VISIBLE_DEVICES"] for n in (1, 2, 3)}
        assert env == {1: "GPU-h100-0,GPU-h100-1", 2: "GPU-a100-0", 3: ""}
        assert list(room.engine.specs["job-2-1"].gpus) == ["GPU-a100-0"]
        waiting = await room.submit(gpus=1, gpu_type="h100", memory_bytes=1 << 30)
        assert await waits(room, waiting) == ["1 GPU of type h100 (0 free)"]
        room.engine.end("job-1-1")
        assert await gpus_of(room, waiting) == ["GPU-h100-0"]

    with_gpus(in_room, story)


def test_a_job_waits_for_the_gpus_that_replicas_hold(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        name = ServiceName("endpoint", "ep_1", "1", "prj_a")
        needs = Needs(0, 1 << 20, 2, "h100")
        await room.database.write(lambda c: replicas.add(c, "rep-endpoint-1", name, needs, GPUS[:2], 1))
        job = await room.submit(gpus=1, gpu_type="h100", memory_bytes=1 << 30)
        other = await room.submit(gpus=1, memory_bytes=1 << 30)
        assert await gpus_of(room, other) == ["GPU-a100-0"]
        assert await waits(room, job) == ["1 GPU of type h100 (0 free)"]
        (node,) = await Nodes(room.database, room.engine).list(room.ann, "prj_a")
        held = {state.gpu.uuid: state.holder for state in node.gpus if state.holder}
        assert node.used.gpus == 3
        assert (held["GPU-h100-1"].replica, held["GPU-a100-0"].job_id) == (
            "endpoint rep-endpoint-1",
            other.id,
        )
        await room.database.write(lambda c: replicas.end(c, "rep-endpoint-1", ended_at=2))
        room.engine.end(f"job-{other.id}-1")
        assert await gpus_of(room, job) == ["GPU-h100-0"]

    with_gpus(in_room, story)


def test_a_jobs_gpus_are_all_of_one_type(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        for kind in ("h100", "a100"):
            await room.until(await room.submit(gpus=1, gpu_type=kind, memory_bytes=1 << 30), "running")
        both = await room.submit(gpus=2, memory_bytes=1 << 30)
        assert len(await waits(room, both)) == 2
        room.engine.end("job-2-1")
        assert sorted(await gpus_of(room, both)) == ["GPU-a100-0", "GPU-a100-1"]

    with_gpus(in_room, story)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"gpus": 3}, "asks for 3 GPUs, and there is 2 h100, 2 a100"),
        ({"gpus": 1, "gpu_type": "tpu"}, "1 GPU of type tpu"),
        ({"gpus": -1}, "1 GPU or more"),
        ({"gpu_type": "h100"}, "1 GPU or more"),
        ({"gpus": 1, "gpu_type": "H 100"}, "no type of GPU"),
    ],
)
def test_what_could_never_be_given_is_refused(in_room: InRoom, asked: dict[str, object], said: str) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(Invalid, match=said):
            await room.submit(**asked)

    with_gpus(in_room, story)


def test_without_gpus_it_is_said_why(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.engine.machine = Capacity(2, 1 << 34, (), "the driver sleeps")
        with pytest.raises(Invalid, match=r"there is no GPU \(the driver sleeps\)"):
            await room.submit(gpus=1)

    in_room(story)


def test_a_quota_of_gpus_is_a_ceiling(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        await room.quotas.set(room.admin, "prj_a", Quota(gpus=1))
        first = await room.submit(gpus=1, memory_bytes=1 << 30)
        second = await room.submit(gpus=1, memory_bytes=1 << 30)
        await room.until(first, "running")
        assert await waits(room, second) == ["its project's quota of 1 GPUs: it needs 1 GPUs (0 free)"]
        with pytest.raises(Invalid, match="quota allows 1 GPUs"):
            await room.submit(gpus=2)
        assert (await room.quotas.get(room.ann, "prj_a")).used.gpus == 1

    with_gpus(in_room, story)


def test_a_new_attempt_gets_gpus_anew_and_a_taken_over_one_keeps_them(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(gpus=2, gpu_type="h100", retries=1, memory_bytes=1 << 30)
        await room.until(job, "running")
        await room.kill()
        await room.start()
        other = await room.submit(gpus=1, gpu_type="h100", memory_bytes=1 << 30)
        assert (await room.jobs.get(room.ann, "prj_a", other.id)).state == "queued"
        room.engine.end("job-1-1", 1)
        assert await gpus_of(room, other) == ["GPU-h100-0"]
        await room.later(1)
        assert await waits(room, job) == ["2 GPUs of type h100 (1 free)"]
        room.engine.end("job-2-1")
        assert len(await gpus_of(room, job)) == 2
        tried = await room.jobs.attempts(room.ann, "prj_a", job.id)
        assert [len(attempt.gpu_uuids) for attempt in tried] == [2, 2]

    with_gpus(in_room, story)


def test_what_a_job_does_with_its_gpus_is_recorded_across_a_restart(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(gpus=2, gpu_type="h100", memory_bytes=1 << 30)
        await room.until(job, "running")
        room.engine.doing = {"GPU-h100-0": GpuSample(1.0, 5 << 30), "GPU-h100-1": GpuSample(0.5, 3 << 30)}
        async with asyncio.timeout(20):
            while not (counts := room.gpu_meter._counts):
                await asyncio.sleep(0)
        count = counts["job-1-1"]
        count.looked_at -= 1
        count.written_at -= 100
        await room.gpu_meter.look()
        await room.kill()
        room.engine.doing = {}
        await room.start()
        async with asyncio.timeout(20):
            while "job-1-1" not in room.gpu_meter._counts:
                await asyncio.sleep(0)
        room.engine.end("job-1-1")
        usage = (await room.until(job, "succeeded")).usage
        assert usage.gpu_seconds == 4.0  # two for 2 s
        assert 1.5 <= usage.gpu_busy_seconds < 2.0
        assert usage.gpu_peak_memory_bytes == 5 << 30

    with_gpus(in_room, story)


def test_nodes_show_who_holds_what_to_whom_it_concerns(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(gpus=1, cpus=2, memory_bytes=1 << 30)
        await room.until(job, "running")
        room.engine.doing = {"GPU-h100-0": GpuSample(0.25, 1 << 30)}
        nodes = Nodes(room.database, room.engine)
        (node,) = await nodes.list(room.viewer, "prj_a")
        assert (node.used.cpus, node.used.gpus, node.jobs) == (2, 1, 1)
        state = node.gpus[0]
        assert state.holder is not None
        assert (state.holder.job_id, state.holder.project) == (1, "a")
        assert state.sample == GpuSample(0.25, 1 << 30)
        (node,) = await nodes.list(room.bob, "prj_b")
        assert node.gpus[0].holder is not None
        assert node.gpus[0].holder.job_id is None

    with_gpus(in_room, story)
