"""Reports: written by editors, read by whoever sees the project, published by owners.

A public link holds the text as it was when it was published. A snapshot's figures are kept with it; a live link's
are asked anew, of the blocks of that very text, as a viewer of the project would see them. It ends with its
time, with its report, when it is taken back, and when whoever published it is no owner any more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
import orjson
from sqlalchemy import Connection, Row, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from stratal.collab.reports.blocks import Block, Data, blocks_of
from stratal.collab.reports.rendering import render, title_of
from stratal.collab.reports.tables import report_links as links
from stratal.collab.reports.tables import reports
from stratal.data.lake.model import Place
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.permissions import require
from stratal.identity.sessions import hashed
from stratal.identity.tables import keys, members, people, projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound, StratalError, Unavailable
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id, random_token
from stratal.kernel.names import check_name

MAX_TEXT = 256 * 1024
MAX_LINK_MS = 366 * 24 * 3600 * 1000
_MAX_DATA = 4 << 20
_LIVE_MS = 60_000
_LIVE_SECONDS = 60.0

Evaluator = Callable[[Principal, Place, Block], Awaitable[Data]]
"""What a block of this project's report shows to this principal. Raises what its room raises."""


@dataclass(frozen=True, slots=True)
class Report:
    """Times are epoch milliseconds; `version` counts its texts."""

    id: str
    project_id: str
    name: str
    text: str
    version: int
    created_at: int
    created_by: str
    updated_at: int
    updated_by: str

    @property
    def title(self) -> str:
        return title_of(self.text, self.name)


