"""Having scikit-learn versions converted to ONNX: jobs in their projects, whose results are *forms* of the versions.

The job loads the model in its own sandbox, compares the answers of both on real rows, and hands the form in
(`stratal.ai.models.forms`). Nobody waits for it, and nothing depends on it: a version is registered and deployed
whether or not its conversion works. An endpoint that is deployed with the version serves its form then, unless it is
told to serve it as it is; one that was deployed before the form was there goes on with what it answers with.

What nobody asked for is done when there is nothing else to do: one version at a time, after a while in which no job was
queued or running and nothing was registered or deployed. Of a model whose next version is registered meanwhile, only
that one is converted.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, exists, func, or_, select

from stratal.ai.models import forms
from stratal.ai.models.forms import Forms
from stratal.ai.models.model import Form, FormState, ModelVersion
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.ai.models.rows import version_of
from stratal.ai.models.tables import model_forms, model_versions
from stratal.compute.jobs import Jobs
from stratal.compute.model import BACKGROUND_PRIORITY, ENDED, JobSpec
from stratal.compute.tables import jobs as job_rows
from stratal.identity.model import Kind, Principal, Role
from stratal.identity.permissions import require
from stratal.identity.tables import projects
from stratal.kernel.clock import Clock
from stratal.kernel.database import Database
from stratal.kernel.errors import Invalid, StratalError
from stratal.ledger.past import refused_in_past

log = logging.getLogger("stratal.models")

TAG = "stratal.convert"
"""On a registered model: ``onnx`` has each of its scikit-learn versions converted when it is made, ``none`` has none;
on a version, given when it is registered: ``none`` keeps this one out of it."""
EXAMPLE = "input_example.json"
"""The file of an MLflow model that has the rows it was logged with."""
_SECONDS = 1800.0
UNASKED_PRIORITY = BACKGROUND_PRIORITY
"""What nobody asked for lets everything go first that is asked for within six hours after it."""
QUIET_MS = 30_000
"""For so long nothing else was to do before an unasked conversion begins."""
PATIENT_MS = 15 * 60_000
"""After so long it is queued behind everything else."""
PAUSE_MS = 60 * 60_000
"""For so long nothing is converted unasked after a job that came to no result: the next one may well do no better
(packages that cannot be fetched, a full disk)."""
_LOOK_SECONDS = 5.0
_IDLE_SECONDS = 600.0

Serves = Callable[[str, str], bool]
"""(project id, name): does an endpoint serve a version of this model?"""


class Unasked(StrEnum):
    """Which versions are converted though their model does not ask for it."""

    ASKED = "asked"
    """None."""
    SERVED = "served"
    """Those that endpoints are deployed with, and new ones of models that endpoints serve."""
    ALWAYS = "always"


class _Superseded(Exception):
    """Somebody else saw to the form meanwhile."""


class Conversions:
    """`program` is the text that the job runs, `requirements` what it needs beside the model's own. `start` before use."""

    def __init__(
        self,
        database: Database,
        models: Models,
        names: RegisteredModels,
        forms_: Forms,
        jobs: Jobs,
        clock: Clock,
        program: str,
        requirements: str,
        unasked: Unasked = Unasked.ALWAYS,
    ) -> None:
        self.serves: Serves = lambda project_id, name: False
        """Set by the room that serves models."""
        self._database = database
        self._models = models
        self._names = names
        self._forms = forms_
        self._jobs = jobs
        self._clock = clock
        self._program = program
        self._requirements = requirements
        self._unasked = unasked
        self._busy_at = clock()
        self._not_before = 0
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="conversions")

    async def close(self) -> None:
        """Let go; jobs go on, and their ends are seen at the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def convert(
        self, who: Principal, project_id: str, name: str, version: str, *, priority: int = 0
    ) -> Form:
        """Queue the job that converts ``models:/NAME/VERSION``; who may not register models may not have it done.

        A form that is made already, or that a job is at, is left as it is. Raises `NotFound`, `Denied`, and `Invalid`
        for a model that scikit-learn did not make.
        """
        require(who, "models.write", project_id, what=f"model {name[:100]!r}")
        if await self._models.in_past(who):
            raise refused_in_past("have a model converted")
        found = await self._models.get(who, project_id, name, version)
        if not is_sklearn(found):
            raise Invalid(
                f"{found.uri} is not a scikit-learn model.",
                hint="Only those are converted; ONNX models are served as they are.",
                reason="not_convertible",
            )
        require(who, "models.write", found.project_id, what=f"model {name[:100]!r}")
        with contextlib.suppress(_Superseded):
            await self._begin(who, found, priority)
        (form,) = await self._forms.of(found)
        return form

    async def _begin(self, who: Principal, version: ModelVersion, priority: int) -> None:
        spec = JobSpec(
            argv=["python", "-c", self._program, version.uri],
            name="convert-to-onnx",
            timeout_seconds=_SECONDS,
            priority=priority,
            requirements=f"{version.facts.requirements.rstrip()}\n{self._requirements}",
        )

        def also(c: Connection, job_id: int) -> None:
            if not forms.note(c, who, version, FormState.CONVERTING, self._clock(), job_id=job_id):
                raise _Superseded

        await self._jobs.submit(who, version.project_id, spec, also=also)
        self._kicked.set()

    # -- unasked ---------------------------------------------------------------------------------

    async def registered(self, who: Principal, version: ModelVersion) -> None:
        """A version was made: have it converted if its model or the instance says so. What hinders it is logged."""
        self._busy_at = self._clock()
        await self._perhaps(who, version, self._unasked is Unasked.SERVED and self._is_served(version))

    async def deployed(self, who: Principal, version: ModelVersion) -> None:
        """An endpoint was deployed with a version as it is: as `registered`."""
        self._busy_at = self._clock()
        await self._perhaps(who, version, self._unasked is Unasked.SERVED)

    async def _perhaps(self, who: Principal, version: ModelVersion, due: bool) -> None:
        if not is_sklearn(version) or version.project_id != who.project_id or version.tags.get(TAG) == "none":
            return
        try:
            if await self._models.in_past(who) or await self._forms.of(version):
                return
            model = await self._names.get(who, version.project_id, version.name)
            wish = model.tags.get(TAG)
            if wish == "onnx":
                await self.convert(
                    who, version.project_id, version.name, str(version.version), priority=UNASKED_PRIORITY
                )
            elif wish != "none" and (due or self._unasked is Unasked.ALWAYS):
                await self._want(who, version)
        except StratalError as error:
            log.warning("%s is not converted: %s", version.uri, error)

    async def _want(self, who: Principal, version: ModelVersion) -> None:
        require(who, "models.write", version.project_id)
        state, why = FormState.WAITING, ""
        if not any(file.path == EXAMPLE for file in version.files):
            state, why = FormState.REFUSED, without_example(version.uri)
        await self._database.write(lambda c: forms.note(c, who, version, state, self._clock(), why=why))
        self._kicked.set()

    def _is_served(self, version: ModelVersion) -> bool:
        return self.serves(version.project_id, version.name)

    # -- when there is time for it ---------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._kicked.clear()
            undone = True
            try:
                undone = await self.look()
            except Exception:
                log.exception("looking after conversions failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS if undone else _IDLE_SECONDS):
                    await self._kicked.wait()

    async def look(self) -> bool:
        """See which jobs have ended without a result, and begin one conversion if it is time; False: all is done."""
        converting = await self._database.write(self._see_ended)
        waiting = await self._database.write(_waiting)
        if not waiting:
            return converting
        now = self._clock()
        if await self._database.read(_is_busy):
            self._busy_at = now
        first = waiting[0]
        quiet = now - self._busy_at >= QUIET_MS or now - int(first["created_at"]) >= PATIENT_MS
        if quiet and not converting and now >= self._not_before:
            await self._take(first)
        return True

    async def _take(self, row: Mapping[str, Any]) -> None:
        """Begin the conversion that has waited longest."""
        who = _creator(row)
        version = await self._models.by_id(row["version_id"])
        try:
            await self._begin(who, version, UNASKED_PRIORITY)
        except _Superseded:
            return
        except StratalError as error:
            why = str(error)
            log.warning("%s is not converted: %s", version.uri, why)
            await self._database.write(
                lambda c: forms.note(c, who, version, FormState.REFUSED, self._clock(), why=why)
            )

    def _see_ended(self, c: Connection) -> bool:
        """Of conversions whose job has ended and handed nothing in, note that. True: others are at work still."""
        ended = [state.value for state in ENDED]
        query = (
            select(model_versions, job_rows.c.state.label("job_state"), job_rows.c.reason)
            .join(model_forms, model_versions.c.id == model_forms.c.version_id)
            .join(job_rows, job_rows.c.id == model_forms.c.job_id, isouter=True)
            .where(model_forms.c.state == FormState.CONVERTING.value)
        )
        going_on = False
        for row in c.execute(query).all():
            if row.job_state is not None and row.job_state not in ended:
                going_on = True
                continue
            version = version_of(row)
            form = forms.find_form(c, version.id)
            assert form is not None
            said = "is gone" if row.job_state is None else f"{row.job_state}. {row.reason}".strip()
            why = f"Job {form.job_id}: {said} Its log: stratal job logs {form.job_id}"
            label = f"{version.name}/{version.version}"
            now = self._clock()
            forms.end(c, form, FormState.FAILED, now, form.created_by, label, why)
            self._not_before = now + PAUSE_MS
        return going_on


def _waiting(c: Connection) -> Sequence[Mapping[str, Any]]:
    """What waits to be converted, longest first, after forgetting what was deleted, or whose model has a newer version
    that waits."""
    mine, newer = model_versions.alias(), model_versions.alias()
    waiting = model_forms.alias()
    passed_over = (
        select(model_forms.c.id)
        .join(mine, mine.c.id == model_forms.c.version_id)
        .where(
            model_forms.c.state == FormState.WAITING.value,
            or_(
                mine.c.deleted_at.is_not(None),
                exists()
                .where(
                    newer.c.model_id == mine.c.model_id,
                    newer.c.version > mine.c.version,
                    waiting.c.version_id == newer.c.id,
                    waiting.c.state == FormState.WAITING.value,
                )
                .correlate(mine),
            ),
        )
    )
    gone = list(c.execute(passed_over).scalars())
    if gone:
        c.execute(delete(model_forms).where(model_forms.c.id.in_(gone)))
    query = (
        select(model_forms, projects.c.name.label("project"))
        .join(projects, projects.c.id == model_forms.c.project_id)
        .where(model_forms.c.state == FormState.WAITING.value)
        .order_by(model_forms.c.created_at, model_forms.c.id)
        .limit(10)
    )
    return [dict(row) for row in c.execute(query).mappings()]


def _is_busy(c: Connection) -> bool:
    """Is any job queued, or does any run?"""
    going_on = job_rows.c.state.not_in([state.value for state in ENDED])
    return bool(c.execute(select(func.count()).select_from(job_rows).where(going_on)).scalar())


def _creator(row: Mapping[str, Any]) -> Principal:
    kind = row["created_by"].partition(":")[0]
    known = kind in list(Kind)
    return Principal(
        kind=Kind(kind) if known else Kind.WORKLOAD,
        id=row["creator_id"],
        name=row["creator_name"],
        project_id=row["project_id"],
        project=row["project"],
        role=Role(row["creator_role"]),
        workload=None if known else row["created_by"],
    )


def without_example(uri: str) -> str:
    return (
        f"{uri} was logged without an input example, so there are no real rows to compare answers on: "
        "log it with input_example=DATA.iloc[:100]."
    )


def is_sklearn(version: ModelVersion) -> bool:
    return "sklearn" in version.facts.flavors
