"""Checks: what a pushed commit's own `.stratal/ci.toml` asks to be run, as jobs of whoever pushed it.

Pushes are read from the outbox. A check's row is written in the transaction that moves the cursor, and its job
carries the row's id in its name, so a push is checked once whenever the server dies. The job gets what its pusher
may, and never more than an editor; pushes of workloads are not checked, or a check could push for ever.
"""

import asyncio
import contextlib
import fnmatch
import logging
import re
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, func, insert, select, update

from stratal.collab.repositories import git
from stratal.collab.repositories.checkout import Checkout
from stratal.collab.repositories.model import Check, Repository
from stratal.collab.repositories.reading import Reading
from stratal.collab.repositories.service import Repositories
from stratal.collab.repositories.tables import check_cursors, checks
from stratal.compute.model import Job, JobSpec, Source
from stratal.compute.tables import jobs
from stratal.identity.model import Kind, Principal, Role, system_principal
from stratal.identity.tables import members, people, projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound, StratalError
from stratal.kernel.events import Event, Events, outbox
from stratal.kernel.ids import new_id

log = logging.getLogger("stratal.repositories")

FILE = ".stratal/ci.toml"
MOST = 20
_CURSOR = "checks"
_MOST_BYTES = 64 << 10
_MOST_NUMBER = 1_000_000_000

Submit = Callable[[Principal, str, JobSpec], Awaitable[Job]]
"""Queue a job: who, in which project, what."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One table ``[[check]]`` of the file."""

    name: str
    command: Sequence[str]
    requirements: Sequence[str]
    branches: Sequence[str]
    cpus: float | None
    memory_mib: int | None
    timeout_seconds: float | None


