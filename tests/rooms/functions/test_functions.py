"""A function's life: deployed, called, replaced, slept and woken, removed; and who may."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert

from stratal.ai.functions import records
from stratal.ai.functions.calling import Asked
from stratal.ai.functions.model import (
    Deployment,
    FunctionState,
    InvocationState,
    RevisionState,
    Wishes,
    check_target,
    pause_ms,
)
from stratal.ai.functions.runtime import Failed
from stratal.identity.members import take_out
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.people import insert_person
from stratal.identity.tables import members
from stratal.kernel.errors import Denied, Invalid, NotFound, Unauthenticated, Unavailable

from .room import OWNER, PLACE, STRANGER, VIEWER, Room, until

pytestmark = pytest.mark.fast
Tell = Callable[..., Any]


def test_a_deployed_function_answers_and_what_it_was_asked_is_written_down(tell: Tell) -> None:
    async def story(room: Room) -> None:
        made = await room.deploy()
        assert (made.state, made.latest.state, made.latest.number) == (
            FunctionState.READY,
            RevisionState.ACTIVE,
            1,
        )
        status, said = await room.call("created")
        assert (status, said["word"]) == (201, "created")
        (call,) = await room.all()
        assert (call.state, call.status, call.caller, call.trigger) == (
            "succeeded",
            201,
            VIEWER.actor,
            "http",
        )
        assert await room.invocations.log(VIEWER, "prj_a", "fn", call.id) == b"wrote created"
        (spec,) = room.world.engine.specs.values()
        assert spec.network == "platform"
        assert spec.memory_bytes == Wishes().memory_bytes
        token = spec.env["STRATAL_API_KEY"]
        who = await room.keys.authenticate(*token.split(".", 1))
        assert (who.workload, who.role, who.project) == (made.latest.workload, "editor", "alpha")
        assert [event.kind for event in await room.events("function.")] == [
            "function.requested",
            "function.deployed",
        ]

    tell(story)


def test_errors_say_what_the_function_raised_and_are_written_down(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.failing = {"bad"}
        await room.deploy()
        with pytest.raises(Failed, match="ValueError: bad") as raised:
            await room.call("bad")
        (call,) = await room.all(InvocationState.FAILED)
        assert raised.value.details["invocation_id"] == call.id
        assert call.error == {
            "code": "function_failed",
            "type": "ValueError",
            "message": raised.value.message,
        }
        with pytest.raises(Failed):
            await room.call("breaks off")
        assert [c.state for c in await room.all()] == ["failed", "failed"]
        with pytest.raises(Unavailable) as lost:
            await room.call("die")
        assert (lost.value.reason, lost.value.details["retry_after_seconds"]) == ("replica_lost", 1)
        assert (await room.call("well"))[0] == 200

    tell(story)


def test_an_answer_that_nobody_reads_to_its_end_is_given_up(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        answer = await room.calling.invoke(VIEWER, room.room.registry.get("prj_a", "fn"), Asked(b'"x"'))
        await answer.close()
        (call,) = await room.all()
        assert (call.state, (call.error or {})["code"]) == ("failed", "given_up")

    tell(story)


def test_who_hangs_up_with_the_last_byte_of_an_answer_has_not_given_up(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        live = room.room.registry.get("prj_a", "fn")
        for wanted, state in ((40, "succeeded"), (30, "failed")):
            answer = await room.calling.invoke(VIEWER, live, Asked(b'"of known length"'))
            read = 0
            async for chunk in answer.chunks():
                read += len(chunk)
                if read == wanted:
                    break
            await answer.close()
            assert (await room.told(answer.invocation_id)).state == state

    tell(story)


def test_a_revision_that_answers_or_was_superseded_is_not_on_its_way_again(tell: Tell) -> None:
    async def story(room: Room) -> None:
        made = await room.deploy()
        states = {"state": "starting"}
        assert await room.database.write(lambda c: records.advance(c, made.latest.seq, **states)) is None
        assert (await room.functions.get(OWNER, "prj_a", "fn")).latest.state == RevisionState.ACTIVE

    tell(story)


def test_calls_at_zero_wait_for_one_waking_and_are_answered(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy(concurrency=100, idle_seconds=0.01)
        service = room.room.registry.get("prj_a", "fn").service
        assert service is not None
        await until(lambda: not room.world.running)
        assert (await room.functions.get(VIEWER, "prj_a", "fn")).state is FunctionState.IDLE
        room.world.loading.clear()
        asked = [asyncio.create_task(room.call(f"w{n}")) for n in range(50)]
        await until(lambda: service.waiting == 50)
        room.world.loading.set()
        said = await asyncio.gather(*asked)
        assert [answer[1]["word"] for answer in said] == [f"w{n}" for n in range(50)]
        assert len({answer[1]["by"] for answer in said}) == 1

    tell(story)


def test_a_revision_that_cannot_load_leaves_the_old_one_answering(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        room.world.cannot_load = "there is no module named sklearn"
        failed = await room.deploy()
        assert (failed.latest.number, failed.latest.state) == (2, RevisionState.FAILED)
        assert "sklearn" in failed.latest.failure
        assert failed.active is not None
        assert failed.active.number == 1
        assert (await room.call("still"))[1]["word"] == "still"
        keys = [spec.env["STRATAL_API_KEY"] for spec in room.world.engine.specs.values()]
        await until(lambda: refused(room, keys[-1]))
        assert not await refused(room, keys[0])
        room.world.cannot_load = ""
        mended = await room.deploy()
        assert (mended.latest.number, mended.state, mended.failure) == (3, FunctionState.READY, "")

    tell(story)


async def refused(room: Room, token: str) -> bool:
    try:
        await room.keys.authenticate(*token.split(".", 1))
    except Unauthenticated:
        return True
    return False


def test_the_first_revision_that_fails_is_told_to_whoever_calls(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.cannot_load = "there is no 'handler' in app.py"
        assert (await room.deploy()).state is FunctionState.FAILED
        with pytest.raises(Unavailable, match="no 'handler'"):
            await room.call("x")
        with pytest.raises(Unavailable, match="no 'handler'"):
            await room.submit("x")

    tell(story)


def test_a_new_revision_takes_over_without_losing_a_call_and_the_old_credential_dies(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        (first,) = room.world.running
        room.world.gate.clear()
        slow = [asyncio.create_task(room.call(f"s{n}")) for n in range(3)]
        await until(lambda: room.world.at_once == 3)
        await room.deploy()
        room.world.gate.set()
        said = await asyncio.gather(*slow)
        assert {answer[1]["by"] for answer in said} == {first}
        assert (await room.call("new"))[1]["by"] != first
        await until(lambda: first not in room.world.running)
        token = room.world.engine.specs[first].env["STRATAL_API_KEY"]
        await until(lambda: refused(room, token))
        states = [r.state for r in await room.functions.revisions(VIEWER, "prj_a", "fn")]
        assert states == [RevisionState.ACTIVE, RevisionState.SUPERSEDED]

    tell(story)


def test_after_a_restart_replicas_are_taken_over_and_a_revision_on_its_way_goes_on(tell: Tell) -> None:
    async def before(room: Room) -> None:
        await room.deploy()
        await room.call("one")
        room.world.loading.clear()
        asked = Deployment("other", "app.py:handler", await room.code())
        await room.functions.deploy(OWNER, PLACE, asked)
        await until(lambda: len(room.world.running) == 2)

    async def after(room: Room) -> None:
        room.world.loading.set()
        assert (await room.call("two"))[1]["by"] == room.world.engine.starts[0]
        assert [call.state for call in await room.all()] == ["succeeded", "succeeded"]
        await until(lambda: room.room.registry.get("prj_a", "other").active)
        assert (await room.call("three", "other"))[0] == 200
        # One of each: what the killed rollout had started was ended, as nobody waited for it any more.
        await until(lambda: len(room.world.running) == 2)

    tell(before, after)


def test_removing_ends_replicas_credential_and_waiting_calls(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        room.world.gate.clear()
        made = await room.submit("waits")
        await until(lambda: room.world.at_once)
        removing = asyncio.create_task(room.functions.remove(OWNER, "prj_a", "fn"))
        await until(lambda: room.room.registry.find("prj_a", "fn") is None)
        room.world.gate.set()
        await removing
        assert not room.world.running
        assert await refused(room, next(iter(room.world.engine.specs.values())).env["STRATAL_API_KEY"])
        with pytest.raises(NotFound):
            await room.told(made.id)
        assert (await room.deploy()).latest.number == 1  # a new function of the same name

    tell(story)


def test_what_somebody_who_left_made_public_asks_for_a_key(tell: Tell) -> None:
    """Its code is theirs and acts with the project's credential: they shall not go on through it."""

    async def story(room: Room) -> None:
        registry, database = room.room.registry, room.database
        eve = Principal(Kind.PERSON, "usr_e", "eve", "prj_a", "alpha", Role.EDITOR)
        inside = {
            "project_id": "prj_a",
            "person_id": "usr_e",
            "role": "editor",
            "added_at": 0,
            "added_by": "x",
        }
        await database.write(lambda c: insert_person(c, "usr_e", "eve", 0, password=None, actor="x"))
        await database.write(lambda c: c.execute(insert(members).values(inside)))
        made = await room.deploy(who=eve, public=True)
        assert registry.public("alpha", "fn") is not None
        await database.write(lambda c: take_out(c, room.keys, "prj_a", "usr_e", "eve", by="x"))
        await until(lambda: registry.public("alpha", "fn") is None)
        assert (await room.call("x"))[0] == 200  # with a key
        assert (await room.functions.get(OWNER, "prj_a", "fn")).left == "person:eve"
        await room.functions.rollback(
            OWNER, PLACE, "fn", made.latest.number
        )  # somebody who is there stands for it
        await until(lambda: registry.public("alpha", "fn") is not None)
        assert (await room.functions.get(OWNER, "prj_a", "fn")).left == ""

    tell(story)


