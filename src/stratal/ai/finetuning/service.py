"""Asking for a model to be fine-tuned. What became of it is told by its job, its run and the version that it makes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

import orjson

from stratal.ai.endpoints.service import Endpoints
from stratal.ai.models.model import ModelVersion
from stratal.ai.models.registry import Models
from stratal.compute.jobs import Jobs
from stratal.compute.model import Job, JobSpec
from stratal.data.lake.model import split_location
from stratal.data.objects.service import Objects
from stratal.identity.model import Principal
from stratal.identity.permissions import require
from stratal.kernel.errors import Conflict, Invalid, NotFound
from stratal.kernel.names import check_name

_SECONDS = 4 * 3600.0
ENCODER = "minilm"
"""The implementation that a base model must have: the one whose files a head is put on."""


class Aim(StrEnum):
    CLASSIFY = "classify"
    """Rows with a text and its class; the head tells classes and their probabilities."""
    EMBED = "embed"
    """Rows with two texts that belong together; the head turns embeddings so that such texts lie closer."""


class Method(StrEnum):
    HEAD = "head"
    """A small head on the frozen encoder's embeddings: minutes on a processor."""
    LORA = "lora"
    """Low-rank adapters in the transformer itself, merged into it: for a GPU, slow without one."""


@dataclass(frozen=True, slots=True)
class Program:
    """The text that a job runs (with the wish as JSON), and what it needs; `served` is what its models need."""

    text: str
    requirements: str
    served: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """`source` is ``s3://bucket/key``, lines of JSON; `columns` names what `first` and `second` are called there.

    `base` is a model version (``models:/NAME/VERSION``) and `encoder` the endpoint that serves it.
    See `FineTunes.served_by`.
    """

    aim: Aim
    name: str
    source: str
    base: str
    encoder: str
    columns: Mapping[str, str]
    seed: int = 0
    endpoint: str | None = None
    """Where the job deploys the new version; None: nowhere."""
    method: Method | None = None
    """None: adapters where there is a GPU or no head is put on the base, else a head."""
    epochs: int = 5
    rate: float = 5e-4
    """Both for adapters: how often the rows are gone through at most, and the learning rate."""


class FineTunes:
    def __init__(
        self,
        models: Models,
        objects: Objects,
        jobs: Jobs,
        endpoints: Endpoints,
        programs: Mapping[Method, Program],
    ) -> None:
        self._endpoints = endpoints
        self._models = models
        self._objects = objects
        self._jobs = jobs
        self._programs = programs

    async def served_by(self, who: Principal, project_id: str, endpoint: str) -> str:
        """The model version (``models:/NAME/VERSION``) that the endpoint answers with. Raises `NotFound`, `Conflict`."""
        view = await self._endpoints.get(who, project_id, endpoint)
        if view.active is None:
            raise Conflict(f"Endpoint {endpoint!r} answers with nothing yet.", reason="not_ready")
        return view.active.model_uri

    async def begin(self, who: Principal, project_id: str, wish: Wish) -> Job:
        """Queue the job. Raises `Invalid` for a base that is not fine-tuned so, `NotFound`, `Denied`."""
        require(who, "models.write", project_id, what=f"model {wish.name[:100]!r}")
        check_name("model", wish.name)
        place = split_location(wish.source)
        if place is None:
            raise Invalid(f"{wish.source[:200]!r} is not like s3://bucket/key.", reason="bad_source")
        rows = await self._objects.head(who, *place)
        if rows.project_id != project_id:
            raise NotFound(f"There is no bucket {place[0][:70]!r} in this project.", reason="no_such_bucket")
        if wish.endpoint is not None:
            require(who, "endpoints.deploy", project_id, what=f"endpoint {wish.endpoint[:100]!r}")
            check_name("endpoint", wish.endpoint)
        base = await self._models.resolve(who, project_id, wish.base)
        has_gpu = bool((await self._jobs.capacity()).gpus)
        method = _method(base, wish.method, has_gpu=has_gpu)
        if base.name == wish.name:
            raise Invalid("The new model needs a name of its own.", reason="bad_name")
        program = self._programs[method]
        wanted = {
            **asdict(wish),
            "method": method,
            "packages": program.served,
            "base": base.uri,
            "files": [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in base.files],
        }
        spec = JobSpec(
            argv=["python", "-c", program.text, orjson.dumps(wanted).decode()],
            name=f"finetune-{wish.name}",
            timeout_seconds=_SECONDS,
            requirements=program.requirements,
            gpus=int(method is Method.LORA and has_gpu),
        )
        return await self._jobs.submit(who, project_id, spec)


def _method(base: ModelVersion, asked: Method | None, *, has_gpu: bool) -> Method:
    """How the base is fine-tuned. Raises `Invalid` where it cannot be."""
    headed = base.facts.flavors.get("stratal", {}).get("implementation") == ENCODER
    if asked is Method.HEAD and not headed:
        raise Invalid(
            f"{base.uri} is no encoder that a head is put on.",
            hint="Pull one (stratal models pull embed), or train adapters: --method lora",
            reason="not_an_encoder",
        )
    paths = [file.path for file in base.files]
    settings = base.facts.flavors.get("transformers", {})
    adapted = "config.json" in paths and any(path.endswith(".safetensors") for path in paths)
    if asked is Method.HEAD or (asked is None and headed and not has_gpu):
        return Method.HEAD
    if not adapted or not (headed or settings) or settings.get("auto_map"):
        raise Invalid(
            f"{base.uri} is no transformer that adapters are trained in.",
            hint="It needs config.json and safetensors, and no Python code of its own.",
            reason="not_a_transformer",
        )
    return Method.LORA
