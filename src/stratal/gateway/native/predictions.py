"""``/api/v1/predictions/{id}``: what was asked, what was answered, and by which revision."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Depends
from starlette.responses import Response

from stratal.ai.predictions.service import Prediction, Predictions
from stratal.gateway.native.door import caller
from stratal.identity.model import Principal
from stratal.kernel.clock import iso

Who = Annotated[Principal, Depends(caller)]


def router(predictions: Predictions) -> APIRouter:
    api = APIRouter(tags=["predictions"])

    @api.get("/predictions/{prediction_id}")
    async def get_prediction(who: Who, prediction_id: str) -> Response:
        """A recorded prediction; `intact` false and `problem` when its row no longer fits its id."""
        content = orjson.dumps(shown(await predictions.get(who, prediction_id)))  # NaN becomes null
        return Response(content, media_type="application/json")

    return api


def shown(prediction: Prediction) -> dict[str, object]:
    """A prediction as the native API writes it."""
    return {
        "id": prediction.id,
        "endpoint": prediction.endpoint,
        "revision": prediction.revision_number,
        "model_version_id": prediction.model_version_id,
        "intact": prediction.intact,
        "problem": prediction.problem,
        "at": None if prediction.at is None else iso(prediction.at),
        "actor": prediction.actor,
        "request_id": prediction.request_id,
        "rows": prediction.rows,
        "latency_ms": prediction.latency_ms,
        "columns": prediction.columns,
        "params": prediction.params,
        "inputs": prediction.inputs,
        "outputs": prediction.outputs,
        "inputs_sha256": prediction.inputs_sha256,
        "outputs_sha256": prediction.outputs_sha256,
    }
