"""Where data comes from and what came of it, and what replays found: each as one page."""

from shlex import quote

from starlette.responses import Response

from stratal.console.native import Refused, segment
from stratal.console.render import Ways
from stratal.console.view import View


async def lineage(view: View) -> Response:
    """A table's columns with what they are computed from, and everything downstream of it."""
    name = view.part("table")
    columns = await view.attempt(f"/tables/{segment(name)}/lineage")
    came = await view.attempt("/impact", of=name)
    return view.page(
        "lineage.html",
        f"From and to {name}",
        at="tables",
        live="pipeline.",
        ways=Ways(
            cli=f"stratal tables lineage {quote(name)} {view.flag}\nstratal impact {quote(name)} {view.flag}",
            python=view.sdk(f"/impact?of={segment(name)}"),
        ),
        of=name,
        columns=columns,
        came=came,
        no_columns=isinstance(columns, Refused),
        no_impact=isinstance(came, Refused),
    )


async def replays(view: View) -> Response:
    """The project's replays, newest first."""
    told = await view.get("/replays")
    return view.page(
        "replays.html",
        "Replays",
        at="pipelines",
        ways=Ways(cli=f"stratal replay RUN {view.flag}", python=view.sdk("/replays")),
        replays=told["replays"],
    )


async def replay(view: View) -> Response:
    """One replay: what it stood on, what it made, and what is other than it was."""
    number = view.part("replay")
    told = await view.get(f"/replays/{segment(number)}")
    return view.page(
        "replay.html",
        f"Replay {told['id']}",
        at="pipelines",
        live="pipeline.",
        ways=Ways(
            cli=f"stratal replay {quote(str(told['of']))} {view.flag}",
            python=view.sdk(f"/replays/{segment(number)}"),
        ),
        told=told,
    )
