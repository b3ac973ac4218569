"""Operations on objects."""

from urllib.parse import unquote_to_bytes

from stratal.data.objects.checksums import ALGORITHMS
from stratal.data.objects.model import MAX_PUT_BYTES, Description, ObjectVersion
from stratal.gateway.s3.answers import Answer, Headers, ObjectAnswer, SlowAnswer, empty
from stratal.gateway.s3.call import Call
from stratal.gateway.s3.errors import refusal
from stratal.gateway.s3.headers import (
    Span,
    check_read,
    checksum_headers,
    description_of,
    object_headers,
    overrides_of,
    parse_range,
    refuse_unserved,
    write_condition,
)
from stratal.gateway.s3.request import S3Request
from stratal.gateway.s3.xml import document, element, timestamp
from stratal.kernel.errors import NotFound

COPY_SOURCE = "x-amz-copy-source"
_ATTEMPTS = 3


async def put_object(call: Call) -> Answer:
    """PutObject, with If-None-Match: * and If-Match."""
    refuse_unserved(call.request)
    body = call.body()
    version = await call.objects.put(
        call.who,
        call.request.bucket,
        call.request.key,
        body.data,
        description=description_of(call.request),
        checks=body.checks,
        condition=write_condition(call.request),
    )
    etag = (b"etag", f'"{version.etag}"'.encode())
    return empty(200, [etag, *checksum_headers(version), (b"content-length", b"0")])


async def get_object(call: Call) -> Answer:
    """GetObject: whole, a range, or a part; conditional; headers overridden by the query.

    Between looking a version up and opening its bytes it may be overwritten and collected; then the
    newer one is what the client gets.
    """
    for _ in range(_ATTEMPTS):
        version = await _wanted(call)
        status, headers, span = _answer_head(call.request, version)
        if status == 304:
            return empty(304, headers)
        body = call.objects.read(call.who, version, span.start, span.length)
        try:
            first = await anext(body, None)
        except NotFound as error:
            if error.reason != "no_such_blob":
                raise
            continue
        return ObjectAnswer(status, headers, first, body)
    raise refusal("InternalError", "The object's stored bytes are missing.")


async def head_object(call: Call) -> Answer:
    """HeadObject."""
    version = await _wanted(call)
    status, headers, _ = _answer_head(call.request, version)
    return empty(status, headers)


async def delete_object(call: Call) -> Answer:
    """DeleteObject; also fine when there is nothing."""
    if call.request.query.get("versionId") not in {None, "", "null"}:
        raise refusal("NotImplemented", "Versions are not deleted one by one.")
    condition = write_condition(call.request)
    await call.objects.delete(call.who, call.request.bucket, call.request.key, condition=condition)
    return empty(204, [])


async def copy_object(call: Call) -> Answer:
    """CopyObject, within what the key may read."""
    request = call.request
    refuse_unserved(request)
    directive = request.header("x-amz-metadata-directive", "COPY").upper()
    if directive not in {"COPY", "REPLACE"}:
        raise refusal("InvalidArgument", "Unknown metadata directive.")
    if request.header("x-amz-tagging-directive", "COPY").upper() != "COPY":
        raise refusal("NotImplemented", "Tags are not served.")
    source = await copy_source(call)
    if (source.bucket, source.key) == (request.bucket, request.key) and directive == "COPY":
        raise refusal(
            "InvalidRequest",
            "This copy request is illegal because it is trying to copy an object to itself without changing the "
            "object's metadata, storage class, website redirect location or encryption attributes.",
        )
    if source.size > MAX_PUT_BYTES:
        raise refusal("InvalidRequest", f"An object over {MAX_PUT_BYTES} bytes is copied in parts.")
    description = Description(source.content_type, source.metadata, source.headers)
    if directive == "REPLACE":
        description = description_of(request)
    wanted = algorithm_of(request)
    condition = write_condition(request)

    async def work() -> bytes:
        made = await call.objects.copy(
            call.who,
            source,
            request.bucket,
            request.key,
            description=description,
            record=(wanted,) if wanted else tuple(source.checksums),
            condition=condition,
        )
        sums = (element(f"Checksum{name.upper()}", value) for name, value in made.checksums.items())
        return document(
            "CopyObjectResult",
            element("LastModified", timestamp(made.created_at)),
            element("ETag", f'"{made.etag}"'),
            *sums,
        )

    return SlowAnswer(work())


