"""How jobs wait and are tried again: retries, arrays, dependencies, quotas, checkpoints, and what a job waits for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from stratal.compute.checkpoints import KEPT_MS
from stratal.compute.model import Job, JobSpec, JobState
from stratal.compute.quotas import Quota
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound, TooLarge

from .room import Room

InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


async def until_attempt(room: Room, job: Job, number: int) -> Job:
    async with asyncio.timeout(20):
        while True:
            found = await room.jobs.get(room.ann, "prj_a", job.id)
            if found.attempt >= number and found.state == "running":
                return found
            await room.reconciler.changed.wait(0.01)


async def waits(room: Room, job: Job) -> Sequence[str]:
    return [wait.what for wait in (await room.jobs.why(room.ann, "prj_a", job.id))[1]]


def wire(job: Job) -> tuple[JobState, int | None, int]:
    return job.state, job.exit_code, job.attempt


# -- retries -------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_followed_by_another_with_a_log_and_a_key_of_its_own(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(retries=2)
        await room.until(job, "running")
        first_key = room.engine.specs["job-1-1"].env["STRATAL_API_KEY"]
        room.engine.output["job-1-1"] = b"one\n"
        room.engine.end("job-1-1", 3)
        waiting = await room.until(job, "queued")
        assert waiting.reason.startswith("attempt 1 failed with exit code 3. waits for the pause of 1 s")
        assert await waits(room, job) == ["pause"]
        assert waiting.exit_code is None
        with pytest.raises(Exception, match="revoked"):
            await room.keys.principal_of(first_key.partition(".")[0])
        await room.later(1)
        await until_attempt(room, job, 2)
        spec = room.engine.specs["job-1-2"]
        assert spec.env["STRATAL_ATTEMPT"] == "2"
        assert spec.env["STRATAL_API_KEY"] != first_key
        room.engine.output["job-1-2"] = b"two\n"
        room.engine.end("job-1-2", 0)
        ended = await room.until(job, "succeeded")
        assert wire(ended) == (JobState.SUCCEEDED, 0, 2)
        assert ended.usage.cpu_seconds == 3.0  # of both
        retold = b"stratal: attempt 1 failed with exit code 3; attempt 2 of 3 begins in 1 s\n"
        assert await room.log(job) == b"one\n" + retold + b"two\n"
        assert ended.log_bytes == len(await room.log(job))
        assert await room.log(job, attempt=1) == b"one\n" + retold
        assert await room.log(job, attempt=2) == b"two\n"
        assert await room.log(job, offset=len(b"one\n" + retold) + 1) == b"wo\n"
        with pytest.raises(NotFound):
            await room.log(job, attempt=3)
        tried = await room.jobs.attempts(room.ann, "prj_a", job.id)
        assert [(a.number, a.state, a.exit_code) for a in tried] == [(1, "failed", 3), (2, "succeeded", 0)]
        assert [event.kind for event in await room.news()] == [
            *("job.queued", "job.started", "job.requeued"),
            *("job.started", "job.succeeded"),
        ]

    in_room(story)


def test_an_end_nobody_saw_is_tried_again_and_the_last_attempts_end_is_the_jobs(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(retries=1)
        await room.until(job, "running")
        room.engine.end("job-1-1", None, "the engine lost track of it")
        await room.until(job, "queued")
        await room.later(1)
        await until_attempt(room, job, 2)
        room.engine.end("job-1-2", 9)
        assert wire(await room.until(job, "failed")) == (JobState.FAILED, 9, 2)
        assert await waits(room, job) == []

    in_room(story)


def test_pauses_double(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(retries=3)
        for number, pause in ((1, 1), (2, 2), (3, 4)):
            await until_attempt(room, job, number)
            room.engine.end(f"job-1-{number}", 1)
            found = await room.until(job, "queued")
            assert found.waits_until == room.now + pause * 1000
            await room.later(pause - 0.001)
            await asyncio.sleep(0)
            assert (await room.jobs.get(room.ann, "prj_a", job.id)).state == "queued"
            await room.later(0.001)
        await until_attempt(room, job, 4)
        room.engine.end("job-1-4", 1)
        await room.until(job, "failed")

    in_room(story)


def test_what_was_asked_to_stop_is_not_tried_again(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        running = await room.submit(retries=5, cpus=1)
        await room.until(running, "running")
        await room.jobs.stop(room.ann, "prj_a", running.id)
        assert wire(await room.until(running, "stopped")) == (JobState.STOPPED, 143, 1)
        pausing = await room.submit(retries=5)
        await room.until(pausing, "running")
        room.engine.output["job-2-1"] = b"said\n"
        room.engine.end("job-2-1", 1)
        await room.until(pausing, "queued")
        stopped = await room.jobs.stop(room.ann, "prj_a", pausing.id)
        assert (stopped.state, stopped.reason) == ("stopped", "stopped before attempt 2 started")
        assert stopped.log_bytes == len(await room.log(pausing)) > 5

    in_room(story)


def test_a_platform_that_goes_down_takes_an_attempt_and_not_the_job(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job, once = await room.submit(retries=1, cpus=1), await room.submit(cpus=1)
        await room.until(job, "running")
        await room.until(once, "running")
        await room.kill()
        for name in ("job-1-1", "job-2-1"):
            room.engine.end(name, 143, "stopped")
        await room.start()
        await room.until(once, "stopped")
        await room.until(job, "queued")
        await room.later(1)
        assert (await until_attempt(room, job, 2)).attempt == 2

    in_room(story)


def test_what_could_not_even_start_is_not_tried_again(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.engine.refuse = Invalid("nosuch: No such file or directory")
        job = await room.submit("nosuch", retries=4)
        assert wire(await room.until(job, "failed")) == (JobState.FAILED, 127, 1)

    in_room(story)


def test_killed_between_two_attempts_the_next_server_goes_on_with_the_second(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(retries=1)
        await room.until(job, "running")
        room.engine.end("job-1-1", 1)
        await room.until(job, "queued")
        await room.kill()
        room.now += 1000
        await room.start()
        await until_attempt(room, job, 2)
        await room.kill()
        await room.start()
        room.engine.end("job-1-2")
        await room.until(job, "succeeded")
        assert room.engine.starts == ["job-1-1", "job-1-2"]

    in_room(story)


# -- checkpoints ---------------------------------------------------------------------------------------


def test_a_checkpoint_outlives_the_attempt_and_goes_with_success(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(retries=1)
        await room.until(job, "running")
        spec = room.engine.specs["job-1-1"]
        folder = room.home / "checkpoints" / "job-1"
        assert spec.env["STRATAL_CHECKPOINT_DIR"] == str(folder)
        assert folder in spec.read_write
        (folder / "step").write_bytes(b"12345")
        room.engine.end("job-1-1", 1)
        assert (await room.until(job, "queued")).checkpoint_bytes == 5
        await room.later(1)
        await until_attempt(room, job, 2)
        assert (folder / "step").read_bytes() == b"12345"
        room.engine.end("job-1-2")
        ended = await room.until(job, "succeeded")
        assert ended.checkpoint_bytes is None
        async with asyncio.timeout(20):
            while folder.exists():
                await asyncio.sleep(0)

    in_room(story)


def test_a_job_that_keeps_more_than_it_may_is_ended_and_not_tried_again(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(retries=3)
        await room.until(job, "running")
        (room.home / "checkpoints" / "job-1" / "big").write_bytes(bytes(room.checkpoint_limit + 1))
        room.engine.end("job-1-1", 1)
        ended = await room.until(job, "failed")
        assert "its checkpoint folder holds" in ended.reason
        assert ended.attempt == 1

    in_room(story)


def test_checkpoints_of_jobs_that_did_not_succeed_go_after_a_week(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        await room.until(job, "running")
        folder = room.home / "checkpoints" / "job-1"
        (folder / "step").write_bytes(b"12345")
        (room.home / "checkpoints" / "job-77").mkdir()  # of a job that there is no more
        room.engine.end("job-1-1", 1, at=room.now)
        ended = await room.until(job, "failed")
        await room.kill()
        await room.start()
        async with asyncio.timeout(20):
            while (room.home / "checkpoints" / "job-77").exists():
                await asyncio.sleep(0.01)
        assert folder.exists()
        assert ended.ended_at is not None
        await room.kill()
        room.now = ended.ended_at + KEPT_MS
        await room.start()
        async with asyncio.timeout(20):
            while (await room.jobs.get(room.ann, "prj_a", 1)).checkpoint_bytes is not None:
                await asyncio.sleep(0.01)
        assert not folder.exists()

    in_room(story)


# -- priority and quotas ---------------------------------------------------------------------------------


def test_priority_goes_first_and_waiting_counts(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        running = await room.submit(cpus=2)
        await room.until(running, "running")
        plain = await room.submit(cpus=2)
        urgent = await room.submit(cpus=2, priority=6)
        room.now += 61 * 60_000
        late = await room.submit(cpus=2, priority=6)
        room.engine.end("job-1-1")
        await room.until(urgent, "running")
        room.engine.end(f"job-{urgent.id}-1")
        await room.until(plain, "running")
        assert (await room.jobs.get(room.ann, "prj_a", late.id)).state == "queued"

    in_room(story)


def test_a_quota_holds_up_its_project_and_no_other(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        await room.quotas.set(room.admin, "prj_a", Quota(cpus=1, jobs=5))
        first = await room.submit(cpus=1)
        second = await room.submit(cpus=0.5)
        theirs = await room.jobs.submit(room.bob, "prj_b", JobSpec(["x"], cpus=0.5))
        await room.until(first, "running")
        async with asyncio.timeout(20):
            while (await room.jobs.get(room.bob, "prj_b", theirs.id)).state != "running":
                await room.reconciler.changed.wait(0.01)
        assert await waits(room, second) == ["quota"]
        told = (await room.jobs.get(room.ann, "prj_a", second.id)).reason
        assert told == "waits for its project's quota of 1 cpus: it needs 0.5 cpus (0 free)"
        used = await room.quotas.get(room.viewer, "prj_a")
        assert (used.used.cpus, used.used.jobs, used.quota.cpus) == (1, 1, 1)
        with pytest.raises(Invalid, match="quota allows 1 processors"):
            await room.submit(cpus=1.5)
        with pytest.raises(Denied):
            await room.quotas.set(room.ann, "prj_a", Quota())
        with pytest.raises(Invalid):
            await room.quotas.set(room.admin, "prj_a", Quota(cpus=-1))
        with pytest.raises(NotFound):
            await room.quotas.get(room.bob, "prj_a")
        await room.quotas.set(room.admin, "prj_a", Quota())
        room.engine.end("job-1-1")
        await room.until(second, "running")

    in_room(story)


# -- dependencies ----------------------------------------------------------------------------------------


def test_what_comes_after_starts_only_after_success(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        first = await room.submit(cpus=0.5)
        second = await room.submit(cpus=0.5, after=[str(first.id)])
        third = await room.submit(cpus=0.5, after=[str(first.id), str(second.id)])
        await room.until(first, "running")
        assert await waits(room, third) == ["job", "job"]
        assert list(await room.jobs.after(room.ann, "prj_a", third.id)) == [1, 2]
        room.engine.end("job-1-1")
        await room.until(second, "running")
        assert (await room.jobs.get(room.ann, "prj_a", third.id)).reason == (
            "waits for job 2 (t.py) to succeed: it is running"
        )
        room.engine.end("job-2-1")
        await room.until(third, "running")

    in_room(story)


def test_what_can_never_start_any_more_ends_at_once_and_says_why(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        first = await room.submit(cpus=0.5, retries=1)
        second = await room.submit(after=["1"])
        third = await room.submit(after=["2"])
        await room.until(first, "running")
        room.engine.end("job-1-1", 1)
        await room.until(first, "queued")  # tried again: the others go on waiting
        assert await waits(room, second) == ["job"]
        await room.later(1)
        await until_attempt(room, first, 2)
        room.engine.end("job-1-2", 1)
        ended = await room.until(second, "stopped")
        assert ended.reason == "never started: job 1, which it comes after, ended as failed"
        ended = await room.until(third, "stopped")
        assert ended.reason == "never started: job 2, which it comes after, ended as stopped"
        assert await room.log(third, follow=True) == b""
        with pytest.raises(Conflict, match="Job 1 ended as failed"):
            await room.submit(after=["1"])
        with pytest.raises(NotFound):
            await room.submit(after=["99"])
        with pytest.raises(NotFound):
            await room.jobs.submit(room.bob, "prj_b", JobSpec(["x"], after=["1"]))
        with pytest.raises(Invalid):
            await room.submit(after=["x1"])
        kinds = [event.kind for event in await room.news() if event.subject == "3"]
        assert kinds == ["job.queued", "job.stopped"]

    in_room(story)


def test_stopping_what_waits_ends_what_waits_for_it(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        running = await room.submit(cpus=2)
        await room.until(running, "running")
        waiting = await room.submit()
        after = await room.submit(after=[str(waiting.id)])
        await room.jobs.stop(room.ann, "prj_a", waiting.id)
        assert (await room.jobs.get(room.ann, "prj_a", after.id)).state == "stopped"

    in_room(story)


# -- arrays ----------------------------------------------------------------------------------------------


def test_an_arrays_members_differ_in_their_index_and_are_waited_for_together(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        first = await room.submit(cpus=0.5, array="3-5", parallel=2)
        last = await room.submit(cpus=0.5, after=["a1"])
        for number in (1, 2):
            await room.until(await room.jobs.get(room.ann, "prj_a", number), "running")
        told = [room.engine.specs[f"job-{n}-1"].env for n in (1, 2)]
        assert [(env["STRATAL_ARRAY_ID"], env["STRATAL_ARRAY_INDEX"]) for env in told] == [
            ("a1", "3"),
            ("a1", "4"),
        ]
        assert first.array_id == 1
        third = await room.jobs.get(room.ann, "prj_a", 3)
        assert third.reason == "waits for its array, of which 2 may run at once"
        page = await room.jobs.list(room.ann, "prj_a", array_id=1)
        assert [job.array_index for job in page.jobs] == [5, 4, 3]
        found = await room.jobs.array(room.ann, "prj_a", 1)
        assert (found.size, dict(found.states), found.ended) == (3, {"running": 2, "queued": 1}, False)
        room.engine.end("job-1-1")
        await room.until(third, "running")
        room.engine.end("job-2-1")
        await room.until(await room.jobs.get(room.ann, "prj_a", 2), "succeeded")
        assert await waits(room, last) == ["job"]
        room.engine.end("job-3-1")
        await room.until(last, "running")
        with pytest.raises(NotFound):
            await room.jobs.array(room.bob, "prj_b", 1)

    in_room(story)


def test_stopping_an_array_stops_every_member(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        first = await room.submit(cpus=1, array="4")
        after = await room.submit(after=["a1"])
        await room.until(first, "running")
        with pytest.raises(NotFound):
            await room.jobs.stop_array(room.bob, "prj_b", 1)
        with pytest.raises(Denied):
            await room.jobs.stop_array(room.viewer, "prj_a", 1)
        await room.jobs.stop_array(room.ann, "prj_a", 1)
        async with asyncio.timeout(20):
            while not (found := await room.jobs.array(room.ann, "prj_a", 1)).ended:
                await room.reconciler.changed.wait(0.01)
        assert dict(found.states) == {"stopped": 4}
        assert (await room.jobs.get(room.ann, "prj_a", after.id)).state == "stopped"

    in_room(story)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"array": "5-3"}, Invalid),
        ({"array": "0"}, Invalid),
        ({"array": "a"}, Invalid),
        ({"array": ""}, Invalid),
        ({"array": "1,,2"}, Invalid),
        ({"array": "1001"}, TooLarge),
        ({"array": "0-999999999"}, TooLarge),
        ({"parallel": 2}, Invalid),
        ({"array": "3", "parallel": 0}, Invalid),
        ({"priority": 1001}, Invalid),
        ({"retries": -1}, Invalid),
        ({"retries": 101}, Invalid),
        ({"grace_seconds": -1.0}, Invalid),
        ({"grace_seconds": float("nan")}, Invalid),
        ({"after": ["1"] * 1001}, TooLarge),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    in_room: InRoom, asked: dict[str, object], error: type[Exception]
) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(error):
            await room.submit(**asked)
        assert (await room.jobs.list(room.ann, "prj_a")).jobs == []

    in_room(story)


def test_grace_goes_with_the_stop_and_the_time_limit(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(grace_seconds=42.0, timeout_seconds=5.0)
        await room.until(job, "running")
        spec = room.engine.specs["job-1-1"]
        assert (spec.grace_seconds, spec.wall_seconds) == (42, 5)

    in_room(story)
