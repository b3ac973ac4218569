"""``/api/v1/solutions`` and a project's newest solution run: its result, its report and its picture.

Report and picture were made by a run, so a browser gets them in a sandbox: no script runs, nothing is loaded
from elsewhere, and the page has no origin that could act as the person looking at it.
"""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response, StreamingResponse

from stratal.ai.solutions.catalogue import Catalogue
from stratal.ai.solutions.results import Results
from stratal.ai.solutions.shown import shown
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects

Who = Annotated[Principal, Depends(caller)]
_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


def router(projects: Projects, catalogue: Catalogue, results: Results) -> APIRouter:
    api = APIRouter(tags=["solutions"])

    @api.get("/solutions")
    def list_solutions(who: Who) -> dict[str, object]:
        """The ready solutions that this installation holds."""
        return {"solutions": [shown(one) for one in catalogue.all()]}

    @api.get("/solutions/{name}")
    def get_solution(who: Who, name: str) -> dict[str, object]:
        """What a solution is for, what it stands on, and what it must show."""
        return shown(catalogue.get(name))

    async def part(who: Principal, project: str, name: str, media_type: str) -> Response:
        place = await projects.get(who, project)
        version = await results.find(who, place.id, place.name, name)
        headers = {
            "Content-Length": str(version.size),
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": _SANDBOX,
            "Cache-Control": "no-store",
        }
        return StreamingResponse(results.read(who, version), headers=headers, media_type=media_type)

    @api.get("/projects/{project}/solution")
    async def get_result(who: Who, project: str) -> Response:
        """The result of the project's newest solution run: verdict, gates, numbers, and what it stands on."""
        return await part(who, project, "result", "application/json")

    @api.get("/projects/{project}/solution/report")
    async def get_report(who: Who, project: str) -> Response:
        """The report of that run: one HTML page."""
        return await part(who, project, "report", "text/html; charset=utf-8")

    @api.get("/projects/{project}/solution/picture")
    async def get_picture(who: Who, project: str) -> Response:
        """The picture that stands for it (SVG)."""
        return await part(who, project, "picture", "image/svg+xml")

    return api
