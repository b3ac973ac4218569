"""Operations on multipart uploads."""

import re
from xml.etree.ElementTree import Element

from stratal.data.objects.checksums import ALGORITHMS, COMPOSABLE
from stratal.data.objects.model import MAX_PUT_BYTES, Checks
from stratal.data.objects.multipart import MAX_PARTS, NamedPart, Part, Upload
from stratal.gateway.s3.answers import Answer, SlowAnswer, empty, xml
from stratal.gateway.s3.body import open_document, read_document, sent_checksums
from stratal.gateway.s3.call import Call
from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.headers import checksum_type, description_of, refuse_unserved, write_condition
from stratal.gateway.s3.listing import Encode, encoding_of
from stratal.gateway.s3.objects import COPY_SOURCE, algorithm_of, copy_source, limited
from stratal.gateway.s3.request import S3Request
from stratal.gateway.s3.xml import Markup, children, document, element, flag, parse, text_of, timestamp

_MAX_PAGE = 1000


async def create_upload(call: Call) -> Answer:
    """CreateMultipartUpload."""
    request = call.request
    refuse_unserved(request)
    algorithm = algorithm_of(request)
    composite = _is_composite(request, algorithm)
    upload = await call.uploads.create(
        call.who,
        request.bucket,
        request.key,
        description=description_of(request),
        algorithm=algorithm,
        composite=composite,
    )
    headers = {}
    if algorithm is not None:
        kind = "COMPOSITE" if composite else "FULL_OBJECT"
        headers = {"x-amz-checksum-algorithm": algorithm.upper(), "x-amz-checksum-type": kind}
    body = document(
        "InitiateMultipartUploadResult",
        element("Bucket", request.bucket),
        element("Key", request.key),
        element("UploadId", upload.id),
    )
    return xml(body, headers=headers)


