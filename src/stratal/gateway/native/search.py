"""``/api/v1/projects/{project}/search``: things of the project by words of their names."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from stratal.ai.finding import Finding
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]


def router(projects: Projects, finding: Finding) -> APIRouter:
    api = APIRouter(tags=["search"])

    @api.get("/projects/{project}/search")
    async def search(
        who: Who,
        project: str,
        q: Annotated[str, Query(max_length=200, description="All of these words, whatever their case.")],
        kind: Annotated[list[str] | None, Query(description="Only such: job, run, table, model …")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 50,
    ) -> dict[str, object]:
        """What you may see whose name or id has the words: an exact name first, then by kind, newest first."""
        place = await projects.get(who, project)
        found = await finding.find(who, place.id, q, kinds=kind or (), limit=limit)
        return {
            "found": [{"kind": one.kind, "id": one.id, "name": one.name, "at": iso(one.at)} for one in found]
        }

    return api