async def copy_source(call: Call) -> ObjectVersion:
    """The version that x-amz-copy-source names, once its conditions hold. Raises InvalidArgument, PreconditionFailed."""
    raw = call.request.head.header(COPY_SOURCE) or b""
    path, _, version_id = raw.partition(b"?versionId=")
    try:
        source = unquote_to_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise refusal("InvalidArgument", "The copy source is not UTF-8.") from error
    bucket, slash, key = source.removeprefix("/").partition("/")
    if not slash or not key or not bucket or "\0" in source:
        raise refusal("InvalidArgument", "Copy Source must mention the source bucket and key: bucket/key")
    wanted = version_id.decode("latin-1")
    version = await call.objects.head(call.who, bucket, key, wanted if wanted not in {"", "null"} else None)
    if not check_read(call.request, version, f"{COPY_SOURCE}-"):
        raise refusal("PreconditionFailed", "The source is not one that was asked for.")
    return version


def algorithm_of(request: S3Request) -> str | None:
    """The checksum algorithm that x-amz-checksum-algorithm asks for. Raises InvalidRequest."""
    name = request.header("x-amz-checksum-algorithm").lower()
    if name and name not in ALGORITHMS:
        raise refusal("InvalidRequest", "Checksum algorithm provided is unsupported.")
    return name or None


async def _wanted(call: Call) -> ObjectVersion:
    version_id = call.request.query.get("versionId")
    wanted = version_id if version_id not in {None, "", "null"} else None
    return await call.objects.head(call.who, call.request.bucket, call.request.key, wanted)


def _answer_head(request: S3Request, version: ObjectVersion) -> tuple[int, Headers, Span]:
    """Status, headers and span of the answer to a GET or HEAD. Raises PreconditionFailed, InvalidRange."""
    headers = object_headers(version, overrides_of(request))
    if not check_read(request, version):
        return (
            304,
            [pair for pair in headers if pair[0] in {b"etag", b"last-modified", b"cache-control"}],
            Span(0, 0),
        )
    span = _part_span(request, version)
    if span is None and request.header("range"):
        span = parse_range(request.header("range"), version.size)
    if span is None:
        if request.header("x-amz-checksum-mode").upper() == "ENABLED":
            headers += checksum_headers(version)
        headers.append((b"content-length", str(version.size).encode()))
        return 200, headers, Span(0, version.size)
    headers.append((b"content-length", str(span.length).encode()))
    if span.length:
        headers.append((b"content-range", span.content_range(version.size).encode()))
    if version.parts and "partNumber" in request.query:
        headers.append((b"x-amz-mp-parts-count", str(len(version.parts)).encode()))
    return 206, headers, span


def _part_span(request: S3Request, version: ObjectVersion) -> Span | None:
    """The span of the part that ``partNumber`` asks for; an object put whole is its own part 1."""
    if "partNumber" not in request.query:
        return None
    if request.header("range"):
        raise refusal("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
    number = request.number("partNumber", 0)
    if number == 0:
        raise refusal("InvalidArgument", "Part number must be an integer between 1 and 10000, inclusive")
    parts = version.parts or (version.size,)
    if number > len(parts):
        raise refusal("InvalidPartNumber", "The requested partnumber is not satisfiable")
    return Span(sum(parts[: number - 1]), parts[number - 1])


def limited(version: ObjectVersion, header: str) -> Span:
    """The span that x-amz-copy-source-range names; the whole source without one. Raises InvalidArgument."""
    if not header:
        return Span(0, version.size)
    span = parse_range(header, version.size)
    if (
        span is None
        or not header.startswith("bytes=")
        or header.endswith("-")
        or header.startswith("bytes=-")
    ):
        raise refusal(
            "InvalidArgument", "The x-amz-copy-source-range value must be of the form bytes=first-last"
        )
    if int(header.rpartition("-")[2]) >= version.size:
        raise refusal("InvalidRange", "The range lies outside the source.")
    return span
