"""The S3 door: which requests are its, whose they are, and which operation answers."""

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from stratal.data.objects.multipart import Uploads
from stratal.data.objects.service import Objects
from stratal.gateway.door import principal
from stratal.gateway.s3 import buckets, listing, multipart, objects, sigv2, sigv4
from stratal.gateway.s3.answers import Answer
from stratal.gateway.s3.call import Call
from stratal.gateway.s3.errors import error_response, refusal, sts_error_response
from stratal.gateway.s3.request import Head, S3Request, head_of, parse
from stratal.identity.keys import Keys
from stratal.identity.model import Principal
from stratal.kernel.clock import Clock
from stratal.kernel.errors import StratalError, Unauthenticated

Operation = Callable[[Call], Awaitable[Answer]]

_UNSERVED = frozenset(
    {
        *(
            "abac",
            "accelerate",
            "acl",
            "analytics",
            "annotation",
            "append",
            "attributes",
            "cors",
            "encryption",
        ),
        *("intelligent-tiering", "inventory", "legal-hold", "lifecycle", "logging", "metadataConfiguration"),
        *("metadataTable", "metrics", "notification", "object-lock", "ownershipControls", "policy"),
        *("policyStatus", "publicAccessBlock", "renameObject", "replication", "requestPayment", "restore"),
        *("retention", "select", "session", "tagging", "torrent", "versions", "website"),
    }
)
"""Names in the query that make a request another operation, one that is not served."""


# A presigned address opens an object in a browser at the console's origin, as whatever type its writer said: so it
# is a page of no origin there, with no cookies and no API, and never a script of a page that is.
_FENCES = ((b"content-security-policy", b"sandbox"), (b"x-content-type-options", b"nosniff"))
_PROGRAMS = {b"script", b"worker", b"sharedworker", b"serviceworker", b"audioworklet", b"paintworklet"}


class S3Door:
    name = "s3"

    def __init__(self, keys: Keys, objects: Objects, uploads: Uploads, clock: Clock) -> None:
        self._keys = keys
        self._objects = objects
        self._uploads = uploads
        self._clock = clock

    def matches(self, scope: Scope) -> bool:
        """Anything with an AWS signature for s3 or sts, or one too malformed to tell; and AWS clients that do not sign."""
        head = head_of(scope)
        authorization = head.header("authorization") or b""
        if (
            not authorization
            and head.header("amz-sdk-invocation-id") is not None
            and b"A" not in head.raw_query
        ):
            return True
        if authorization.startswith(b"AWS "):
            return True
        if not authorization.startswith(b"AWS4-") and b"A" not in head.raw_query:
            return False
        parts = sigv4.scope_of(head)
        if parts is None:
            return sigv2.has_claim(head)
        return len(parts) != 5 or parts[4] != "aws4_request" or parts[3] in {"s3", "sts"}

    async def authenticate(self, request: Request) -> Principal:
        """Whose signature it is. Raises S3's errors, all with statuses 400 or 403."""
        head = head_of(request.scope)
        if (head.header("authorization") or b"").startswith(b"AWS "):
            raise refusal(
                "InvalidRequest",
                "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
            )
        try:
            if sigv4.scope_of(head) is not None:
                return await self._authenticate_v4(head, request.scope)
            if not sigv2.has_claim(head):
                raise refusal(
                    "AccessDenied", "Nothing is open to everybody: sign the request with a project's key."
                )
            claim = sigv2.parse_claim(head)
            who = await self._keys.principal_of(claim.key_id)
            sigv2.verify(head, claim, self._keys.secret_of(claim.key_id), self._clock())
            return who
        except Unauthenticated as error:
            code = "ExpiredToken" if error.reason == "expired_key" else "InvalidAccessKeyId"
            raise refusal(code, str(error)) from error

    async def _authenticate_v4(self, head: Head, scope: Scope) -> Principal:
        if _is_sts(head):
            raise refusal("NotImplemented", "STS is not served: sign S3 requests with a key of the project.")
        claim = sigv4.parse_claim(head)
        sigv4.check_time(claim, self._clock())
        who = await self._keys.principal_of(claim.scope.key_id)
        key = sigv4.signing_key(self._keys.secret_of(claim.scope.key_id), claim.scope)
        sigv4.verify(head, claim, key)
        scope["state"]["s3"] = (claim, key)
        return who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if dict(scope["headers"]).get(b"sec-fetch-dest") in _PROGRAMS:
            raise refusal("AccessDenied", "What is stored here is no program for pages of this address.")
        request = parse(head_of(scope), scope["state"]["request_id"])
        claim, key = scope["state"].get("s3", (None, None))
        call = Call(request, principal(scope), self._objects, self._uploads, receive, claim, key)
        answer = await operation_of(request)(call)

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                stamp = (b"x-amz-request-id", request.request_id.encode())
                message["headers"] = [*message["headers"], stamp, *_FENCES]
            await send(message)

        await answer(scope, receive, stamped)

    def error(self, error: StratalError, scope: Scope) -> Response:
        if _is_sts(head_of(scope)):
            return sts_error_response(error, scope)
        return error_response(error, scope)


def _is_sts(head: Head) -> bool:
    parts = sigv4.scope_of(head) or ()
    return len(parts) == 5 and parts[3] == "sts"


def operation_of(request: S3Request) -> Operation:
    """The operation asked for. Raises NotImplemented, MethodNotAllowed."""
    unserved = sorted(_UNSERVED & request.query.keys())
    if unserved:
        raise refusal("NotImplemented", f"The subresource {unserved[0]!r} is not served.")
    table: Mapping[str, Operation] = _SERVICE
    if request.bucket:
        table = _object_table(request) if request.key else _bucket_table(request)
    operation = table.get(request.method)
    if operation is None:
        if request.method in {"GET", "HEAD", "PUT", "POST", "DELETE"}:
            raise refusal("NotImplemented", f"This {request.method} is not served.")
        raise refusal("MethodNotAllowed", "The specified method is not allowed against this resource.")
    return operation


def _bucket_table(request: S3Request) -> Mapping[str, Operation]:
    query = request.query
    if "location" in query:
        return {"GET": buckets.get_location}
    if "versioning" in query:
        return {"GET": buckets.get_versioning}
    if "uploads" in query:
        return {"GET": multipart.list_uploads}
    if "delete" in query:
        return {"POST": buckets.delete_objects}
    if "list-type" in query and query["list-type"] != "2":
        raise refusal("InvalidArgument", "list-type is 2, or is left out.")
    return _BUCKET | {"GET": listing.list_objects_v2 if "list-type" in query else listing.list_objects}


def _object_table(request: S3Request) -> Mapping[str, Operation]:
    copies = request.head.header(objects.COPY_SOURCE) is not None
    if "uploads" in request.query:
        return {"POST": multipart.create_upload}
    if "uploadId" in request.query:
        return _UPLOAD | {"PUT": multipart.upload_part_copy if copies else multipart.upload_part}
    return _OBJECT | {"PUT": objects.copy_object if copies else objects.put_object}


_SERVICE: dict[str, Operation] = {"GET": buckets.list_buckets}
_BUCKET: dict[str, Operation] = {
    "PUT": buckets.create_bucket,
    "HEAD": buckets.head_bucket,
    "DELETE": buckets.delete_bucket,
}
_OBJECT: dict[str, Operation] = {
    "GET": objects.get_object,
    "HEAD": objects.head_object,
    "DELETE": objects.delete_object,
}
_UPLOAD: dict[str, Operation] = {
    "GET": multipart.list_parts,
    "POST": multipart.complete_upload,
    "DELETE": multipart.abort_upload,
}
