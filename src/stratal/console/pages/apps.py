"""Apps: the list, and one with the way in, its requests, its revisions and its replicas."""

import asyncio
from shlex import quote
from urllib.parse import urlsplit

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

LOOKED_THROUGH = 200

COLUMNS = (
    Column("name", "App", lambda app: app["name"]),
    Column("state", "State", lambda app: app["state"]),
    Column("target", "Runs", lambda app: app.get("target")),
    Column("revision", "Revision", lambda app: app.get("revision"), numeric=True),
    Column("replicas", "Replicas", lambda app: app.get("replicas"), numeric=True),
    Column("now", "Requests now", lambda app: app.get("in_flight"), numeric=True),
    Column("made", "Made", lambda app: app.get("created_at")),
)
REQUESTS = (
    Column("request", "Request", lambda one: f"{one['method']} {one['path']}"),
    Column("status", "Status", lambda one: one.get("status"), numeric=True),
    Column("time", "Time", lambda one: one.get("seconds"), numeric=True),
    Column("by", "By", lambda one: one.get("caller") or "anybody"),
    Column("error", "Error", lambda one: (one.get("error") or {}).get("message") or ""),
    Column("made", "Made", lambda one: one.get("created_at")),
)


async def apps(view: View) -> Response:
    answer = await view.get("/apps")
    return view.page(
        "apps.html",
        "Apps",
        at="apps",
        live="app.",
        ways=Ways(
            cli=f"stratal app ls {view.flag}\nstratal app deploy app.py:app --with fastapi {view.flag}",
            python=view.sdk("/apps"),
        ),
        listing=arrange(answer["apps"], COLUMNS, view.query),
    )


async def app(view: View) -> Response:
    name = view.part("app")
    path = f"/apps/{segment(name)}"
    told, history, asked = await asyncio.gather(
        view.get(path),
        view.attempt(f"{path}/revisions"),
        view.attempt(f"{path}/requests", limit=LOOKED_THROUGH),
    )
    return view.page(
        "app.html",
        str(told["name"]),
        at="apps",
        live="app.",
        ways=Ways(
            cli=f"stratal app show {quote(name)} {view.flag}\nstratal app logs {quote(name)} {view.flag}",
            python=view.sdk(path),
        ),
        calls=_calls(view.project, str(told["url"]), name, public=bool(told.get("public"))),
        app=told,
        shown=told.get("active") or told["latest"],
        history=history,
        refused=asked if isinstance(asked, Refused) else None,
        listing=None
        if isinstance(asked, Refused)
        else arrange(
            asked["requests"], REQUESTS, view.query, default="-made", more=asked.get("next") is not None
        ),
    )


def _calls(project: str, url: str, name: str, *, public: bool) -> Ways:
    """How to ask it, from a shell and from Python."""
    key = "" if public else '-H "Authorization: Bearer $STRATAL_API_KEY" '
    host = urlsplit(url).netloc
    return Ways(
        cli=f'eval "$(stratal env --project {quote(project)})"\n'
        + f'curl {key}-H "Host: {host}" \\\n  "$STRATAL_URL/"',
        python="from stratal.sdk import Client, apps\n\n"
        f"client = Client(project={project!r})\n"
        f'apps.request(client, {name!r}, "GET", "/")',
    )
