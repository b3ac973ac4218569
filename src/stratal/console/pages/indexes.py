"""Indexes of documents: the list, one to ask, and the search in all of them."""

import re
from collections.abc import Sequence
from shlex import quote
from urllib.parse import quote as quoted

from starlette.responses import Response

from stratal.console.listing import Column, arrange
from stratal.console.native import Json, Refused, segment
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


async def search(view: View) -> Response:
    """``?index=NAME&q=WORDS&limit=10``: the passages that fit best, with what each is ranked by."""
    told = await view.get("/indexes")
    known = [one for one in told["indexes"] if one.get("built_at")]
    names = [str(one["name"]) for one in known]
    asked = view.query.get("index", "")
    chosen = asked or (names[0] if names else "")
    words = view.query.get("q", "").strip()
    limit = view.query.get("limit", "10")
    found: Json | Refused | None = None
    if words and chosen:
        try:
            body = {"query": words, "limit": int(limit) if limit.isdigit() else 10}
            found = await view.native.post(f"{view.base}/indexes/{segment(chosen)}/search", body)
        except Refused as refused:
            if refused.status == 401:
                raise
            found = refused
    name, what = quote(chosen or "NAME"), quote(words or "some words")
    path = f"/indexes/{segment(chosen or 'NAME')}/search"
    return view.page(
        "document_search.html",
        "Search documents",
        at="indexes",
        live="index.",
        ways=Ways(
            cli=f"stratal index search {name} {what} {view.flag}",
            python="from stratal.sdk import Client\n\n"
            f"client = Client(project={view.project!r})\n"
            f"client.post(client.path({path!r}), {{'query': {words or 'some words'!r}, 'limit': 10}})",
        ),
        indexes=known,
        building=len(told["indexes"]) - len(known),
        chosen=chosen,
        words=words,
        limit=limit,
        limits=("5", "10", "20", "50"),
        refused=found if isinstance(found, Refused) else None,
        found=None if found is None or isinstance(found, Refused) else _passages(view, found, words),
    )


def _passages(view: View, found: Json, words: str) -> Json:
    """The passages with the words of the question marked, and the address of each one's object."""
    passages = [
        {**one, "pieces": marked(str(one["text"]), words), "href": _object(view, str(one["document"]))}
        for one in found["passages"]
    ]
    return {**found, "passages": passages}


def _object(view: View, document: str) -> str:
    bucket, _, key = document.removeprefix("s3://").partition("/")
    return f"{view.base}/buckets/{segment(bucket)}?object={quoted(key, safe='')}"


def marked(text: str, words: str) -> Sequence[tuple[str, bool]]:
    """The text in pieces, each with whether it is a telling word of the question (its plural counts)."""
    telling = {_stem(word) for word in re.findall(r"\w+", words) if len(word) > 3 or word.isdigit()}
    pieces = re.split(r"(\w+)", text)
    return [(piece, _stem(piece) in telling) for piece in pieces if piece]


def _stem(word: str) -> str:
    return word.lower().removesuffix("s")


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
