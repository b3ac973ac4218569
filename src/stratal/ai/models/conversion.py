"""Having a scikit-learn version converted to ONNX: a job in its project, whose result is the next version.

The job loads the model in its own sandbox, compares the answers of both on real rows, and registers the
ONNX model itself, through the same door as anybody; so what was converted from what is in its lineage.
Models that carry the tag `TAG` with the value ``onnx`` have each scikit-learn version converted when it is made.
"""

import logging

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
_SECONDS = 1800.0


class Conversions:
    """`program` is the text that the job runs, `requirements` what it needs beside the model's own."""

    def __init__(
        self, models: Models, names: RegisteredModels, jobs: Jobs, program: str, requirements: str
    ) -> None:
        self._models = models
        self._names = names
        self._jobs = jobs
        self._program = program
        self._requirements = requirements

    async def convert(self, who: Principal, project_id: str, name: str, version: str) -> Job:
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
            requirements=f"{found.facts.requirements.rstrip()}\n{self._requirements}",
        )
        return await self._jobs.submit(who, project_id, spec)

    async def registered(self, who: Principal, version: ModelVersion) -> None:
        """A version was made: have it converted if its model asks for that. What hinders it is logged."""
        if not _is_sklearn(version):
            return
        try:
            model = await self._names.get(who, version.project_id, version.name)
            if model.tags.get(TAG) == "onnx":
                await self.convert(who, version.project_id, version.name, str(version.version))
        except StratalError as error:
            log.warning("%s is not converted: %s", version.uri, error)


def _is_sklearn(version: ModelVersion) -> bool:
    return "sklearn" in version.facts.flavors
