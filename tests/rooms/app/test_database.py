"""A home and its PostgreSQL database belong together, and neither goes on with another."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from postgres_server import PostgresServer
from stratal.app.database import open_database, read_bond
from stratal.app.schema import newest_revision, revision_in
from stratal.app.settings import Home, Settings
from stratal.app.tables import metadata
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict


@pytest.fixture
def url(postgres: PostgresServer) -> str:
    return postgres.tcp_url(postgres.create())


@pytest.fixture
def at(tmp_path: Path) -> Iterator[Callable[..., Settings]]:
    def settings(url: str | None, name: str = "home") -> Settings:
        home = Home(tmp_path / name)
        home.make()
        return Settings(home, database_url=url)

    return settings


def test_the_revisions_make_the_declared_tables_on_postgresql_too(
    at: Callable[..., Settings], url: str
) -> None:
    database = open_database(at(url))
    assert database.read_now(lambda c: compare_metadata(MigrationContext.configure(c), metadata)) == []
    assert database.read_now(revision_in) == newest_revision()
    unsorted = text(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND data_type IN ('text', 'character varying') AND collation_name IS DISTINCT FROM 'C' "
        "AND table_name <> 'alembic_version'"
    )
    assert database.read_now(lambda c: c.execute(unsorted).all()) == []
    database.close()


def test_a_home_finds_its_database_again(at: Callable[..., Settings], url: str) -> None:
    open_database(at(url)).close()
    bond = read_bond(at(url).home)
    assert bond is not None
    assert bond.sealed
    open_database(at(url)).close()
    assert read_bond(at(url).home) == bond


def test_neither_the_url_nor_the_file_shows_the_password(at: Callable[..., Settings], url: str) -> None:
    settings = at(url)
    database = open_database(settings)
    password = url.partition("stratal:")[2].partition("@")[0]
    shown = [database.name, repr(settings), *(p.read_text() for p in settings.home.root.rglob("*.json"))]
    assert database.name in json.loads(shown[2])["database"]
    for text_ in shown:
        assert password not in text_
        assert PostgresServer.password not in text_
    database.close()


def test_a_home_does_not_go_on_without_its_database(at: Callable[..., Settings], url: str) -> None:
    open_database(at(url)).close()
    with pytest.raises(Conflict, match="are in the database at postgresql://") as raised:
        open_database(at(None))
    assert raised.value.reason == "other_database"
    assert not at(None).home.database.exists()


def test_a_home_on_sqlite_does_not_change_to_postgresql_unnoticed(
    at: Callable[..., Settings], url: str
) -> None:
    open_database(at(None)).close()
    with pytest.raises(Conflict, match="not in PostgreSQL"):
        open_database(at(url))


def test_another_home_is_refused_and_changes_nothing(at: Callable[..., Settings], url: str) -> None:
    open_database(at(url)).close()
    with pytest.raises(Conflict, match="belongs to another data directory"):
        open_database(at(url, "other"))
    assert read_bond(at(url, "other").home) is None
    open_database(at(url)).close()


def test_another_database_is_refused(at: Callable[..., Settings], postgres: PostgresServer, url: str) -> None:
    open_database(at(url)).close()
    empty = postgres.tcp_url(postgres.create())
    with pytest.raises(Conflict, match="is empty, but"):
        open_database(at(empty))
    database = Database(empty)
    assert database.read_now(revision_in) is None
    database.close()


def test_somebody_elses_tables_are_left_alone(at: Callable[..., Settings], url: str) -> None:
    database = Database(url)
    database.write_now(lambda c: c.execute(text("CREATE TABLE orders (id int)")))
    database.close()
    with pytest.raises(Conflict, match="not Stratal's"):
        open_database(at(url))


@pytest.mark.parametrize("row_was_written", [False, True])
def test_killed_at_their_first_meeting_the_next_start_goes_on(
    at: Callable[..., Settings], url: str, row_was_written: bool
) -> None:
    settings = at(url)
    open_database(settings).close()
    file = settings.home.database.with_name("postgresql.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "sealed": False}))
    if not row_was_written:
        database = Database(url)
        database.write_now(lambda c: c.execute(text("DELETE FROM instance")))
        database.close()
    open_database(settings).close()
    bond = read_bond(settings.home)
    assert bond is not None
    assert bond.sealed


def test_a_database_of_a_newer_version_is_refused(at: Callable[..., Settings], url: str) -> None:
    open_database(at(url)).close()
    database = Database(url)
    database.write_now(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    database.close()
    with pytest.raises(Conflict, match="written by a newer Stratal"):
        open_database(at(url))
