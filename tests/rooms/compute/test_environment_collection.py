"""Environments nobody refers to lose their folders, not their locks."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import insert

from stratal.app.tables import metadata
from stratal.compute.environments import Environments
from stratal.compute.tables import environments
from stratal.kernel.clock import system_clock
from stratal.kernel.database import Database
from stratal.stores.local import LocalBlobs

pytestmark = pytest.mark.fast


class NoWorkloads:
    """Nothing is built here."""


def test_only_what_is_not_referred_to_goes(tmp_path: Path) -> None:
    database = Database(tmp_path / "t.db")
    database.write_now(metadata.create_all)
    root = tmp_path / "envs"
    for letter in "ab":
        folder = root / (letter * 32)
        folder.mkdir(parents=True)
        (folder / ".ready").touch()
        row = {
            "id": letter * 64,
            "lock_blob": "x",
            "python": "3",
            "platform": "p",
            "packages": 1,
            "created_at": 0,
        }
        database.write_now(lambda c, row=row: c.execute(insert(environments).values(row)))
    blobs = LocalBlobs(tmp_path / "blobs")
    service = Environments(
        database,
        blobs,
        NoWorkloads(),  # type: ignore[arg-type]
        root,
        system_clock,
        uv=Path("uv"),
        sources=dict,
    )

    async def story() -> int:
        gone = await service.collect(lambda c: {"a" * 64})
        await blobs.close()
        return gone

    assert asyncio.run(story()) == 1
    assert (root / ("a" * 32) / ".ready").exists()
    assert not (root / ("b" * 32)).exists()
    assert list((root / ".building").iterdir()) == []
    database.close()
