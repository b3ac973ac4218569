"""Whoever may not, whatever is malformed: S3's own codes and statuses, no traceback, nothing changed."""

import hashlib
import http.client
import re
import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from platform_server import PlatformServer

ONCE = Config(retries={"total_max_attempts": 1})


def code(error: "pytest.ExceptionInfo[ClientError]") -> tuple[str, int]:
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def refused(attempt: Callable[[], Any]) -> tuple[str, int]:
    with pytest.raises(ClientError) as caught:
        attempt()
    return code(caught)


def client(server: PlatformServer, key_id: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=server.url,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=ONCE,
    )


# -- who may not


def test_everything_of_another_project_is_not_there(mine, theirs) -> None:
    bucket = theirs.bucket()
    theirs.s3.put_object(Bucket=bucket, Key="secret", Body=b"theirs")
    upload = theirs.s3.create_multipart_upload(Bucket=bucket, Key="u")["UploadId"]
    own = mine.bucket()
    s3 = mine.s3
    where = {"Bucket": bucket, "Key": "secret"}
    for attempt in (
        lambda: s3.get_object(**where),
        lambda: s3.put_object(**where, Body=b"mine"),
        lambda: s3.delete_object(**where),
        lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "secret"}]}),
        lambda: s3.list_objects_v2(Bucket=bucket),
        lambda: s3.list_objects(Bucket=bucket),
        lambda: s3.delete_bucket(Bucket=bucket),
        lambda: s3.get_bucket_location(Bucket=bucket),
        lambda: s3.copy_object(Bucket=own, Key="k", CopySource=where),
        lambda: s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": own, "Key": "k"}),
        lambda: s3.create_multipart_upload(**where),
        lambda: s3.list_multipart_uploads(Bucket=bucket),
        lambda: s3.upload_part(Bucket=bucket, Key="u", UploadId=upload, PartNumber=1, Body=b"x"),
        lambda: s3.abort_multipart_upload(Bucket=bucket, Key="u", UploadId=upload),
    ):
        assert refused(attempt)[0] in {"NoSuchBucket", "NoSuchKey"}
    assert refused(lambda: s3.head_object(**where)) == ("404", 404)
    assert refused(lambda: s3.head_bucket(Bucket=bucket)) == ("404", 404)
    assert refused(lambda: s3.create_bucket(Bucket=bucket)) == ("BucketAlreadyExists", 409)
    assert bucket not in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert theirs.s3.get_object(**where)["Body"].read() == b"theirs"
    assert [o["Key"] for o in theirs.s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["secret"]


def test_keys_that_do_not_open(server: PlatformServer, mine, bucket: str) -> None:
    key_id, _, secret = server.key(mine.project, "editor").partition(".")
    good = client(server, key_id, secret)
    good.put_object(Bucket=bucket, Key="k", Body=b"x")
    wrong = client(server, key_id, secret[:-1] + ("A" if secret[-1] != "A" else "B"))
    assert refused(lambda: wrong.get_object(Bucket=bucket, Key="k")) == ("SignatureDoesNotMatch", 403)
    for unknown in ("st1k" + "0" * 20, "AKIAIOSFODNN7EXAMPLE", "x", "../../x"):
        stranger = client(server, unknown, secret)
        assert refused(lambda s=stranger: s.list_buckets()) == ("InvalidAccessKeyId", 403)
    server.cli("keys", "revoke", key_id)
    assert refused(lambda: good.get_object(Bucket=bucket, Key="k")) == ("InvalidAccessKeyId", 403)


def test_viewers_may_only_read(server: PlatformServer, mine, bucket: str) -> None:
    mine.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    viewer = client(server, *server.key(mine.project, "viewer").split("."))
    assert viewer.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    for attempt in (
        lambda: viewer.put_object(Bucket=bucket, Key="k", Body=b"y"),
        lambda: viewer.delete_object(Bucket=bucket, Key="k"),
        lambda: viewer.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}]}),
        lambda: viewer.copy_object(Bucket=bucket, Key="c", CopySource={"Bucket": bucket, "Key": "k"}),
        lambda: viewer.create_bucket(Bucket="not-for-viewers"),
        lambda: viewer.create_multipart_upload(Bucket=bucket, Key="m"),
    ):
        assert refused(attempt) == ("AccessDenied", 403)
    assert mine.s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