def test_who_may(tell: Tell) -> None:
    async def story(room: Room) -> None:
        await room.deploy()
        live = room.room.registry.get("prj_a", "fn")
        with pytest.raises(Denied):
            await room.deploy(who=VIEWER)
        with pytest.raises(Denied):
            await room.functions.remove(VIEWER, "prj_a", "fn")
        with pytest.raises(NotFound):
            await room.calling.invoke(STRANGER, live, Asked(b"1"))
        with pytest.raises(NotFound):
            await room.functions.get(STRANGER, "prj_a", "fn")
        assert room.room.registry.public("alpha", "fn") is None
        await room.deploy(public=True)
        assert room.room.registry.public("alpha", "fn") is live
        assert (await room.call("x", who=None))[0] == 200
        assert (await room.all())[0].caller is None

    tell(story)


@pytest.mark.parametrize(
    "wishes",
    [
        {"least": 2},
        {"most": 0},
        {"concurrency": 0},
        {"timeout_seconds": 0},
        {"timeout_seconds": 4000},
        {"retries": -1},
        {"idle_seconds": -1},
        {"memory_bytes": 1},
        {"memory_bytes": 1 << 50},
    ],
)
def test_wishes_that_make_no_sense_are_refused(tell: Tell, wishes: dict[str, Any]) -> None:
    async def story(room: Room) -> None:
        with pytest.raises(Invalid):
            await room.deploy(**wishes)
        assert not await room.functions.list(OWNER, "prj_a")

    tell(story)


@pytest.mark.parametrize(
    "target", ["app.py:handler", "a/b_c/app.py:Model.predict", "pkg.mod:f", "app-2.py:h"]
)
def test_targets(target: str) -> None:
    assert check_target(target) == target


@pytest.mark.parametrize(
    "target",
    [
        "app.py",
        ":f",
        "app.py:",
        "/app.py:f",
        "../app.py:f",
        "a/../b.py:f",
        "a//b.py:f",
        "app.py:f()",
        "a b.py:f",
        "a:b:c",
    ],
)
def test_targets_that_name_no_function(target: str) -> None:
    with pytest.raises(Invalid):
        check_target(target)


def test_pauses_grow_to_five_minutes() -> None:
    assert [pause_ms(n) for n in (1, 2, 3, 4, 5, 6, 50)] == [1000, 4000, 16000, 64000, 256000, 300000, 300000]