class Checks:
    """`of_commit` for whoever shows them. Between `start` and `close` pushes are looked at."""

    def __init__(
        self,
        database: Database,
        events: Events,
        service: Repositories,
        reading: Reading,
        checkout: Checkout,
        submit: Submit,
        clock: Clock,
    ) -> None:
        self._database = database
        self._events = events
        self._repositories = service
        self._reading = reading
        self._checkout = checkout
        self._submit = submit
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="repositories: checks")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def of_commit(self, repository_id: str, commit: str) -> Sequence[Check]:
        """What checked a commit, by name. A check whose job is still to be queued is ``queued``."""
        query = (
            select(checks, jobs.c.state, jobs.c.reason)
            .outerjoin(jobs, jobs.c.id == checks.c.job_id)
            .where(checks.c.repository_id == repository_id, checks.c.commit_id == commit)
            .order_by(checks.c.name)
        )
        rows = await self._database.read(lambda c: c.execute(query).all())
        return [
            Check(
                row.name,
                "failed" if row.error else row.state or "queued",
                row.job_id,
                row.error or row.reason or "",
                row.created_at,
            )
            for row in rows
        ]

    async def has_seen_all(self, repository: Repository) -> bool:
        """Was every recorded push to the repository looked at, so that `of_commit` knows what it asks for?"""
        seen = select(check_cursors.c.seq).where(check_cursors.c.name == _CURSOR).scalar_subquery()
        pushed = (
            (outbox.c.project_id == repository.project_id)
            & (outbox.c.subject == repository.id)
            & (outbox.c.kind == "repository.pushed")
        )
        query = select(outbox.c.seq).where(pushed, outbox.c.seq > seen).limit(1)
        return await self._database.read(lambda c: c.execute(query).first()) is None

    async def _run(self) -> None:
        while True:
            try:
                await self._queue_waiting()
                await self._follow()
            except Exception:
                log.exception("pushes could not be checked")
            await asyncio.sleep(1)

    async def _follow(self) -> None:
        seq = await self._database.write(_begin)
        async for event in self._events.follow(seq):
            if event.kind != "repository.pushed":
                continue
            asked = await self._asked(event)
            await self._database.write(lambda c, e=event, a=asked: self._note(c, e, a))  # type: ignore[misc]
            if asked:
                await self._queue_waiting()

    # -- what is asked ---------------------------------------------------------------------------

    async def _asked(self, event: Event) -> Sequence[Asked | str]:
        """What the pushed commit asks to be run; a text for what is wrong with its file."""
        data = event.data
        ref, new = str(data.get("ref", "")), str(data.get("new", ""))
        if not ref.startswith("refs/heads/") or not new.strip("0"):
            return []
        if event.actor.partition(":")[0] not in {"person", "service"}:
            return []
        assert event.project_id is not None
        try:
            looks = system_principal(event.project_id, "")
            found = await self._repositories.get(looks, event.project_id, str(data.get("name")))
            text, cut = await self._reading.file(found, new, FILE, most=_MOST_BYTES)
        except (StratalError, git.Failed):
            return []
        branch = ref.removeprefix("refs/heads/")
        try:
            if cut:
                raise Invalid(f"{FILE} has more than {_MOST_BYTES >> 10} KiB.")
            return [one for one in parse(text) if _wanted(one, branch)]
        except Invalid as error:
            return [error.message]
        except Exception:  # one commit's file must not keep everybody's from being checked
            log.exception("%s of commit %s could not be read", FILE, new)
            return [f"{FILE} could not be read."]

    def _note(self, c: Connection, event: Event, asked: Sequence[Asked | str]) -> None:
        c.execute(update(check_cursors).where(check_cursors.c.name == _CURSOR).values(seq=event.seq))
        data = event.data
        for one in asked:
            name, said, error = (FILE, "{}", one) if isinstance(one, str) else (one.name, _written(one), "")
            row = {
                "id": new_id("chk"),
                "repository_id": event.subject,
                "project_id": event.project_id,
                "commit_id": data["new"],
                "branch": str(data["ref"]).removeprefix("refs/heads/"),
                "name": name,
                "asked": said,
                "actor": event.actor,
                "error": error[:500],
                "created_at": self._clock(),
            }
            mine = (checks.c.repository_id == event.subject) & (checks.c.commit_id == data["new"])
            if c.execute(select(checks.c.id).where(mine, checks.c.name == name)).first() is None:
                c.execute(insert(checks).values(row))

    # -- queueing --------------------------------------------------------------------------------

    async def _queue_waiting(self) -> None:
        waiting = select(checks).where(checks.c.job_id.is_(None), checks.c.error == "").order_by(checks.c.id)
        for row in await self._database.read(lambda c: c.execute(waiting).all()):
            values: dict[str, object] = {}
            try:
                values["job_id"] = await self._queued(row)
            except StratalError as error:
                values["error"] = str(error)[:500]
            except Exception:  # nor its files
                log.exception("check %s could not be queued", row.id)
                values["error"] = "Something went wrong inside Stratal; the server's log has the details."
            change = update(checks).where(checks.c.id == row.id).values(values)
            await self._database.write(lambda c, s=change: c.execute(s))  # type: ignore[misc]

    async def _queued(self, row: Row[tuple[object, ...]]) -> int:
        """The check's job: the one that a killed server queued, else a new one."""
        name = f"{_plain(str(row.name))}-{row.id}"
        query = select(jobs.c.id).where(jobs.c.project_id == row.project_id, jobs.c.name == name)
        known = await self._database.read(lambda c: c.execute(query).scalar())
        if known is not None:
            return int(known)
        who = await self._database.read(lambda c: _pusher(c, str(row.project_id), str(row.actor)))
        if who is None:
            raise NotFound("Whoever pushed it is no editor of the project any more.")
        asked: dict[str, Any] = orjson.loads(str(row.asked))
        repository = await self._by_id(who, str(row.project_id), str(row.repository_id))
        made = await self._checkout.snapshot(who, str(row.project_id), repository.name, str(row.commit_id))
        memory = asked["memory_mib"]
        spec = JobSpec(
            argv=asked["command"],
            name=name,
            env={
                "STRATAL_CI": "1",
                "STRATAL_CI_REPOSITORY": repository.name,
                "STRATAL_CI_COMMIT": str(row.commit_id),
                "STRATAL_CI_BRANCH": str(row.branch),
            },
            requirements="\n".join(asked["requirements"]),
            cpus=asked["cpus"],
            memory_bytes=None if memory is None else memory << 20,
            timeout_seconds=asked["timeout_seconds"],
            snapshot_id=made.snapshot,
            source=Source(kind="git", commit=made.commit, branch=str(row.branch)),
        )
        return (await self._submit(who, str(row.project_id), spec)).id

    async def _by_id(self, who: Principal, project_id: str, repository_id: str) -> Repository:
        for one in await self._repositories.list(who, project_id):
            if one.id == repository_id:
                return one
        raise NotFound("The repository is gone.")


