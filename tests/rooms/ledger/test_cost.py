"""What is written down adds up: whatever the order, the slices, the repeats, the hours and the prices."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stratal.kernel.errors import Invalid, NotFound
from stratal.ledger.cost import By
from stratal.ledger.metering import Running, month_of
from stratal.ledger.prices import load
from stratal.ledger.units import cost_of, shown

from .books import ADMIN, HOUR, START, Books, attempt, member

RESOURCES = ("cpu", "memory", "wall", "gpu:h100")


@dataclass(frozen=True)
class Slice:
    """After `wait` ms the attempt `who` has used `more` (units of each resource) more, and says so `times` times."""

    wait: int
    who: int
    more: tuple[int, ...]
    times: int


@dataclass(frozen=True)
class NewPrice:
    """After `wait` ms a price is set, to begin `ahead` ms later."""

    wait: int
    name: str
    price: str
    ahead: int


waits = st.one_of(st.integers(0, 5000), st.integers(0, 30 * HOUR))
slices = st.builds(
    Slice,
    waits,
    st.integers(0, 3),
    st.tuples(*(st.integers(0, 10**12) for _ in RESOURCES)),
    st.integers(1, 2),
)
new_prices = st.builds(
    NewPrice,
    waits,
    st.sampled_from(["cpu_hour", "memory_gib_hour", "gpu_hour", "gpu_hour:h100", "wall_hour"]),
    st.decimals(0, 100, places=9).map(lambda d: f"{d:.9f}"),
    st.integers(0, 3 * HOUR),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(slices, slices, new_prices), max_size=12))
def test_the_rows_are_the_total_whatever_happened(books: Books, story: list[Slice | NewPrice]) -> None:
    books.clear()
    books.prices.lay_out()
    used: dict[int, list[int]] = defaultdict(lambda: [0] * len(RESOURCES))
    began: dict[int, int] = {}
    for event in story:
        books.now += event.wait
        if isinstance(event, NewPrice):
            before = books.rows()
            asyncio.run(books.prices.set(ADMIN, event.name, event.price, books.now + event.ahead))
            assert books.rows() == before
            continue
        began.setdefault(event.who, books.now)
        used[event.who] = [a + b for a, b in zip(used[event.who], event.more, strict=True)]
        for _ in range(event.times):
            books.measure(_attempt(event.who, used[event.who], began[event.who]))
    rows = books.rows()
    table = books.database.read_now(load)
    for row in rows:
        assert row.price == table.at(row.resource, row.started_at)
        assert row.amount == cost_of(row.resource, row.quantity, row.price)
        assert row.started_at // HOUR == max(row.started_at, row.ended_at - 1) // HOUR
    for who, quantities in used.items():
        mine = [row for row in rows if row.source == _attempt(who, [], 0).source]
        for resource, quantity in zip(RESOURCES, quantities, strict=True):
            assert sum(row.quantity for row in mine if row.resource == resource) == quantity
    total = sum(row.amount for row in rows)
    months: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        months[row.project_id, month_of(row.started_at)] += row.amount
    assert {k: v for k, v in books.spent().items() if v} == {k: v for k, v in months.items() if v}
    for by in get_args(By):
        report = asyncio.run(books.costs.report(ADMIN, None, by, 0, None))
        assert report.total == total == sum(cost.amount for cost in report.costs)
        assert len({(cost.name, cost.project) for cost in report.costs}) == len(report.costs)


def _attempt(who: int, used: list[int], since: int) -> Running:
    source = ("job-1-1", "job-1-2", "rep-2-x", "job-3-1")[who]
    quantities = dict(zip(RESOURCES, used, strict=False))
    return attempt(source, quantities, project="ab"[who % 2], person=f"p{who // 2}", since=since)


def test_usage_across_a_price_is_split_at_the_price(books: Books) -> None:
    async def story() -> None:
        await books.prices.set(ADMIN, "cpu_hour", "1")
        await books.prices.set(ADMIN, "cpu_hour", "3", START + HOUR // 2)

    asyncio.run(story())
    books.now = START + HOUR
    books.measure(attempt("job-1-1", {"cpu": 3600 * 10**6, "wall": 3600 * 10**6}))
    cpu = [(row.started_at, shown(row.amount)) for row in books.rows() if row.resource == "cpu"]
    assert cpu == [(START, "0.50"), (START + HOUR // 2, "1.50")]


def test_what_runs_is_told_apart_and_is_in_no_total(books: Books) -> None:
    asyncio.run(books.prices.set(ADMIN, "cpu_hour", "3600"))
    books.now = START + 10_000
    running = attempt("job-1-1", {"cpu": 4 * 10**6, "wall": 10**7})
    books.measure(running)
    books.running = [
        replace(running, used={"cpu": 9 * 10**6, "wall": 10**7}),
        attempt("job-2-1", {}, project="b"),
    ]
    report = asyncio.run(books.costs.report(ADMIN, None, "job", None, None))
    assert (report.total, [c.name for c in report.costs]) == (4 * 10**9, ["job:1"])
    assert report.so_far is not None
    assert [(c.name, c.amount) for c in report.so_far] == [("job:1", 5 * 10**9)]
    past = asyncio.run(books.costs.report(ADMIN, None, "job", START - HOUR, START))
    assert (past.total, past.costs, past.so_far) == (0, [], [])


def test_members_see_their_own_and_admins_all(books: Books) -> None:
    asyncio.run(books.prices.set(ADMIN, "cpu_hour", "3600"))
    books.now += 1000
    for number, project in enumerate("ab", 1):
        books.measure(attempt(f"job-{number}-1", {"cpu": number * 10**6}, project=project))

    async def story() -> None:
        every = await books.costs.report(ADMIN, None, "project", None, None)
        assert [(c.name, c.amount) for c in every.costs] == [("b", 2 * 10**9), ("a", 10**9)]
        mine = await books.costs.report(member("a"), None, "project", None, None)
        assert [(c.name, c.amount) for c in mine.costs] == [("a", 10**9)]
        with pytest.raises(NotFound):
            await books.costs.report(member("a"), "prj_b", "job", None, None)
        with pytest.raises(NotFound):
            await books.costs.rows(member("a"), "prj_b", None, None)
        rows, _ = await books.costs.rows(member("b"), None, None, None)
        assert [row.project for row in rows] == ["b"]
        with pytest.raises(Invalid):
            await books.costs.report(ADMIN, None, "project", START, START)

    asyncio.run(story())


def test_rows_are_paged_without_a_gap(books: Books) -> None:
    books.now = START + 5 * HOUR
    for number in range(3):
        used = {"cpu": 10**9, "wall": 5 * 3600 * 10**6}
        books.measure(attempt(f"job-{number}-1", used))
    seen, after = [], None
    while True:
        page, after = asyncio.run(books.costs.rows(ADMIN, None, 0, None, after=after, limit=7))
        seen += [(row.started_at, row.source, row.resource) for row in page]
        if after is None:
            break
    assert seen == sorted((r.started_at, r.source, r.resource) for r in books.rows())
    assert len(seen) == 30


def test_a_meter_writes_what_runs_and_what_passed_the_doors_once(books: Books) -> None:
    async def story() -> None:
        await books.prices.set(ADMIN, "transfer_out_gib", "1")
        books.now += 2000
        books.running = [attempt("job-1-1", {"cpu": 10**6, "wall": 2 * 10**6})]
        door = ("prj_a", "ann", "s3", "s3", "s3")
        books.meter.count(door, 5, 2**29)
        books.meter.count(door, 5, 2**29)
        await books.meter.write_all()
        await books.meter.write_all()
        books.now += 2000
        books.meter.count(door, 0, 2**30)
        await books.meter.write_all()

    asyncio.run(story())
    rows = {(row.source, row.resource): row for row in books.rows()}
    sent = rows["door:s3/prj_a/ann/s3", "sent"]
    assert (sent.quantity, shown(sent.amount), sent.person) == (2**31, "2.00", "ann")
    assert rows["door:s3/prj_a/ann/s3", "received"].quantity == 10
    assert rows["job-1-1", "cpu"].quantity == 10**6
    assert len(rows) == 4


def test_what_is_stored_costs_for_as_long_as_it_lies_there(books: Books) -> None:
    size = 512 * 2**20

    async def weigh() -> dict[str, int]:
        return {"prj_a": size}

    async def story() -> None:
        await books.prices.set(ADMIN, "storage_gib_month", "73")
        books.meter.weigh(weigh)
        await books.meter.write_stored()
        books.now += HOUR
        await books.meter.write_stored()
        await books.meter.write_stored()

    asyncio.run(story())
    assert [(r.resource, shown(r.amount), r.project) for r in books.rows()] == [("stored", "0.05", "a")]
