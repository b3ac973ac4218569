"""The audit log: every change and every denial, who did it, through which door, from where, in a chain of hashes.

Changes are the outbox's rows, written and chained in the transaction of the change (`kernel.events`). Denials
change nothing, so no transaction carries them: they are gathered, those alike counted together, and written
every second; a flood of them takes a bounded number of rows. The chain's head is copied into a file beside the
database a moment after each commit, so that a log whose end was cut off does not pass for whole.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
from sqlalchemy import ColumnElement, Connection, Row, Select, or_, select

from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.asking import ASKING, Asking
from stratal.kernel.database import Database
from stratal.kernel.events import CHAINED, DENIED, emit, link, outbox

log = logging.getLogger("stratal.audit")

_FLUSH_SECONDS = 1.0
_HEAD_SECONDS = 0.2
_KINDS_OF_DENIAL = 100
"""At most so many different denials are told apart within a second; what comes beyond is counted together."""
_BATCH = 2000


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `at` is epoch milliseconds; `actor` the person, service or workload; `hash` its place in the chain."""

    seq: int
    at: int
    project_id: str | None
    actor: str
    kind: str
    subject: str
    data: str
    """What else is known of it, as JSON."""
    door: str | None
    address: str | None
    hash: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: of whom (``person:ada`` or ``ada``), what (a kind, its beginning, or a subject), when, which door."""

    who: str | None = None
    what: str | None = None
    since: int | None = None
    until: int | None = None
    door: str | None = None
    denied: bool | None = None
    before: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What recomputing the chain found. `wrong` says what and at which entry; "" when it holds.

    `unchained` counts entries at the beginning that an older version wrote, which no hash protects.
    """

    entries: int
    unchained: int
    head_seq: int | None
    head: str | None
    kept_seq: int | None
    wrong: str
    wrong_at: int | None

    @property
    def holds(self) -> bool:
        return not self.wrong


@dataclass(frozen=True, slots=True)
class Denial:
    """A request that was refused: by whom it was made as far as known, and what it asked for."""

    actor: str
    project_id: str | None
    door: str
    address: str
    asked: str
    status: int
    action: str


_BEFORE_ALL = -(2**63)
"""No entry is behind it, whatever number somebody gave one."""


class Audit:
    """`folder` is where the head is kept. `start` and `close` run in the server's event loop."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._head = folder / "head.json"
        self._denials: dict[Denial, int] = {}
        self._changed = False
        self._tasks: list[asyncio.Task[None]] = []
        database.after_commit(self._note)

    async def start(self) -> None:
        self._head.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tasks = [
            asyncio.create_task(self._every(_FLUSH_SECONDS, self.write_denials), name="audit: denials"),
            asyncio.create_task(self._every(_HEAD_SECONDS, self.keep_head), name="audit: head"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            await self.write_denials()
            await self.keep_head()

    def _note(self) -> None:
        self._changed = True

    async def _every(self, seconds: float, work: Any) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception:
                log.exception("the audit log's upkeep failed; it goes on")

    # -- denials -------------------------------------------------------------------------------

    def deny(self, denial: Denial) -> None:
        """Note a denial. Memory only; on record within a second."""
        if denial not in self._denials and len(self._denials) >= _KINDS_OF_DENIAL:
            denial = Denial("unknown", None, denial.door, "several", "(more)", denial.status, "")
        self._denials[denial] = self._denials.get(denial, 0) + 1

    async def write_denials(self) -> None:
        """Put the denials noted so far on record."""
        if not self._denials:
            return
        taken, self._denials = self._denials, {}

        def work(c: Connection) -> None:
            for one, count in taken.items():
                ASKING.set(Asking(one.door, one.address))
                emit(
                    c,
                    DENIED,
                    one.asked,
                    actor=one.actor,
                    project_id=one.project_id,
                    status=one.status,
                    action=one.action,
                    count=count,
                )

        await self._database.write(work)

    # -- the head ------------------------------------------------------------------------------

    async def keep_head(self) -> None:
        """Copy the chain's head out of the database, when it has moved; only ever one that follows the kept one."""
        if not self._changed:
            return
        self._changed = False
        try:
            kept = self._kept()
        except ValueError:
            return  # damaged: it stays as it is, for `verify` to say so
        last, follows = await self._database.read(lambda c: (_last(c), _is_there(c, kept)))
        if not follows:
            log.error("the audit log does not contain its own head any more: see stratal audit --verify")
            return
        if last is None:
            return
        text = json.dumps(dict(zip(("seq", "hash", "at"), last, strict=True)))
        await anyio.to_thread.run_sync(_replace, self._head, text)

    def _kept(self) -> tuple[int, str] | None:
        """Raises `ValueError` for a file that says nothing."""
        try:
            told = json.loads(self._head.read_text())
            return int(told["seq"]), str(told["hash"])
        except FileNotFoundError:
            return None
        except (KeyError, TypeError) as error:
            raise ValueError("no head") from error

    # -- reading -------------------------------------------------------------------------------

    async def entries(
        self, who: Principal, project_id: str | None, wanted: Wanted, *, limit: int
    ) -> Sequence[Entry]:
        """The newest entries that are wanted, newest first: of one project, or (None) of the whole instance.

        Raises `Denied` unless the caller is an owner of the project, or for the instance an admin.
        """
        self._may_read(who, project_id)
        await self.write_denials()
        query = (
            select(outbox).where(*_conditions(project_id, wanted)).order_by(outbox.c.seq.desc()).limit(limit)
        )
        return [_entry(row) for row in await self._database.read(lambda c: c.execute(query).all())]

    async def export(self, who: Principal, project_id: str | None, wanted: Wanted) -> AsyncIterator[Entry]:
        """Every entry that is wanted, oldest first. Raises as `entries`, before the first."""
        self._may_read(who, project_id)
        await self.write_denials()
        return self._walk(_conditions(project_id, wanted))

    async def _walk(self, conditions: Sequence[ColumnElement[bool]]) -> AsyncIterator[Entry]:
        seq = _BEFORE_ALL
        while True:
            query = select(outbox).where(outbox.c.seq > seq, *conditions).order_by(outbox.c.seq).limit(_BATCH)
            rows = await self._database.read(partial(_all, query))
            for row in rows:
                yield _entry(row)
            if len(rows) < _BATCH:
                return
            seq = rows[-1].seq

    @staticmethod
    def _may_read(who: Principal, project_id: str | None) -> None:
        require(who, "instance.manage" if project_id is None else "audit.read", project_id or who.project_id)

    async def verify(self, who: Principal) -> Verdict:
        """Compute the whole chain again and hold it against the head kept outside. Instance admins only."""
        require(who, "instance.manage", who.project_id)
        await self.write_denials()
        try:
            kept = await anyio.to_thread.run_sync(self._kept)
        except ValueError:
            return Verdict(0, 0, None, None, None, f"The head kept in {self._head} cannot be read.", None)
        return await self._database.read(lambda c: _verify(c, kept))


