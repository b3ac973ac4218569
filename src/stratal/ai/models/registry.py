"""The registry's versions: made, found, resolved by name and alias, and checked byte by byte.

Making a version copies the *names* of its files into a sealed directory of its own; the bytes are
shared with the run and stay for as long as any name holds them. So a version costs no space, and
nothing that happens to the run afterwards changes it.
"""

from collections.abc import Awaitable, Callable, Sequence

import anyio.to_thread
from sqlalchemy import ColumnElement, Connection, delete, exists, select, update

from stratal.ai.models.lent import home_of, root_lent, version_as_lent
from stratal.ai.models.model import STAGES, Facts, FileCheck, ModelFile, ModelVersion, State
from stratal.ai.models.pinning import PROMPT_TAG, NewVersion, location_of, pin, unpin
from stratal.ai.models.reading import HEAD_BYTES, MAX_BYTES, MAX_HEADS, READ, is_opaque, read_facts
from stratal.ai.models.resolving import version_named
from stratal.ai.models.rows import (
    alias_target,
    find_model,
    find_version,
    version_of,
    with_files,
    with_labels,
)
from stratal.ai.models.sources import open_source
from stratal.ai.models.tables import (
    model_aliases,
    model_version_tags,
    model_versions,
)
from stratal.collab.artifacts import Artifacts
from stratal.collab.conditions import compare
from stratal.collab.model import Artifact, Page
from stratal.collab.rules import check_tag_key, check_value
from stratal.collab.search import Condition, Entity, Grammar, offset_of, page_token, parse_filter, parse_order
from stratal.collab.upsert import upsert
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.blobs import BlobStore
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, NotFound
from stratal.kernel.events import emit
from stratal.ledger.lineage import Lineage, Mode
from stratal.ledger.past import MADE, Past, refused_in_past
from stratal.ledger.tables import accesses

MAX_PAGE = 200_000

Held = Callable[[Connection, str], bool]
"""Does somebody above still need the files of the version with this id (an endpoint's revision, say)?"""

Follower = Callable[[Principal, ModelVersion], Awaitable[None]]

_GRAMMAR = Grammar(
    frozenset({Entity.ATTRIBUTE, Entity.TAG}),
    text={"name": "name", "run_id": "run_id", "source_path": "source"},
    numbers={
        "version_number": "version",
        "creation_timestamp": "created_at",
        "last_updated_timestamp": "updated_at",
    },
)


