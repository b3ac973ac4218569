"""From meaning to OpenAI's errors: ``{"error": {"message", "type", "param", "code"}}``."""

import orjson
from starlette.responses import Response

from stratal.kernel.errors import Invalid, StratalError

_CODES = {
    "no_such_file": "not_found",
    "no_such_batch": "not_found",
    "no_such_finetune": "not_found",
    "no_such_endpoint": "model_not_found",
    "over_budget": "insufficient_quota",
    "no_credentials": "invalid_api_key",
    "malformed_key": "invalid_api_key",
    "wrong_secret": "invalid_api_key",
    "unknown_key": "invalid_api_key",
    "revoked_key": "invalid_api_key",
    "expired_key": "invalid_api_key",
}


def body(error: StratalError) -> dict[str, object]:
    """The error as clients read it, also inside a stream that has begun."""
    kind = (
        "rate_limit_error"
        if error.status == 429
        else "server_error"
        if error.status >= 500
        else "invalid_request_error"
    )
    told = {"message": str(error), "type": kind, "param": error.details.get("param")}
    return {"error": {**told, "code": _CODES.get(error.reason, error.reason)}}


def answer(error: StratalError, *, empty: bool) -> Response:
    headers = {}
    if "retry_after_seconds" in error.details:
        headers["Retry-After"] = str(error.details["retry_after_seconds"])
    if error.reason == "over_budget":
        headers["X-Should-Retry"] = "false"  # its clients would try for a while, in vain
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="Stratal"'
    return Response(b"" if empty else orjson.dumps(body(error)), error.status, headers, "application/json")


def bad(message: str, param: str) -> Invalid:
    return Invalid(message, reason="invalid_value", param=param)
