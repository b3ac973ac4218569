"""The door's pure parts: framing, ranges, conditions, metadata, XML, addresses."""

from contextlib import suppress
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.data.objects.model import ObjectVersion, VersionState
from stratal.gateway.s3 import xml
from stratal.gateway.s3.chunked import ChunkedDecoder
from stratal.gateway.s3.headers import Span, check_read, description_of, object_headers, parse_range
from stratal.gateway.s3.request import Head, S3Request, address, parse
from stratal.kernel.errors import Invalid, StratalError

pytestmark = pytest.mark.fast

VERSION = ObjectVersion(
    id="obj_1",
    bucket="b",
    project_id="p",
    key="k",
    size=10,
    sha256="",
    etag="abc",
    blob_key="blob",
    content_type="a/b",
    metadata={},
    headers={},
    checksums={},
    parts=(),
    state=VersionState.CURRENT,
    created_at=1_800_000_000_500,
    created_by="x",
)


def request_with(*headers: tuple[str, bytes]) -> S3Request:
    head = Head("GET", b"/b/k", b"", tuple((name.encode(), value) for name, value in headers))
    return S3Request(head, "b", "k", {})


# -- framing


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.dictionaries(st.sampled_from(["x-amz-checksum-crc32", "x-other"]), st.text("abc=", max_size=8)),
    st.lists(st.integers(0, 400), max_size=8),
)
def test_chunks_are_decoded_however_they_arrive(
    chunks: list[bytes], trailers: dict[str, str], cuts: list[int]
) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n"
    body += b"".join(f"{name}:{value}\r\n".encode() for name, value in trailers.items()) + b"\r\n"
    decoder, out, start = ChunkedDecoder(None), b"", 0
    for cut in [*sorted(cuts), len(body)]:
        out += b"".join(decoder.feed(body[start:cut]))
        start = max(start, cut)
    assert out == b"".join(chunks)
    assert decoder.finish() == trailers


@given(st.integers(0, 60))
def test_a_framing_that_ends_early_is_noticed(cut: int) -> None:
    body = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    decoder = ChunkedDecoder(None)
    decoder.feed(body[:cut])
    if cut < len(body):
        with pytest.raises(StratalError):
            decoder.finish()


@given(st.binary(max_size=60))
def test_no_framing_breaks_the_decoder(junk: bytes) -> None:
    decoder = ChunkedDecoder(None)
    with suppress(StratalError):
        decoder.feed(junk)
        decoder.finish()


# -- ranges and conditions


@given(st.integers(0, 20), st.integers(0, 25), st.integers(0, 25))
def test_ranges_agree_with_slicing(size: int, first: int, last: int) -> None:
    data = bytes(range(size))
    for header, expected in (
        (f"bytes={first}-{last}", data[first : last + 1] if last >= first else None),
        (f"bytes={first}-", data[first:]),
        (f"bytes=-{last}", data[max(0, size - last) :] if last else b""),
    ):
        if expected is None:
            assert parse_range(header, size) is None
        elif not expected:
            with pytest.raises(StratalError) as refused:
                parse_range(header, size)
            assert refused.value.reason == "InvalidRange"
        else:
            span = parse_range(header, size)
            assert span is not None
            assert data[span.start :][: span.length] == expected
            assert span.content_range(size) == f"bytes {span.start}-{span.start + len(expected) - 1}/{size}"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "items=0-1",
        "bytes=0-1,3-4",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_no_single_range_means_the_whole(header: str) -> None:
    assert parse_range(header, 10) is None


def test_a_range_of_spaces_and_capitals_is_read() -> None:
    assert parse_range(" Bytes = 2 - 3 ", 10) == Span(2, 2)


BEFORE, AT, AFTER = (
    b"Fri, 15 Jan 2027 07:59:59 GMT",
    b"Fri, 15 Jan 2027 08:00:00 GMT",
    b"Fri, 15 Jan 2027 08:00:01 GMT",
)


