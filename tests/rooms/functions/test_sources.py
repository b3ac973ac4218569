"""What calls functions besides people: neither doubled nor lost, whatever becomes of server and clock."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from stratal.ai.functions.model import InvocationState
from stratal.kernel.errors import Invalid
from stratal.kernel.events import emit

from .room import Room, World, until

pytestmark = pytest.mark.fast
Tell = Callable[..., Any]
HOUR = 3_600_000
NOON = 1_800_000_000_000 - 1_800_000_000_000 % HOUR


async def dues(room: Room, count: int) -> list[str]:
    """The times that `count` calls were made for, oldest first."""

    async def made() -> list[Any] | None:
        room.later(20)  # a call that met a replica on its way out waits for a second
        found = [i for i in await room.all() if i.trigger == "schedule"]
        assert len(found) <= count, [i.id for i in found]
        return found if len(found) == count and all(i.state.ended for i in found) else None

    await until(made)
    await asyncio.sleep(0.01)
    asked = [orjson.loads(call.body) for call in room.world.calls if call.trigger == "schedule"]
    assert len(asked) == count
    return sorted(event["scheduled_at"][11:16] for event in asked)


def set_clock(room: Room, moment: int) -> None:
    room.later(moment - room.world.now)


@pytest.fixture
def hourly() -> dict[str, Any]:
    return {"schedule": "0 * * * *"}


def start_of(moment: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment / 1000, UTC).strftime("%H:%M")


def test_a_schedule_calls_at_its_times_once_each(tell: Tell, hourly: dict[str, Any]) -> None:
    async def story(room: Room) -> None:
        room.world.now = NOON - 60_000
        await room.deploy(**hourly)
        set_clock(room, NOON - 1)
        await asyncio.sleep(0.02)
        set_clock(room, NOON)
        assert await dues(room, 1) == [start_of(NOON)]
        set_clock(room, NOON + 1000)
        await room.room.sources.look()
        set_clock(room, NOON + HOUR + 5)
        assert len(await dues(room, 2)) == 2

    tell(story)


def test_after_a_restart_the_latest_missed_time_is_made_up_for_once(
    tell: Tell, hourly: dict[str, Any]
) -> None:
    async def before(room: Room) -> None:
        room.world.now = NOON - 1
        await room.deploy(**hourly)
        set_clock(room, NOON)
        await dues(room, 1)
        room.world.now = NOON + 5 * HOUR + 7  # while nobody looks

    async def after(room: Room) -> None:
        assert await dues(room, 2) == sorted([start_of(NOON), start_of(NOON + 5 * HOUR)])

    async def again(room: Room) -> None:
        await room.room.sources.look()
        await dues(room, 2)

    tell(before, after, again)


def test_a_clock_that_is_set_back_runs_nothing_twice_and_loses_nothing(
    tell: Tell, hourly: dict[str, Any]
) -> None:
    async def story(room: Room) -> None:
        room.world.now = NOON - 1
        await room.deploy(**hourly)
        set_clock(room, NOON + 3 * HOUR + 1)  # ahead by mistake: 13 and 14 are skipped, 15 is made
        assert await dues(room, 1) == [start_of(NOON + 3 * HOUR)]
        set_clock(room, NOON + 10)  # set right
        await room.room.sources.look()
        await dues(room, 1)
        for hour in (1, 2):  # they come after all
            set_clock(room, NOON + hour * HOUR)
            await dues(room, 1 + hour)
        set_clock(room, NOON + 3 * HOUR + 2)  # was made before
        await room.room.sources.look()
        await dues(room, 3)
        set_clock(room, NOON + 4 * HOUR)
        await dues(room, 4)

    tell(story)


def test_another_revision_goes_on_with_the_schedule_and_a_new_one_begins_now(
    tell: Tell, hourly: dict[str, Any]
) -> None:
    async def story(room: Room) -> None:
        room.world.now = NOON - 1
        await room.deploy(**hourly)
        room.world.now = NOON + 1
        await room.deploy(**hourly)  # whoever is deployed at a due time does not swallow it
        await dues(room, 1)
        room.world.now = NOON + HOUR - 1
        await room.deploy(schedule="0 0 1 1 *")
        set_clock(room, NOON + 2 * HOUR)
        await room.room.sources.look()
        await dues(room, 1)
        await room.deploy()
        set_clock(room, NOON + 400 * 24 * HOUR)
        await room.room.sources.look()
        await dues(room, 1)

    tell(story)


def put(
    room: Room, key: str, *, actor: str = "person:ada", project: str = "prj_a", bucket: str = "in"
) -> None:
    room.database.write_now(
        lambda c: emit(
            c,
            "object.created",
            f"v-{bucket}-{key}",
            actor=actor,
            project_id=project,
            bucket=bucket,
            key=key,
            size=3,
        )
    )


def test_new_objects_call_it_with_what_they_are(tell: Tell) -> None:
    async def story(room: Room) -> None:
        put(room, "scans/before.png")
        await room.deploy(on=["s3:in/scans/", "s3:other"])
        made = await room.deploy("bystander", on=["s3:in/else/"])
        put(room, "scans/a.png")
        put(room, "elsewhere/b.png")
        put(room, "scans/c.png", project="prj_b")
        put(room, "d", bucket="other")
        put(room, "scans/own.png", actor="function:fn:1")
        bodies = await until(lambda: enough(room, 2))
        assert sorted(b["key"] for b in bodies) == ["d", "scans/a.png"]
        event = next(b for b in bodies if b["key"] == "scans/a.png")
        assert (event["type"], event["bucket"], event["version"], event["size"], event["by"]) == (
            "object.created",
            "in",
            "v-in-scans/a.png",
            3,
            "person:ada",
        )
        await asyncio.sleep(0.02)
        assert len([c for c in room.world.calls if c.trigger == "object"]) == 2
        assert not await room.all(name=made.function.name)

    tell(story)


async def enough(room: Room, count: int) -> list[Any] | None:
    """What `fn` was told of the objects, once `count` calls have ended: one under way is made again by a restart."""
    room.later(20)
    ended = [i for i in await room.all() if i.trigger == "object" and i.state.ended]
    if len(ended) < count:
        return None
    return [orjson.loads(call.body) for call in room.world.calls if call.trigger == "object"]


def test_objects_stored_while_the_server_was_away_are_not_lost_and_none_is_doubled(tell: Tell) -> None:
    async def before(room: Room) -> None:
        await room.deploy(on=["s3:in"])
        put(room, "a")
        await until(lambda: enough(room, 1))
        await room.room.sources.close()
        put(room, "b")

    async def after(room: Room) -> None:
        put(room, "c")
        bodies = await until(lambda: enough(room, 3))
        await asyncio.sleep(0.02)
        assert sorted(b["key"] for b in bodies) == ["a", "b", "c"]
        assert len(await room.all()) == 3

    tell(before, after)


def test_functions_that_call_one_another_are_cut_off(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy("ping", on=["s3:in/ping/"])
        await room.deploy("pong", on=["s3:in/pong/"])
        room.world.gate.clear()
        put(room, "ping/0", actor="person:ada")
        for n in range(1, 9):
            writer, reader = ("ping", "pong") if n % 2 else ("pong", "ping")
            await until(lambda n=n: len(room.world.calls) == n)
            live = room.room.registry.get("prj_a", writer)
            assert live.active is not None
            put(room, f"{reader}/{n}", actor=live.active.workload)
        await until(lambda: len(room.world.calls) == 9)
        live = room.room.registry.get("prj_a", "ping")
        assert live.active is not None
        put(room, "pong/9", actor=live.active.workload)
        (cut,) = await until(lambda: dead_of(room, "pong"))
        assert cut.error["code"] == "chain_too_long"
        room.world.gate.set()
        await asyncio.sleep(0.02)
        assert len(room.world.calls) == 9

    tell(story)


async def dead_of(room: Room, name: str) -> Any:
    return await room.all(InvocationState.DEAD, name=name)


@pytest.mark.parametrize(
    "wishes",
    [
        {"schedule": "x"},
        {"schedule": "* * * * *", "zone": "Nowhere"},
        {"on": ["in/scans"]},
        {"on": ["s3:UPPER"]},
        {"on": ["s3:"]},
    ],
)
def test_sources_that_make_no_sense_are_refused(tell: Tell, wishes: dict[str, Any]) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(Invalid):
            await room.deploy(**wishes)

    world = tell(story)
    assert isinstance(world, World)
