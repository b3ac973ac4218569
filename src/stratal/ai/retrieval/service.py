"""Indexes: made, looked at, built by jobs, calibrated and removed."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from sqlalchemy import Connection, delete, insert, select, update

from stratal.ai.endpoints.serving import Serving
from stratal.ai.retrieval.calibration import LEAST, Scored, calibrate
from stratal.ai.retrieval.model import (
    NAMESPACE,
    Built,
    Calibration,
    Index,
    IndexState,
    IndexView,
    Question,
)
from stratal.ai.retrieval.searching import Layouts, Search
from stratal.ai.retrieval.tables import indexes
from stratal.compute.jobs import Jobs
from stratal.compute.model import JobSpec, JobState
from stratal.data.lake.lake import Lake
from stratal.data.lake.model import Place, TableName
from stratal.data.objects.service import Objects
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Conflict, Invalid, NotFound
from stratal.kernel.events import emit
from stratal.kernel.ids import new_id
from stratal.kernel.names import check_name

MAX_QUESTIONS = 400
_SOURCE = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<pattern>.*)\Z", re.DOTALL)
_SECONDS = 4 * 3600.0
_MAX_SKIPPED = 1000


class Indexes:
    """`program` is the text that the building job runs (with an index's name), `requirements` what it needs."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        objects: Objects,
        lake: Lake,
        serving: Serving,
        search: Search,
        layouts: Layouts,
        program: str,
        requirements: str,
        clock: Clock,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._objects = objects
        self._lake = lake
        self._serving = serving
        self._search = search
        self._layouts = layouts
        self._program = program
        self._requirements = requirements
        self._clock = clock

    async def build(
        self, who: Principal, place: Place, name: str, source: str, embedder: str, ocr: str | None
    ) -> IndexView:
        """Make the index, or build it anew: what was built before is searched until the new one is done.

        `source` is ``s3://bucket/docs/**``; ``*`` stands for anything but ``/``. Raises `Invalid`, and `NotFound`
        for a bucket or endpoint that is not the project's.
        """
        check_name("index", name)
        if "." in name:
            raise Invalid("An index's name has no dot: its table has the same name.", reason="bad_name")
        require(who, "indexes.write", place.id, what=f"index {name!r}")
        bucket, _ = split_source(source)
        if (await self._objects.bucket(who, bucket)).project_id != place.id:
            raise NotFound(f"There is no bucket {bucket[:70]!r} in this project.", reason="no_such_bucket")
        for endpoint in filter(None, (embedder, ocr)):
            self._serving.describe(who, place.id, endpoint)
        spec = JobSpec(
            argv=["python", "-c", self._program, name],
            name=f"index-{name}",
            timeout_seconds=_SECONDS,
            requirements=self._requirements,
        )
        now = self._clock()
        values: dict[str, Any] = {"source": source, "embedder": embedder, "ocr": ocr}

        def record(c: Connection, job_id: int) -> None:
            known = _row(c, place.id, name)
            if known is None:
                index_id = new_id("idx")
                fixed = {"id": index_id, "project_id": place.id, "name": name}
                made = {"created_at": now, "created_by": who.actor}
                c.execute(insert(indexes).values(**fixed, **made, **values, job_id=job_id))
            else:
                index_id = known["id"]
                c.execute(update(indexes).where(indexes.c.id == index_id).values(**values, job_id=job_id))
            emit(c, "index.building", index_id, actor=who.actor, project_id=place.id, name=name, job=job_id)

        await self._jobs.submit(who, place.id, spec, also=record)
        return await self.get(who, place, name)

    async def list(self, who: Principal, place: Place) -> list[IndexView]:
        """The project's indexes, by name."""
        require(who, "indexes.read", place.id)
        query = select(indexes).where(indexes.c.project_id == place.id).order_by(indexes.c.name)
        rows = await self._database.read(lambda c: [dict(row) for row in c.execute(query).mappings()])
        return [await self._view(who, _index(row)) for row in rows]

    async def get(self, who: Principal, place: Place, name: str) -> IndexView:
        """Raises `NotFound`."""
        return await self._view(who, await self.find(who, place, name))

    async def find(self, who: Principal, place: Place, name: str) -> Index:
        """The index as recorded. Raises `NotFound`."""
        require(who, "indexes.read", place.id, what=f"index {name[:100]!r}")
        row = await self._database.read(lambda c: _row(c, place.id, name))
        if row is None:
            raise no_such_index(name)
        return _index(row)

    async def searchable(self, who: Principal, place: Place, name: str) -> Index:
        """The index, when it was built once at least. Raises `NotFound`, `Conflict`."""
        view = await self.get(who, place, name)
        if view.index.built is None:
            doing = view.failure or "it is being built"
            raise Conflict(
                f"Index {name!r} cannot be searched: {doing}.",
                hint=f"Its job's log: stratal job logs {view.index.job_id}",
                reason="not_built",
            )
        return view.index

    async def remove(self, who: Principal, place: Place, name: str) -> None:
        """Remove the index and its table of passages; the documents stay."""
        require(who, "indexes.write", place.id, what=f"index {name[:100]!r}")
        index = await self.find(who, place, name)
        await self._jobs.stop(who, place.id, index.job_id)

        def work(c: Connection) -> None:
            c.execute(delete(indexes).where(indexes.c.id == index.id))
            emit(c, "index.removed", index.id, actor=who.actor, project_id=place.id, name=name)

        await self._database.write(work)
        table = TableName((NAMESPACE,), name)
        with contextlib.suppress(NotFound):  # it was never built
            table_id = (await self._lake.catalog.find(who, place, table)).id
            await self._lake.drop(who, place, table, purge=True)
            await self._layouts.forget(place.id, table_id)

    async def purge(self, project_id: str) -> None:
        await self._layouts.forget(project_id)
        await self._database.write(
            lambda c: c.execute(delete(indexes).where(indexes.c.project_id == project_id))
        )

    # -- what its job tells --------------------------------------------------------------------

    async def done(
        self,
        who: Principal,
        place: Place,
        name: str,
        *,
        documents: int,
        passages: int,
        skipped: Sequence[Mapping[str, str]],
    ) -> IndexView:
        """Record what was built. Only the index's newest job may say so: one that was replaced raises `Conflict`."""
        require(who, "indexes.write", place.id, what=f"index {name[:100]!r}")
        built = Built(documents, passages, tuple(skipped)[:_MAX_SKIPPED], self._clock())

        def work(c: Connection) -> None:
            row = _row(c, place.id, name)
            if row is None:
                raise no_such_index(name)
            if who.workload != f"job:{row['job_id']}":
                raise Conflict(
                    f"Index {name!r} is built by job {row['job_id']} now.", reason="not_the_builder"
                )
            text = orjson.dumps(asdict(built)).decode()
            c.execute(update(indexes).where(indexes.c.id == row["id"]).values(built=text))
            emit(c, "index.built", row["id"], actor=who.actor, project_id=place.id, name=name)

        await self._database.write(work)
        return await self.get(who, place, name)

    # -- calibration ---------------------------------------------------------------------------

    async def calibrate(
        self,
        who: Principal,
        place: Place,
        name: str,
        questions: Sequence[Question],
        *,
        at_most_wrong: float | None = None,
        request_id: str,
    ) -> Calibration:
        """Choose from which confidence on questions are answered, by questions of which it is known.

        A question with a document is also asked with that document left out: then the rest must not answer it.
        Raises `Invalid` when there are fewer than `calibration.LEAST` of a kind.
        """
        require(who, "indexes.write", place.id, what=f"index {name[:100]!r}")
        index = await self.searchable(who, place, name)
        if not 1 <= len(questions) <= MAX_QUESTIONS:
            raise Invalid(f"Give 1 to {MAX_QUESTIONS} questions.", reason="bad_questions")
        scored: list[Scored] = []
        for question in questions:
            found = await self._search.find(who, place, index, question.text, limit=20, request_id=request_id)
            if question.document is None:
                scored.append(Scored(found.confidence, False, question.group))
                continue
            group = question.group or question.text
            named = [one.document for one in found.passages if question.document in one.document]
            scored.append(Scored(found.confidence if named else 0.0, True, group))
            if named:
                rest = await self._search.find(
                    who, place, index, question.text, limit=1, request_id=request_id, without=named[0]
                )
                if rest.passages:
                    scored.append(Scored(rest.confidence, False, group))
        source = "documents" if who.workload == f"job:{index.job_id}" else "people"
        made = calibrate(scored, source, at_most_wrong)
        if made is None:
            raise Invalid(
                f"At least {LEAST} questions that the documents answer and {LEAST} that they do not are needed.",
                hint='A line each: {"question": …, "document": …}; without document for those not answered.',
                reason="too_few_questions",
            )
        text = orjson.dumps(asdict(made)).decode()
        await self._database.write(
            lambda c: c.execute(update(indexes).where(indexes.c.id == index.id).values(calibration=text))
        )
        return made

    # -- views ---------------------------------------------------------------------------------

    async def _view(self, who: Principal, index: Index) -> IndexView:
        job = await self._jobs.get(who, index.project_id, index.job_id)
        if not job.state.ended:
            return IndexView(index, IndexState.BUILDING, "")
        if job.state is JobState.SUCCEEDED and index.built is not None:
            return IndexView(index, IndexState.READY, "")
        return IndexView(
            index,
            IndexState.FAILED,
            f"Job {job.id} {job.state.value}{': ' + job.reason if job.reason else ''}",
        )


def split_source(source: str) -> tuple[str, str]:
    """(bucket, pattern) of ``s3://bucket/docs/**``. Raises `Invalid`."""
    match = _SOURCE.match(source)
    if match is None or len(source) > 1000:
        raise Invalid(f"{source[:200]!r} is not like s3://bucket/docs/**.", reason="bad_source")
    return match["bucket"], match["pattern"] or "**"


def no_such_index(name: str) -> NotFound:
    return NotFound(
        f"There is no index {name[:100]!r}.",
        hint="List them with: stratal index ls",
        reason="no_such_index",
    )


def _row(c: Connection, project_id: str, name: str) -> dict[str, Any] | None:
    query = select(indexes).where(indexes.c.project_id == project_id, indexes.c.name == name)
    row = c.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)


def _index(row: Mapping[str, Any]) -> Index:
    values = dict(row)
    built, calibration = values.pop("built"), values.pop("calibration")
    return Index(
        **values,
        built=None if built is None else Built(**orjson.loads(built)),
        calibration=None if calibration is None else Calibration(**orjson.loads(calibration)),
    )