# -- what is not there, or not served


def test_what_is_not_there(mine, bucket: str) -> None:
    s3 = mine.s3
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="none")) == ("NoSuchKey", 404)
    assert refused(lambda: s3.get_object(Bucket="no-such-bucket-at-all", Key="k")) == ("NoSuchBucket", 404)
    assert refused(lambda: s3.put_object(Bucket="no-such-bucket-at-all", Key="k", Body=b"x")) == (
        "NoSuchBucket",
        404,
    )
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="k", VersionId="nope")) == ("NoSuchVersion", 404)


def test_what_s3_has_and_we_do_not_is_said_to_be_so(mine, bucket: str) -> None:
    s3 = mine.s3
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for attempt in (
        lambda: s3.get_bucket_acl(Bucket=bucket),
        lambda: s3.put_bucket_policy(Bucket=bucket, Policy="{}"),
        lambda: s3.get_object_tagging(Bucket=bucket, Key="k"),
        lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}),
        lambda: s3.list_object_versions(Bucket=bucket),
        lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"y", Tagging="a=b"),
        lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"y", ACL="public-read"),
        lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"y", ServerSideEncryption="AES256"),
        lambda: s3.create_bucket(Bucket="locked-bucket", ObjectLockEnabledForBucket=True),
    ):
        assert refused(attempt) == ("NotImplemented", 501)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)


