"""Nodes: the machines that work runs on, what of them is held, and their GPUs."""

from starlette.responses import Response

from stratal.console.render import Ways
from stratal.console.view import View


async def nodes(view: View) -> Response:
    """Every machine, with its GPUs and the jobs that hold them."""
    answer = await view.get("/nodes")
    return view.page(
        "nodes.html",
        "Nodes",
        at="nodes",
        live="job.",
        ways=Ways(cli=f"stratal gpus {view.flag}\nstratal quota show {view.flag}", python=view.sdk("/nodes")),
        nodes=answer["nodes"],
    )
