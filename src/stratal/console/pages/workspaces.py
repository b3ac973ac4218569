"""Workspaces: the list, and one with its saves, its servers, and the way in."""

import asyncio
from shlex import quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

LOOKED_THROUGH = 200

COLUMNS = (
    Column("name", "Workspace", lambda one: one["name"]),
    Column("program", "Program", lambda one: one["program"]),
    Column("state", "State", lambda one: one["state"]),
    Column("open", "Open by", lambda one: ", ".join(one["visitors"])),
    Column("memory", "Memory", lambda one: one["memory_bytes"], numeric=True),
    Column("used", "Used", lambda one: one.get("used_at")),
    Column("made", "Made", lambda one: one.get("created_at")),
)
SAVES = (
    Column("id", "Save", lambda save: save["id"], numeric=True),
    Column("path", "File", lambda save: save["path"]),
    Column("size", "Size", lambda save: save["size"], numeric=True),
    Column("content", "Content", lambda save: save["sha256"]),
    Column("by", "By", lambda save: save["saved_by"]),
    Column("saved", "Saved", lambda save: save["saved_at"]),
)


async def workspaces(view: View) -> Response:
    answer = await view.get("/workspaces")
    return view.page(
        "workspaces.html",
        "Workspaces",
        at="workspaces",
        live="workspace.",
        ways=Ways(
            cli=f"stratal workspace ls {view.flag}\nstratal workspace create eda --with pandas {view.flag}",
            python=view.sdk("/workspaces"),
        ),
        listing=arrange(answer["workspaces"], COLUMNS, view.query),
    )


async def workspace(view: View) -> Response:
    name = view.part("workspace")
    path = f"/workspaces/{segment(name)}"
    told, saves = await asyncio.gather(view.get(path), view.attempt(f"{path}/saves", limit=LOOKED_THROUGH))
    refused = isinstance(saves, Refused)
    return view.page(
        "workspace.html",
        str(told["name"]),
        at="workspaces",
        live="workspace.",
        ways=Ways(
            cli=f"stratal workspace open {quote(name)} {view.flag}\nstratal workspace saves {quote(name)} {view.flag}",
            python=view.sdk(path),
        ),
        workspace=told,
        refused=saves if refused else None,
        listing=None
        if isinstance(saves, Refused)
        else arrange(saves["saves"], SAVES, view.query, default="-id", more=saves.get("next") is not None),
    )
