"""One look at one page: who looks, at which project, and how an answer is made."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from stratal.console.native import Json, Native, Refused, segment
from stratal.console.render import Templates, Ways

THEME_COOKIE = "stratal_theme"


def theme_of(request: Request) -> str:
    """The remembered theme: ``light``, ``dark``, or ``""`` to follow the system."""
    chosen = request.cookies.get(THEME_COOKIE, "")
    return chosen if chosen in {"light", "dark"} else ""


@dataclass(frozen=True, slots=True)
class View:
    """What a page function works with. `native` asks with the viewer's cookie."""

    request: Request
    native: Native
    templates: Templates
    who: Json
    projects: tuple[str, ...]
    project: str

    @property
    def base(self) -> str:
        """The address of the project's pages: ``/projects/<name>``."""
        return f"/projects/{segment(self.project)}"

    @property
    def query(self) -> dict[str, str]:
        return dict(self.request.query_params)

    def part(self, name: str) -> str:
        """A parameter of the page's path."""
        return str(self.request.path_params[name])

    async def get(self, path: str, /, **query: str | int | bool | None) -> Json:
        """GET below ``/api/v1/projects/<project>``. Raises `Refused`."""
        return await self.native.get(self.base + path, **query)

    async def attempt(self, path: str, /, **query: str | int | bool | None) -> Json | Refused:
        """As `get`, for one part of a page: a refusal is returned, to be shown in the part's place."""
        return await self.native.attempt(self.base + path, **query)

    @property
    def flag(self) -> str:
        """How a command is told the project: ``--project NAME``."""
        return f"--project {quote(self.project)}"

    def sdk(self, path: str) -> str:
        """Python that asks the native API for `path` below the project."""
        return (
            "from stratal.sdk import Client\n\n"
            f"client = Client(project={self.project!r})\nclient.get(client.path({path!r}))"
        )

    def page(
        self, template: str, title: str, *, at: str, ways: Ways, live: str = "", **context: Any
    ) -> Response:
        """Render a page. `at` is its place in the rail; `live` the kinds of events that refresh it."""
        html = self.templates.render(
            template,
            title=title,
            at=at,
            ways=ways,
            live=live,
            view=self,
            base=self.base,
            project=self.project,
            projects=self.projects,
            who=self.who,
            theme=theme_of(self.request),
            q=self.query,
            path=self.request.url.path,
            **context,
        )
        return HTMLResponse(html)

    def fragment(self, template: str, **context: Any) -> Response:
        """Render a piece that is put into a page already open."""
        return HTMLResponse(self.templates.render(template, base=self.base, project=self.project, **context))

    def of(self, project: str) -> "View":
        """The same look, at another project that the viewer sees."""
        return replace(self, project=project)

    def redirect(self, path: str) -> Response:
        return RedirectResponse(path, 303)


Page = Callable[[View], Awaitable[Response]]


async def look(request: Request, native: Native, templates: Templates, project: str | None) -> View:
    """Find out who looks and what projects they see. Raises `Refused`: 401, or 404 for an unknown project."""
    who, seen = await asyncio.gather(native.get("/whoami"), native.get("/projects"))
    names = tuple(str(p["name"]) for p in seen["projects"])
    if project is not None and project not in names:
        raise Refused(
            404,
            "not_found",
            f"There is no project {project[:100]!r} that you can see.",
            "List the projects with: stratal projects list",
        )
    return View(request, native, templates, who, names, project or str(who["project"]))
