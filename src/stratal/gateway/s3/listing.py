"""Operations that list what a bucket holds."""

import base64
import binascii
from collections.abc import Callable
from urllib.parse import quote

from stratal.data.objects.model import Listing, ObjectVersion
from stratal.data.objects.service import MAX_PAGE
from stratal.gateway.s3.answers import Answer, xml
from stratal.gateway.s3.call import Call
from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.headers import checksum_type
from stratal.gateway.s3.request import S3Request
from stratal.gateway.s3.xml import Markup, document, element, flag, timestamp

Encode = Callable[[str], str]


async def list_objects_v2(call: Call) -> Answer:
    """ListObjectsV2."""
    request = call.request
    encode = encoding_of(request)
    limit = min(MAX_PAGE, request.number("max-keys", MAX_PAGE))
    token = request.query.get("continuation-token")
    start_after = request.query.get("start-after", "")
    after = start_after if token is None else _read_token(token)
    page = await _page(call, after, limit)
    owned = request.query.get("fetch-owner", "").lower() == "true"
    parts = [
        *_common(request, encode, limit, page),
        element("KeyCount", len(page.objects) + len(page.prefixes)),
        element("ContinuationToken", token) if token is not None else "",
        element("NextContinuationToken", _make_token(page.next_after)) if page.next_after is not None else "",
        element("StartAfter", encode(start_after)) if start_after else "",
        *(_contents(call, version, encode, owned=owned) for version in page.objects),
        *(_prefix(prefix, encode) for prefix in page.prefixes),
    ]
    return xml(document("ListBucketResult", *parts))


async def list_objects(call: Call) -> Answer:
    """ListObjects, the older form, which pages by the last entry itself."""
    request = call.request
    encode = encoding_of(request)
    limit = min(MAX_PAGE, request.number("max-keys", MAX_PAGE))
    marker = request.query.get("marker", "")
    page = await _page(call, marker, limit)
    parts = [
        *_common(request, encode, limit, page),
        element("Marker", encode(marker)),
        element("NextMarker", encode(page.next_after)) if page.next_after is not None else "",
        *(_contents(call, version, encode, owned=True) for version in page.objects),
        *(_prefix(prefix, encode) for prefix in page.prefixes),
    ]
    return xml(document("ListBucketResult", *parts))


async def _page(call: Call, after: str, limit: int) -> Listing:
    query = call.request.query
    return await call.objects.list(
        call.who,
        call.request.bucket,
        prefix=query.get("prefix", ""),
        delimiter=query.get("delimiter", ""),
        after=after,
        limit=limit,
    )


def encoding_of(request: S3Request) -> Encode:
    """How keys are to be written: as they are, or percent-encoded (``encoding-type=url``)."""
    wanted = request.query.get("encoding-type", "")
    if wanted == "url":
        return lambda text: quote(text, safe="/-._~*")
    if wanted:
        raise refusal("InvalidArgument", "Invalid Encoding Method specified in Request")
    return lambda text: text


def _common(request: S3Request, encode: Encode, limit: int, page: Listing) -> list[Markup | str]:
    delimiter = request.query.get("delimiter", "")
    return [
        element("Name", request.bucket),
        element("Prefix", encode(request.query.get("prefix", ""))),
        element("Delimiter", encode(delimiter)) if delimiter else "",
        element("MaxKeys", limit),
        element("EncodingType", "url") if request.query.get("encoding-type") else "",
        element("IsTruncated", flag(page.next_after is not None)),
    ]


def _contents(call: Call, version: ObjectVersion, encode: Encode, *, owned: bool) -> Markup:
    owner = element("Owner", element("ID", version.project_id), element("DisplayName", call.who.project))
    return element(
        "Contents",
        element("Key", encode(version.key)),
        element("LastModified", timestamp(version.created_at)),
        element("ETag", f'"{version.etag}"'),
        *(element("ChecksumAlgorithm", name.upper()) for name in version.checksums),
        element("ChecksumType", checksum_type(version)) if version.checksums else None,
        element("Size", version.size),
        element("StorageClass", "STANDARD"),
        owner if owned else None,
    )


def _prefix(prefix: str, encode: Encode) -> Markup:
    return element("CommonPrefixes", element("Prefix", encode(prefix)))


def _make_token(after: str) -> str:
    return base64.urlsafe_b64encode(after.encode()).decode()


def _read_token(token: str) -> str:
    try:
        after = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise refusal("InvalidArgument", "The continuation token provided is incorrect") from error
    if not after or "\0" in after:
        raise refusal("InvalidArgument", "The continuation token provided is incorrect")
    return after