def parse(text: bytes) -> Sequence[Asked]:
    """The checks of a file, by its tables ``[[check]]``. Raises `Invalid` with what is wrong."""
    try:
        told = tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{FILE} is no TOML: {error}.") from error
    except RecursionError as error:
        raise Invalid(f"{FILE} is nested too deep.") from error
    tables = told.get("check", [])
    if not isinstance(tables, list) or len(tables) > MOST or told.keys() - {"check"}:
        raise Invalid(f"{FILE} has nothing but up to {MOST} tables [[check]].")
    found = [_check(table) for table in tables]
    if len({one.name for one in found}) < len(found):
        raise Invalid(f"{FILE} names two checks alike.")
    return found


def _check(table: Any) -> Asked:
    known = {"name", "command", "requirements", "branches", "cpus", "memory_mib", "timeout_seconds"}
    if not isinstance(table, dict) or table.keys() - known:
        raise Invalid(f"A [[check]] of {FILE} has {', '.join(sorted(known))} and nothing else.")
    name, command = table.get("name"), table.get("command")
    if not isinstance(name, str) or not 0 < len(name) <= 60 or not name.isprintable():
        raise Invalid(f"A [[check]] of {FILE} has a name of 1 to 60 characters.")
    if not _words(command) or not command:
        raise Invalid(f'The check {name!r} has a command like ["pytest", "-q"].')
    lists = {word: table.get(word, []) for word in ("requirements", "branches")}
    for word, value in lists.items():
        if not _words(value):
            raise Invalid(f"The check {name!r} has a list of texts as {word}.")
    numbers = {word: table.get(word) for word in ("cpus", "memory_mib", "timeout_seconds")}
    for word, value in numbers.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_NUMBER
        ):
            raise Invalid(f"The check {name!r} has a number above 0, up to a thousand million, as {word}.")
    memory = numbers["memory_mib"]
    return Asked(
        name, command, lists["requirements"], lists["branches"], numbers["cpus"],
        None if memory is None else int(memory), numbers["timeout_seconds"],
    )  # fmt: skip


def _words(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 200 and all(isinstance(one, str) for one in value)


def _wanted(one: Asked, branch: str) -> bool:
    return not one.branches or any(fnmatch.fnmatchcase(branch, pattern) for pattern in one.branches)


def _written(one: Asked) -> str:
    return orjson.dumps(one).decode()


def _begin(c: Connection) -> int:
    """Where to go on; in a home that never checked anything, behind what happened so far."""
    known = c.execute(select(check_cursors.c.seq).where(check_cursors.c.name == _CURSOR)).scalar()
    if known is not None:
        return int(known)
    seq = c.execute(select(func.max(outbox.c.seq))).scalar() or 0
    c.execute(insert(check_cursors).values(name=_CURSOR, seq=seq))
    return int(seq)


def _plain(name: str) -> str:
    """A check's name as a job's may be."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40].strip("-") or "check"


def _pusher(c: Connection, project_id: str, actor: str) -> Principal | None:
    """Whoever pushed, as an editor; None for somebody who is none any more."""
    kind, _, name = actor.partition(":")
    project = c.execute(select(projects.c.name).where(projects.c.id == project_id)).scalar()
    if project is None:
        return None
    if kind == "service":
        return Principal(Kind.SERVICE, name, name, project_id, project, Role.EDITOR)
    belongs = (members.c.person_id == people.c.id) & (members.c.project_id == project_id)
    query = (
        select(people.c.id, people.c.admin, members.c.role)
        .outerjoin(members, belongs)
        .where(people.c.name == name)
    )
    row = c.execute(query).one_or_none()
    if row is None or not (row.admin or row.role in {"editor", "owner"}):
        return None
    return Principal(Kind.PERSON, row.id, name, project_id, project, Role.EDITOR)
