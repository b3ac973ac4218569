"""Jobs from asking to their recorded end, over every way a server can die in between."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from stratal.compute.engine import WorkloadStatus
from stratal.compute.model import JobSpec, JobState
from stratal.identity.tables import keys
from stratal.kernel.errors import Denied, Invalid, NotFound, Unavailable

from .room import Room

InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


def live_keys(room: Room) -> int:
    def count(c):  # type: ignore[no-untyped-def]
        return len(
            c.execute(keys.select().where(keys.c.workload.is_not(None), keys.c.revoked_at.is_(None))).all()
        )

    return int(room.database.read_now(count))


def test_a_job_runs_under_its_own_credential_and_its_end_is_recorded_once(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit("python", "t.py", env={"MINE": "1"})
        assert job.state == "queued"
        await room.until(job, "running")
        spec = room.engine.specs["job-1-1"]
        key_id, _, secret = spec.env["STRATAL_API_KEY"].partition(".")
        who = await room.keys.authenticate(key_id, secret)
        assert (who.workload, who.project, who.role) == ("job:1", "a", "editor")
        assert (spec.env["MINE"], spec.env["STRATAL_JOB_ID"]) == ("1", "1")
        assert spec.cwd == room.home / "work" / "job-1-1" / "code"
        room.engine.output["job-1-1"] = b"hello\n"
        assert await room.log(job) == b"hello\n"
        room.engine.end("job-1-1", 3)
        ended = await room.until(job, "failed")
        assert (ended.exit_code, ended.usage.cpu_seconds, ended.log_bytes) == (3, 1.5, 6)
        assert ended.isolation is not None
        assert ended.isolation.complete
        assert await room.log(job) == b"hello\n"
        assert await room.log(job, offset=2) == b"llo\n"
        with pytest.raises(Exception, match="revoked"):
            await room.keys.principal_of(key_id)
        assert [event.kind for event in await room.news()] == ["job.queued", "job.started", "job.failed"]
        async with asyncio.timeout(20):
            while room.engine.statuses or (room.home / "work" / "job-1-1").exists():
                await asyncio.sleep(0)

    in_room(story)


def test_whoever_asks_and_goes_leaves_no_job_that_nobody_carries(
    in_room: InRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(room: Room) -> None:
        await room.until(await room.submit(), "running")  # from here on jobs are claimed as they are queued
        committed, write = asyncio.Event(), room.database.write

        async def dawdling(work):  # type: ignore[no-untyped-def]
            told = await write(work)
            if len((await room.jobs.list(room.ann, "prj_a")).jobs) > 1:
                committed.set()
                await asyncio.sleep(0.01)
            return told

        with monkeypatch.context() as patched:
            patched.setattr(room.database, "write", dawdling)
            asking = asyncio.ensure_future(room.submit())
            await committed.wait()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        for job in (await room.jobs.list(room.ann, "prj_a")).jobs:
            await room.until(job, "running")

    in_room(story)


def test_admission_is_first_come_first_served_by_what_is_free(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        first = await room.submit(cpus=1)
        big = await room.submit(cpus=2)
        small = await room.submit(cpus=0.5)
        await room.until(first, "running")
        waiting = await room.jobs.get(room.ann, "prj_a", big.id)
        assert waiting.state == "queued"
        assert waiting.reason == "waits for 2 cpus (1 free)"
        kept = "waits for job 2, which comes first and for which the room is kept"
        assert (await room.jobs.get(room.ann, "prj_a", small.id)).reason == kept
        room.engine.end("job-1-1")
        await room.until(big, "running")
        assert (await room.jobs.get(room.ann, "prj_a", small.id)).state == "queued"
        room.engine.end("job-2-1")
        await room.until(small, "running")

    in_room(story)


def test_what_could_never_run_is_refused_and_leaves_nothing(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(Invalid):
            await room.submit(cpus=3)
        with pytest.raises(NotFound):
            await room.submit(snapshot_id="f" * 64)
        with pytest.raises(Invalid):
            await room.submit("python", "x\0")
        assert (await room.jobs.list(room.ann, "prj_a")).jobs == []

    in_room(story)


def test_other_projects_jobs_do_not_exist_and_viewers_only_look(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        for attempt in (
            room.jobs.get(room.bob, "prj_a", job.id),
            room.jobs.get(room.bob, "prj_b", job.id),
            room.jobs.stop(room.bob, "prj_b", job.id),
            room.jobs.logs(room.bob, "prj_b", job.id),
            room.jobs.diff(room.bob, "prj_b", job.id),
            room.jobs.get(room.ann, "prj_a", 99),
            room.jobs.get(room.ann, "prj_a", 2**70),
        ):
            with pytest.raises(NotFound):
                await attempt
        assert (await room.jobs.list(room.bob, "prj_b")).jobs == []
        assert (await room.jobs.get(room.viewer, "prj_a", job.id)).id == job.id
        with pytest.raises(Denied):
            await room.jobs.stop(room.viewer, "prj_a", job.id)
        with pytest.raises(Denied):
            await room.jobs.submit(room.viewer, "prj_a", JobSpec(["x"]))

    in_room(story)


def test_pages_and_states(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        ids = [(await room.submit(cpus=2)).id for _ in range(7)]
        assert ids == sorted(ids)  # they count up; not every number is given out
        await room.until(await room.jobs.get(room.ann, "prj_a", ids[0]), "running")
        page = await room.jobs.list(room.ann, "prj_a", limit=3)
        assert [job.id for job in page.jobs] == [ids[6], ids[5], ids[4]]
        page = await room.jobs.list(room.ann, "prj_a", limit=3, before=page.more_before)
        page = await room.jobs.list(room.ann, "prj_a", limit=3, before=page.more_before)
        assert ([job.id for job in page.jobs], page.more_before) == ([ids[0]], None)
        running = await room.jobs.list(room.ann, "prj_a", states=[JobState.RUNNING])
        assert [job.id for job in running.jobs] == [ids[0]]

    in_room(story)


def test_stopping_waiting_building_and_running_jobs(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        running = await room.submit(cpus=1)
        await room.until(running, "running")
        room.environments.gate.clear()
        building = await room.submit(cpus=1, requirements="numpy")
        await room.until(building, "starting")
        waiting = await room.submit()
        assert (await room.jobs.stop(room.ann, "prj_a", waiting.id)).state == "stopped"
        await room.jobs.stop(room.ann, "prj_a", building.id)
        assert (await room.until(building, "stopped")).exit_code is None
        await room.jobs.stop(room.ann, "prj_a", running.id)
        ended = await room.until(running, "stopped")
        assert ended.exit_code == 143
        assert (await room.jobs.stop(room.ann, "prj_a", running.id)).ended_at == ended.ended_at
        assert room.engine.starts == ["job-1-1"]
        assert live_keys(room) == 0

    in_room(story)


def test_one_that_ended_well_before_the_stop_was_not_stopped(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        await room.until(job, "running")
        room.engine.end("job-1-1", 0)
        await room.jobs.stop(room.ann, "prj_a", job.id)
        assert (await room.until(job, "succeeded", "stopped")).state == "succeeded"

    in_room(story)


def test_a_failed_environment_fails_the_job_with_the_resolvers_words(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.environments.failure = Invalid("no version of six==99", reason="environment_failed")
        job = await room.submit(requirements="six==99")
        ended = await room.until(job, "failed")
        assert (ended.exit_code, ended.reason) == (None, "no version of six==99")
        assert await room.log(job) == b"stratal: Building six==99\nstratal: no version of six==99\n"
        assert live_keys(room) == 0

    in_room(story)


def test_a_program_that_does_not_exist_is_127(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.engine.refuse = Invalid("nosuch: No such file or directory")
        job = await room.submit("nosuch")
        assert (await room.until(job, "failed")).exit_code == 127
        assert b"nosuch: No such file" in await room.log(job)

    in_room(story)


def test_an_engine_that_cannot_be_reached_is_waited_for(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.engine.refuse = Unavailable("The engine is away.")
        job = await room.submit()
        async with asyncio.timeout(20):
            while "The engine is away." not in (await room.jobs.get(room.ann, "prj_a", job.id)).reason:
                await asyncio.sleep(0.01)
        room.engine.refuse = None
        assert (await room.until(job, "running")).reason == ""

    in_room(story)


def test_following_goes_from_the_building_to_the_last_word(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.environments.gate.clear()
        job = await room.submit(requirements="numpy")
        await room.until(job, "starting")
        following = asyncio.create_task(room.log(job, follow=True))
        await asyncio.sleep(0)
        room.environments.gate.set()
        await room.until(job, "running")
        room.engine.output["job-1-1"] = b"one\n"
        await asyncio.sleep(0)
        room.engine.output["job-1-1"] += b"could not: Temporary failure in name resolution"
        room.engine.end("job-1-1", 1)
        whole = await following
        assert whole.startswith(
            b"stratal: Building numpy\none\ncould not: Temporary failure in name resolution\nstratal: "
        )
        assert b"--network open" in whole
        assert whole == await room.log(job)

    in_room(story)


def test_replacing_the_platforms_variables_is_allowed_and_said(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit(env={"STRATAL_API_KEY": "other"})
        running = await room.until(job, "running")
        assert room.engine.specs["job-1-1"].env["STRATAL_API_KEY"] == "other"
        assert b"--env replaces the platform's own STRATAL_API_KEY" in await room.log(job)
        assert running.isolation is not None
        assert not running.isolation.complete
        assert running.shown_env == {"STRATAL_API_KEY": "***"}

    in_room(story)


# -- dying ---------------------------------------------------------------------------------------------


def test_killed_while_building_the_job_is_built_and_started_once_by_the_next(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        room.environments.gate.clear()
        job = await room.submit(requirements="numpy")
        await room.until(job, "starting")
        await room.kill()
        room.environments.gate.set()
        await room.start()
        await room.until(job, "running")
        room.engine.end("job-1-1")
        await room.until(job, "succeeded")
        assert room.engine.starts == ["job-1-1"]

    in_room(story)


def test_killed_between_the_start_and_its_record_nothing_starts_twice(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        real = room.engine.start

        async def start_and_die(spec):  # type: ignore[no-untyped-def]
            await real(spec)
            await asyncio.Event().wait()  # the answer never arrives

        room.engine.start = start_and_die  # type: ignore[method-assign]
        job = await room.submit()
        async with asyncio.timeout(20):
            while not room.engine.starts:
                await asyncio.sleep(0)
        await room.kill()
        room.engine.start = real  # type: ignore[method-assign]
        room.engine.output["job-1-1"] = b"done while nobody looked\n"
        room.engine.end("job-1-1", 5)
        await room.start()
        ended = await room.until(job, "failed")
        assert (ended.exit_code, room.engine.starts) == (5, ["job-1-1"])
        assert await room.log(job) == b"done while nobody looked\n"
        assert [event.kind for event in await room.news()] == ["job.queued", "job.started", "job.failed"]

    in_room(story)


def test_killed_while_it_runs_the_next_follows_it(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        await room.until(job, "running")
        await room.kill()
        await room.start()
        await room.jobs.stop(room.ann, "prj_a", job.id)
        assert (await room.until(job, "stopped")).exit_code == 143
        assert [event.kind for event in await room.news()] == ["job.queued", "job.started", "job.stopped"]

    in_room(story)


def test_a_stop_that_was_recorded_is_carried_out_by_the_next(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        await room.until(job, "running")

        async def unreachable(attempt_id: str, grace: float) -> None:
            raise Unavailable("gone")

        real, room.engine.stop = room.engine.stop, unreachable  # type: ignore[method-assign]
        await room.jobs.stop(room.ann, "prj_a", job.id)
        await room.kill()
        room.engine.stop = real  # type: ignore[method-assign]
        await room.start()
        await room.until(job, "stopped")

    in_room(story)


def test_what_the_engine_lost_is_unknown_and_never_guessed(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        await room.until(job, "running")
        await room.kill()
        room.engine.lose("job-1-1")
        await room.start()
        ended = await room.until(job, "unknown")
        assert ended.exit_code is None
        assert live_keys(room) == 0
        assert room.engine.starts == ["job-1-1"]

    in_room(story)


def test_a_server_thought_dead_cannot_write_over_its_successor(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        job = await room.submit()
        await room.until(job, "running")
        old_workloads, old_jobs = room.workloads, room.jobs
        await room.start()  # the successor, while the old one still lives
        room.engine.end("job-1-1", 4)
        assert (await room.until(job, "failed")).exit_code == 4
        await old_jobs.close()
        await old_workloads.close()
        kinds = [event.kind for event in await room.news()]
        assert kinds == ["job.queued", "job.started", "job.failed"]

    in_room(story)


def test_leftovers_of_ended_jobs_are_cleared_away(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        await room.kill()
        for name in ("job-7-1", "job-8-1"):
            (room.home / "work" / name / "code").mkdir(parents=True)
        room.engine.statuses["job-7-1"] = WorkloadStatus("job-7-1", "running")
        room.engine.statuses["job-8-1"] = WorkloadStatus("job-8-1", "exited", exit_code=0)
        room.engine.statuses["rep-1"] = WorkloadStatus("rep-1", "running")
        await room.start()
        async with asyncio.timeout(20):
            while list((room.home / "work").iterdir()) or len(room.engine.statuses) > 1:
                await asyncio.sleep(0.01)
        assert room.engine.stopped == ["job-7-1"]
        assert "rep-1" in room.engine.statuses

    in_room(story)


def test_purging_a_project_stops_and_removes_all_of_it(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        running = await room.submit(cpus=2)
        await room.submit()
        await room.until(running, "running")
        theirs = await room.jobs.submit(room.bob, "prj_b", JobSpec(["x"]))
        await room.jobs.purge("prj_a")
        assert room.engine.stopped == ["job-1-1"]
        assert (await room.jobs.list(room.ann, "prj_a")).jobs == []
        assert (await room.jobs.get(room.bob, "prj_b", theirs.id)).id == theirs.id
        await room.jobs.purge("prj_a")

    in_room(story)


def test_a_job_whose_sender_left_is_run_all_the_same(
    in_room: InRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(room: Room) -> None:
        await room.until(
            await room.submit("python", "t.py"), "running"
        )  # from now on jobs are claimed at once
        began, gate = asyncio.Event(), threading.Event()
        submit, loop = room.database.submit, asyncio.get_running_loop()

        def slowly(work: Callable[[Connection], Any]) -> Any:
            def held_up(c: Connection) -> Any:
                loop.call_soon_threadsafe(began.set)
                gate.wait(20)
                return work(c)

            return submit(held_up)

        monkeypatch.setattr(room.database, "submit", slowly)
        sending = asyncio.ensure_future(room.submit("python", "t.py"))
        await began.wait()
        monkeypatch.undo()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        gate.set()
        async with asyncio.timeout(20):
            while "job-2-1" not in room.engine.specs:
                await asyncio.sleep(0)
        room.engine.end("job-2-1", 0)
        await room.until(await room.jobs.get(room.ann, "prj_a", 2), "succeeded")

    in_room(story)
