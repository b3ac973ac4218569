"""``/api/v1/projects/{project}/models``: registered models and their versions, for people to look at."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from stratal.ai.models.conversion import Conversions
from stratal.ai.models.forms import Forms
from stratal.ai.models.model import FileCheck, Form, FormState, ModelVersion, RegisteredModel
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.gateway.native.bodies import Strict, body_of, chunks_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
_VERSION = "/projects/{project}/models/{name}/versions/{version}"
_MAX_BODY = 64 * 1024


class Parity(Strict):
    """How a form's answers were compared with its version's."""

    form: str = Field(max_length=40)
    precision: str = Field(max_length=40)
    real_rows: int = Field(ge=1)
    rows: int = Field(ge=1)
    apart: float = Field(ge=0)
    estimator_ms: float = Field(ge=0)
    onnx_ms: float = Field(ge=0)


class Outcome(Strict):
    """What came of a conversion: how the answers were compared, or why there is no form."""

    parity: Parity | None = None
    why: str = Field("", max_length=8000)


def router(
    projects: Projects, names: RegisteredModels, versions: Models, forms: Forms, conversions: Conversions
) -> APIRouter:
    """Routes of the registry; it is written through MLflow's own protocol."""
    api = APIRouter(tags=["models"])

    @api.get("/projects/{project}/models")
    async def list_models(
        who: Who,
        project: str,
        filter: str = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        page_token: str = "",
    ) -> dict[str, object]:
        """The project's registered models by name."""
        place = await projects.get(who, project)
        page = await names.search(who, place.id, text=filter, limit=limit, token=page_token)
        return {"models": [_model(one) for one in page.items], "next_page_token": page.next_token or None}

    @api.get("/projects/{project}/models/{name}")
    async def get_model(who: Who, project: str, name: str) -> dict[str, object]:
        """A model with its versions, newest first."""
        place = await projects.get(who, project)
        model = await names.get(who, place.id, name)
        found = await versions.of_model(who, place.id, name)
        known = await forms.of_all(found)
        listed = [_version(one) | {"forms": _forms(known.get(one.id, []), place.id)} for one in found]
        return {**_model(model), "tags": model.tags, "versions": listed}

    @api.get("/projects/{project}/models/{name}/versions/{version}")
    async def get_version(who: Who, project: str, name: str, version: str) -> dict[str, object]:
        """A version with its pinned files. Also by an alias, written ``@alias``."""
        place = await projects.get(who, project)
        found = await _find(who, place.id, name, version)
        return {
            **_version(found),
            "tags": found.tags,
            "source": found.source,
            "run_link": found.run_link,
            "signature": found.facts.signature,
            "forms": _forms(await forms.of(found), place.id),
            "requirements": found.facts.requirements,
            "files": [
                {"path": file.path, "size": file.size, "sha256": file.sha256}
                for file in await versions.files(found)
            ],
        }

    @api.get("/projects/{project}/models/{name}/versions/{version}/verify")
    async def verify_version(who: Who, project: str, name: str, version: str) -> dict[str, object]:
        """Hashes every pinned file's stored bytes again, now, and those of its forms."""
        place = await projects.get(who, project)
        found = await _find(who, place.id, name, version)
        checks = await versions.verify(found)
        for form in await forms.of(found):
            checks += await forms.verify(form)
        return {"verified": all(c.state == "verified" for c in checks), "files": [_check(c) for c in checks]}

    @api.post("/projects/{project}/models/{name}/versions/{version}/convert", status_code=202)
    async def convert_version(who: Who, project: str, name: str, version: str) -> dict[str, object]:
        """Queues a job that converts a scikit-learn version to ONNX and keeps that as a form of it. A form that is
        made already, or that a job is at, is left as it is."""
        place = await projects.get(who, project)
        found = await _find(who, place.id, name, version)
        form = await conversions.convert(who, place.id, name, str(found.version))
        return {
            "name": found.name,
            "version": found.version,
            "uri": found.uri,
            "job": form.job_id,
            "form": _form(form),
        }

    @api.put(f"{_VERSION}/forms/{{kind}}/file", status_code=201)
    async def receive_form(
        who: Who, project: str, name: str, version: str, kind: Literal["onnx"], request: Request
    ) -> dict[str, object]:
        """Takes in a form's file. For the job that converts the version, and nobody else."""
        place = await projects.get(who, project)
        blob = await forms.receive(who, place.id, name, version, chunks_of(request))
        return {"size": blob.size, "sha256": blob.sha256}

    @api.post(f"{_VERSION}/forms/{{kind}}", openapi_extra=body_of(Outcome))
    async def hand_in_form(
        who: Who, project: str, name: str, version: str, kind: Literal["onnx"], request: Request
    ) -> dict[str, object]:
        """Says what came of a conversion: the file that was sent is a form from now on, or there is none, and why.
        For the job that converts the version, and nobody else."""
        place = await projects.get(who, project)
        body = await read_model(request, Outcome, _MAX_BODY)
        compared = body.parity.model_dump() if body.parity is not None else {}
        return _form(await forms.hand_in(who, place.id, name, version, compared, body.why))

    async def _find(who: Principal, project_id: str, name: str, version: str) -> ModelVersion:
        if version.startswith("@"):
            return await versions.get_by_alias(who, project_id, name, version[1:])
        return await versions.get(who, project_id, name, version)

    return api


def _model(model: RegisteredModel) -> dict[str, object]:
    newest = max((one.version for one in model.latest), default=None)
    return {
        "name": model.name,
        "description": model.description,
        "latest_version": newest,
        "aliases": model.aliases,
        "created_at": iso(model.created_at),
        "updated_at": iso(model.updated_at),
        "created_by": model.created_by,
    }


def _forms(forms: Sequence[Form], project_id: str) -> list[dict[str, object]]:
    """As the project sees them: of a shared model those that were made, and not by which job."""
    lent = [replace(form, job_id=None) for form in forms if form.state is FormState.MADE]
    return [_form(form) for form in (forms if all(f.project_id == project_id for f in forms) else lent)]


def _form(form: Form) -> dict[str, object]:
    """Of a version, beside its own files."""
    return {
        "kind": form.kind,
        "id": form.id,
        "state": form.state,
        "why": form.why,
        "job": form.job_id,
        "parity": dict(form.parity) or None,
        "size": form.size,
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256} for file in form.files],
        "created_at": iso(form.created_at),
        "ended_at": None if form.ended_at is None else iso(form.ended_at),
        "created_by": form.created_by,
    }


def _version(version: ModelVersion) -> dict[str, object]:
    return {
        "name": version.name,
        "version": version.version,
        "id": version.id,
        "uri": version.uri,
        "description": version.description,
        "stage": version.stage,
        "aliases": list(version.aliases),
        "run_id": version.run_id,
        "job": version.job_id,
        "logged_model_id": version.logged_model_id,
        "flavors": sorted(version.facts.flavors),
        "formats": list(version.facts.formats),
        "labels": list(version.facts.labels),
        "python_version": version.facts.python_version,
        "created_at": iso(version.created_at),
        "created_by": version.created_by,
    }


def _check(check: FileCheck) -> dict[str, object]:
    return {
        "path": check.path,
        "expected": check.expected,
        "found": check.found,
        "state": check.state.value,
    }