@dataclass(frozen=True, slots=True)
class Link:
    """A public link without its secret. `live`: its figures are asked anew."""

    id: str
    live: bool
    created_at: int
    created_by: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A report for whoever has the link: `as_of` is when its figures were asked."""

    title: str
    html: str
    live: bool
    as_of: int
    expires_at: int


class Reports:
    """`evaluators` say what blocks of each kind show."""

    def __init__(self, database: Database, evaluators: Mapping[str, Evaluator], clock: Clock) -> None:
        self._database = database
        self._evaluators = evaluators
        self._clock = clock
        self._asked: dict[str, tuple[int, str]] = {}
        self._turns = asyncio.Semaphore(2)

    # -- in the project ------------------------------------------------------------------------

    async def list(self, who: Principal, project_id: str) -> Sequence[Report]:
        """The project's reports, the ones last written first."""
        require(who, "reports.read", project_id)
        query = select(reports).where(reports.c.project_id == project_id)
        rows = await self._database.read(
            lambda c: c.execute(query.order_by(reports.c.updated_at.desc())).all()
        )
        return [_report(row) for row in rows]

    async def get(self, who: Principal, project_id: str, name: str) -> Report:
        """Raises `NotFound`."""
        require(who, "reports.read", project_id, what=f"report {name[:100]!r}")
        return await self._database.read(lambda c: _find(c, project_id, name))

    async def create(self, who: Principal, project_id: str, name: str, text: str) -> Report:
        """Raises `Conflict` (``report_exists``), `Invalid`."""
        require(who, "reports.write", project_id)
        check_name("report", name)
        _check(text)
        now = self._clock()
        made = Report(new_id("rpt"), project_id, name, text, 1, now, who.actor, now, who.actor)

        def work(c: Connection) -> None:
            c.execute(insert(reports).values({slot: getattr(made, slot) for slot in Report.__slots__}))
            emit(c, "report.created", made.id, actor=who.actor, project_id=project_id, name=name)

        try:
            await self._database.write(work)
        except IntegrityError as error:
            raise Conflict(f"There is a report {name!r} already.", reason="report_exists") from error
        return made

    async def write(
        self, who: Principal, project_id: str, name: str, text: str, version: int | None = None
    ) -> Report:
        """Give it another text; with `version` only if that is what it is at. Public links keep the text they have.

        Raises `NotFound`, `Conflict` (``report_changed``), `Invalid`.
        """
        require(who, "reports.write", project_id)
        _check(text)

        def work(c: Connection) -> Report:
            found = _find(c, project_id, name)
            if version is not None and version != found.version:
                raise Conflict(
                    f"{found.updated_by} has changed the report meanwhile.",
                    hint="Look at it anew, and put your change into it.",
                    reason="report_changed",
                )
            values = {"text": text, "version": found.version + 1}
            who_when = {"updated_at": self._clock(), "updated_by": who.actor}
            c.execute(update(reports).where(reports.c.id == found.id).values(**values, **who_when))
            emit(c, "report.changed", found.id, actor=who.actor, project_id=project_id, name=name)
            return _find(c, project_id, name)

        return await self._database.write(work)

    async def remove(self, who: Principal, project_id: str, name: str) -> None:
        """Remove a report and the public links to it. Raises `NotFound`."""
        require(who, "reports.write", project_id)

        def work(c: Connection) -> None:
            found = _find(c, project_id, name)
            c.execute(delete(links).where(links.c.report_id == found.id))
            c.execute(delete(reports).where(reports.c.id == found.id))
            emit(c, "report.removed", found.id, actor=who.actor, project_id=project_id, name=name)

        await self._database.write(work)

    async def shown(self, who: Principal, place: Place, text: str) -> str:
        """The text as HTML, with what its blocks show to the caller. Raises `Invalid`."""
        require(who, "reports.read", place.id)
        _check(text)
        return await _rendered(text, await self._ask(who, place, text))

    async def purge(self, project_id: str) -> None:
        """Remove everything of a project. May be repeated."""

        def work(c: Connection) -> None:
            c.execute(delete(links).where(links.c.project_id == project_id))
            c.execute(delete(reports).where(reports.c.project_id == project_id))

        await self._database.write(work)

    # -- public links ----------------------------------------------------------------------------

    async def publish(
        self, who: Principal, place: Place, name: str, *, live: bool, expires_at: int
    ) -> tuple[Link, str]:
        """A link for everybody who has it, and its token, which is told this once. Owners only.

        Raises `NotFound`, `Denied`, `Invalid`.
        """
        project_id = place.id
        require(who, "reports.publish", project_id)
        if who.kind not in {Kind.PERSON, Kind.SERVICE}:
            raise Denied("A report is published by people.")
        now = self._clock()
        if not now < expires_at <= now + MAX_LINK_MS:
            raise Invalid("A link ends within a year, and not in the past.", reason="bad_expiry")
        found = await self.get(who, project_id, name)
        data = None
        if not live:
            data = orjson.dumps(await self._ask(who, place, found.text)).decode()
            if len(data) > _MAX_DATA:
                raise Invalid(
                    f"What the report shows is over {_MAX_DATA >> 20} MiB.",
                    hint="Have its queries give fewer rows.",
                    reason="report_too_large",
                )
        token = random_token(40)
        made = Link(new_id("rln"), live, now, who.actor, expires_at)

        def work(c: Connection) -> None:
            c.execute(delete(links).where(links.c.expires_at <= now))
            c.execute(
                insert(links).values(
                    id=made.id,
                    report_id=found.id,
                    project_id=project_id,
                    token_sha256=hashed(token),
                    text=found.text,
                    data=data,
                    created_at=now,
                    created_by=who.actor,
                    publisher_kind=who.kind.value,
                    publisher_id=who.id,
                    expires_at=expires_at,
                )
            )
            emit(
                c, "report.published", found.id, actor=who.actor, project_id=project_id,
                name=name, link=made.id, live=live, expires_at=expires_at,
            )  # fmt: skip

        await self._database.write(work)
        return made, token

    async def links(self, who: Principal, project_id: str, name: str) -> Sequence[Link]:
        """The report's public links that are good still. Raises `NotFound`."""
        found = await self.get(who, project_id, name)
        query = select(links).where(links.c.report_id == found.id, links.c.expires_at > self._clock())
        rows = await self._database.read(lambda c: c.execute(query.order_by(links.c.created_at)).all())
        return [_link(row) for row in rows]

    async def unpublish(self, who: Principal, project_id: str, name: str, link_id: str) -> None:
        """End a public link. Raises `NotFound`."""
        require(who, "reports.publish", project_id)

        def work(c: Connection) -> None:
            found = _find(c, project_id, name)
            mine = (links.c.id == link_id) & (links.c.report_id == found.id)
            if not c.execute(delete(links).where(mine)).rowcount:
                raise NotFound(f"The report has no link {link_id[:60]!r}.", reason="no_such_link")
            emit(
                c, "report.unpublished", found.id, actor=who.actor, project_id=project_id, name=name, link=link_id
            )  # fmt: skip

        await self._database.write(work)
        self._asked.pop(link_id, None)

    async def public(self, token: str) -> Shown:
        """What a link shows. Raises `NotFound` for one that there is not, or not any more."""

        def work(c: Connection) -> Row[Any] | None:
            query = (
                select(links, reports.c.name, projects.c.name.label("project"))
                .join(reports, reports.c.id == links.c.report_id)
                .join(projects, projects.c.id == links.c.project_id)
                .where(
                    links.c.token_sha256 == hashed(token),
                    links.c.expires_at > self._clock(),
                    projects.c.removing_at.is_(None),
                )
            )
            row = c.execute(query).one_or_none()
            return row if row is not None and _stands_by_it(c, row, self._clock()) else None

        row = await self._database.read(work)
        if row is None:
            raise NotFound(
                "There is no report at this address.",
                hint="The link may have ended: ask whoever gave it to you.",
                reason="no_such_link",
            )
        if row.data is not None:
            at, html = row.created_at, await _rendered(row.text, orjson.loads(row.data))
        else:
            at, html = await self._live(row)
        return Shown(title_of(row.text, row.name), html, row.data is None, at, row.expires_at)

    async def _live(self, row: Row[Any]) -> tuple[int, str]:
        """Asked at most once a minute, however many look, and by no more than two at a time."""
        async with self._turns:
            known = self._asked.get(row.id)
            if known is not None and known[0] > self._clock() - _LIVE_MS:
                return known
            who = Principal(
                Kind.SYSTEM, "report", f"report:{row.name}", row.project_id, row.project, Role.VIEWER
            )
            place = Place(row.project_id, row.project)
            try:
                async with asyncio.timeout(_LIVE_SECONDS):
                    html = await _rendered(row.text, await self._ask(who, place, row.text))
            except TimeoutError:
                raise Unavailable(
                    "The figures of this report take too long just now.", hint="Try again in a while."
                ) from None
            if len(self._asked) > 200:
                self._asked.clear()
            known = self._asked[row.id] = (self._clock(), html)
            return known

    # -- blocks ------------------------------------------------------------------------------------

    async def _ask(self, who: Principal, place: Place, text: str) -> Sequence[Data]:
        found = await anyio.to_thread.run_sync(blocks_of, text)
        return [await self._answer(who, place, block) for block in found]

    async def _answer(self, who: Principal, place: Place, block: Block) -> Data:
        if block.wrong:
            return {"error": block.wrong}
        try:
            return await self._evaluators[block.kind](who, place, block)
        except StratalError as error:
            return {"error": f"{error.message} {error.hint}".strip()[:1000]}


