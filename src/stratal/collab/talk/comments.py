"""Comments: said by whoever may see the project, changed by their authors alone."""

from collections.abc import Sequence

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from stratal.collab.talk.model import Comment, Subjects, check_text, mentioned
from stratal.collab.talk.tables import comments
from stratal.identity.model import Principal
from stratal.identity.permissions import may, require
from stratal.identity.tables import members, people
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Busy, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id

MOST_ON_ONE = 2_000


class Comments:
    """`subjects` are what can be commented on, by kind."""

    def __init__(self, database: Database, subjects: Subjects, clock: Clock) -> None:
        self._database = database
        self._subjects = subjects
        self._clock = clock

    async def list(self, who: Principal, project_id: str, on_kind: str, on_id: str) -> Sequence[Comment]:
        """What was said about a thing, oldest first. Raises `NotFound` when there is no such thing."""
        require(who, "comments.read", project_id)
        await self._look(who, project_id, on_kind, on_id)
        query = (
            select(comments)
            .where(
                comments.c.project_id == project_id, comments.c.on_kind == on_kind, comments.c.on_id == on_id
            )
            .order_by(comments.c.id)
            .limit(MOST_ON_ONE)
        )
        return [_comment(row) for row in await self._database.read(lambda c: c.execute(query).all())]

    async def add(self, who: Principal, project_id: str, on_kind: str, on_id: str, text: str) -> Comment:
        """Say something about a thing; members named after an ``@`` are told. Raises `NotFound`, `Invalid`."""
        require(who, "comments.write", project_id)
        text = check_text(text)
        await self._look(who, project_id, on_kind, on_id)
        made = Comment(new_id("cmt"), on_kind, on_id, text, who.actor, who.id, self._clock(), None)

        def work(c: Connection) -> None:
            count = select(func.count()).where(
                comments.c.project_id == project_id, comments.c.on_kind == on_kind, comments.c.on_id == on_id
            )
            if c.execute(count).scalar_one() >= MOST_ON_ONE:
                raise Busy(
                    f"There are {MOST_ON_ONE:,} comments on it already.",
                    hint="Go on elsewhere, or delete some.",
                    reason="too_many_comments",
                )
            c.execute(
                insert(comments).values(
                    id=made.id,
                    project_id=project_id,
                    on_kind=on_kind,
                    on_id=on_id,
                    text=text,
                    author=made.author,
                    author_id=made.author_id,
                    created_at=made.created_at,
                )
            )
            told = _members(c, project_id, mentioned(text))
            emit(
                c, "comment.created", made.id, actor=who.actor, project_id=project_id,
                on=on_kind, of=on_id, mentions=told,
            )  # fmt: skip

        await self._database.write(work)
        return made

    async def edit(self, who: Principal, project_id: str, comment_id: str, text: str) -> Comment:
        """Say one's own comment anew; members it did not name before are told. Raises `NotFound`, `Invalid`."""
        require(who, "comments.write", project_id)
        text = check_text(text)

        def work(c: Connection) -> Comment:
            found = _own(c, who, project_id, comment_id)
            c.execute(
                update(comments).where(comments.c.id == comment_id).values(text=text, edited_at=self._clock())
            )
            before = set(mentioned(found.text))
            told = _members(c, project_id, [name for name in mentioned(text) if name not in before])
            emit(
                c, "comment.edited", comment_id, actor=who.actor, project_id=project_id,
                on=found.on_kind, of=found.on_id, mentions=told,
            )  # fmt: skip
            return _comment(c.execute(select(comments).where(comments.c.id == comment_id)).one())

        return await self._database.write(work)

    async def remove(self, who: Principal, project_id: str, comment_id: str) -> None:
        """Remove one's own comment, or as an owner of the project anybody's. Raises `NotFound`."""
        require(who, "comments.write", project_id)
        moderates = may(who, "comments.moderate", project_id)

        def work(c: Connection) -> None:
            found = _own(c, who, project_id, comment_id, anybodys=moderates)
            c.execute(delete(comments).where(comments.c.id == comment_id))
            emit(
                c, "comment.deleted", comment_id, actor=who.actor, project_id=project_id,
                on=found.on_kind, of=found.on_id, author=found.author,
            )  # fmt: skip

        await self._database.write(work)

    async def _look(self, who: Principal, project_id: str, on_kind: str, on_id: str) -> None:
        look = self._subjects.get(on_kind)
        if look is None:
            raise Invalid(
                f"{on_kind[:40]!r} cannot be commented on.",
                hint="Can: " + ", ".join(self._subjects) + ".",
                reason="bad_subject",
            )
        await look(who, project_id, on_id)


def _own(
    c: Connection, who: Principal, project_id: str, comment_id: str, *, anybodys: bool = False
) -> Comment:
    query = select(comments).where(comments.c.id == comment_id, comments.c.project_id == project_id)
    row = c.execute(query).one_or_none()
    if row is None or not (anybodys or (row.author_id == who.id and row.author == who.actor)):
        raise NotFound(
            "There is no comment of yours with this id.",
            hint="What others said, they alone change; an owner may delete it.",
            reason="no_such_comment",
        )
    return _comment(row)


def _members(c: Connection, project_id: str, names: Sequence[str]) -> Sequence[str]:
    """Those of the names that are people who see the project."""
    if not names:
        return []
    belongs = (members.c.person_id == people.c.id) & (members.c.project_id == project_id)
    query = (
        select(people.c.name)
        .outerjoin(members, belongs)
        .where(people.c.name.in_(names), (members.c.person_id.is_not(None)) | (people.c.admin == 1))
    )
    known = set(c.execute(query).scalars())
    return [name for name in names if name in known]


def _comment(row: Row[tuple[object, ...]]) -> Comment:
    return Comment(
        row.id, row.on_kind, row.on_id, row.text, row.author, row.author_id, row.created_at, row.edited_at
    )
