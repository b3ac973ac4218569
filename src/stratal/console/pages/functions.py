"""Functions: the list, one with its revisions and what it was asked, and one invocation with what it wrote."""

import asyncio
from shlex import quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

LOOKED_THROUGH = 200

COLUMNS = (
    Column("name", "Function", lambda function: function["name"]),
    Column("state", "State", lambda function: function["state"]),
    Column("target", "Runs", lambda function: function.get("target")),
    Column("revision", "Revision", lambda function: function.get("revision"), numeric=True),
    Column("replicas", "Replicas", lambda function: function.get("replicas"), numeric=True),
    Column("made", "Made", lambda function: function.get("created_at")),
)
CALLS = (
    Column("id", "Invocation", lambda call: call["id"]),
    Column("state", "State", lambda call: call["state"]),
    Column("time", "Time", lambda call: call.get("seconds"), numeric=True),
    Column("tries", "Tries", lambda call: call.get("attempt"), numeric=True),
    Column("by", "By", lambda call: call.get("caller") or "anybody"),
    Column("error", "Error", lambda call: (call.get("error") or {}).get("message") or ""),
    Column("made", "Made", lambda call: call.get("created_at")),
)


async def functions(view: View) -> Response:
    answer = await view.get("/functions")
    return view.page(
        "functions.html",
        "Functions",
        at="functions",
        live="function.",
        ways=Ways(
            cli=f"stratal function ls {view.flag}\nstratal function deploy app.py:handler {view.flag}",
            python=view.sdk("/functions"),
        ),
        listing=arrange(answer["functions"], COLUMNS, view.query),
    )


async def function(view: View) -> Response:
    name = view.part("function")
    path = f"/functions/{segment(name)}"
    told, history, asked = await asyncio.gather(
        view.get(path),
        view.attempt(f"{path}/revisions"),
        view.attempt(f"{path}/invocations", limit=LOOKED_THROUGH),
    )
    refused = isinstance(asked, Refused)
    return view.page(
        "function.html",
        str(told["name"]),
        at="functions",
        live="function. invocation.",
        ways=Ways(
            cli=f"stratal function show {quote(name)} {view.flag}\nstratal function logs {quote(name)} {view.flag}",
            python=view.sdk(path),
        ),
        calls=_calls(view.project, str(told["url"]), name, public=bool(told.get("public"))),
        function=told,
        shown=told.get("active") or told["latest"],
        history=history,
        refused=asked if refused else None,
        listing=None
        if isinstance(asked, Refused)
        else arrange(
            asked["invocations"], CALLS, view.query, default="-made", more=asked.get("next") is not None
        ),
    )


async def invocation(view: View) -> Response:
    name, number = view.part("function"), view.part("invocation")
    path = f"/functions/{segment(name)}/invocations/{segment(number)}"
    told = await view.get(path)
    return view.page(
        "invocation.html",
        str(told["id"]),
        at="functions",
        live="" if told.get("ended_at") else "invocation.",
        ways=Ways(
            cli=f"stratal function logs {quote(name)} {quote(number)} {view.flag}", python=view.sdk(path)
        ),
        function=name,
        invocation=told,
    )


def _calls(project: str, url: str, name: str, *, public: bool) -> Ways:
    """How to call it, from a shell and from Python."""
    key = "" if public else '-H "Authorization: Bearer $STRATAL_API_KEY" '
    return Ways(
        cli=("" if public else f'eval "$(stratal env --project {quote(project)})"\n')
        + f"curl {key}-H \"Content-Type: application/json\" \\\n  -d '{{}}' \\\n  {quote(url)}",
        python="from stratal.sdk import Client, functions\n\n"
        f"client = Client(project={project!r})\n"
        f"functions.invoke(client, {name!r}, {{}})",
    )
