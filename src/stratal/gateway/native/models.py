"""``/api/v1/projects/{project}/models``: registered models and their versions, for people to look at."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from stratal.ai.models.conversion import Conversions, parity, told
from stratal.ai.models.model import FileCheck, ModelVersion, RegisteredModel
from stratal.ai.models.registered import RegisteredModels
from stratal.ai.models.registry import Models
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]


def router(
    projects: Projects, names: RegisteredModels, versions: Models, conversions: Conversions
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
        return {**_model(model), "tags": model.tags, "versions": [_version(one) for one in found]}

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
            "onnx": _onnx(found),
            "requirements": found.facts.requirements,
            "files": [
                {"path": file.path, "size": file.size, "sha256": file.sha256}
                for file in await versions.files(found)
            ],
        }

    @api.get("/projects/{project}/models/{name}/versions/{version}/verify")
    async def verify_version(who: Who, project: str, name: str, version: str) -> dict[str, object]:
        """Hashes every pinned file's stored bytes again, now."""
        place = await projects.get(who, project)
        found = await _find(who, place.id, name, version)
        checks = await versions.verify(found)
        return {"verified": all(c.state == "verified" for c in checks), "files": [_check(c) for c in checks]}

    @api.post("/projects/{project}/models/{name}/versions/{version}/convert", status_code=202)
    async def convert_version(who: Who, project: str, name: str, version: str) -> dict[str, object]:
        """Queues a job that converts a scikit-learn version to ONNX and registers that as the next version."""
        place = await projects.get(who, project)
        found = await _find(who, place.id, name, version)
        job = await conversions.convert(who, place.id, name, str(found.version))
        return {"name": found.name, "version": found.version, "uri": found.uri, "job": str(job.id)}

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


def _onnx(version: ModelVersion) -> dict[str, object] | None:
    """The version's ONNX form, if it can have one, or is one."""
    known = told(version)
    if known is None:
        return None
    form = {"state": known.state, "version": known.number, "why": known.why, "job": known.job}
    return form | {"converted_from": known.of or None, "parity": parity(version) or None}


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