class Models:
    """`blobs` holds the bytes of pinned files (`ModelFile.blob_key`)."""

    def __init__(
        self,
        database: Database,
        artifacts: Artifacts,
        lineage: Lineage,
        clock: Clock,
        *,
        is_held: Held = lambda _connection, _version_id: False,
    ) -> None:
        self.blobs: BlobStore = artifacts.blobs
        self._database = database
        self._artifacts = artifacts
        self._lineage = lineage
        self._clock = clock
        self._is_held = is_held
        self._followers: list[Follower] = []
        artifacts.lend(root_lent)

    def follow(self, follower: Follower) -> None:
        """Have `follower` told of every version that is made from now on, by whom; it must not raise."""
        self._followers.append(follower)

    # -- for rooms that use models ---------------------------------------------------------------

    async def resolve(self, who: Principal, project_id: str, uri: str) -> ModelVersion:
        """The version that a URI names now, with its files.

        ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, ``models:/NAME/latest`` and
        ``models:/NAME/STAGE`` name one; ``runs:/RUN/PATH`` and ``models:/m-…`` stand for the newest
        version that was registered from there. Raises `NotFound`, and `Invalid` for anything else.
        A workload's asking is recorded as reading the model.
        """
        require(who, "models.read", project_id)

        def work(connection: Connection) -> ModelVersion:
            found = version_named(connection, project_id, uri)
            return with_files(connection, with_labels(connection, [found])[0])

        version = await self._database.read(work)
        past = await self._lineage.pasts.of(who)
        if past is not None:
            then = shown_model(past, version.name)
            version = version if then is None else await self.by_id(then)
        await self._record(who, "read", version)
        return version

    async def in_past(self, who: Principal) -> bool:
        """Is the caller a replay, whose registering and naming must change nothing?"""
        return await self._lineage.pasts.of(who) is not None

    async def by_id(self, version_id: str) -> ModelVersion:
        """The version with this id and its files, also a deleted one that is still referred to.

        For services that have authorised their caller. Raises `NotFound`.
        """

        def work(connection: Connection) -> ModelVersion:
            row = connection.execute(
                select(model_versions).where(model_versions.c.id == version_id)
            ).one_or_none()
            if row is None:
                raise NotFound(f"There is no model version {version_id[:60]!r}.", reason="no_such_version")
            return with_files(connection, with_labels(connection, [version_of(row)])[0])

        return await self._database.read(work)

    async def files(self, version: ModelVersion) -> tuple[ModelFile, ...]:
        """The pinned files, by path."""
        return (await self._database.read(lambda c: with_files(c, version))).files

    async def verify(self, version: ModelVersion) -> list[FileCheck]:
        """Hash every pinned file's stored bytes now, and say which are what they were."""
        checks = []
        for file in await self.files(version):
            try:
                found = await self.blobs.sha256(file.blob_key)
            except NotFound:
                checks.append(FileCheck(file.path, file.sha256, None, State.MISSING))
                continue
            state = State.VERIFIED if found == file.sha256 else State.BROKEN
            checks.append(FileCheck(file.path, file.sha256, found, state))
        return checks

    # -- versions --------------------------------------------------------------------------------

    async def create(self, who: Principal, project_id: str, name: str, new: NewVersion) -> ModelVersion:
        """Register the files at a source as the next version of `name`, pinning them.

        Raises `NotFound` for a model, run or source that is not the project's, `Invalid` for a source
        without files or of another run than the one named.
        """
        require(who, "models.write", project_id)
        check_value("the description", new.description)
        check_value("the source", new.source, 2000)
        check_value("the run link", new.run_link, 2000)
        for key, value in new.tags.items():
            check_value(f"tag {check_tag_key(key)!r}", value)
        past = await self._lineage.pasts.of(who)
        if past is not None:  # what was registered then is the answer: nothing is registered twice
            then = past.version(MADE, name)
            if then is None:
                raise refused_in_past(
                    "register a version of a model that the work it repeats did not register"
                )
            return await self.by_id(then)
        facts, read = Facts(), None
        while True:
            if not new.is_prompt:
                read = await self._database.read(lambda c: open_source(c, project_id, new.source))
                facts = await self.facts_of(read.files)
            known = read
            made = await self._database.write(
                lambda c, f=facts, s=known: pin(c, who, project_id, name, new, f, s, self._clock())  # type: ignore[misc]
            )
            if made is not None:
                break  # else the source was logged to in between: look again
        await self._record(who, "write", made)
        for follower in self._followers:
            await follower(who, made)
        return made

    async def get(self, who: Principal, project_id: str, name: str, version: str) -> ModelVersion:
        """A version with its tags and aliases, without its files; also of a shared model. Raises `NotFound`."""
        require(who, "models.read", project_id)

        def work(connection: Connection) -> ModelVersion:
            place, there = home_of(connection, project_id, name)
            found = with_labels(connection, [find_version(connection, place, there, version)])[0]
            return found if place == project_id else version_as_lent(found, name)

        return await self._database.read(work)

    async def of_model(self, who: Principal, project_id: str, name: str) -> list[ModelVersion]:
        """A model's versions, newest first, without their files; also of a shared model. Raises `NotFound`."""
        require(who, "models.read", project_id)

        def work(connection: Connection) -> list[ModelVersion]:
            place, there = home_of(connection, project_id, name)
            model = find_model(connection, place, there)
            rows = connection.execute(
                select(model_versions)
                .where(model_versions.c.model_id == model.id, model_versions.c.deleted_at.is_(None))
                .order_by(model_versions.c.version.desc())
            )
            found = with_labels(connection, [version_of(row) for row in rows])
            return found if place == project_id else [version_as_lent(one, name) for one in found]

        return await self._database.read(work)

    async def get_by_alias(self, who: Principal, project_id: str, name: str, alias: str) -> ModelVersion:
        """The version that an alias names, also of a shared model. Raises `NotFound`."""
        require(who, "models.read", project_id)

        def work(connection: Connection) -> ModelVersion:
            place, there = home_of(connection, project_id, name)
            number = alias_target(connection, find_model(connection, place, there), alias)
            found = with_labels(connection, [find_version(connection, place, there, number)])[0]
            return found if place == project_id else version_as_lent(found, name)

        return await self._database.read(work)

    async def download_location(self, who: Principal, project_id: str, name: str, version: str) -> str:
        """Where the version's pinned files lie among the artifacts."""
        return location_of(await self.get(who, project_id, name, version))

    async def describe(
        self, who: Principal, project_id: str, name: str, version: str, description: str
    ) -> ModelVersion:
        check_value("the description", description)
        return await self._update(who, project_id, name, version, description=description)

    async def transition(
        self, who: Principal, project_id: str, name: str, version: str, stage: str, *, archive: bool
    ) -> ModelVersion:
        """Move a version to another stage; with `archive` those that were in it are archived."""
        final = {known.lower(): known for known in STAGES}.get(stage.lower())
        if final is None:
            raise Invalid(f"{stage[:60]!r} is not a stage.", hint=f"There are {', '.join(STAGES)}.")
        if archive and final in {"None", "Archived"}:
            raise Invalid("Versions are archived only in favour of one in Staging or Production.")
        return await self._update(who, project_id, name, version, stage=final, archive=archive)

    async def _update(
        self,
        who: Principal,
        project_id: str,
        name: str,
        version: str,
        *,
        archive: bool = False,
        **values: str,
    ) -> ModelVersion:
        require(who, "models.write", project_id)
        if await self.in_past(who):
            return await self.get(who, project_id, name, version)

        def work(connection: Connection) -> ModelVersion:
            found = find_version(connection, project_id, name, version)
            now = self._clock()
            if archive:
                model = find_model(connection, project_id, name)
                others = (
                    model_versions.c.model_id == model.id,
                    model_versions.c.stage == values["stage"],
                    model_versions.c.id != found.id,
                )
                connection.execute(
                    update(model_versions).where(*others).values(stage="Archived", updated_at=now)
                )
            connection.execute(
                update(model_versions).where(model_versions.c.id == found.id).values(updated_at=now, **values)
            )
            if "stage" in values:
                emit(
                    connection,
                    "model_version.moved",
                    found.id,
                    actor=who.actor,
                    project_id=project_id,
                    name=f"{name}/{found.version}",
                    stage=values["stage"],
                )
            return with_labels(connection, [find_version(connection, project_id, name, version)])[0]

        return await self._database.write(work)

    async def set_tag(
        self, who: Principal, project_id: str, name: str, version: str, key: str, value: str
    ) -> None:
        require(who, "models.write", project_id)
        check_value(f"tag {check_tag_key(key)!r}", value)
        if await self.in_past(who):
            return

        def work(connection: Connection) -> None:
            found = find_version(connection, project_id, name, version)
            row = {"version_id": found.id, "key": key, "value": value}
            upsert(connection, model_version_tags, [row], ("version_id", "key"))

        await self._database.write(work)

    async def delete_tag(self, who: Principal, project_id: str, name: str, version: str, key: str) -> None:
        """Remove a tag; one that is not there is fine."""
        require(who, "models.write", project_id)
        if await self.in_past(who):
            return

        def work(connection: Connection) -> None:
            found = find_version(connection, project_id, name, version)
            connection.execute(
                delete(model_version_tags).where(
                    model_version_tags.c.version_id == found.id, model_version_tags.c.key == key
                )
            )

        await self._database.write(work)

    async def delete(self, who: Principal, project_id: str, name: str, version: str) -> None:
        """Take a version out of the registry, with its aliases.

        Its files go with it, unless a workload read it or an endpoint holds it: then they stay, so that
        what was answered with it can still be explained.
        """
        require(who, "models.write", project_id)
        if await self.in_past(who):
            raise refused_in_past("delete a model's version")
        await self._database.write(
            lambda c: self.delete_within(c, who, find_version(c, project_id, name, version))
        )
        await self.drop_released()

    def delete_within(self, connection: Connection, who: Principal, version: ModelVersion) -> None:
        """As `delete`, in the caller's write; afterwards call `drop_released`."""
        mine = model_versions.c.id == version.id
        model_id = connection.execute(select(model_versions.c.model_id).where(mine)).scalar_one()
        connection.execute(
            delete(model_aliases).where(
                model_aliases.c.model_id == model_id, model_aliases.c.version == version.version
            )
        )
        if _is_read(connection, version.id) or self._is_held(connection, version.id):
            connection.execute(update(model_versions).where(mine).values(deleted_at=self._clock()))
        else:
            unpin(connection, version)
        emit(
            connection,
            "model_version.deleted",
            version.id,
            actor=who.actor,
            project_id=version.project_id,
            name=f"{version.name}/{version.version}",
        )

    async def drop_released(self) -> None:
        """Unlink bytes that nothing names any more."""
        await self._artifacts.drop_trash()

    async def search(
        self,
        who: Principal,
        project_id: str,
        *,
        text: str = "",
        order_by: Sequence[str] = (),
        limit: int = 1000,
        token: str = "",
    ) -> Page[ModelVersion]:
        """The versions a filter finds, last changed first unless ordered otherwise; without their files."""
        require(who, "models.read", project_id)
        if not 1 <= limit <= MAX_PAGE:
            raise Invalid(f"max_results must be between 1 and {MAX_PAGE}, not {limit}.")
        conditions = parse_filter(text, _GRAMMAR)
        orders = parse_order(order_by, _GRAMMAR)
        offset = offset_of(token)

        def work(connection: Connection) -> Page[ModelVersion]:
            query = select(model_versions).where(
                model_versions.c.project_id == project_id, model_versions.c.deleted_at.is_(None)
            )
            for condition in conditions:
                query = query.where(_clause(condition, connection.dialect.name))
            for order in orders:
                column = model_versions.c[order.key]
                query = query.order_by(column if order.ascending else column.desc())
            if not orders:
                query = query.order_by(model_versions.c.updated_at.desc())
            query = query.order_by(model_versions.c.name, model_versions.c.version.desc())
            rows = connection.execute(query.limit(limit + 1).offset(offset)).all()
            found = with_labels(connection, [version_of(row) for row in rows[:limit]])
            return Page(found, page_token(offset + limit) if len(rows) > limit else "")

        return await self._database.read(work)

    # -- making one ------------------------------------------------------------------------------

    async def facts_of(self, files: Sequence[Artifact]) -> Facts:
        """What the files say of the model they make up, read from the stored bytes."""
        texts: dict[str, bytes] = {}
        heads: dict[str, bytes] = {}
        for file in files:
            if file.path in READ and file.size <= MAX_BYTES:
                texts[file.path] = await self.blobs.read_all(file.blob_key)
            elif is_opaque(file.path) and len(heads) < MAX_HEADS:
                chunks = self.blobs.read(file.blob_key, 0, HEAD_BYTES)
                heads[file.path] = b"".join([chunk async for chunk in chunks])
        paths = [file.path for file in files]
        return await anyio.to_thread.run_sync(read_facts, texts, paths, heads)

    async def _record(self, who: Principal, mode: Mode, version: ModelVersion) -> None:
        await self._lineage.record(
            who,
            mode,
            "model",
            version.id,
            project_id=version.project_id,
            name=f"{version.name}/{version.version}",
        )


def shown_model(past: Past, name: str) -> str | None:
    """The version of the model that was read in that past, when it was one."""
    of = {
        version
        for (kind, shown), version in past.shown.items()
        if kind == "model" and shown.rpartition("/")[0] == name
    }
    return next(iter(of)) if len(of) == 1 else None


def _clause(condition: Condition, dialect: str) -> ColumnElement[bool]:
    if condition.entity is Entity.ATTRIBUTE:
        return compare(model_versions.c[condition.key], condition, dialect)
    tags = model_version_tags
    here = (tags.c.version_id == model_versions.c.id, tags.c.key == condition.key)
    if condition.op == "IS NULL":
        return ~exists().where(*here)
    if condition.op == "IS NOT NULL":
        return exists().where(*here)
    if condition.key == PROMPT_TAG and condition.op == "!=":
        return ~exists().where(*here, tags.c.value == condition.value)
    return exists().where(*here, compare(tags.c.value, condition, dialect))


def _is_read(connection: Connection, version_id: str) -> bool:
    query = select(accesses.c.workload).where(
        accesses.c.kind == "model", accesses.c.version == version_id, accesses.c.mode == "read"
    )
    return connection.execute(query.limit(1)).scalar() is not None
