"""The migrations make exactly the tables that the rooms declare."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text

from stratal.app import schema
from stratal.app.schema import MIGRATIONS, current_revision, ensure_schema, newest_revision
from stratal.app.tables import metadata


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


def at_revision(path: Path, revision: str) -> None:
    """Make a database as an earlier Stratal left it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}")
    command.upgrade(config, revision)


def test_jobs_of_an_earlier_home_keep_their_logs_as_their_attempts(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    at_revision(path, "0001")
    engine = create_engine(f"sqlite:///{path}")
    job = {
        **dict.fromkeys(("name", "argv", "env", "network", "requirements", "cwd", "source"), ""),
        **dict.fromkeys(("created_by", "creator_id", "creator_name", "creator_role", "reason"), "x"),
        **dict.fromkeys(("cpus", "memory_bytes", "upgrade_environment", "fence", "queued_at"), 1),
        **{"project_id": "prj_a", "usage": "{}", "log_blob": "blob_1", "log_bytes": 3},
    }
    rows = [
        {**job, "id": 4, "state": "failed", "attempt": 1, "exit_code": 7},
        {**job, "id": 5, "state": "queued", "attempt": 0, "exit_code": None, "log_blob": None},
    ]
    columns = ", ".join(rows[0])
    values = ", ".join(f":{name}" for name in rows[0])
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO projects (id, name, created_at, created_by) VALUES ('prj_a', 'a', 0, '')")
        )
        connection.execute(text(f"INSERT INTO jobs ({columns}) VALUES ({values})"), rows)
    ensure_schema(path)
    with engine.begin() as connection:
        told = connection.execute(text("SELECT job_id, number, state, exit_code, log_blob FROM job_attempts"))
        assert [tuple(row) for row in told] == [(4, 1, "failed", 7, "blob_1")]
        assert connection.execute(text("SELECT turn, priority FROM jobs WHERE id = 5")).one() == (1, 0)
        connection.execute(text("DELETE FROM job_attempts"))
        connection.execute(text("DELETE FROM jobs"))
        again = connection.execute(
            text(
                f"INSERT INTO jobs ({', '.join(c for c in job if c != 'log_blob')}, state, attempt)"
                f" VALUES ({', '.join(':' + c for c in job if c != 'log_blob')}, 'queued', 0) RETURNING id"
            ),
            job,
        )
        assert again.scalar_one() == 6, "an id is never used again"
    engine.dispose()


def test_endpoints_of_an_earlier_home_keep_their_replicas_and_how_they_were_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    at_revision(path, "0001")
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO projects (id, name, created_at, created_by) VALUES ('prj_a', 'a', 0, '')",
            "INSERT INTO endpoints (id, project_id, name, idle_ms, stopped, active_revision, created_at, created_by)"
            " VALUES ('ep_1', 'prj_a', 'e', 5000, 0, 7, 0, '')",
            "INSERT INTO endpoint_revisions (seq, endpoint_id, number, model_version_id, model_name, model_version,"
            " files, plan, requirements, state, failure, created_at, created_by)"
            " VALUES (7, 'ep_1', 1, 'mv', 'm', '1', '[]', '{}', '', 'active', '', 0, '')",
            "INSERT INTO replicas (id, revision, started_at, ended_at, exit_code, reason, log_blob)"
            " VALUES ('rep-1', 7, 1, 2, 137, 'killed', 'blob_1'), ('rep-2', 7, 3, NULL, NULL, '', NULL)",
        ):
            connection.execute(text(statement))
    ensure_schema(path)
    with engine.begin() as connection:
        moved = connection.execute(
            text(
                "SELECT id, kind, owner_id, version, ended_at, exit_code, log_blob FROM service_replicas ORDER BY id"
            )
        )
        assert [tuple(row) for row in moved] == [
            ("rep-1", "endpoint", "ep_1", "7", 2, 137, "blob_1"),
            ("rep-2", "endpoint", "ep_1", "7", None, None, None),
        ]
        kept = connection.execute(
            text("SELECT least, most, concurrency, idle_ms, shares FROM endpoints")
        ).one()
        assert tuple(kept) == (0, 1, 64, 5000, "{}")
    engine.dispose()


_TWO_CHANGES = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "9999", {last!r}


def upgrade():
    with op.batch_alter_table("jobs") as batch:
        batch.add_column(sa.Column("first", sa.Text()))
    op.create_table("second", sa.Column("id", sa.Text(), primary_key=True))
    {then}
"""


def test_an_upgrade_that_is_cut_off_changes_nothing_and_is_done_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "stratal.db"
    ensure_schema(path)
    last = newest_revision()
    revisions = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, revisions)
    monkeypatch.setattr(schema, "MIGRATIONS", revisions)
    cut = revisions / "versions" / "9999_cut.py"
    cut.write_text(_TWO_CHANGES.format(last=last, then="raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        ensure_schema(path)
    monkeypatch.undo()
    ensure_schema(path)  # the same program as before still finds its own schema
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(last,)]
        columns = [row[1] for row in connection.execute("PRAGMA table_info(jobs)")]
        assert "first" not in columns
    monkeypatch.setattr(schema, "MIGRATIONS", revisions)
    cut.write_text(_TWO_CHANGES.format(last=last, then=""))
    ensure_schema(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM second").fetchone() == (0,)
    assert current_revision(path) == "9999"
