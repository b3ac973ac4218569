"""S3's error codes: from meaning to code and status, and the XML that says so.

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Scope

from stratal.gateway.s3.xml import DECLARATION, element, shown
from stratal.kernel.errors import (
    Busy,
    Conflict,
    Denied,
    Internal,
    Invalid,
    NotFound,
    OverBudget,
    PreconditionFailed,
    RangeInvalid,
    StratalError,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

STATUS: Mapping[str, int] = {
    "AccessDenied": 403,
    "AuthorizationHeaderMalformed": 400,
    "AuthorizationQueryParametersError": 400,
    "BadDigest": 400,
    "BucketAlreadyExists": 409,
    "BucketAlreadyOwnedByYou": 409,
    "BucketNotEmpty": 409,
    "EntityTooLarge": 400,
    "EntityTooSmall": 400,
    "ExpiredToken": 403,
    "IncompleteBody": 400,
    "InternalError": 500,
    "InvalidAccessKeyId": 403,
    "InvalidArgument": 400,
    "InvalidBucketName": 400,
    "InvalidDigest": 400,
    "InvalidPart": 400,
    "InvalidPartNumber": 416,
    "InvalidPartOrder": 400,
    "InvalidRange": 416,
    "InvalidRequest": 400,
    "InvalidStorageClass": 400,
    "InvalidURI": 400,
    "KeyTooLongError": 400,
    "MalformedTrailerError": 400,
    "MalformedXML": 400,
    "MaxMessageLengthExceeded": 400,
    "MetadataTooLarge": 400,
    "MethodNotAllowed": 405,
    "MissingContentLength": 411,
    "NoSuchBucket": 404,
    "NoSuchKey": 404,
    "NoSuchUpload": 404,
    "NoSuchVersion": 404,
    "NotImplemented": 501,
    "OperationAborted": 409,
    "OverBudget": 429,
    "PreconditionFailed": 412,
    "RequestTimeTooSkewed": 403,
    "RequestTimeout": 400,
    "ServiceUnavailable": 503,
    "SignatureDoesNotMatch": 403,
    "SlowDown": 503,
    "XAmzContentSHA256Mismatch": 400,
}

_OF_REASON: Mapping[str, str] = {
    "bad_bucket_name": "InvalidBucketName",
    "bad_checksum_algorithm": "InvalidRequest",
    "bad_digest": "BadDigest",
    "bad_key": "InvalidArgument",
    "bad_part": "InvalidPart",
    "bad_part_number": "InvalidArgument",
    "bad_part_order": "InvalidPartOrder",
    "bucket_exists": "BucketAlreadyExists",
    "bucket_not_empty": "BucketNotEmpty",
    "bucket_owned": "BucketAlreadyOwnedByYou",
    "content_sha256_mismatch": "XAmzContentSHA256Mismatch",
    "entity_too_large": "EntityTooLarge",
    "expired_key": "ExpiredToken",
    "incomplete_body": "IncompleteBody",
    "key_too_long": "KeyTooLongError",
    "malformed_parts": "MalformedXML",
    "metadata_too_large": "MetadataTooLarge",
    "no_such_blob": "InternalError",
    "no_such_bucket": "NoSuchBucket",
    "no_such_key": "NoSuchKey",
    "no_such_upload": "NoSuchUpload",
    "no_such_version": "NoSuchVersion",
    "part_too_small": "EntityTooSmall",
}

_OF_MEANING: tuple[tuple[type[StratalError], str], ...] = (
    (Unauthenticated, "InvalidAccessKeyId"),
    (Denied, "AccessDenied"),
    (NotFound, "NoSuchKey"),
    (Conflict, "OperationAborted"),
    (PreconditionFailed, "PreconditionFailed"),
    (RangeInvalid, "InvalidRange"),
    (TooLarge, "EntityTooLarge"),
    (OverBudget, "OverBudget"),
    (Busy, "SlowDown"),
    (Unavailable, "ServiceUnavailable"),
    (Unsupported, "NotImplemented"),
    (Invalid, "InvalidRequest"),
    (Internal, "InternalError"),
)

_CLASS_OF_STATUS: Mapping[int, type[StratalError]] = {
    400: Invalid,
    403: Denied,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    411: Invalid,
    412: PreconditionFailed,
    416: RangeInvalid,
    500: Internal,
    501: Unsupported,
    503: Unavailable,
}

_CLOSING = frozenset({"IncompleteBody", "RequestTimeout", "EntityTooLarge", "MissingContentLength"})
"""After these the rest of the request's body is not worth waiting for."""


def refusal(code: str, message: str, **details: object) -> StratalError:
    """An error of S3's own, by its code: a signature that is wrong, a header that makes no sense."""
    error = _CLASS_OF_STATUS[STATUS[code]](message, reason=code)
    error.details.update(details)
    return error


def code_of(error: StratalError) -> str:
    """The S3 code that says what `error` means."""
    if error.reason in STATUS:
        return error.reason
    if error.reason in _OF_REASON:
        return _OF_REASON[error.reason]
    return next((code for kind, code in _OF_MEANING if isinstance(error, kind)), "InternalError")


def error_response(error: StratalError, scope: Scope) -> Response:
    """The error as S3 answers it; without a body for HEAD."""
    code = code_of(error)
    request_id = scope["state"]["request_id"]
    headers = {"x-amz-request-id": request_id}
    if code in _CLOSING:
        headers["Connection"] = "close"
    if code in {"SlowDown", "ServiceUnavailable"}:
        headers["Retry-After"] = "1"
    if scope["method"] == "HEAD":
        return Response(None, STATUS[code], headers, "application/xml")
    details = [
        element(name[0].upper() + name[1:], shown(str(value)))
        for name, value in error.details.items()
        if isinstance(value, str | int)
    ]
    body = DECLARATION + element(
        "Error",
        element("Code", code),
        element("Message", shown(str(error))),
        *details,
        element("Resource", scope["raw_path"].decode("ascii", "replace")),
        element("RequestId", request_id),
        element("HostId", "stratal"),
    )
    return Response(body.encode(), STATUS[code], headers, "application/xml")


def sts_error_response(error: StratalError, scope: Scope) -> Response:
    """The error in the shape that clients of STS read."""
    code = code_of(error)
    request_id = scope["state"]["request_id"]
    body = DECLARATION + element(
        "ErrorResponse",
        element(
            "Error", element("Type", "Sender"), element("Code", code), element("Message", shown(str(error)))
        ),
        element("RequestId", request_id),
    )
    return Response(body.encode(), STATUS[code], {"x-amz-request-id": request_id}, "text/xml")
