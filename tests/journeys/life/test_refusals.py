"""Starts that must fail clearly: a database from the future, a damaged one, a damaged master key."""

import sqlite3

from platform_server import PlatformServer


def _refused(server: PlatformServer) -> str:
    done = server.cli("up", "--detach", "--port", str(server.port), check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_newer_database_is_left_alone(fresh_server: PlatformServer) -> None:
    fresh_server.down()
    path = fresh_server.home / "db" / "stratal.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert "newer Stratal" in _refused(fresh_server)


def test_what_breaks_at_start_is_said(fresh_server: PlatformServer) -> None:
    fresh_server.down()
    with sqlite3.connect(fresh_server.home / "db" / "stratal.db") as connection:
        connection.execute("DROP TABLE projects")
    connection.close()
    assert "server.log" in _refused(fresh_server) or "projects" in _refused(fresh_server)


def test_a_damaged_master_key_is_not_replaced(fresh_server: PlatformServer) -> None:
    fresh_server.down()
    key = fresh_server.home / "keys" / "master.key"
    key.write_text("nonsense\n")
    assert "master key" in _refused(fresh_server)
    assert key.read_text() == "nonsense\n"
