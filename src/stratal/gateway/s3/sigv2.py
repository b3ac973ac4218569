"""Presigned addresses in the older query form, which boto3's ``generate_presigned_url`` still makes by default.

https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html#RESTAuthenticationQueryStringAuth
The header form of this version is refused: every client in use signs requests with version 4.
"""

import base64
import hmac
import re
from dataclasses import dataclass

from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.request import Head, address
from stratal.gateway.s3.sigv4 import MAX_EXPIRY_SECONDS

_SIGNED_QUERY = frozenset(
    {
        *(
            "acl",
            "cors",
            "delete",
            "inventory",
            "lifecycle",
            "location",
            "logging",
            "metrics",
            "notification",
        ),
        *("object-lock", "partNumber", "policy", "replication", "requestPayment", "restore", "select"),
        *("select-type", "storageClass", "tagging", "torrent", "uploadId", "uploads", "versionId"),
        *("versioning", "versions", "website"),
        *("response-cache-control", "response-content-disposition", "response-content-encoding"),
        *("response-content-language", "response-content-type", "response-expires"),
    }
)


@dataclass(frozen=True, slots=True)
class QueryClaim:
    """A signature as a presigned address presents it, not verified yet. `expires` is in seconds since 1970."""

    key_id: str
    signature: str
    expires: int


def has_claim(head: Head) -> bool:
    names = {name for name, _ in head.query}
    return {b"AWSAccessKeyId", b"Signature"} <= names


def parse_claim(head: Head) -> QueryClaim:
    """Raises AccessDenied for a malformed one, as S3 does."""
    query = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.query}
    expires = query.get("Expires", "")
    if not re.fullmatch(r"\d{1,12}", expires):
        raise refusal(
            "AccessDenied", "Query-string authentication needs Signature, Expires and AWSAccessKeyId."
        )
    return QueryClaim(query["AWSAccessKeyId"], query["Signature"], int(expires))


def verify(head: Head, claim: QueryClaim, secret: str, now_ms: int) -> None:
    """Check expiry and signature. Raises AccessDenied, SignatureDoesNotMatch."""
    if now_ms > claim.expires * 1000:
        raise refusal("AccessDenied", "Request has expired.", expires=claim.expires)
    if claim.expires * 1000 > now_ms + MAX_EXPIRY_SECONDS * 1000:
        raise refusal("AccessDenied", f"Expires must be less than {MAX_EXPIRY_SECONDS} seconds away.")
    digest = hmac.digest(secret.encode(), string_to_sign(head, claim.expires), "sha1")
    if not hmac.compare_digest(base64.b64encode(digest).decode(), claim.signature):
        raise refusal(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the one you provided.",
        )


def string_to_sign(head: Head, expires: int) -> bytes:
    amz: dict[bytes, list[bytes]] = {}
    for name, value in head.headers:
        if name.startswith(b"x-amz-"):
            amz.setdefault(name, []).append(value.strip())
    for pair in head.query:
        if pair[0].lower().startswith(b"x-amz-"):
            amz.setdefault(pair[0].lower(), []).append(pair[1])
    lines = [
        head.method.encode(),
        head.header("content-md5") or b"",
        head.header("content-type") or b"",
        str(expires).encode(),
        *(name + b":" + b",".join(values) for name, values in sorted(amz.items())),
        _resource(head),
    ]
    return b"\n".join(lines)


def _resource(head: Head) -> bytes:
    bucket, _ = address(head)
    path = head.raw_path
    if not path.removeprefix(b"/").startswith(bucket):  # the bucket was in the host's name
        path = b"/" + bucket + path
    signed = sorted(
        name + (b"=" + value if value else b"")
        for name, value in head.query
        if name.decode("latin-1") in _SIGNED_QUERY
    )
    return path + (b"?" + b"&".join(signed) if signed else b"")
