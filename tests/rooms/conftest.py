"""The rooms' tests run on SQLite, and with ``--database postgres`` those that use a database run on PostgreSQL."""

import inspect
from collections.abc import Iterator

import pytest

from databases import OnPostgres, standing_on

_LEAD_TO_A_DATABASE = {"Database", "Room", "Wired", "World"}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--database") == "postgres":
        chosen = [item for item in items if _uses_a_database(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = chosen


def _uses_a_database(item: pytest.Item) -> bool:
    """Do its module, or those of its fixtures, know of anything that stands on a database?"""
    if not isinstance(item, pytest.Function):
        return True
    fixtures = [found for several in item._fixtureinfo.name2fixturedefs.values() for found in several]
    modules = [inspect.getmodule(fixture.func) for fixture in fixtures]
    return any(_LEAD_TO_A_DATABASE & vars(module).keys() for module in (item.module, *modules) if module)


@pytest.fixture(scope="session", autouse=True)
def database_of_the_run(request: pytest.FixtureRequest) -> Iterator[OnPostgres | None]:
    if request.config.getoption("--database") == "sqlite":
        yield None
        return
    with standing_on(request.getfixturevalue("postgres")) as here:
        yield here


@pytest.fixture(autouse=True)
def databases_of_the_test(database_of_the_run: OnPostgres | None) -> Iterator[None]:
    if database_of_the_run is None:
        yield
        return
    with database_of_the_run.borrowed():
        yield
