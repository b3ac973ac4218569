"""The meter: sees to it that what runs and what passes the doors gets into the ledger while it happens.

Attempts are written down in slices, so that a budget hears of them while they run and a killed server loses
nothing: the engine's account of an attempt goes on without us, and `metering.measure` writes what is missing.
Bytes through the doors are counted in memory and written every few seconds; a `kill -9` loses those few.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from sqlalchemy import Connection, func, select

from stratal.identity.tables import projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import StratalError
from stratal.ledger import metering
from stratal.ledger.metering import Account, Running
from stratal.ledger.prices import load
from stratal.ledger.tables import usage

log = logging.getLogger("stratal.ledger")

Source = Callable[[], Awaitable[Sequence[Running]]]
"""What runs now, with what it used so far. Raises `Unavailable` when the engine cannot be asked."""
Weigh = Callable[[], Awaitable[Mapping[str, int]]]
"""The bytes that a room stores, by project id."""
Door = tuple[str, str, str, str, str]
"""Who came through which door: project id, person, workload, name, door."""

SLICE_SECONDS = 60.0
WATCHED_SECONDS = 2.0
"""How often what runs is written down, and how often where a budget watches."""
WEIGH_SECONDS = 600.0


class Meter:
    """`follow` and `weigh` before `start`; `close` writes down what is known by then."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._sources: list[Source] = []
        self._weighed: list[Weigh] = []
        self._doors: dict[Door, list[int]] = {}
        self._since = self._began = clock()
        self._written: dict[str, Mapping[str, int]] = {}
        self._task: asyncio.Task[None] | None = None
        self._watched: Callable[[], Collection[str]] = frozenset
        self._after: Callable[[], Awaitable[None]] | None = None

    def follow(self, source: Source) -> None:
        """Have a room's attempts metered while they run."""
        self._sources.append(source)

    def weigh(self, store: Weigh) -> None:
        """Have the bytes that a room stores metered."""
        self._weighed.append(store)

    def watch(self, projects: Callable[[], Collection[str]], after: Callable[[], Awaitable[None]]) -> None:
        """Look every other second after these projects' attempts, and call `after` each time."""
        self._watched, self._after = projects, after

    async def start(self) -> None:
        self._since = self._began = self._clock()
        self._task = asyncio.create_task(self._run(), name="ledger: meter")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(StratalError):
            await self.write_all()
        await self.write_doors()
        await self.write_stored()

    def count(self, door: Door, received: int, sent: int) -> None:
        """Note bytes that passed a door. Memory only: every request comes by here."""
        known = self._doors.get(door)
        if known is None:
            self._doors[door] = [received, sent]
        else:
            known[0] += received
            known[1] += sent

    # -- looking -------------------------------------------------------------------------------

    async def running(self) -> list[Running]:
        """Everything that runs now, with its usage as its engine tells it. Raises `Unavailable`."""
        found: list[Running] = []
        for source in self._sources:
            found.extend(await source())
        return found

    # -- writing -------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        slice_at, weigh_at = loop.time() + SLICE_SECONDS, loop.time()
        while True:
            try:
                if loop.time() >= slice_at:
                    slice_at = loop.time() + SLICE_SECONDS
                    await self.write_all()
                elif watched := self._watched():
                    running = [r for r in await self.running() if r.account.project_id in watched]
                    await self._write_down(running)
                    await self.write_doors(watched)
                if loop.time() >= weigh_at:
                    weigh_at = loop.time() + WEIGH_SECONDS
                    await self.write_stored()
                if self._after is not None:
                    await self._after()
            except StratalError as error:
                log.warning("usage cannot be metered right now: %s", error)
            except Exception:
                log.exception("metering failed")
            await asyncio.sleep(WATCHED_SECONDS)

    async def write_all(self) -> None:
        """Write down what runs and what passed the doors, as it stands. Raises `Unavailable`."""
        running = await self.running()
        await self._write_down(running)
        self._written = {r.source: r.used for r in running}
        await self.write_doors()

    async def _write_down(self, running: Sequence[Running]) -> None:
        """One transaction for all whose usage grew since it was last written."""
        grown = [r for r in running if self._written.get(r.source) != r.used]
        if not grown:
            return
        now = self._clock()

        def work(c: Connection) -> None:
            for one in grown:
                metering.measure(c, one, now)

        await self._database.write(work)
        self._written |= {r.source: r.used for r in grown}

    async def write_doors(self, projects: Collection[str] | None = None) -> None:
        """Write down the bytes counted since the last time; of these projects only, when given."""
        now, since = self._clock(), self._since
        taken = {door: self._doors[door] for door in self._doors if projects is None or door[0] in projects}
        if projects is None:
            self._since = now
        if not taken:
            return
        for door in taken:
            del self._doors[door]

        def work(c: Connection) -> None:
            table = load(c)
            for (project_id, person, workload, name, door), (received, sent) in taken.items():
                account = Account(project_id, person, workload, name)
                source = f"door:{door}/{project_id}/{person}/{workload}"
                for resource, size in (("received", received), ("sent", sent)):
                    metering.add(c, table, account, source, resource, size, min(since, now), now)

        try:
            await self._database.write(work)
        except BaseException:
            for door, (received, sent) in taken.items():
                self.count(door, received, sent)
            raise

    async def write_stored(self) -> None:
        """Put down what is stored since it was last weighed, as if it had been as much all the while."""
        stored: dict[str, int] = {}
        for weigh in self._weighed:
            for project_id, size in (await weigh()).items():
                stored[project_id] = stored.get(project_id, 0) + size
        if not stored:
            return
        now = self._clock()

        def work(c: Connection) -> None:
            table = load(c)
            last = {
                row.project_id: row.until
                for row in c.execute(
                    select(usage.c.project_id, func.max(usage.c.ended_at).label("until"))
                    .where(usage.c.resource == "stored")
                    .group_by(usage.c.project_id)
                )
            }
            made = {p.id: p.created_at for p in c.execute(select(projects.c.id, projects.c.created_at))}
            for project_id, size in stored.items():
                start = last.get(project_id) or max(made.get(project_id, now), self._began)
                if start >= now:
                    continue
                account = Account(project_id, "", "storage", "storage")
                quantity = size * (now - start) // (1000 * 2**20)
                metering.add(c, table, account, f"stored/{project_id}", "stored", quantity, start, now)

        await self._database.write(work)