def _stands_by_it(c: Connection, row: Row[Any], now: int) -> bool:
    """Might whoever published it do so today?"""
    if row.publisher_kind == Kind.PERSON.value:
        owner = members.c.role == Role.OWNER.value
        belongs = (
            select(members.c.role)
            .where(members.c.person_id == row.publisher_id, members.c.project_id == row.project_id, owner)
        )  # fmt: skip
        admin = select(people.c.admin).where(people.c.id == row.publisher_id, people.c.admin == 1)
        return c.execute(belongs).first() is not None or c.execute(admin).first() is not None
    good = keys.c.revoked_at.is_(None) & (keys.c.expires_at.is_(None) | (keys.c.expires_at > now))
    mine = (keys.c.kind == Kind.SERVICE.value) & (keys.c.principal_id == row.publisher_id)
    owns = (keys.c.project_id == row.project_id) & (keys.c.role == Role.OWNER.value)
    may = owns | (keys.c.role == Role.ADMIN.value)
    return c.execute(select(keys.c.id).where(good, mine, may).limit(1)).first() is not None


async def _rendered(text: str, data: Sequence[Data]) -> str:
    return await anyio.to_thread.run_sync(render, text, data)


def _check(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise Invalid("The text is not valid Unicode.", reason="bad_text") from error
    if size > MAX_TEXT:
        raise Invalid(f"A report's text has at most {MAX_TEXT >> 10} KiB.", reason="report_too_large")


def _find(c: Connection, project_id: str, name: str) -> Report:
    query = select(reports).where(reports.c.project_id == project_id, reports.c.name == name)
    row = c.execute(query).one_or_none()
    if row is None:
        raise NotFound(
            f"There is no report {name[:100]!r}.",
            hint="List them with: stratal report ls",
            reason="no_such_report",
        )
    return _report(row)


def _report(row: Row[Any]) -> Report:
    return Report(*(getattr(row, slot) for slot in Report.__slots__))


def _link(row: Row[Any]) -> Link:
    return Link(row.id, row.data is None, row.created_at, row.created_by, row.expires_at)
