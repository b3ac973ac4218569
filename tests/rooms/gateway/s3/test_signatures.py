"""Signatures: what boto's signers sign is accepted, anything changed afterwards is not, the published examples hold."""

import hashlib
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from stratal.gateway.s3 import sigv2, sigv4
from stratal.gateway.s3.chunked import ChunkedDecoder
from stratal.gateway.s3.request import Head, address
from stratal.kernel.errors import StratalError

pytestmark = pytest.mark.fast

CREDENTIALS = Credentials("st1kaaaaaaaaaaaaaaaaaaaa", "sEcr3t/+x")
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
token = st.text("abcXYZ019-_.~ +é/=&%", min_size=1, max_size=8)


def head_of(request: AWSRequest) -> Head:
    """The prepared request as an HTTP server sees it."""
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    headers = [(name.lower().encode(), _raw(value)) for name, value in prepared.headers.items()]
    if not any(name == b"host" for name, _ in headers):
        headers.append((b"host", parts.netloc.encode()))
    return Head(prepared.method, parts.path.encode(), parts.query.encode(), tuple(headers))


def _raw(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def request_for(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes = b""
) -> AWSRequest:
    url = f"http://127.0.0.1:8484/bucket/{quote(key, safe='/~')}"
    if query:
        url += "?" + "&".join(f"{quote(n, safe='-_.~')}={quote(v, safe='-_.~')}" for n, v in query.items())
    return AWSRequest(method=method, url=url, headers=headers, data=body)


def check(head: Head, secret: str = CREDENTIALS.secret_key, now_ms: int | None = None) -> sigv4.Claim:
    claim = sigv4.parse_claim(head)
    sigv4.check_time(claim, now_ms if now_ms is not None else claim.at_ms)
    sigv4.verify(head, claim, sigv4.signing_key(secret, claim.scope))
    return claim


@given(
    st.sampled_from(["GET", "PUT", "DELETE"]),
    text,
    st.dictionaries(token, token, max_size=3),
    st.dictionaries(
        st.sampled_from(["x-amz-meta-a", "content-type", "range"]), st.text("ab  c;,=", max_size=8)
    ),
    st.binary(max_size=20),
)
def test_what_boto_signs_is_accepted(
    method: str, key: str, query: dict[str, str], headers: dict[str, str], body: bytes
) -> None:
    for signer, sent in ((S3SigV4Auth, body), (S3SigV4QueryAuth, b"")):
        request = request_for(method, key, query, dict(headers), sent)
        signer(CREDENTIALS, "s3", "eu-west-1").add_auth(request)
        head = head_of(request)
        check(head)
        assert address(head) == (b"bucket", key.encode())
        with pytest.raises(StratalError):
            check(head, secret="another")


@given(text, st.sampled_from(["method", "path", "query", "header", "signature", "host"]))
def test_what_was_changed_after_signing_is_refused(key: str, what: str) -> None:
    request = request_for("PUT", key, {"a": "b"}, {"x-amz-meta-a": "1"})
    S3SigV4Auth(CREDENTIALS, "s3", "us-east-1").add_auth(request)
    head = head_of(request)
    headers = dict(head.headers)
    method, path, query = head.method, head.raw_path, head.raw_query
    match what:
        case "method":
            method = "DELETE"
        case "path":
            path += b"x"
        case "query":
            query = b"a=c"
        case "header":
            headers[b"x-amz-meta-a"] = b"2"
        case "host":
            headers[b"host"] = b"127.0.0.1:1"
        case "signature":
            last = headers[b"authorization"][-1:]
            headers[b"authorization"] = headers[b"authorization"][:-1] + (b"0" if last != b"0" else b"1")
    with pytest.raises(StratalError) as refused:
        check(Head(method, path, query, tuple(headers.items())))
    assert refused.value.reason == "SignatureDoesNotMatch"


def test_a_header_that_was_added_unsigned_is_refused() -> None:
    request = request_for("PUT", "k", {}, {})
    S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1").add_auth(request)
    head = head_of(request)
    added = (*head.headers, (b"x-amz-copy-source", b"/other/secret"))
    with pytest.raises(StratalError) as refused:
        check(Head(head.method, head.raw_path, head.raw_query, added))
    assert refused.value.reason == "AccessDenied"


@pytest.mark.parametrize(("minutes", "accepted"), [(-16, False), (-14, True), (14, True), (16, False)])
def test_clocks_may_differ_by_a_quarter_of_an_hour(minutes: int, accepted: bool) -> None:
    request = request_for("GET", "k", {}, {})
    S3SigV4Auth(CREDENTIALS, "s3", "us-east-1").add_auth(request)
    head = head_of(request)
    now = sigv4.parse_claim(head).at_ms + minutes * 60_000
    if accepted:
        check(head, now_ms=now)
        return
    with pytest.raises(StratalError) as refused:
        check(head, now_ms=now)
    assert refused.value.reason == "RequestTimeTooSkewed"


def test_a_presigned_address_expires() -> None:
    request = request_for("GET", "k", {}, {})
    S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1", expires=60).add_auth(request)
    head = head_of(request)
    made = sigv4.parse_claim(head).at_ms
    check(head, now_ms=made + 60_000)
    with pytest.raises(StratalError) as refused:
        check(head, now_ms=made + 61_000)
    assert refused.value.reason == "AccessDenied"


@given(text, st.sampled_from(["response-content-type", "versionId", "x"]), token)
def test_the_older_presigned_form_of_boto_is_accepted(key: str, name: str, value: str) -> None:
    request = request_for("GET", key, {name: value}, {})
    HmacV1QueryAuth(CREDENTIALS, expires=60).add_auth(request)
    head = head_of(request)
    claim = sigv2.parse_claim(head)
    now = claim.expires * 1000
    sigv2.verify(head, claim, CREDENTIALS.secret_key, now)
    with pytest.raises(StratalError):
        sigv2.verify(head, claim, CREDENTIALS.secret_key, now + 1000)
    moved = Head("PUT", head.raw_path, head.raw_query, head.headers)
    with pytest.raises(StratalError):
        sigv2.verify(moved, claim, CREDENTIALS.secret_key, now)


@pytest.mark.parametrize(
    ("authorization", "code"),
    [
        ("AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=", "AuthorizationHeaderMalformed"),
        (
            "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=" + "0" * 64,
            "AuthorizationHeaderMalformed",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260101/r/s3/aws4_request, SignedHeaders=x, Signature="
            + "0" * 64,
            "AuthorizationHeaderMalformed",
        ),
        (
            "AWS4-HMAC-SHA256 Credential=a/20260101/r/s3/aws4_request, SignedHeaders=host, Signature=xyz",
            "AuthorizationHeaderMalformed",
        ),
        ("AWS4-ECDSA-P256-SHA256 Credential=a", "NotImplemented"),
    ],
)
def test_malformed_signatures_are_refused(authorization: str, code: str) -> None:
    headers = (
        (b"host", b"h"),
        (b"x-amz-date", b"20260101T000000Z"),
        (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"),
        (b"authorization", authorization.encode()),
    )
    with pytest.raises(StratalError) as refused:
        sigv4.parse_claim(Head("GET", b"/b/k", b"", headers))
    assert refused.value.reason == code


@given(st.binary(max_size=200))
def test_no_authorization_header_breaks_the_parser(junk: bytes) -> None:
    headers = ((b"host", b"h"), (b"authorization", b"AWS4-HMAC-SHA256 " + junk))
    with pytest.raises(StratalError):
        sigv4.parse_claim(Head("GET", b"/b/k", b"", headers))


# The examples of https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html and
# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
EXAMPLE_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
EXAMPLE_SCOPE = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"


def example(method: str, path: bytes, query: bytes, signature: str, **headers: str) -> Head:
    sent = {"x-amz-date": "20130524T000000Z", "host": "examplebucket.s3.amazonaws.com"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    names = ";".join(sorted(sent))
    sent["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={EXAMPLE_SCOPE},SignedHeaders={names},Signature={signature}"
    )
    return Head(method, path, query, tuple((n.encode(), v.encode()) for n, v in sent.items()))


def test_published_examples() -> None:
    empty = hashlib.sha256(b"").hexdigest()
    examples = [
        example(
            "GET",
            b"/test.txt",
            b"",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
            range="bytes=0-9",
            x_amz_content_sha256=empty,
        ),
        example(
            "GET",
            b"/",
            b"lifecycle",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
            x_amz_content_sha256=empty,
        ),
        example(
            "GET",
            b"/",
            b"max-keys=2&prefix=J",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
            x_amz_content_sha256=empty,
        ),
    ]
    for head in examples:
        check(head, EXAMPLE_SECRET)


def streamed_example() -> tuple[Head, list[tuple[bytes, str]]]:
    head = example(
        "PUT",
        b"/examplebucket/chunkObject.txt",
        b"",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        host="s3.amazonaws.com",
        x_amz_storage_class="REDUCED_REDUNDANCY",
        x_amz_content_sha256="STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        content_encoding="aws-chunked",
        x_amz_decoded_content_length="66560",
        content_length="66824",
    )
    chunks = [
        (b"a" * 65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
        (b"a" * 1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
        (b"", "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
    ]
    return head, chunks


def framed(chunks: list[tuple[bytes, str]]) -> bytes:
    return b"".join(
        b"%x;chunk-signature=%s\r\n%s\r\n" % (len(data), signature.encode(), data)
        for data, signature in chunks
    )


def test_the_published_streamed_example() -> None:
    head, chunks = streamed_example()
    claim = check(head, EXAMPLE_SECRET)
    decoder = ChunkedDecoder(sigv4.ChunkSigner(sigv4.signing_key(EXAMPLE_SECRET, claim.scope), claim))
    assert b"".join(decoder.feed(framed(chunks))) == b"a" * 66560
    assert decoder.finish() == {}


@pytest.mark.parametrize("at", [0, 100, 65_700, -60])
def test_a_streamed_body_that_was_changed_is_refused(at: int) -> None:
    head, chunks = streamed_example()
    claim = sigv4.parse_claim(head)
    body = bytearray(framed(chunks))
    body[at] ^= 1
    decoder = ChunkedDecoder(sigv4.ChunkSigner(sigv4.signing_key(EXAMPLE_SECRET, claim.scope), claim))

    def decode() -> None:
        decoder.feed(bytes(body))
        decoder.finish()

    with pytest.raises(StratalError):
        decode()


def test_chunks_cannot_be_left_out_or_swapped() -> None:
    head, chunks = streamed_example()
    claim = sigv4.parse_claim(head)
    for wrong in ([chunks[0], chunks[2]], [chunks[1], chunks[0], chunks[2]]):
        decoder = ChunkedDecoder(sigv4.ChunkSigner(sigv4.signing_key(EXAMPLE_SECRET, claim.scope), claim))
        with pytest.raises(StratalError) as refused:
            decoder.feed(framed(wrong))
        assert refused.value.reason == "SignatureDoesNotMatch"


def test_the_time_of_a_request_may_stand_in_its_date_header() -> None:
    moment = datetime(2026, 1, 31, 8, 0, 0, tzinfo=UTC)
    request = request_for("GET", "k", {}, {"Date": "Sat, 31 Jan 2026 08:00:00 GMT"})
    headers = (
        (b"host", b"h"),
        (b"date", request.headers["Date"].encode()),
        (b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD"),
        (
            b"authorization",
            b"AWS4-HMAC-SHA256 Credential=a/20260131/r/s3/aws4_request, SignedHeaders=host;date, Signature="
            + b"0" * 64,
        ),
    )
    claim = sigv4.parse_claim(Head("GET", b"/", b"", headers))
    assert claim.at_ms == int(moment.timestamp()) * 1000
