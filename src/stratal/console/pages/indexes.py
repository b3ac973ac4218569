"""Indexes of documents: the list, and one to search in and to ask."""

from shlex import quote

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View

COLUMNS = (
    Column("name", "Index", lambda index: index["name"]),
    Column("state", "State", lambda index: index["state"]),
    Column("documents", "Documents", lambda index: index.get("documents"), numeric=True),
    Column("passages", "Passages", lambda index: index.get("passages"), numeric=True),
    Column("source", "Source", lambda index: index["source"]),
    Column("built", "Built", lambda index: index.get("built_at")),
)


async def indexes(view: View) -> Response:
    answer = await view.get("/indexes")
    return view.page(
        "indexes.html",
        "Documents",
        at="indexes",
        live="index. job.",
        ways=Ways(
            cli=f"stratal index ls {view.flag}\nstratal index create handbook 's3://BUCKET/docs/**' {view.flag}",
            python=view.sdk("/indexes"),
        ),
        listing=arrange(answer["indexes"], COLUMNS, view.query),
    )


async def index(view: View) -> Response:
    name = view.part("index")
    told = await view.get(f"/indexes/{segment(name)}")
    endpoints = await view.attempt("/endpoints")
    writers = [] if isinstance(endpoints, Refused) else endpoints["endpoints"]
    path = f"/indexes/{segment(name)}/ask"
    return view.page(
        "index.html",
        str(told["name"]),
        at="indexes",
        live="index. job.",
        ways=Ways(
            cli=f"stratal index ask {quote(name)} 'a question' {view.flag}\n"
            f"stratal index search {quote(name)} 'some words' {view.flag}",
            python="from stratal.sdk import Client\n\n"
            f"client = Client(project={view.project!r})\n"
            f"client.post(client.path({path!r}), {{'question': 'a question'}})",
        ),
        index=told,
        writers=[one for one in writers if one.get("chats")],
    )
