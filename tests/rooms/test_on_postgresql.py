"""The rooms' own tests once more, on PostgreSQL: a representative part each time, all of them in the soak."""

import subprocess
import sys
from pathlib import Path

import pytest

import postgres_server

ROOT = Path(__file__).parents[2]
# One of each kind of trouble: claims and fences, sums and upserts, compare-and-swap, listings in byte order, search.
PART = (
    "compute/test_jobs.py",
    "identity/test_keys.py",
    "kernel/test_database.py",
    "lake/test_catalog.py",
    "ledger",
    "objects/test_listing.py",
    "tracking/test_registry.py",
)


def hold_on_postgresql(*paths: str) -> None:
    if postgres_server.programs() is None:
        pytest.skip("PostgreSQL's programs (initdb, postgres) are not installed")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--database", "postgres", "-m", "not soak", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]


def test_a_part_of_the_rooms_holds_on_postgresql() -> None:
    hold_on_postgresql(*(f"tests/rooms/{path}" for path in PART))


@pytest.mark.soak
def test_every_room_holds_on_postgresql() -> None:
    hold_on_postgresql("tests/rooms")
