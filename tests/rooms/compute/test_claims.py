"""Claiming on PostgreSQL, where others change rows at the same time."""

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Text, insert, select

from postgres_server import PostgresServer
from stratal.app.tables import metadata
from stratal.compute.claims import at_hand
from stratal.compute.tables import jobs
from stratal.identity.projects import Project, insert_project
from stratal.kernel.database import Database


def a_job(number: int, state: str) -> dict[str, object]:
    row: dict[str, object] = {
        column.name: "{}" if isinstance(column.type, Text) else 0
        for column in jobs.columns
        if not column.nullable
    }
    return row | {"id": number, "project_id": "prj_a", "state": state}


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[Database]:
    opened = Database(postgres.url(postgres.create()))
    yield opened
    opened.close()


def test_a_job_that_somebody_is_changing_is_passed_over_and_the_others_are_taken(database: Database) -> None:
    def fill(c: Connection) -> None:
        metadata.create_all(c)
        insert_project(c, Project("prj_a", "a", 0), "test")
        c.execute(insert(jobs), [a_job(1, "queued"), a_job(2, "queued"), a_job(3, "cancelled")])

    database.write_now(fill)
    changing, go = threading.Event(), threading.Event()

    def change(c: Connection) -> None:
        c.execute(select(jobs.c.id).where(jobs.c.id == 1).with_for_update())
        changing.set()
        go.wait(60)

    other = database.submit(change)
    assert changing.wait(60)
    assert database.write_now(lambda c: at_hand(c, [1, 2, 3])) == [2]
    go.set()
    other.result(60)
    assert database.write_now(lambda c: at_hand(c, [1, 2, 3])) == [1, 2]
