from collections.abc import Iterator
from pathlib import Path

import pytest

from .books import Books


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = Books(tmp_path)
    yield made
    made.database.close()
