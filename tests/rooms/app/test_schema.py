"""The migrations make exactly the tables that the rooms declare."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from stratal.app.schema import current_revision, ensure_schema, newest_revision
from stratal.app.tables import metadata

pytestmark = pytest.mark.fast


def test_migrations_match_the_declared_tables(tmp_path: Path) -> None:
    """After a change of tables: .venv/bin/python scripts/new_revision.py "what changes"."""
    path = tmp_path / "t.db"
    assert current_revision(path) is None
    ensure_schema(path)
    assert current_revision(path) == newest_revision()
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_an_up_to_date_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    ensure_schema(path)
    before = path.read_bytes()
    ensure_schema(path)
    assert path.read_bytes() == before