@pytest.mark.parametrize(
    ("headers", "outcome"),
    [
        ([("if-match", b'"abc"')], True),
        ([("if-match", b"abc")], True),
        ([("if-match", b'"x", "abc"')], True),
        ([("if-match", b"*")], True),
        ([("if-match", b'"x"')], None),
        ([("if-none-match", b'"abc"')], False),
        ([("if-none-match", b'W/"abc"')], False),
        ([("if-none-match", b"*")], False),
        ([("if-none-match", b'"x"')], True),
        ([("if-modified-since", BEFORE)], True),
        ([("if-modified-since", AT)], False),
        ([("if-modified-since", b"not a date")], True),
        ([("if-unmodified-since", BEFORE)], None),
        ([("if-unmodified-since", AT)], True),
        ([("if-match", b'"abc"'), ("if-unmodified-since", BEFORE)], True),
        ([("if-none-match", b'"x"'), ("if-modified-since", AFTER)], True),
    ],
)
def test_conditions_on_reads(headers: list[tuple[str, bytes]], outcome: bool | None) -> None:
    if outcome is None:
        with pytest.raises(StratalError) as refused:
            check_read(request_with(*headers), VERSION)
        assert refused.value.reason == "PreconditionFailed"
    else:
        assert check_read(request_with(*headers), VERSION) is outcome


# -- headers


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
def test_metadata_goes_round(value: str) -> None:
    sent = description_of(request_with(("x-amz-meta-a", value.encode())))
    assert sent.metadata == {"a": value.encode().strip().decode()}
    answered = dict(object_headers(replace(VERSION, metadata=sent.metadata), {}))[b"x-amz-meta-a"]
    assert answered.isascii()
    again = description_of(request_with(("x-amz-meta-a", answered)))
    assert dict(object_headers(replace(VERSION, metadata=again.metadata), {}))[b"x-amz-meta-a"] == answered


def test_the_framing_is_no_encoding_of_the_object() -> None:
    kept = description_of(
        request_with(("content-encoding", b"aws-chunked,gzip"), ("cache-control", b"no-store"))
    )
    assert kept.headers == {"content-encoding": "gzip", "cache-control": "no-store"}
    assert description_of(request_with(("content-encoding", b"aws-chunked"))).headers == {}


# -- addresses


@pytest.mark.parametrize(
    ("path", "bucket", "key"),
    [
        (b"/", b"", b""),
        (b"/b", b"b", b""),
        (b"/b/", b"b", b""),
        (b"/b//k", b"b", b"/k"),
        (b"/b/a%2Fb", b"b", b"a/b"),
        (b"/b/a%252Fb", b"b", b"a%2Fb"),
        (b"/b/a+b%20c", b"b", b"a+b c"),
        (b"/b/../x", b"b", b"../x"),
        (b"/b/%zz", b"b", b"%zz"),
    ],
)
def test_the_key_is_the_raw_path_decoded_once(path: bytes, bucket: bytes, key: bytes) -> None:
    assert address(Head("GET", path, b"", ((b"host", b"127.0.0.1:8484"),))) == (bucket, key)


def test_a_bucket_may_stand_in_the_hosts_name() -> None:
    head = Head("GET", b"/a/b", b"", ((b"host", b"my-bucket.localhost:8484"),))
    assert address(head) == (b"my-bucket", b"a/b")


@pytest.mark.parametrize("path", [b"/b/%ff", b"/%ff", b"/b/a%00b"])
def test_what_is_not_utf8_or_holds_nul_is_refused(path: bytes) -> None:
    with pytest.raises(Invalid):
        parse(Head("GET", path, b"", ((b"host", b"h"),)), "req")


@pytest.mark.parametrize("query", [b"prefix=%ff", b"prefix=%00"])
def test_a_query_that_is_not_text_is_refused(query: bytes) -> None:
    with pytest.raises(Invalid):
        parse(Head("GET", b"/b", query, ((b"host", b"h"),)), "req")


# -- XML


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_text_survives_our_xml(text: str) -> None:
    document = xml.document("Root", xml.element("Key", text))
    if any(xml_cannot_say(letter) for letter in text):
        return
    key = ElementTree.fromstring(document)[0]
    assert (key.text or "") == text


def xml_cannot_say(letter: str) -> bool:
    return (ord(letter) < 32 and letter not in "\t\n\r") or letter in "\ufffe\uffff"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<Delete>",
        b"<Other/>",
        b"\xff\xfe",
        b'<!DOCTYPE Delete [<!ENTITY a "aaaa">]><Delete>&a;</Delete>',
        '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE Delete><Delete/>'.encode("utf-16"),
        b"<Delete>&undefined;</Delete>",
    ],
)
def test_xml_that_is_not_what_is_needed_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        xml.parse(body, "Delete")
    assert refused.value.reason == "MalformedXML"


def test_namespaces_are_no_matter() -> None:
    body = b'<Delete xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Object><Key>a&#xA;b</Key></Object></Delete>'
    tree = xml.parse(body, "Delete")
    assert [xml.text_of(node, "Key") for node in xml.children(tree, "Object")] == ["a\nb"]
