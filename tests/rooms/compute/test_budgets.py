"""A project's budget: jobs reserve from it, are refused when it is used up, and are stopped where it says so."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
from sqlalchemy import select

from stratal.compute.engine import Usage
from stratal.compute.metered import RunningJobs
from stratal.compute.model import JobSpec
from stratal.kernel.errors import OverBudget, Unavailable
from stratal.ledger.budgets import Budgets
from stratal.ledger.meter import Meter
from stratal.ledger.metering import month_of
from stratal.ledger.prices import Prices
from stratal.ledger.tables import spending, usage

from .room import Room

pytestmark = pytest.mark.fast
InRoom = Callable[[Callable[[Room], Awaitable[None]]], None]


class Watch:
    """Budgets over a room, watched by its meter; `look` is what the meter does every other second."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.meter = Meter(room.database, lambda: room.now)
        self.meter.follow(RunningJobs(room.database, room.workloads))
        self.budgets = Budgets(room.database, lambda: room.now, "USD")
        self.budgets.heed(room.jobs.heed)

    async def price(self, cpu_hour: str) -> None:
        await Prices(self.room.database, lambda: self.room.now, "USD").set(
            self.room.admin, "cpu_hour", cpu_hour
        )

    async def set(self, amount: str, *, stops: bool = False) -> None:
        await self.budgets.set(self.room.admin, "prj_a", amount, stops=stops)

    async def used(self, attempt_id: str, cpu_seconds: float) -> None:
        statuses = self.room.engine.statuses
        so_far = Usage(cpu_seconds, 0, cpu_seconds, 0.0)
        statuses[attempt_id] = replace(statuses[attempt_id], usage=so_far)
        self.room.now += int(cpu_seconds * 1000)
        await self.look()

    async def look(self) -> None:
        await self.meter.write_all()
        await self.budgets.look()

    def news(self) -> list[str]:
        from stratal.kernel.events import outbox

        query = select(outbox.c.kind).where(outbox.c.kind.like("budget.%")).order_by(outbox.c.seq)
        return list(self.room.database.read_now(lambda c: c.execute(query).scalars().all()))


def test_a_runaway_job_is_warned_of_then_stopped_and_new_ones_are_refused(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        watch = Watch(room)
        await watch.price("3.60")  # a thousandth a second
        await watch.set("0.02", stops=True)
        job = await room.submit(cpus=1, grace_seconds=0, retries=3)
        await room.until(job, "running")
        await watch.used("job-1-1", 15)
        assert watch.news() == ["budget.set"]
        await watch.used("job-1-1", 17)
        await watch.look()
        assert watch.news() == ["budget.set", "budget.warned"]
        assert room.engine.stopped == []
        await watch.used("job-1-1", 21)
        assert watch.news() == ["budget.set", "budget.warned", "budget.used_up"]
        with pytest.raises(OverBudget, match=r"0\.021 of 0\.02 spent"):
            await room.submit()
        room.engine.end("job-1-1", 143, at=room.now)
        ended = await room.until(job, "failed")
        assert "budget of project 'a'" in ended.reason
        assert room.engine.stopped == ["job-1-1"]
        await watch.set("1.00")
        await room.submit()
        # The ledger's rows add up to what the budget is held against, to the last digit.
        rows = room.database.read_now(lambda c: c.execute(select(usage.c.amount)).scalars().all())
        spent = room.database.read_now(lambda c: c.execute(select(spending)).one())
        assert (spent.amount, spent.month) == (sum(rows), month_of(room.now))

    in_room(story)


def test_what_runs_goes_on_where_the_budget_does_not_stop_it(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        watch = Watch(room)
        await watch.price("3.60")
        await watch.set("0.02")
        job = await room.submit(cpus=1, grace_seconds=0)
        await room.until(job, "running")
        await watch.used("job-1-1", 30)
        with pytest.raises(OverBudget):
            await room.submit()
        assert room.engine.stopped == []
        room.engine.end("job-1-1", 0, at=room.now)
        await room.until(job, "succeeded")

    in_room(story)


def test_one_that_alone_would_reserve_more_than_is_left_starts_but_no_second_beside_it(
    in_room: InRoom,
) -> None:
    async def story(room: Room) -> None:
        watch = Watch(room)
        await watch.price("3.60")
        await watch.set("0.005", stops=True)
        first, second = [await room.submit(cpus=1, memory_bytes=2**24) for _ in range(2)]
        await room.until(first, "running")
        assert (await room.jobs.get(room.ann, "prj_a", second.id)).state == "queued"
        await watch.used("job-1-1", 6)
        room.engine.end("job-1-1", 143, at=room.now)
        await room.until(first, "failed")
        _, told = await room.jobs.why(room.ann, "prj_a", second.id)
        assert [wait.what for wait in told] == ["budget"]
        assert room.engine.starts == ["job-1-1"]

    in_room(story)


def test_many_at_once_start_only_as_far_as_their_reservations_fit(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        watch = Watch(room)
        room.engine.machine = replace(room.engine.machine, cpus=100)
        await watch.price("3.60")
        await watch.set("0.05", stops=True)
        # Each reserves ten seconds and its grace of five, on one processor: 0.015.
        made = [await room.submit(cpus=1, memory_bytes=2**24, grace_seconds=5) for _ in range(10)]
        for job in made[:3]:
            await room.until(job, "running")
        assert len(room.engine.starts) == 3
        _, told = await room.jobs.why(room.ann, "prj_a", made[3].id)
        assert [wait.what for wait in told] == ["budget"], told
        assert "0.005 of it are left" in told[0].words
        # A cheaper one of another project is not held up.
        other = await room.jobs.submit(room.bob, "prj_b", JobSpec(("true",)))
        while (await room.jobs.get(room.bob, "prj_b", other.id)).state != "running":
            await room.reconciler.changed.wait(0.01)
        room.engine.end("job-1-1", 0, at=room.now)
        await room.until(made[3], "running")

    in_room(story)


def test_a_stop_that_was_decided_is_carried_out_by_the_next_server(in_room: InRoom) -> None:
    async def story(room: Room) -> None:
        watch = Watch(room)
        await watch.price("3.60")
        await watch.set("0.02", stops=True)
        job = await room.submit(cpus=1, grace_seconds=5, retries=3)
        await room.until(job, "running")

        async def deaf(attempt_id: str, grace_seconds: float) -> None:
            raise Unavailable("The keeper does not answer.")

        room.engine.stop = deaf  # type: ignore[method-assign]
        await watch.used("job-1-1", 21)
        assert (await room.jobs.get(room.ann, "prj_a", job.id)).stop_requested_at == room.now
        await room.kill()
        del room.engine.stop
        await room.start()  # and nobody has looked at the budget yet
        ended = await room.until(job, "failed")
        assert "used up" in ended.reason
        assert (ended.attempt, room.engine.starts, room.engine.stopped) == (1, ["job-1-1"], ["job-1-1"])

    in_room(story)
