"""A ledger on a database of its own, with a clock that the test moves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select

from stratal.app.tables import metadata
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.projects import Project, insert_project
from stratal.kernel.database import Database
from stratal.ledger.cost import Costs
from stratal.ledger.meter import Meter
from stratal.ledger.metering import Account, Running, measure
from stratal.ledger.prices import Prices
from stratal.ledger.tables import prices, spending, usage

HOUR = 3_600_000
START = 1_795_000_000_000 // HOUR * HOUR  # 2026-11-18, on the hour
ADMIN = Principal(Kind.PERSON, "usr_1", "admin", "prj_a", "a", Role.ADMIN)


def member(project: str, role: Role = Role.VIEWER) -> Principal:
    return Principal(Kind.SERVICE, project, f"mel-{project}", f"prj_{project}", project, role)


def attempt(
    source: str, used: dict[str, int], *, project: str = "a", person: str = "ann", since: int = START
) -> Running:
    """An attempt ``job-1-2`` of job 1, with what it used so far."""
    kind, number = source.split("-")[:2]
    workload = f"{'job' if kind == 'job' else 'endpoint'}:{number}"
    return Running(Account(f"prj_{project}", person, workload, f"n{number}"), source, since, used)


class Books:
    """`now` is the time; `running` is what the engine would tell."""

    def __init__(self, folder: Path) -> None:
        self.now = START
        self.database = Database(folder / "books.db")
        self.database.write_now(metadata.create_all)
        for name in ("a", "b"):
            self.database.write_now(
                lambda c, n=name: insert_project(c, Project(f"prj_{n}", n, START), "test")
            )
        self.running: list[Running] = []
        self.prices = Prices(self.database, self._clock, "USD")
        self.meter = Meter(self.database, self._clock)
        self.meter.follow(self._runs)
        self.costs = Costs(self.database, self.meter, self._clock)

    def _clock(self) -> int:
        return self.now

    async def _runs(self) -> Sequence[Running]:
        return self.running

    def measure(self, running: Running) -> None:
        self.database.write_now(lambda c: measure(c, running, self.now))

    def clear(self) -> None:
        """Forget what was used, and every price."""
        for table in (usage, spending, prices):
            self.database.write_now(lambda c, t=table: c.execute(t.delete()))
        self.now = START

    def rows(self) -> list[Any]:
        return self.database.read_now(
            lambda c: list(c.execute(select(usage).order_by(usage.c.started_at, usage.c.source)).all())
        )

    def spent(self) -> dict[tuple[str, str], int]:
        return self.database.read_now(
            lambda c: {(row.project_id, row.month): row.amount for row in c.execute(select(spending))}
        )
