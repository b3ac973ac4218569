"""The price table: who may set what for when, and what holds at a moment."""

import asyncio

import pytest

from stratal.identity.model import Role
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound
from stratal.kernel.events import Events
from stratal.ledger.prices import EXAMPLES, PriceTable

from .books import ADMIN, HOUR, START, Books, member


def test_a_new_instance_begins_with_the_examples_and_keeps_what_an_admin_set(books: Books) -> None:
    books.prices.lay_out()
    asyncio.run(books.prices.set(ADMIN, "cpu_hour", "0.07"))
    books.prices.lay_out()
    found = asyncio.run(books.prices.list(member("b")))
    assert {price.name for price in found} == set(EXAMPLES)
    mine = [(p.nano, p.since, p.until) for p in found if p.name == "cpu_hour"]
    assert mine == [(40_000_000, 0, START), (70_000_000, START, None)]


def test_prices_are_set_by_admins_and_for_the_time_to_come(books: Books) -> None:
    async def story() -> None:
        for role in (Role.VIEWER, Role.OWNER):
            with pytest.raises(Denied):
                await books.prices.set(member("a", role), "cpu_hour", "0.01")
        for name, amount, since in (
            ("lunch", "1", None),
            ("cpu_hour", "-1", None),
            ("cpu_hour", "1", START - 1),
            ("cpu_hour", "1", 2**60),
        ):
            with pytest.raises(Invalid):
                await books.prices.set(ADMIN, name, amount, since)
        assert await books.prices.list(ADMIN) == []
        assert await Events(books.database).after(2) == []
        await books.prices.set(ADMIN, "cpu_hour", "1", START + HOUR)
        again = await books.prices.set(ADMIN, "cpu_hour", "2", START + HOUR)
        assert [p.nano for p in await books.prices.list(ADMIN)] == [again.nano] == [2 * 10**9]

    asyncio.run(story())


def test_a_price_that_has_begun_stays(books: Books) -> None:
    async def story() -> None:
        await books.prices.set(ADMIN, "cpu_hour", "1")
        await books.prices.set(ADMIN, "cpu_hour", "2", START + HOUR)
        with pytest.raises(Conflict):
            await books.prices.remove(ADMIN, "cpu_hour", START)
        with pytest.raises(NotFound):
            await books.prices.remove(ADMIN, "cpu_hour", START + 1)
        with pytest.raises(Denied):
            await books.prices.remove(member("a", Role.OWNER), "cpu_hour", START + HOUR)
        await books.prices.remove(ADMIN, "cpu_hour", START + HOUR)
        assert [p.nano for p in await books.prices.list(ADMIN)] == [10**9]
        kinds = [event.kind for event in await Events(books.database).after(2)]
        assert kinds == ["price.set", "price.set", "price.removed"]

    asyncio.run(story())


def test_what_holds_at_a_moment() -> None:
    table = PriceTable({"gpu_hour": [(0, 1), (100, 2)], "gpu_hour:h100": [(50, 9)]})
    assert [table.at("gpu:h100", t) for t in (0, 49, 50, 150)] == [1, 1, 9, 9]
    assert [table.at("gpu:a10", t) for t in (0, 99, 100)] == [1, 1, 2]
    assert table.at("cpu", 5) == 0
    assert table.changes("gpu:h100", 0, 100) == [50]
    assert table.last_change("gpu:h100", 120) == 100