def _is_composite(request: S3Request, algorithm: str | None) -> bool:
    """Whether the object's checksum will be made of its parts'; as S3 decides it where the client does not."""
    kind = request.header("x-amz-checksum-type").upper()
    if kind not in {"", "COMPOSITE", "FULL_OBJECT"}:
        raise refusal("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    if kind and algorithm is None:
        raise refusal("InvalidRequest", "x-amz-checksum-type needs x-amz-checksum-algorithm.")
    if (kind == "COMPOSITE" and algorithm not in COMPOSABLE) or (
        kind == "FULL_OBJECT" and algorithm in {"sha1", "sha256"}
    ):
        raise refusal("InvalidRequest", f"The {kind} checksum type cannot be used with {algorithm}.")
    return kind == "COMPOSITE" or (not kind and algorithm in COMPOSABLE)


async def upload_part(call: Call) -> Answer:
    """UploadPart."""
    request = call.request
    body = call.body()
    part = await call.uploads.put_part(
        call.who,
        request.bucket,
        request.key,
        request.query["uploadId"],
        _part_number(request),
        body.data,
        checks=body.checks,
    )
    sums = [(f"x-amz-checksum-{name}".encode(), value.encode()) for name, value in part.checksums.items()]
    return empty(200, [(b"etag", f'"{part.etag}"'.encode()), *sums, (b"content-length", b"0")])


async def upload_part_copy(call: Call) -> Answer:
    """UploadPartCopy."""
    request = call.request
    number = _part_number(request)
    source = await copy_source(call)
    span = limited(source, request.header(f"{COPY_SOURCE}-range"))
    if span.length > MAX_PUT_BYTES:
        raise refusal("EntityTooLarge", f"A part has at most {MAX_PUT_BYTES} bytes.")

    async def work() -> bytes:
        part = await call.uploads.put_part(
            call.who,
            request.bucket,
            request.key,
            request.query["uploadId"],
            number,
            call.objects.read(call.who, source, span.start, span.length),
            checks=Checks(size=span.length),
        )
        return document(
            "CopyPartResult",
            element("LastModified", timestamp(part.created_at)),
            element("ETag", f'"{part.etag}"'),
            *_checksums(part),
        )

    return SlowAnswer(work())


async def complete_upload(call: Call) -> Answer:
    """CompleteMultipartUpload; again, too, when its answer was lost."""
    request = call.request
    named = [
        _named_part(node)
        for node in children(parse(await _document(call), "CompleteMultipartUpload"), "Part")
    ]
    size = request.header("x-amz-mp-object-size")
    if size and not re.fullmatch(r"[0-9]{1,15}", size):
        raise refusal("InvalidRequest", "x-amz-mp-object-size is not a number.")
    checks = Checks(
        expected={name: value for name, value in sent_checksums(request).items() if name != "md5"},
        size=int(size) if size else None,
    )
    condition = write_condition(request)

    async def work() -> bytes:
        version = await call.uploads.complete(
            call.who,
            request.bucket,
            request.key,
            request.query["uploadId"],
            named,
            checks=checks,
            condition=condition,
        )
        sums = [element(f"Checksum{name.upper()}", value) for name, value in version.checksums.items()]
        return document(
            "CompleteMultipartUploadResult",
            element("Location", f"/{request.bucket}/{request.key}"),
            element("Bucket", request.bucket),
            element("Key", request.key),
            element("ETag", f'"{version.etag}"'),
            *sums,
            element("ChecksumType", checksum_type(version)) if sums else "",
        )

    return SlowAnswer(work())


async def abort_upload(call: Call) -> Answer:
    """AbortMultipartUpload."""
    request = call.request
    await call.uploads.abort(call.who, request.bucket, request.key, request.query["uploadId"])
    return empty(204, [])


async def list_parts(call: Call) -> Answer:
    """ListParts."""
    request = call.request
    encode = encoding_of(request)
    limit = min(_MAX_PAGE, request.number("max-parts", _MAX_PAGE))
    after = request.number("part-number-marker", 0)
    upload, parts, more = await call.uploads.list_parts(
        call.who, request.bucket, request.key, request.query["uploadId"], after=after, limit=limit
    )
    more = more and bool(parts)
    body = document(
        "ListPartsResult",
        element("Bucket", request.bucket),
        element("Key", encode(request.key)),
        element("UploadId", upload.id),
        element("Initiator", element("ID", upload.created_by)),
        element("Owner", element("ID", call.who.project_id), element("DisplayName", call.who.project)),
        element("StorageClass", "STANDARD"),
        element("PartNumberMarker", after),
        element("NextPartNumberMarker", parts[-1].number) if more else "",
        element("MaxParts", limit),
        element("IsTruncated", flag(more)),
        element("ChecksumAlgorithm", upload.algorithm.upper()) if upload.algorithm else "",
        *(_part(part) for part in parts),
    )
    return xml(body)


async def list_uploads(call: Call) -> Answer:
    """ListMultipartUploads."""
    request = call.request
    encode = encoding_of(request)
    query = request.query
    limit = min(_MAX_PAGE, request.number("max-uploads", _MAX_PAGE))
    key_marker, id_marker = query.get("key-marker", ""), query.get("upload-id-marker", "")
    page = await call.uploads.list(
        call.who,
        request.bucket,
        prefix=query.get("prefix", ""),
        delimiter=query.get("delimiter", ""),
        after=key_marker,
        after_id=id_marker if key_marker else "",
        limit=limit,
    )
    delimiter = query.get("delimiter", "")
    following: list[Markup] = []
    if page.next_after is not None:
        key, upload_id = page.next_after
        following = [element("NextKeyMarker", encode(key)), element("NextUploadIdMarker", upload_id)]
    body = document(
        "ListMultipartUploadsResult",
        element("Bucket", request.bucket),
        element("KeyMarker", encode(key_marker)),
        element("UploadIdMarker", id_marker),
        *following,
        element("Delimiter", encode(delimiter)) if delimiter else "",
        element("Prefix", encode(query.get("prefix", ""))),
        element("MaxUploads", limit),
        element("EncodingType", "url") if query.get("encoding-type") else "",
        element("IsTruncated", flag(page.next_after is not None)),
        *(_upload(call, upload, encode) for upload in page.uploads),
        *(element("CommonPrefixes", element("Prefix", encode(prefix))) for prefix in page.prefixes),
    )
    return xml(body)


def _upload(call: Call, upload: Upload, encode: Encode) -> Markup:
    return element(
        "Upload",
        element("Key", encode(upload.key)),
        element("UploadId", upload.id),
        element("Initiator", element("ID", upload.created_by)),
        element("Owner", element("ID", call.who.project_id), element("DisplayName", call.who.project)),
        element("StorageClass", "STANDARD"),
        element("Initiated", timestamp(upload.created_at)),
        element("ChecksumAlgorithm", upload.algorithm.upper()) if upload.algorithm else None,
    )


def _part(part: Part) -> Markup:
    return element(
        "Part",
        element("PartNumber", part.number),
        element("LastModified", timestamp(part.created_at)),
        element("ETag", f'"{part.etag}"'),
        element("Size", part.size),
        *_checksums(part),
    )


def _checksums(part: Part) -> list[Markup]:
    return [element(f"Checksum{name.upper()}", value) for name, value in part.checksums.items()]


def _part_number(request: S3Request) -> int:
    number = request.number("partNumber", 0)
    if not 1 <= number <= MAX_PARTS:
        raise refusal(
            "InvalidArgument", f"Part number must be an integer between 1 and {MAX_PARTS}, inclusive"
        )
    return number


def _named_part(node: Element) -> NamedPart:
    number, etag = text_of(node, "PartNumber"), text_of(node, "ETag")
    if number is None or etag is None or not re.fullmatch(r"[0-9]{1,5}", number.strip()):
        raise refusal("MalformedXML", "A Part needs a PartNumber and an ETag.")
    sums = {name: text_of(node, f"Checksum{name.upper()}") for name in ALGORITHMS}
    return NamedPart(
        int(number), etag.strip(), {name: value.strip() for name, value in sums.items() if value}
    )


async def _document(call: Call) -> bytes:
    """The completing request's XML. Its checksum headers speak of the object, not of this body."""
    request = call.request
    return await read_document(request, open_document(request, call.claim, call.signing_key, call.receive))
