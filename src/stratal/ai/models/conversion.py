"""Having a scikit-learn version converted to ONNX: a job in its project, whose result is the next version.

The job loads the model in its own sandbox, compares the answers of both on real rows, and registers the
ONNX model itself, through the same door as anybody; so what was converted from what is in its lineage.

Nobody waits for it, and nothing depends on it: a version is registered and deployed whether or not its conversion
works. What came of it is said by the version's tag `FORM_TAG`. An endpoint that is asked for the version serves its
form then (`form_of`), unless it is told to serve it as it is.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

import orjson

from stratal.ai.models.model import ModelVersion
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.compute.jobs import Jobs
from stratal.compute.model import Job, JobSpec
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.errors import Invalid, StratalError

log = logging.getLogger("stratal.models")

TAG = "stratal.convert"
"""On a registered model: ``onnx`` has each of its scikit-learn versions converted when it is made, ``none`` has none."""
JOB_TAG = "stratal.onnx.job"
"""On a version that is being converted or was: by which job."""
FORM_TAG = "stratal.onnx"
"""On a version whose conversion has ended: the number of the ONNX version, or ``none: why``. The job writes it."""
SOURCE_TAG = "stratal.converted_from"
PARITY_TAG = "stratal.parity"
"""On an ONNX version: what it was made of, and how both were compared."""
_SECONDS = 1800.0
UNASKED_PRIORITY = -36
"""What nobody asked for lets everything go first that is asked for within six hours after it."""

Serves = Callable[[str, str], bool]
"""(project id, name): does an endpoint serve a version of this model?"""


class Unasked(StrEnum):
    """Which versions are converted though their model does not ask for it."""

    ASKED = "asked"
    """None."""
    SERVED = "served"
    """Those that endpoints are deployed with, and new ones of models that endpoints serve."""
    ALWAYS = "always"


class Conversions:
    """`program` is the text that the job runs, `requirements` what it needs beside the model's own."""

    def __init__(
        self,
        models: Models,
        names: RegisteredModels,
        jobs: Jobs,
        program: str,
        requirements: str,
        unasked: Unasked = Unasked.ASKED,
    ) -> None:
        self.serves: Serves = lambda project_id, name: False
        """Set by the room that serves models."""
        self._models = models
        self._names = names
        self._jobs = jobs
        self._program = program
        self._requirements = requirements
        self._unasked = unasked

    async def convert(
        self, who: Principal, project_id: str, name: str, version: str, *, priority: int = 0
    ) -> Job:
        """Queue the job that converts ``models:/NAME/VERSION``; who may not register models may not have it done.

        Raises `NotFound`, `Denied`, and `Invalid` for a model that scikit-learn did not make.
        """
        require(who, "models.write", project_id, what=f"model {name[:100]!r}")
        found = await self._models.get(who, project_id, name, version)
        if not _is_sklearn(found):
            raise Invalid(
                f"{found.uri} is not a scikit-learn model.",
                hint="Only those are converted; ONNX models are served as they are.",
                reason="not_convertible",
            )
        spec = JobSpec(
            argv=["python", "-c", self._program, found.uri],
            name="convert-to-onnx",
            timeout_seconds=_SECONDS,
            priority=priority,
            requirements=f"{found.facts.requirements.rstrip()}\n{self._requirements}",
        )
        job = await self._jobs.submit(who, project_id, spec)
        await self._models.set_tag(who, project_id, found.name, str(found.version), JOB_TAG, str(job.id))
        return job

    # -- unasked ---------------------------------------------------------------------------------

    async def registered(self, who: Principal, version: ModelVersion) -> None:
        """A version was made: have it converted if its model or the instance says so. What hinders it is logged."""
        await self._perhaps(who, version, self._unasked is Unasked.SERVED and self._is_served(version))

    async def deployed(self, who: Principal, version: ModelVersion) -> None:
        """An endpoint was deployed with a version as it is: as `registered`."""
        await self._perhaps(who, version, self._unasked is Unasked.SERVED)

    async def _perhaps(self, who: Principal, version: ModelVersion, due: bool) -> None:
        if not _is_sklearn(version) or JOB_TAG in version.tags:
            return
        try:
            model = await self._names.get(who, version.project_id, version.name)
            wish = model.tags.get(TAG)
            if wish == "onnx" or (wish != "none" and (due or self._unasked is Unasked.ALWAYS)):
                await self.convert(
                    who, version.project_id, version.name, str(version.version), priority=UNASKED_PRIORITY
                )
        except StratalError as error:
            log.warning("%s is not converted: %s", version.uri, error)

    def _is_served(self, version: ModelVersion) -> bool:
        return self.serves(version.project_id, version.name)


def form_of(models: Models) -> Callable[[Principal, ModelVersion], Awaitable[ModelVersion | None]]:
    """What finds the ONNX form of a version, with its files, whose answers were found to be the same; None: there is none.

    A tag is only a hint, and anybody who may write models can set one: the ONNX version itself has to say that it was
    made of this one by the job that the version names, and that the comparison held.
    """

    async def find(who: Principal, version: ModelVersion) -> ModelVersion | None:
        number, job_id = version.tags.get(FORM_TAG, ""), version.tags.get(JOB_TAG)
        if not number.isdecimal() or job_id is None:
            return None
        try:
            form = await models.resolve(who, version.project_id, f"models:/{version.name}/{number}")
        except StratalError:  # it was deleted
            return None
        same = form.tags.get(SOURCE_TAG) == version.uri and form.job_id == job_id
        return form if same and "onnx" in form.facts.flavors and parity(form) else None

    return find


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of a version's ONNX form. `state`: ``made`` (as version `number`), ``cannot`` (`why`), ``begun``
    (by `job`; its end is the job's), ``possible`` (nobody asked for it), or ``source``: it is itself one, of `of`."""

    state: str
    number: int | None = None
    why: str = ""
    job: str | None = None
    of: str = ""


def told(version: ModelVersion) -> Told | None:
    """What came of the conversion of a scikit-learn version, as its tags say; None for models of other kinds."""
    source = version.tags.get(SOURCE_TAG)
    if source is not None:
        return Told("source", of=source)
    if not _is_sklearn(version):
        return None
    said, job = version.tags.get(FORM_TAG, ""), version.tags.get(JOB_TAG)
    if said.isdecimal():
        return Told("made", int(said), job=job)
    if said:
        return Told("cannot", why=said.removeprefix("none:").strip(), job=job)
    return Told("possible") if job is None else Told("begun", job=job)


def parity(version: ModelVersion) -> dict[str, object]:
    """How a converted version was compared with what it was made of; empty where nothing is said."""
    try:
        told = orjson.loads(version.tags.get(PARITY_TAG, "{}"))
    except orjson.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def _is_sklearn(version: ModelVersion) -> bool:
    return "sklearn" in version.facts.flavors
