"""A service's life: woken, scaled, slept, restarted with patience, replaced, found again."""

import asyncio
from collections.abc import Callable

import pytest

from stratal.compute.engine import Capacity, Gpu
from stratal.compute.queue import in_use
from stratal.compute.services.model import Condition, Needs, Scaling, check_scaling
from stratal.compute.services.port import Broken
from stratal.compute.services.service import Service
from stratal.kernel.errors import Busy, Invalid, NotFound, OverBudget, Unavailable
from stratal.ledger.budgets import Budget, Standing

from .room import DozingBlueprint, Hand, Room, ask, named, until

Tell = Callable[..., None]


def test_at_zero_requests_wait_for_one_waking_and_all_are_answered(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = room.keep()
        assert service.condition is Condition.ASLEEP
        room.world.loading.clear()
        asked = [asyncio.create_task(ask(service)) for _ in range(40)]
        await until(lambda: room.world.running)
        assert service.condition is Condition.WAKING
        room.world.loading.set()
        answers = await asyncio.gather(*asked)
        assert len(set(answers)) == 1
        assert service.condition is Condition.AWAKE
        assert len(room.world.engine.starts) == 1
        await until(lambda: room.world.engine.warmed)  # the engine may get ready for the next one
        spec, renew = room.world.engine.warmed[0]
        assert (spec.imports, renew) == (Hand.modules, False)

    tell(story)


def test_more_requests_than_one_replica_takes_start_more_and_the_least_loaded_is_chosen(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.shut = True
        service = room.keep(most=3, concurrency=4)
        asked = [asyncio.create_task(ask(service)) for _ in range(20)]
        await until(lambda: service.awake == 3)
        await until(lambda: sum(r.at_once for r in room.world.replicas.values()) == 12)
        assert [r.at_once for r in room.world.replicas.values()] == [4, 4, 4]
        assert service.waiting == 8
        first, *rest = room.world.replicas.values()
        first.gate.set()  # the one that is quick takes all that waits
        await until(lambda: service.waiting == 0)
        for replica in rest:
            replica.gate.set()
        answers = await asyncio.gather(*asked)
        assert answers.count(first.id) == 12
        assert max(r.most for r in room.world.replicas.values()) == 4

    tell(story)


def test_replicas_that_nobody_needs_end_one_by_one_and_the_last_after_the_idle_time(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.shut = True
        service = room.keep(most=3, concurrency=1, idle_seconds=0.1)
        asked = [asyncio.create_task(ask(service)) for _ in range(3)]
        await until(lambda: service.awake == 3)
        for replica in room.world.replicas.values():
            replica.gate.set()
        await asyncio.gather(*asked)
        await until(lambda: service.condition is Condition.ASLEEP)
        await until(lambda: not room.world.running)
        assert room.world.engine.stopped
        assert service.deaths == 0

    tell(story)


def test_never_fewer_than_the_least_nor_more_than_the_most(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = room.keep(least=2, most=3, concurrency=1, idle_seconds=0.05)
        await until(lambda: service.awake == 2)
        room.world.shut = True
        asked = [asyncio.create_task(ask(service)) for _ in range(9)]
        await asyncio.gather(*asked[:0])
        await until(lambda: service.awake == 3)
        for replica in room.world.replicas.values():
            replica.gate.set()
        await asyncio.gather(*asked)
        await until(lambda: service.awake == 2)
        await asyncio.sleep(0.2)
        assert service.awake == 2
        assert len(room.world.engine.starts) == 3

    tell(story)


def test_a_line_that_is_full_refuses_with_a_time_to_come_back(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.loading.clear()
        room.world.shut = True
        service = room.keep(concurrency=2, queue=5)
        waiting = [asyncio.create_task(ask(service)) for _ in range(5)]
        await until(lambda: service.waiting == 5)
        with pytest.raises(Unavailable) as waking:  # at zero: it is not there yet
            await ask(service)
        assert waking.value.details["retry_after_seconds"] == 1
        room.world.loading.set()
        await until(lambda: service.waiting == 3)
        waiting += [asyncio.create_task(ask(service)) for _ in range(2)]
        await until(lambda: service.waiting == 5)
        with pytest.raises(Busy) as busy:  # awake: it has enough to do
            await ask(service)
        assert busy.value.details["retry_after_seconds"] == 1
        next(iter(room.world.replicas.values())).gate.set()
        assert len(await asyncio.gather(*waiting)) == 7

    tell(story)


def test_held_bytes_are_bounded_and_given_back(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = room.keep(held_bytes=100)
        await service.ready()
        assert await ask(service, 90)
        replica = next(iter(room.world.replicas.values()))
        replica.gate.clear()
        one = asyncio.create_task(ask(service, 60))
        await until(lambda: replica.at_once)
        with pytest.raises(Busy):
            await ask(service, 60)
        replica.gate.set()
        await one
        assert await ask(service, 100)

    tell(story)


def test_a_request_that_is_given_up_while_waiting_leaves_nothing_behind(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.loading.clear()
        service = room.keep(concurrency=1)
        given_up = [asyncio.create_task(ask(service, 10)) for _ in range(3)]
        await until(lambda: service.waiting == 3)
        for task in given_up:
            task.cancel()
        await asyncio.gather(*given_up, return_exceptions=True)
        assert service.load == 0
        room.world.loading.set()
        assert await ask(service)
        assert service.load == 0

    tell(story)


def test_a_replica_that_dies_breaks_its_requests_and_those_in_line_are_answered_by_the_next(
    tell: Tell,
) -> None:
    async def story(room: Room) -> None:
        room.world.shut = True
        service = room.keep(concurrency=2)
        asked = [asyncio.create_task(ask(service)) for _ in range(5)]
        await until(lambda: service.waiting == 3)
        room.world.shut = False
        room.world.kill(room.world.running[0])
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(a, Broken) for a in answers] == [True, True, False, False, False]
        assert service.deaths == 1
        assert service.condition is Condition.AWAKE
        await until(lambda: room.ended_rows() == [(room.world.engine.starts[0], 137)])

    tell(story)


def test_one_that_cannot_start_is_told_at_once_and_tried_again_after_a_pause(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.failure = "no such library"
        service = room.keep()
        waiting = [asyncio.create_task(ask(service)) for _ in range(3)]
        for refused in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(refused, Unavailable)
            assert "no such library" in refused.message
        assert service.condition is Condition.FAILING
        starts = len(room.world.engine.starts)
        with pytest.raises(Unavailable, match="no such library"):
            await ask(service)
        assert len(room.world.engine.starts) == starts
        room.world.failure = ""
        await asyncio.sleep(0.3)
        assert await ask(service)
        assert service.failure == ""

    tell(story)


def test_one_that_is_not_what_was_asked_for_is_turned_away(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.unwelcome = "other bytes than were pinned"
        service = room.keep()
        with pytest.raises(Unavailable, match="other bytes"):
            await service.ready()
        await until(lambda: not room.world.running)

    tell(story)


def test_a_silent_replica_is_replaced(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = room.keep(stuck_seconds=0.1)
        first = await ask(service)
        room.world.replicas[first].silent_since = asyncio.get_running_loop().time()
        await until(lambda: service.deaths == 1)
        assert await ask(service) != first

    tell(story)


def test_replacing_one_service_by_the_next_loses_no_request(tell: Tell) -> None:
    async def story(room: Room) -> None:
        old = room.keep(named(version="1"), most=2, concurrency=1)
        first = await ask(old)
        replica = room.world.replicas[first]
        replica.gate.clear()
        last = asyncio.create_task(ask(old))
        await until(lambda: replica.at_once)
        new = room.keep(named(version="2"), most=2)
        await new.ready(2)
        ending = room.services.end_aside(old)
        await asyncio.sleep(0.05)
        assert first in room.world.running  # it still owes an answer
        replica.gate.set()
        assert await last == first
        await ending
        assert sorted(room.world.running) == sorted(s.id for s in new.states())
        with pytest.raises(Unavailable, match="was stopped"):
            await ask(old)

    tell(story)


def test_after_a_restart_replicas_are_taken_over_and_strays_end(tell: Tell) -> None:
    async def before(room: Room) -> None:
        room.world.shut = True
        service = room.keep(named("fn_1"), most=2, concurrency=1)
        asked = [asyncio.create_task(ask(service)) for _ in range(2)]
        await until(lambda: service.awake == 2)
        for replica in room.world.replicas.values():
            replica.gate.set()
        await asyncio.gather(*asked)
        await room.keep(named("fn_2")).ready()
        assert len(room.world.running) == 3

    async def after(room: Room) -> None:
        service = room.keep(named("fn_1"), most=2, concurrency=1)
        answer = await ask(service)
        await until(lambda: service.awake == 2)
        assert len(room.world.engine.starts) == 3
        assert answer in room.world.engine.starts[:2]
        await room.services.settle("function")
        await until(lambda: len(room.world.running) == 2)
        assert {s.id for s in service.states()} == set(room.world.running)

    tell(before, after)


def test_a_replica_that_died_with_the_server_is_not_answered_by_and_the_next_request_wakes(
    tell: Tell,
) -> None:
    async def before(room: Room) -> None:
        await ask(room.keep())

    async def after(room: Room) -> None:
        room.world.engine.end(room.world.engine.starts[0], 137)
        service = room.keep()
        assert await ask(service) == room.world.engine.starts[1]
        await until(lambda: room.ended_rows())

    tell(before, after)


def test_without_room_idle_ones_of_others_give_way_and_else_it_is_said(tell: Tell) -> None:
    async def story(room: Room) -> None:
        idle = room.keep(named("fn_idle"), needs=Needs(1, 300 << 20))
        first = await ask(idle)
        busy = room.keep(named("fn_busy"), needs=Needs(1, 300 << 20))
        second = await ask(busy)
        room.world.replicas[second].gate.clear()
        held = asyncio.create_task(ask(busy))
        await until(lambda: room.world.replicas[second].at_once)
        new = room.keep(named("fn_new"), needs=Needs(1, 300 << 20))
        await ask(new)
        assert first not in room.world.running
        assert idle.condition is Condition.ASLEEP
        more = room.keep(named("fn_more"), needs=Needs(1, 600 << 20))
        with pytest.raises(Unavailable, match="no room for a replica"):
            await ask(more)
        assert second in room.world.running
        room.world.replicas[second].gate.set()
        await held

    tell(story, cpus=2, memory=700 << 20)


def test_what_could_never_run_here_and_wishes_without_sense_are_refused(tell: Tell) -> None:
    async def story(room: Room) -> None:
        for scaling in (
            Scaling(least=-1),
            Scaling(least=2, most=1),
            Scaling(most=0),
            Scaling(most=10**9),
            Scaling(concurrency=0),
            Scaling(idle_seconds=-1),
            Scaling(idle_seconds=float("nan")),
        ):
            with pytest.raises(Invalid):
                check_scaling(scaling)
        with pytest.raises(Invalid, match="could never run here"):
            await room.services.check(Scaling(), Needs(64, 1 << 30))
        with pytest.raises(Invalid, match="3 replicas of 2 processors"):
            await room.services.check(Scaling(least=3, most=3), Needs(2, 1 << 30))
        await room.services.check(Scaling(least=2, most=2), Needs(2, 1 << 30))

    tell(story)


def test_logs_and_rows_are_kept_pruned_and_purged(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = room.keep(idle_seconds=0.01)
        for number in range(23):
            attempt_id = await ask(service)
            room.world.engine.output[attempt_id] = f"hello {number}\n".encode()
            assert await room.services.log("function", "fn_1", attempt_id) == f"hello {number}\n".encode()
            await until(lambda: service.condition is Condition.ASLEEP and not room.world.engine.statuses)
        found = await room.services.replicas("function", "fn_1", 100)
        assert len(found) == 20
        assert await room.services.log("function", "fn_1", found[0].id) == b"hello 22\n"
        assert found[0].usage.cpu_seconds == 1.5
        with pytest.raises(NotFound):
            await room.services.log("function", "fn_2", found[0].id)
        await room.services.end(service)
        await room.services.purge("prj_a", "function")
        assert await room.services.replicas("function", "fn_1") == []
        assert not [path for path in room.blobs_folder.rglob("*") if path.is_file()]

    tell(story)


def used_up(*, stops: bool) -> dict[str, Standing]:
    return {"prj_a": Standing("prj_a", "a", Budget(10, stops, 0, "ann"), "2026-11", 11)}


def test_where_a_budget_is_used_up_nobody_is_answered_and_by_choice_no_replica_is_kept(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = room.keep(least=2, most=2, concurrency=1)
        await until(lambda: service.awake == 2)
        for replica in room.world.replicas.values():
            replica.gate.clear()
        asked = [asyncio.create_task(ask(service)) for _ in range(3)]
        await until(lambda: service.waiting == 1)
        await room.services.heed(used_up(stops=False))
        with pytest.raises(OverBudget, match="used up"):
            await ask(service)
        with pytest.raises(OverBudget):
            await ask(room.keep(named("fn_2")))  # also one that comes later
        assert (service.awake, service.waiting, len(room.world.running)) == (2, 1, 2)
        await room.services.heed(used_up(stops=True))
        with pytest.raises(OverBudget):  # whose turn had not come
            await asked[2]
        await until(lambda: service.awake == 0)
        assert service.condition is Condition.ASLEEP
        assert len(room.world.running) == 2  # they have their time for what they are at
        for replica in room.world.replicas.values():
            replica.gate.set()
        assert len(set(await asyncio.gather(*asked[:2]))) == 2
        await until(lambda: not room.world.running)
        with pytest.raises(OverBudget):
            await service.ready()
        await room.services.heed({})
        await until(lambda: service.awake == 2)
        assert await ask(service)

    tell(story)


# -- dozing ----------------------------------------------------------------------------------------


async def asleep(room: Room, **scaling: object) -> Service[Hand]:
    """A service that was awake once and sleeps now, with a replica that dozes."""
    room.world.engine.forks = True
    wishes = Scaling(**{"idle_seconds": 0.05, **scaling})  # type: ignore[arg-type]
    service = room.services.keep(named(), DozingBlueprint(room.world), wishes)
    await ask(service)
    await until(lambda: service.dozes and room.world.engine.dozing)
    assert service.condition is Condition.ASLEEP
    return service


def test_a_service_that_sleeps_has_a_replica_doze_which_the_next_request_wakes(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = await asleep(room)
        engine = room.world.engine
        (dozing,) = engine.dozing
        assert room.world.running == [dozing]
        assert engine.specs[dozing].imports == Hand.modules
        assert dozing not in {r.id for r in await room.services.replicas("function", "fn_1")}, "it has no row"
        assert await ask(service) == dozing
        await until(lambda: not engine.dozing)  # from now on it is metered
        (row,) = [r for r in await room.services.replicas("function", "fn_1") if r.id == dozing]
        assert row.ended_at is None
        await until(lambda: service.dozes)
        assert engine.starts[:2] == [*{engine.starts[0]}, dozing]
        assert len(engine.starts) == 3
        await room.services.end(service)
        await until(lambda: not room.world.running)

    async def after(room: Room) -> None:
        assert not list(room.sockets.iterdir())

    tell(story, after)


def test_a_dozing_replica_that_is_gone_is_not_waited_for(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = await asleep(room)
        (dozing,) = room.world.engine.dozing
        room.world.engine.end(dozing, 137, "killed")  # its connection has not heard of that yet
        answered = await ask(service)
        assert answered != dozing
        await until(lambda: dozing not in {path.name for path in room.sockets.iterdir()})

    tell(story)


def test_without_warm_interpreters_nothing_dozes_any_more(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = await asleep(room)
        (dozing,) = room.world.engine.dozing
        room.world.engine.forks = False
        room.world.dozers[dozing].close()  # as the engine ends it with what it was forked from
        await until(lambda: not service.dozes)
        await until(lambda: not room.world.running)
        assert await ask(service) != dozing

    tell(story)


def test_what_dozes_dies_with_its_server_and_the_next_one_clears_it_away(tell: Tell) -> None:
    async def crashes(room: Room) -> None:
        await asleep(room)
        warmth = room.services._replicas.warmth
        warmth._kept.clear()  # nobody says good-bye to it
        for task in warmth._tasks:
            task.cancel()

    async def after(room: Room) -> None:
        await until(lambda: not room.world.running)
        await until(lambda: not list(room.sockets.iterdir()))
        await until(lambda: not room.world.engine.statuses)

    tell(crashes, after)


def test_to_be_woken_takes_room_on_the_machine(tell: Tell) -> None:
    async def story(room: Room) -> None:
        service = await asleep(room)
        (dozing,) = room.world.engine.dozing
        other = room.keep(named("fn_2"), needs=Needs(memory_bytes=900 << 20), idle_seconds=0)
        await until(lambda: other.awake)
        with pytest.raises(Unavailable) as refused:
            await ask(service)
        assert "no room" in refused.value.message
        await until(lambda: dozing not in room.world.running)

    tell(story, memory=1 << 30)


H100 = [Gpu(f"GPU-{n}", "h100", "H100", 80 << 30) for n in range(2)]


def test_a_replica_has_gpus_of_its_own_until_it_ends_and_no_job_gets_them_meanwhile(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.engine.machine = Capacity(4, 8 << 30, [*H100, Gpu("GPU-a", "a100", "A100", 80 << 30)])
        service = room.keep(needs=Needs(0, 1 << 20, 1, "h100"), most=3, concurrency=1)
        room.world.shut = True
        asked = [asyncio.create_task(ask(service)) for _ in range(3)]
        await until(lambda: len(room.world.running) == 2)
        await until(lambda: service.waiting == 1)  # the third h100 is none
        given = [room.world.engine.specs[one].gpus for one in room.world.running]
        assert sorted(map(list, given)) == [["GPU-0"], ["GPU-1"]]
        seen = room.world.engine.specs[room.world.running[0]].env["CUDA_VISIBLE_DEVICES"]
        assert seen in {"GPU-0", "GPU-1"}
        _, _, held = room.database.read_now(in_use)
        assert held == {"GPU-0", "GPU-1"}
        for replica in room.world.replicas.values():
            replica.gate.set()
        await asyncio.gather(*asked)
        assert not room.world.engine.warmed  # nobody dozes on a GPU
        await room.services.end(service)
        assert room.database.read_now(in_use)[2] == set()
        plain = room.keep(named("fn_2"))
        room.world.shut = False
        await ask(plain)
        spec = room.world.engine.specs[room.world.running[0]]
        assert (list(spec.gpus), spec.env["CUDA_VISIBLE_DEVICES"]) == ([], "")

    tell(story)


def test_gpus_that_could_never_be_given_are_refused(tell: Tell) -> None:
    async def story(room: Room) -> None:
        room.world.engine.machine = Capacity(4, 8 << 30, H100)
        await room.services.check(Scaling(), Needs(gpus=2))
        for needs, least, said in (
            (Needs(gpus=3), 0, "1 replica of 3 GPUs, and there is 2 h100"),
            (Needs(gpus=1), 3, "3 replicas of 1 GPU"),
            (Needs(gpus=1, gpu_type="a100"), 0, "1 GPU of type a100"),
            (Needs(gpu_type="h100"), 0, "no GPU asked for"),
        ):
            with pytest.raises(Invalid, match=said):
                await room.services.check(Scaling(least=least, most=4), needs)

    tell(story)
