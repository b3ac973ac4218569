"""Reports: the list, one as it shows now with its public links, and the place where it is written."""

import asyncio
from shlex import quote

from markupsafe import Markup
from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

COLUMNS = (
    Column("name", "Report", lambda one: one["name"]),
    Column("title", "Title", lambda one: one["title"]),
    Column("version", "Version", lambda one: one["version"], numeric=True),
    Column("changed", "Changed", lambda one: one["updated_at"]),
    Column("by", "By", lambda one: one["updated_by"]),
)


async def reports(view: View) -> Response:
    answer = await view.get("/reports")
    return view.page(
        "reports.html",
        "Reports",
        at="reports",
        live="report.",
        ways=Ways(
            cli=f"stratal report ls {view.flag}",
            python=view.sdk("/reports"),
        ),
        listing=arrange(answer["reports"], COLUMNS, view.query, default="-changed"),
    )


async def report(view: View) -> Response:
    name = view.part("report")
    path = f"/reports/{segment(name)}"
    told, links = await asyncio.gather(view.get(path, html=True), view.attempt(f"{path}/links"))
    return view.page(
        "report.html",
        str(told["name"]),
        at="reports",
        live="report.",
        ways=Ways(
            cli=f"stratal report show {quote(name)} {view.flag}\nstratal report show {quote(name)} --html {view.flag}",
            python=view.sdk(path),
        ),
        report=told,
        html=_made_here(told),
        links=[] if isinstance(links, Refused) else links["links"],
    )


async def edit(view: View) -> Response:
    name = view.part("report")
    path = f"/reports/{segment(name)}"
    told = await view.get(path, html=True)
    return view.page(
        "report_edit.html",
        f"Write {told['name']}",
        at="reports",
        ways=Ways(cli=f"stratal report show {quote(name)} {view.flag}", python=view.sdk(path)),
        report=told,
        html=_made_here(told),
    )


def _made_here(told: Json) -> Markup:
    """The one thing that pages take as HTML: the platform made it of Markdown that takes none, and escaped the rest."""
    return Markup(told["html"])  # noqa: S704
