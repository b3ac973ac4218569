"""What tests share: a real server, started by its real command on an empty home, ended by pid."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from platform_server import PlatformServer

# A busy machine makes any example slow; no test asserts on time.
settings.register_profile("stratal", deadline=None)
settings.load_profile("stratal")


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
