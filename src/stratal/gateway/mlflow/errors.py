"""From meaning to MLflow's errors: ``{"error_code", "message"}`` with the status that belongs to the code."""

from starlette.responses import JSONResponse, Response

from stratal.kernel.errors import StratalError

_BY_REASON = {
    "no_such_route": ("ENDPOINT_NOT_FOUND", 404),
    "malformed_json": ("BAD_REQUEST", 400),
    "experiment_exists": ("RESOURCE_ALREADY_EXISTS", 400),
    "model_exists": ("RESOURCE_ALREADY_EXISTS", 400),
}
_BY_CODE = {
    "invalid": ("INVALID_PARAMETER_VALUE", 400),
    "unauthenticated": ("UNAUTHENTICATED", 401),
    "denied": ("PERMISSION_DENIED", 403),
    "not_found": ("RESOURCE_DOES_NOT_EXIST", 404),
    "conflict": ("RESOURCE_CONFLICT", 409),
    "precondition_failed": ("RESOURCE_CONFLICT", 409),
    "range_invalid": ("INVALID_PARAMETER_VALUE", 416),
    "too_large": ("INVALID_PARAMETER_VALUE", 413),
    "over_budget": ("RESOURCE_EXHAUSTED", 429),
    "busy": ("RESOURCE_EXHAUSTED", 429),
    "unavailable": ("TEMPORARILY_UNAVAILABLE", 503),
    "unsupported": ("NOT_IMPLEMENTED", 501),
}


def answer(error: StratalError) -> Response:
    """The error as MLflow's clients read it."""
    code, status = _BY_REASON.get(error.reason) or _BY_CODE.get(error.code, ("INTERNAL_ERROR", 500))
    return JSONResponse({"error_code": code, "message": str(error)}, status)