def _verify(c: Connection, kept: tuple[int, str] | None) -> Verdict:
    entries, unchained, before, seq = 0, 0, "", _BEFORE_ALL
    wrong, wrong_at, kept_found = "", None, kept is None
    while not wrong:
        query = select(outbox).where(outbox.c.seq > seq).order_by(outbox.c.seq).limit(_BATCH)
        rows = c.execute(query).all()
        for row in rows:
            entries += 1
            seq = row.seq
            if row.seq < 1:
                wrong, wrong_at = (
                    "No entry of ours has such a number: somebody put it before all others.",
                    row.seq,
                )
                break
            if row.hash is None and not before:
                unchained += 1
                continue
            if row.hash != link(before, dict(row._mapping)):
                wrong = (
                    "This entry was altered, or the one before it was altered, removed or put elsewhere: "
                    "its hash is not that of what it says and what it follows."
                )
                wrong_at = row.seq
                break
            before = row.hash
            if kept is not None and row.seq == kept[0]:
                kept_found = row.hash == kept[1]
        if len(rows) < _BATCH:
            break
    if not wrong and kept is not None and not kept_found:
        wrong = (
            f"The entry {kept[0]}, which was the newest when the head was last kept outside of the database, "
            "is not there or is another: the log's end was cut off, or all of it was written anew."
        )
        wrong_at = kept[0]
    return Verdict(
        entries,
        unchained,
        seq if before else None,
        before or None,
        kept[0] if kept else None,
        wrong,
        wrong_at,
    )


def _last(c: Connection) -> tuple[int, str, int] | None:
    query = select(outbox.c.seq, outbox.c.hash, outbox.c.at).where(outbox.c.hash.is_not(None))
    row = c.execute(query.order_by(outbox.c.seq.desc()).limit(1)).one_or_none()
    return None if row is None else (int(row.seq), str(row.hash), int(row.at))


def _is_there(c: Connection, kept: tuple[int, str] | None) -> bool:
    return kept is None or c.execute(select(outbox.c.hash).where(outbox.c.seq == kept[0])).scalar() == kept[1]


def _conditions(project_id: str | None, wanted: Wanted) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if project_id is not None:
        found.append(outbox.c.project_id == project_id)
    if wanted.who:
        found.append(
            or_(outbox.c.actor == wanted.who, outbox.c.actor.endswith(f":{wanted.who}", autoescape=True))
        )
    if wanted.what:
        found.append(
            or_(outbox.c.kind.startswith(wanted.what, autoescape=True), outbox.c.subject == wanted.what)
        )
    if wanted.since is not None:
        found.append(outbox.c.at >= wanted.since)
    if wanted.until is not None:
        found.append(outbox.c.at < wanted.until)
    if wanted.door:
        found.append(outbox.c.door == wanted.door)
    if wanted.denied is not None:
        found.append((outbox.c.kind == DENIED) if wanted.denied else (outbox.c.kind != DENIED))
    if wanted.before is not None:
        found.append(outbox.c.seq < wanted.before)
    return found


def _all(query: Select[Any], c: Connection) -> Sequence[Row[Any]]:
    return c.execute(query).all()


def _entry(row: Row[Any]) -> Entry:
    return Entry(
        row.seq,
        row.at,
        row.project_id,
        row.actor,
        row.kind,
        row.subject,
        row.data,
        row.door,
        row.address,
        row.hash,
    )


def chained(entry: Entry) -> dict[str, object]:
    """What an entry's hash is over, by name: for whoever checks an export by themselves."""
    return {name: getattr(entry, name) for name in CHAINED}


def _replace(path: Path, text: str) -> None:
    """Whole or not at all. Not fsynced each time: a head older than the log's end is no less true."""
    scratch = path.with_name(path.name + ".new")
    with suppress(FileNotFoundError):
        scratch.unlink()
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    scratch.replace(path)