def test_sts_is_refused_in_its_own_words(mine) -> None:
    sts = boto3.client(
        "sts",
        endpoint_url=mine.env["AWS_ENDPOINT_URL"],
        aws_access_key_id=mine.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=mine.env["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=ONCE,
    )
    assert refused(lambda: sts.get_caller_identity()) == ("NotImplemented", 501)


# -- what is malformed: requests that boto3 would never make, signed all the same


class Raw:
    """Sends requests as they are, each signed."""

    def __init__(self, env: dict[str, str]) -> None:
        self._at = urlsplit(env["AWS_ENDPOINT_URL"]).netloc
        self._credentials = Credentials(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])

    def signed(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> dict[str, str]:
        request = AWSRequest(method=method, url=f"http://{self._at}{path}", data=body, headers=headers)
        S3SigV4Auth(self._credentials, "s3", "us-east-1").add_auth(request)
        return dict(request.headers.items())

    def __call__(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.send(method, path, body, self.signed(method, path, body, named))

    def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection(self._at, timeout=30)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        found = re.search(rb"<Code>(\w+)</Code>", content)
        return answer.status, found[1].decode() if found else "", content


@pytest.fixture
def raw(mine) -> Raw:
    return Raw(mine.env)


@pytest.mark.parametrize(
    ("method", "path", "headers", "expected"),
    [
        ("PUT", "/{b}/%ff", {}, (400, "InvalidURI")),
        ("PUT", "/{b}/a%00b", {}, (400, "InvalidURI")),
        ("PUT", "/{b}/" + "k" * 1025, {}, (400, "KeyTooLongError")),
        ("PUT", "/{b}/" + "k" * 2000, {}, (400, "KeyTooLongError")),
        ("PUT", "/UPPER", {}, (400, "InvalidBucketName")),
        ("PUT", "/a%2Fb%2F..", {}, (400, "InvalidBucketName")),
        ("PUT", "/..", {}, (400, "InvalidBucketName")),
        ("PUT", "/%ff", {}, (400, "InvalidBucketName")),
        ("PUT", "/" + "b" * 2000, {}, (400, "InvalidBucketName")),
        ("GET", "/{b}?max-keys=x&list-type=2", {}, (400, "InvalidArgument")),
        ("GET", "/{b}?list-type=3", {}, (400, "InvalidArgument")),
        ("GET", "/{b}?list-type=2&encoding-type=x", {}, (400, "InvalidArgument")),
        ("PATCH", "/{b}/k", {}, (405, "MethodNotAllowed")),
        ("POST", "/{b}/k", {}, (501, "NotImplemented")),
        ("POST", "/{b}?delete", {}, (400, "MalformedXML")),
        ("PUT", "/{b}/k", {"x_amz_checksum_crc32": "xx"}, (400, "InvalidRequest")),
        ("PUT", "/{b}/k", {"x_amz_checksum_crc32": "AAAAAA==", "x_amz_checksum_sha1": "AA=="}, (400, "InvalidRequest")),
        ("PUT", "/{b}/k", {"x_amz_sdk_checksum_algorithm": "CRC32"}, (400, "InvalidRequest")),
        ("PUT", "/{b}/k", {"x_amz_meta_a": "v" * 2049}, (400, "MetadataTooLarge")),
        ("PUT", "/{b}/k", {"x_amz_copy_source": "nonsense"}, (400, "InvalidArgument")),
        ("PUT", "/{b}/k?partNumber=0&uploadId=x", {}, (400, "InvalidArgument")),
        ("PUT", "/{b}/k?partNumber=1&uploadId=x", {}, (404, "NoSuchUpload")),
        ("POST", "/{b}/k?uploadId=x", {}, (400, "MalformedXML")),
    ],
)  # fmt: skip
def test_malformed_requests(
    mine, raw: Raw, bucket: str, method: str, path: str, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    status, name, content = raw(method, path.format(b=bucket), **headers)
    assert (status, name) == expected
    assert b"Traceback" not in content
    assert "Contents" not in mine.s3.list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize(
    "body",
    [
        b"<Delete",
        b"\xff\xfe\x00",
        b'<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&x;</Key></Object></Delete>',
        b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>",
        b"<Delete>" * 100_000,
        b"<Delete><Object/></Delete>",
    ],
)
def test_malformed_documents(raw: Raw, bucket: str, body: bytes) -> None:
    assert raw("POST", f"/{bucket}?delete", body)[:2] == (400, "MalformedXML")


def test_a_document_without_end_is_refused(raw: Raw, bucket: str) -> None:
    body = b"<Delete>" + b" " * (9 * 1024 * 1024)
    assert raw("POST", f"/{bucket}?delete", body)[:2] == (400, "MaxMessageLengthExceeded")


def test_bodies_that_are_not_what_was_signed(mine, raw: Raw, bucket: str) -> None:
    path = f"/{bucket}/k"
    headers = raw.signed("PUT", path, b"signed", {})
    assert raw.send("PUT", path, b"forged", headers)[:2] == (400, "XAmzContentSHA256Mismatch")
    headers = raw.signed("PUT", path, b"", {"x-amz-content-sha256": "junk"})
    headers["X-Amz-Content-SHA256"] = "junk"
    assert raw.send("PUT", path, b"", headers)[0] in {400, 403}
    assert "Contents" not in mine.s3.list_objects_v2(Bucket=bucket)


def test_an_object_over_the_limit_is_refused_before_it_is_sent(raw: Raw, bucket: str) -> None:
    path = f"/{bucket}/k"
    headers = raw.signed("PUT", path, b"", {"Content-Length": str(6 * 1024**3), "Expect": "100-continue"})
    assert raw.send("PUT", path, b"", headers)[:2] == (400, "EntityTooLarge")


def test_a_clock_that_is_wrong(monkeypatch: pytest.MonkeyPatch, raw: Raw, bucket: str) -> None:
    import datetime as real

    class Late(real.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return real.datetime.now(tz) - real.timedelta(hours=1)

    monkeypatch.setattr(
        "botocore.auth.get_current_datetime", lambda *a, **k: Late.now(real.UTC).replace(tzinfo=None)
    )
    assert raw("GET", f"/{bucket}")[:2] == (403, "RequestTimeTooSkewed")


def test_the_older_signature_in_a_header_is_refused(raw: Raw, bucket: str) -> None:
    answer = raw.send("GET", f"/{bucket}", b"", {"Authorization": "AWS key:signature", "Date": "x"})
    assert answer[:2] == (400, "InvalidRequest")


@pytest.mark.parametrize("name", ["Signature=0", "", "Credential=a/b/c/d/e/f, SignedHeaders=, Signature="])
def test_malformed_authorization(raw: Raw, bucket: str, name: str) -> None:
    answer = raw.send("GET", f"/{bucket}", b"", {"Authorization": f"AWS4-HMAC-SHA256 {name}"})
    assert answer[:2] == (400, "AuthorizationHeaderMalformed")


@pytest.mark.parametrize("odd", ["\x1f", "a\x01b", "\x0b", "\ufffe", "tab\t", "\r\n", "\x7f"])
def test_an_error_can_be_read_whatever_name_it_tells(mine, raw: Raw, bucket: str, odd: str) -> None:
    """XML 1.0 cannot carry most control characters: a client would make nothing of an answer that holds one."""
    with pytest.raises(mine.s3.exceptions.NoSuchKey):
        mine.s3.get_object(Bucket=bucket, Key=f"no{odd}ne")
    for path in (f"/{quote('no' + odd)}/k", f"/{quote(odd)}?list-type=2"):
        error = ElementTree.fromstring(raw("GET", path)[2])
        assert error.findtext("Code") == "NoSuchBucket"
        assert error.findtext("RequestId")


def test_errors_to_head_have_no_body(raw: Raw, bucket: str) -> None:
    assert raw("HEAD", f"/{bucket}/none") == (404, "", b"")
    assert raw.send("HEAD", f"/{bucket}", b"", {"Authorization": "AWS4-HMAC-SHA256 x"}) == (400, "", b"")


def test_an_upload_that_breaks_off_leaves_nothing(
    server: PlatformServer, mine, raw: Raw, bucket: str
) -> None:
    scratch = server.home / "blobs" / "objects" / "scratch"
    for sent in (10, 3_000_000):
        body = b"x" * 5_000_000
        headers = raw.signed("PUT", f"/{bucket}/k", body, {"Content-Length": str(len(body))})
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            lines = [f"PUT /{bucket}/k HTTP/1.1", f"Host: 127.0.0.1:{server.port}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body[:sent])
    deadline = time.monotonic() + 30
    while any(scratch.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(scratch.iterdir())
    assert "Contents" not in mine.s3.list_objects_v2(Bucket=bucket)


def test_the_chunked_framing_is_checked(mine, raw: Raw, bucket: str) -> None:
    path = f"/{bucket}/k"

    def put(body: bytes, length: int, **headers: str) -> tuple[int, str]:
        named = {
            "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "x-amz-decoded-content-length": str(length),
            "content-encoding": "aws-chunked",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        request = AWSRequest(
            "PUT", f"http://127.0.0.1:{urlsplit(mine.env['AWS_ENDPOINT_URL']).port}{path}", named
        )
        request.data = b""
        signer = S3SigV4Auth(raw._credentials, "s3", "us-east-1")
        signer.payload = lambda _request: "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
        signer.add_auth(request)
        sent = {k: v for k, v in request.headers.items() if k.lower() != "content-length"}
        return raw.send("PUT", path, body, {**sent, "Content-Length": str(len(body))})[:2]

    good = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"
    trailer = {"x_amz_trailer": "x-amz-checksum-crc32"}
    assert put(good, 5, **trailer) == (200, "")
    assert mine.s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumCRC32"] == "NhCmhg=="
    assert put(good.replace(b"hello", b"hellO"), 5, **trailer) == (400, "BadDigest")
    assert put(good, 6, **trailer) == (400, "IncompleteBody")
    assert put(good[:20], 5, **trailer) == (400, "IncompleteBody")
    assert put(b"junk", 5, **trailer) == (400, "IncompleteBody")
    assert put(b"5\r\nhello\r\n0\r\n\r\n", 5, **trailer) == (400, "MalformedTrailerError")
    assert put(good, 5, x_amz_trailer="x-amz-meta-a") == (400, "InvalidRequest")
    kept = mine.s3.get_object(Bucket=bucket, Key="k")["Body"].read()
    assert hashlib.sha256(kept).hexdigest() == hashlib.sha256(b"hello").hexdigest()
