"""From meaning to Iceberg's error model: ``{"error": {"message", "type", "code"}}``."""

from starlette.responses import JSONResponse, Response

from stratal.kernel.errors import StratalError

_BY_REASON = {
    "no_such_table": "NoSuchTableException",
    "no_such_namespace": "NoSuchNamespaceException",
    "no_such_view": "NoSuchViewException",
    "namespace_exists": "AlreadyExistsException",
    "table_exists": "AlreadyExistsException",
    "namespace_not_empty": "NamespaceNotEmptyException",
    "commit_failed": "CommitFailedException",
    "unprocessable": "UnprocessableEntityException",
}
_BY_STATUS = {
    400: "BadRequestException",
    401: "NotAuthorizedException",
    403: "ForbiddenException",
    404: "NotFoundException",
    409: "CommitFailedException",
    413: "BadRequestException",
    429: "SlowDownException",
    500: "InternalServerError",
    501: "UnsupportedOperationException",
    503: "ServiceUnavailableException",
}


def answer(error: StratalError) -> Response:
    """The error as clients of the protocol expect it."""
    status = 422 if error.reason == "unprocessable" else error.status
    kind = _BY_REASON.get(error.reason) or _BY_STATUS.get(status, "BadRequestException")
    return JSONResponse({"error": {"message": str(error), "type": kind, "code": status}}, status)


def oauth_answer(error: StratalError) -> Response:
    """The error of the token endpoint (RFC 6749 §5.2)."""
    name = "invalid_client" if error.status == 401 else "unsupported_grant_type"
    if error.reason == "bad_token_request":
        name = "invalid_request"
    return JSONResponse(
        {"error": name, "error_description": str(error)}, 401 if name == "invalid_client" else 400
    )
