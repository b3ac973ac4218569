"""Calls that nobody waits for: durable, tried again, dead at last, and run by one server at a time."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from stratal.ai.functions import invocations as module
from stratal.ai.functions import records
from stratal.ai.functions.calling import Asked
from stratal.ai.functions.later import MAX_INPUT, MOST_AGE_MS
from stratal.ai.functions.model import InvocationState
from stratal.kernel.errors import Busy, Conflict, NotFound, TooLarge
from stratal.ledger.budgets import Budget, Standing

from .room import OWNER, VIEWER, Room, until

pytestmark = pytest.mark.fast
Tell = Callable[..., Any]


async def ended(room: Room, invocation_id: str) -> Any:
    async def told() -> Any:
        found = await room.told(invocation_id)
        return found if found.state.ended else None

    return await until(told)


def test_a_later_call_is_made_and_its_result_kept(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        made = await room.submit("hello")
        assert (made.state, made.trigger, made.caller) == ("queued", "async", VIEWER.actor)
        done = await ended(room, made.id)
        assert (done.state, done.attempt, done.failures, done.status) == ("succeeded", 1, 0, 200)
        assert orjson.loads(await room.result(made.id) or b"")["word"] == "hello"
        assert await room.invocations.log(VIEWER, "prj_a", "fn", made.id) == b"wrote hello"
        (call,) = room.world.calls
        assert (call.id, call.trigger, call.attempt) == (made.id, "async", 1)

    tell(story)


def test_one_that_fails_is_tried_again_with_pauses_and_is_dead_at_last(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.failing = {"bad"}
        await room.deploy(retries=2)
        made = await room.submit("bad")
        for failures, pause in ((1, 1000), (2, 4000)):
            waiting = await until(lambda n=failures: waits(room, made.id, n))
            assert waiting.waits_until == room.world.now + pause
            room.later(pause - 1)
            await asyncio.sleep(0.02)
            assert len(room.world.calls) == failures
            room.later(1)
        dead = await ended(room, made.id)
        assert (dead.state, dead.attempt, dead.failures) == ("dead", 3, 3)
        assert "ValueError: bad" in dead.error["message"]
        (event,) = await room.events("invocation.died")
        assert event.subject == made.id
        assert [i.id for i in await room.all(InvocationState.DEAD)] == [made.id]
        room.world.failing = set()
        await room.invocations.retry(OWNER, "prj_a", "fn", made.id)
        again = await ended(room, made.id)
        assert (again.state, again.attempt, again.failures, again.error) == ("succeeded", 4, 0, None)
        with pytest.raises(Conflict):
            await room.invocations.retry(OWNER, "prj_a", "fn", made.id)
        with pytest.raises(NotFound):
            await room.invocations.retry(OWNER, "prj_a", "fn", "inv_none")

    tell(story)


async def waits(room: Room, invocation_id: str, failures: int) -> Any:
    found = await room.told(invocation_id)
    return found if found.state is InvocationState.QUEUED and found.failures == failures else None


def test_what_a_dead_server_was_at_is_done_again_and_is_no_failure_of_its_own(tell: Tell) -> None:
    made: list[str] = []

    async def before(room: Room) -> None:
        await room.deploy(retries=0)
        room.world.gate.clear()
        made.extend([(await room.submit(f"w{n}")).id for n in range(20)])
        await until(lambda: room.world.at_once == 8)

    async def after(room: Room) -> None:
        room.world.gate.set()
        done = [await ended(room, one) for one in made]
        assert {(one.state, one.failures) for one in done} == {("succeeded", 0)}
        assert sorted(one.attempt for one in done) == [1] * 12 + [2] * 8

    tell(before, after)


def test_a_server_that_was_thought_dead_writes_nothing_over(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        room.world.gate.clear()
        made = await room.submit("slow")
        await until(lambda: room.world.at_once)
        stolen = room.database.write_now(lambda c: records.give_back(c, "srv_other", room.world.now))
        assert stolen == 1
        room.database.write_now(lambda c: records.claim(c, made.id, "srv_other", 1, room.world.now))
        room.world.gate.set()
        await until(lambda: not room.world.at_once)
        await asyncio.sleep(0.02)
        assert (await room.told(made.id)).state is InvocationState.RUNNING

    tell(story)


def test_no_more_run_at_once_than_the_replicas_take(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy(concurrency=3)
        room.world.gate.clear()
        made = [await room.submit(f"w{n}") for n in range(10)]
        await until(lambda: room.world.at_once == 3)
        await asyncio.sleep(0.02)
        assert room.world.most_at_once == 3
        room.world.gate.set()
        for one in made:
            assert (await ended(room, one.id)).state == "succeeded"
        assert room.world.most_at_once == 3

    tell(story)


def test_a_replica_that_cannot_be_had_is_no_attempt_until_it_takes_too_long(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy(idle_seconds=0.01)
        await until(lambda: not room.world.running)
        room.world.cannot_load = "the disk is full"
        made = await room.submit("x")
        found = await until(lambda: refused_once(room, made.id))
        assert (found.attempt, found.failures) == (0, 0)
        room.later(MOST_AGE_MS + 1)
        dead = await ended(room, made.id)
        assert (dead.state, dead.failures) == ("dead", 0)
        assert "the disk is full" in dead.error["message"]

    tell(story)


def test_one_whose_project_has_spent_its_budget_waits_for_another(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        spent = Standing("prj_a", "alpha", Budget(10, True, 0, "ann"), "2026-11", 11)
        await room.services.heed({"prj_a": spent})
        made = await room.submit("x")
        found = await until(lambda: refused_once(room, made.id))
        assert (found.attempt, found.failures, found.error["code"]) == (0, 0, "over_budget")
        assert found.waits_until > room.world.now + 10_000
        assert room.world.calls == []
        await room.services.heed({})
        room.later(60_000)
        assert (await ended(room, made.id)).state == "succeeded"

    tell(story)


async def refused_once(room: Room, invocation_id: str) -> Any:
    found = await room.told(invocation_id)
    return found if found.state is InvocationState.QUEUED and found.error else None


def test_a_call_that_kills_its_replica_counts_as_failed(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy(retries=0)
        made = await room.submit("die")
        dead = await ended(room, made.id)
        assert (dead.state, dead.error["code"], dead.failures) == ("dead", "function_died", 1)

    tell(story)


def test_what_is_too_much_is_refused(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(room: Room) -> None:
        await room.deploy(retries=0)
        live = room.room.registry.get("prj_a", "fn")
        with pytest.raises(TooLarge):
            await room.invocations.submit(VIEWER, live, Asked(bytes(MAX_INPUT + 1)))
        made = await room.submit("long")
        dead = await ended(room, made.id)
        assert (dead.state, dead.error["code"], dead.result_bytes) == ("dead", "result_too_large", None)
        room.world.gate.clear()
        for n in range(8):
            await room.submit(f"w{n}")
        await until(lambda: room.world.at_once == 8)
        monkeypatch.setattr(module, "MOST_WAITING", 2)
        for n in range(2):
            await room.submit(f"v{n}")
        with pytest.raises(Busy) as busy:
            await room.submit("one more")
        assert busy.value.details["retry_after_seconds"]
        room.world.gate.set()

    tell(story)


def test_old_invocations_are_forgotten_and_dead_ones_for_themselves(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy(retries=0)
        room.world.failing = {"bad"}
        dead = await room.submit("bad")
        await ended(room, dead.id)
        for n in range(6):
            await room.call(f"w{n}")
        newest = [i.id for i in await room.all(InvocationState.SUCCEEDED)][:2]
        function_id = room.room.registry.get("prj_a", "fn").function.id
        room.database.write_now(lambda c: records.prune(c, function_id, 2))
        assert [i.id for i in await room.all()] == [*newest, dead.id]

    tell(story)
