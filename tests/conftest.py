"""What tests share: real servers, started by their real commands on empty homes, ended by pid."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import postgres_server
from platform_server import PlatformServer

# A busy machine makes any example slow; no test asserts on time.
settings.register_profile("stratal", deadline=None)
settings.load_profile("stratal")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=("sqlite", "postgres"),
        default="sqlite",
        help="what the rooms' tests stand on (default sqlite)",
    )


@pytest.fixture(scope="session")
def postgres() -> Iterator["postgres_server.PostgresServer"]:
    """A PostgreSQL server, where its programs are installed."""
    if postgres_server.programs() is None:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are not installed")
    running = postgres_server.PostgresServer()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformServer]:
    """One running platform for the whole session: make your own project in it (`server.project()`)."""
    running = PlatformServer(tmp_path_factory.mktemp("platform") / "home")
    running.up()
    yield running
    running.down()


@pytest.fixture
def fresh_server(tmp_path: Path) -> Iterator[PlatformServer]:
    """A platform of the test's own, for tests that kill or restart it."""
    running = PlatformServer(tmp_path / "home")
    running.up()
    yield running
    running.down()
