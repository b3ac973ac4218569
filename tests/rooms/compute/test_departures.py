"""Whoever leaves a project leaves no job that runs or waits."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from stratal.compute.departures import Departures
from stratal.identity.members import take_out
from stratal.kernel.events import Events

from .room import Room

InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


def leave(room: Room) -> None:
    room.database.write_now(
        lambda c: take_out(c, room.keys, "prj_a", room.ann.id, room.ann.name, by="person:owner")
    )


async def ended(room: Room, job_id: int, state: str) -> None:
    async with asyncio.timeout(30):
        while True:
            job = await room.jobs.get(room.ann, "prj_a", job_id)
            if job.state == state:
                return
            await asyncio.sleep(0.01)


def test_jobs_that_run_and_that_wait_are_stopped(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        departures = Departures(Events(room.database), room.jobs)
        await departures.start()
        running = await room.submit(cpus=2)
        waiting = await room.submit(cpus=2)
        await room.until(running, "running")
        await asyncio.to_thread(partial(leave, room))
        await ended(room, running.id, "failed")
        await ended(room, waiting.id, "stopped")
        found = await room.jobs.get(room.ann, "prj_a", running.id)
        assert "no access to the project any more" in found.reason
        await departures.close()

    in_room(story)


def test_after_a_restart_too(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        running = await room.submit(cpus=2)
        await room.until(running, "running")
        await asyncio.to_thread(partial(leave, room))
        departures = Departures(Events(room.database), room.jobs)
        await departures.start()
        await ended(room, running.id, "failed")
        await departures.close()

    in_room(story)
