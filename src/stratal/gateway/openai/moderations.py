"""``moderations``: whether a text is one of the things that a classifier of the project looks for.

The categories are the classifier's own classes: nothing is claimed about others. A class that says that
nothing was found (`_NOTHING`) is no category.
"""

from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from stratal.ai.endpoints.scoring import Inputs
from stratal.ai.endpoints.serving import Served, Serving
from stratal.ai.endpoints.tensors import nested
from stratal.gateway.openai import wire
from stratal.identity.model import Principal

_NOTHING = frozenset(
    {"ok", "none", "neutral", "safe", "clean", "fine", "acceptable", "harmless", "0", "false"}
)
_THRESHOLD = 0.5
DEFAULT = "moderation"
"""The endpoint that is asked when a client names none, or one of the public models."""


class Moderations:
    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    async def classify(self, who: Principal, request: Request) -> Response:
        body = await wire.json_object(request, 4 << 20)
        name = body.get("model") or DEFAULT
        if not isinstance(name, str):
            raise wire.bad("model must name an endpoint of the project.", "model")
        if name.startswith(("omni-moderation", "text-moderation")):
            name = DEFAULT
        served = self._serving.describe(who, who.project_id, name)
        classes = classes_of(served)
        if classes is None:
            raise wire.bad(
                f"The model of endpoint {name!r} does not classify texts: it needs one text as its input, classes, "
                "and their probabilities.",
                "model",
            )
        texts = wire.text_inputs(body)
        tensor = wire.texts_tensor(str((served.interface or {})["inputs"][0]["name"]), texts)
        answer = await self._serving.infer(
            who, who.project_id, name, Inputs([tensor]), ["probabilities"],
            request_id=request.scope["state"]["request_id"],
        )  # fmt: skip
        results = [_result(classes, row) for row in nested(answer.outputs[0])]
        told = {"id": f"modr-{answer.prediction_id}", "model": name, "results": results}
        headers = {"X-Stratal-Prediction-Id": answer.prediction_id}
        return Response(orjson.dumps(told), 200, headers, "application/json")


def classes_of(served: Served) -> list[str] | None:
    """The classes of a classifier of texts; None for any other model."""
    interface = served.interface or {}
    inputs, classes = interface.get("inputs") or [], interface.get("classes")
    if len(inputs) != 1 or inputs[0].get("datatype") != "BYTES" or not classes:
        return None
    if not any(output.get("name") == "probabilities" for output in interface.get("outputs") or []):
        return None
    return [str(one) for one in classes]


def _result(classes: list[str], probabilities: list[float]) -> dict[str, Any]:
    scores = {
        name: float(value)
        for name, value in zip(classes, probabilities, strict=True)
        if name.lower() not in _NOTHING
    }
    categories = {name: value >= _THRESHOLD for name, value in scores.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in categories},
    }
