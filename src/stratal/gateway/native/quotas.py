"""``/api/v1/projects/{project}/quota``: what a project's jobs may hold at the same time."""

from math import isinf
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from stratal.compute.quotas import Quota, Quotas, QuotaUse
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects

Who = Annotated[Principal, Depends(caller)]

MAX_BODY = 64 * 1024


class NewQuota(Strict):
    """The whole quota: what is absent or null has no ceiling."""

    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    jobs: int | None = None


def router(quotas: Quotas, projects: Projects) -> APIRouter:
    api = APIRouter(tags=["jobs"])

    @api.get("/projects/{project}/quota")
    async def get_quota(who: Who, project: str) -> dict[str, object]:
        """The project's quota, null where there is no ceiling, and what its jobs hold now."""
        place = await projects.get(who, project)
        return _quota(place.name, await quotas.get(who, place.id))

    @api.put("/projects/{project}/quota", openapi_extra=body_of(NewQuota))
    async def set_quota(request: Request, who: Who, project: str) -> dict[str, object]:
        """Put a quota in the place of the project's. Jobs that run go on."""
        place = await projects.get(who, project)
        asked = await read_model(request, NewQuota, MAX_BODY)
        return _quota(place.name, await quotas.set(who, place.id, Quota(**asked.model_dump())))

    return api


def _quota(project: str, use: QuotaUse) -> dict[str, object]:
    names = ("cpus", "memory_bytes", "gpus", "jobs")
    limits = {name: getattr(use.quota.amount, name) for name in names}
    return {
        "project": project,
        "quota": {name: None if isinf(limit) else limit for name, limit in limits.items()},
        "used": {name: getattr(use.used, name) for name in names},
    }
