"""``/api/v1/projects/P/reports``: Markdown with charts, tables and lineage, as HTML too; and public links to it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from stratal.collab.reports.service import Link, Report, Reports
from stratal.data.lake.model import Place
from stratal.gateway.native.bodies import Strict, body_of, read_model
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.identity.projects import Projects
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]
_MAX_BODY = 2 << 20


class NewReport(Strict):
    name: str
    text: str = Field(default="", description="Markdown; what its blocks are, docs/reports.md says.")


class Text(Strict):
    text: str
    version: int | None = Field(
        default=None, description="Refuse when it is at another one. Absent: whatever it is at."
    )


class Preview(Strict):
    text: str


class NewLink(Strict):
    live: bool = Field(
        default=False, description="Its figures are asked anew; else they stay as they are now."
    )
    expires_at: int = Field(description="When it ends, in epoch milliseconds: within a year.")


def router(projects: Projects, reports: Reports, url: str) -> APIRouter:
    """`url` is the instance's address, which public links begin with."""
    api = APIRouter(tags=["reports"])

    async def place_of(who: Principal, project: str) -> Place:
        found = await projects.get(who, project)
        return Place(found.id, found.name)

    @api.get("/projects/{project}/reports")
    async def list_reports(who: Who, project: str) -> dict[str, object]:
        """The project's reports, the ones last written first."""
        place = await place_of(who, project)
        return {"reports": [_brief(one) for one in await reports.list(who, place.id)]}

    @api.post("/projects/{project}/reports", status_code=201, openapi_extra=body_of(NewReport))
    async def create_report(request: Request, who: Who, project: str) -> dict[str, object]:
        place = await place_of(who, project)
        body = await read_model(request, NewReport, _MAX_BODY)
        return _brief(await reports.create(who, place.id, body.name, body.text))

    @api.post("/projects/{project}/reports-preview", openapi_extra=body_of(Preview))
    async def preview_report(request: Request, who: Who, project: str) -> dict[str, object]:
        """A text as HTML, without keeping it."""
        place = await place_of(who, project)
        body = await read_model(request, Preview, _MAX_BODY)
        return {"html": await reports.shown(who, place, body.text)}

    @api.get("/projects/{project}/reports/{name}")
    async def get_report(who: Who, project: str, name: str, html: bool = False) -> dict[str, object]:
        """A report's text; with `html` also as HTML, with what its blocks show now."""
        place = await place_of(who, project)
        found = await reports.get(who, place.id, name)
        shown = {"html": await reports.shown(who, place, found.text)} if html else {}
        return {**_brief(found), "text": found.text, **shown}

    @api.put("/projects/{project}/reports/{name}", openapi_extra=body_of(Text))
    async def write_report(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Give a report another text. Public links keep the one that they were made with."""
        place = await place_of(who, project)
        body = await read_model(request, Text, _MAX_BODY)
        return _brief(await reports.write(who, place.id, name, body.text, body.version))

    @api.delete("/projects/{project}/reports/{name}", status_code=204)
    async def remove_report(who: Who, project: str, name: str) -> None:
        """Remove a report, and the public links to it."""
        place = await place_of(who, project)
        await reports.remove(who, place.id, name)

    @api.get("/projects/{project}/reports/{name}/links")
    async def list_links(who: Who, project: str, name: str) -> dict[str, object]:
        """The public links to the report that are good still, without their secrets."""
        place = await place_of(who, project)
        return {"links": [_link(one) for one in await reports.links(who, place.id, name)]}

    @api.post("/projects/{project}/reports/{name}/links", status_code=201, openapi_extra=body_of(NewLink))
    async def publish_report(request: Request, who: Who, project: str, name: str) -> dict[str, object]:
        """Make a public link to the report as it is now (owners only). Its address is told this once."""
        place = await place_of(who, project)
        body = await read_model(request, NewLink, _MAX_BODY)
        made, token = await reports.publish(who, place, name, live=body.live, expires_at=body.expires_at)
        return {**_link(made), "url": f"{url}/r/{token}"}

    @api.delete("/projects/{project}/reports/{name}/links/{link}", status_code=204)
    async def unpublish_report(who: Who, project: str, name: str, link: str) -> None:
        """End a public link (owners only)."""
        place = await place_of(who, project)
        await reports.unpublish(who, place.id, name, link)

    return api


def _brief(report: Report) -> dict[str, object]:
    return {
        "name": report.name,
        "id": report.id,
        "title": report.title,
        "version": report.version,
        "created_at": iso(report.created_at),
        "created_by": report.created_by,
        "updated_at": iso(report.updated_at),
        "updated_by": report.updated_by,
    }


def _link(link: Link) -> dict[str, object]:
    return {
        "id": link.id,
        "shows": "live" if link.live else "snapshot",
        "created_at": iso(link.created_at),
        "created_by": link.created_by,
        "expires_at": iso(link.expires_at),
    }
