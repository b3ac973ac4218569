"""Merge requests of a repository: the list with a form for a new one, and one with its diff, checks and comments."""

import asyncio
from shlex import quote

from starlette.responses import Response

from stratal.console.native import Refused, segment
from stratal.console.pages.repositories import diff_lines
from stratal.console.render import Ways
from stratal.console.view import View

_STATES = ("open", "merged", "closed")


async def merges(view: View) -> Response:
    """A repository's merge requests, the open ones unless ``?state=``."""
    name = view.part("repository")
    state = view.query.get("state", "open")
    address = f"/repositories/{segment(name)}"
    told, answer = await asyncio.gather(
        view.get(address), view.get(f"{address}/merges", state=state if state in _STATES else "")
    )
    return view.page(
        "merges.html",
        "Merge requests",
        at="repositories",
        live="merge_request.",
        ways=Ways(
            cli=f"stratal merge ls {quote(name)} {view.flag}\n"
            f"stratal merge create {quote(name)} topic 'What it does' {view.flag}",
            python=view.sdk(f"{address}/merges"),
        ),
        repository=told,
        here=view.base + address,
        merges=answer["merges"],
        state=state,
        states=(*_STATES, "all"),
    )


async def merge(view: View) -> Response:
    """One merge request."""
    name, number = view.part("repository"), view.part("number")
    address = f"/repositories/{segment(name)}/merges/{segment(number)}"
    told, diff = await asyncio.gather(view.get(address), view.attempt(f"{address}/diff"))
    shown = quote(name)
    return view.page(
        "merge.html",
        str(told["title"]),
        at="repositories",
        live="merge_request.",
        ways=Ways(
            cli=f"stratal merge show {shown} {quote(number)} {view.flag}\n"
            f"stratal merge accept {shown} {quote(number)} {view.flag}",
            python=view.sdk(address),
        ),
        merge=told,
        here=f"{view.base}/repositories/{segment(name)}",
        address=view.base + address,
        changed=diff,
        refused=diff if isinstance(diff, Refused) else None,
        diff=[] if isinstance(diff, Refused) else diff_lines(diff["diff"]),
    )
