"""Why a prediction came out as it did: the chain behind it, every hash recomputed on the spot."""

from shlex import quote

from starlette.responses import Response

from stratal.console.native import segment
from stratal.console.render import Ways
from stratal.console.view import View


def _ways(prediction: str) -> Ways:
    return Ways(
        cli=f"stratal why {quote(prediction)}",
        python=f"from stratal.sdk import Client\n\nClient().get({f'/predictions/{segment(prediction)}/why'!r})",
    )


async def ask(view: View) -> Response:
    """A field for a prediction's id."""
    wanted = view.request.query_params.get("id", "").strip()
    if wanted:
        return view.redirect(f"/predictions/{segment(wanted)}")
    return view.page("why_ask.html", "Explain a prediction", at="why", ways=_ways("PREDICTION_ID"))


async def why(view: View) -> Response:
    """The chain of one prediction: a page, or the side panel's piece of it."""
    prediction = view.part("prediction")
    told = await view.native.get(f"/predictions/{segment(prediction)}/why")
    if "panel" in view.request.query_params:
        return view.fragment("why_chain.html", told=told, prediction=prediction)
    return view.page(
        "why.html", "Prediction", at="why", ways=_ways(prediction), told=told, prediction=prediction
    )
