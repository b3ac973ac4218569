"""What people do with boto3: buckets, objects, ranges, conditions, listing, copies, presigned addresses."""

import base64
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

ODD_KEYS = [
    "plain.txt",
    "with space",
    "a+b",
    "a%2Fb",
    "100%",
    "a//b",
    "/leading",
    "trailing/",
    "a/../b",
    "..",
    ".",
    "./a",
    "é/ü/中文/😀",
    "e\u0301",
    "a\nb\tc\rd",
    "\x01\x1f\x7f",
    "&<>\"'`",
    "?query=1#fragment",
    "a=b&c=d;e",
    "~!@$^*()_-{}[]|\\:,",
    "k" * 1024,
    "é" * 512,
]


def code(error: "pytest.ExceptionInfo[ClientError]") -> tuple[str, int]:
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def keys_of(s3: Any, bucket: str, **options: Any) -> list[str]:
    return [o["Key"] for o in s3.list_objects_v2(Bucket=bucket, **options).get("Contents", [])]


def test_buckets(mine, bucket: str) -> None:
    s3 = mine.s3
    assert bucket in [b["Name"] for b in s3.list_buckets()["Buckets"]]
    assert s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None
    with pytest.raises(ClientError) as again:
        s3.create_bucket(Bucket=bucket)
    assert code(again) == ("BucketAlreadyOwnedByYou", 409)
    s3.put_object(Bucket=bucket, Key="k", Body=b"")
    with pytest.raises(ClientError) as full:
        s3.delete_bucket(Bucket=bucket)
    assert code(full) == ("BucketNotEmpty", 409)
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    with pytest.raises(ClientError) as gone:
        s3.head_bucket(Bucket=bucket)
    assert code(gone) == ("404", 404)


def test_a_bucket_of_another_region_is_a_bucket(mine) -> None:
    far = mine.other(config=Config(region_name="eu-central-1"))
    name = f"far-{os.getpid()}"
    far.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    far.put_object(Bucket=name, Key="k", Body=b"x")
    assert mine.s3.get_object(Bucket=name, Key="k")["Body"].read() == b"x"


@pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
def test_odd_keys(mine, bucket: str, key: str) -> None:
    s3 = mine.s3
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(key.encode())
    assert keys_of(s3, bucket) == [key]
    assert keys_of(s3, bucket, Prefix=key[:2]) == [key]
    copy = f"copies/{key}"[:300]
    s3.copy_object(Bucket=bucket, Key=copy, CopySource={"Bucket": bucket, "Key": key})
    assert s3.get_object(Bucket=bucket, Key=copy)["Body"].read() == key.encode()
    for signature in ("s3", "s3v4"):
        url = mine.other(config=Config(signature_version=signature)).generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}
        )
        if "/." not in url:  # httpx, like browsers, would resolve dot segments before sending
            assert httpx.get(url).content == key.encode()
    if key.isprintable() or "\n" in key:
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key}]})
    else:  # XML cannot name these
        s3.delete_object(Bucket=bucket, Key=key)
    assert keys_of(s3, bucket) == [copy]


def test_what_is_said_about_an_object_comes_back(mine, bucket: str) -> None:
    said = {
        "ContentType": "text/csv; charset=utf-8",
        "ContentEncoding": "gzip",
        "ContentDisposition": 'attachment; filename="a b.csv"',
        "ContentLanguage": "de",
        "CacheControl": "max-age=60",
        "Metadata": {"owner": "Ann", "note": "a, b; c=d"},
    }
    expires = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    mine.s3.put_object(Bucket=bucket, Key="k", Body=b"x", Expires=expires, **said)
    for answer in (mine.s3.head_object(Bucket=bucket, Key="k"), mine.s3.get_object(Bucket=bucket, Key="k")):
        assert {name: answer[name] for name in said} == said
        assert answer["ExpiresString"] == "Wed, 02 Jan 2030 03:04:05 GMT"
        assert answer["ETag"] == '"9dd4e461268c8034f5c8564e155c67a6"'
        assert abs(answer["LastModified"] - datetime.now(UTC)) < timedelta(minutes=5)


def test_ranges(mine, bucket: str) -> None:
    data = os.urandom(3_000_000)
    mine.s3.put_object(Bucket=bucket, Key="k", Body=data)
    for header, expected in {
        "bytes=0-0": data[:1],
        "bytes=5-9": data[5:10],
        "bytes=2999990-": data[2999990:],
        "bytes=-10": data[-10:],
        "bytes=1000000-2500000": data[1000000:2500001],
        "bytes=2999999-9999999": data[-1:],
        "bytes=-9999999": data,
    }.items():
        answer = mine.s3.get_object(Bucket=bucket, Key="k", Range=header)
        assert answer["Body"].read() == expected
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == 206
        assert answer["ContentRange"].endswith("/3000000")
    with pytest.raises(ClientError) as outside:
        mine.s3.get_object(Bucket=bucket, Key="k", Range="bytes=3000000-")
    assert code(outside) == ("InvalidRange", 416)


def test_conditions(mine, bucket: str) -> None:
    s3 = mine.s3
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x", IfNoneMatch="*")["ETag"]
    assert s3.get_object(Bucket=bucket, Key="k", IfMatch=etag)["Body"].read() == b"x"
    past, future = datetime(2020, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)
    for conditions, expected in (
        ({"IfMatch": '"other"'}, ("412", 412)),
        ({"IfNoneMatch": etag}, ("304", 304)),
        ({"IfModifiedSince": future}, ("304", 304)),
        ({"IfUnmodifiedSince": past}, ("412", 412)),
    ):
        with pytest.raises(ClientError) as failed:
            s3.head_object(Bucket=bucket, Key="k", **conditions)
        assert code(failed) == expected
        with pytest.raises(ClientError) as failed:
            s3.get_object(Bucket=bucket, Key="k", **conditions)
        assert code(failed)[1] == expected[1]
    with pytest.raises(ClientError) as exists:
        s3.put_object(Bucket=bucket, Key="k", Body=b"y", IfNoneMatch="*")
    assert code(exists) == ("PreconditionFailed", 412)
    with pytest.raises(ClientError) as changed:
        s3.put_object(Bucket=bucket, Key="k", Body=b"y", IfMatch='"other"')
    assert code(changed) == ("PreconditionFailed", 412)
    s3.put_object(Bucket=bucket, Key="k", Body=b"y", IfMatch=etag)
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"y"


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_checked_kept_and_given_back(mine, bucket: str, algorithm: str) -> None:
    data = os.urandom(300_000)
    name = f"Checksum{algorithm}"
    made = mine.s3.put_object(Bucket=bucket, Key="k", Body=data, ChecksumAlgorithm=algorithm)
    answer = mine.s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert answer["Body"].read() == data  # boto3 compares while it reads
    assert (
        answer[name]
        == made[name]
        == mine.s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")[name]
    )
    length = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}[algorithm]
    zeros = base64.b64encode(bytes(length)).decode()
    with pytest.raises(ClientError) as damaged:
        mine.s3.put_object(Bucket=bucket, Key="k", Body=data, **{name: zeros})
    assert code(damaged) == ("BadDigest", 400)
    assert mine.s3.get_object(Bucket=bucket, Key="k")["Body"].read() == data


def test_a_wrong_content_md5_is_refused(mine, bucket: str) -> None:
    with pytest.raises(ClientError) as damaged:
        mine.s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    assert code(damaged) == ("BadDigest", 400)
    with pytest.raises(ClientError) as malformed:
        mine.s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentMD5="xx")
    assert code(malformed) == ("InvalidDigest", 400)
    assert keys_of(mine.s3, bucket) == []


@pytest.mark.parametrize("form", ["list_objects_v2", "list_objects"])
def test_listing_in_pages(mine, bucket: str, form: str) -> None:
    names = sorted(
        [f"{folder}/{n:02}" for folder in ("a", "b c", "é") for n in range(5)] + ["top", "a"], key=str.encode
    )
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: mine.s3.put_object(Bucket=bucket, Key=name, Body=b""), names))
    pages = mine.s3.get_paginator(form)

    def walk(**options: Any) -> tuple[list[str], list[str]]:
        keys, prefixes = [], []
        for page in pages.paginate(Bucket=bucket, PaginationConfig={"PageSize": 2}, **options):
            keys += [o["Key"] for o in page.get("Contents", [])]
            prefixes += [p["Prefix"] for p in page.get("CommonPrefixes", [])]
        return keys, prefixes

    assert walk() == (names, [])
    assert walk(Delimiter="/") == (["a", "top"], ["a/", "b c/", "é/"])
    assert walk(Prefix="é/", Delimiter="/") == ([f"é/{n:02}" for n in range(5)], [])
    assert walk(Prefix="none") == ([], [])


def test_the_fine_print_of_listing(mine, bucket: str) -> None:
    for name in ("a", "b", "c"):
        mine.s3.put_object(Bucket=bucket, Key=name, Body=name.encode())
    nothing = mine.s3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    assert (nothing["KeyCount"], nothing["IsTruncated"]) == (0, False)
    assert keys_of(mine.s3, bucket, StartAfter="a") == ["b", "c"]
    owned = mine.s3.list_objects_v2(Bucket=bucket, FetchOwner=True, MaxKeys=1)
    assert owned["Contents"][0]["Owner"]["DisplayName"] == mine.project
    assert (owned["Contents"][0]["Size"], owned["IsTruncated"]) == (1, True)
    with pytest.raises(ClientError) as bad:
        mine.s3.list_objects_v2(Bucket=bucket, ContinuationToken="!")
    assert code(bad) == ("InvalidArgument", 400)
    with pytest.raises(ClientError) as bad:
        mine.s3.list_objects_v2(Bucket=bucket, MaxKeys=-1)
    assert code(bad) == ("InvalidArgument", 400)


def test_deleting(mine, bucket: str) -> None:
    s3 = mine.s3
    names = [f"k{n}" for n in range(1000)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: s3.put_object(Bucket=bucket, Key=name, Body=b"x"), names[:50]))
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": name} for name in names]})
    assert [d["Key"] for d in answer["Deleted"]] == names
    assert keys_of(s3, bucket) == []
    assert s3.delete_object(Bucket=bucket, Key="never")["ResponseMetadata"]["HTTPStatusCode"] == 204
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k"}], "Quiet": True})
    assert "Deleted" not in quiet
    mixed = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k" * 1025}, {"Key": "fine"}]})
    assert [e["Code"] for e in mixed["Errors"]] == ["KeyTooLongError"]
    assert [d["Key"] for d in mixed["Deleted"]] == ["fine"]


def test_copying(mine, bucket: str) -> None:
    s3 = mine.s3
    source = {"Bucket": bucket, "Key": "é +/a"}
    s3.put_object(**source, Body=b"data", Metadata={"a": "1"}, ContentType="text/x")
    elsewhere = mine.bucket()
    s3.copy_object(Bucket=elsewhere, Key="k", CopySource=source)
    kept = s3.get_object(Bucket=elsewhere, Key="k")
    assert (kept["Body"].read(), kept["Metadata"], kept["ContentType"]) == (b"data", {"a": "1"}, "text/x")
    with pytest.raises(ClientError) as itself:
        s3.copy_object(**source, CopySource=source)
    assert code(itself) == ("InvalidRequest", 400)
    s3.copy_object(**source, CopySource=source, MetadataDirective="REPLACE", Metadata={"b": "2"})
    changed = s3.get_object(**source)
    assert (changed["Body"].read(), changed["Metadata"]) == (b"data", {"b": "2"})
    with pytest.raises(ClientError) as stale:
        s3.copy_object(Bucket=bucket, Key="k", CopySource=source, CopySourceIfMatch='"other"')
    assert code(stale) == ("PreconditionFailed", 412)
    with pytest.raises(ClientError) as missing:
        s3.copy_object(Bucket=bucket, Key="k", CopySource={"Bucket": bucket, "Key": "none"})
    assert code(missing) == ("NoSuchKey", 404)


@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_presigned_addresses(mine, bucket: str, signature: str) -> None:
    s3 = mine.other(config=Config(signature_version=signature))
    where = {"Bucket": bucket, "Key": "a b+é"}
    put = s3.generate_presigned_url("put_object", Params=where)
    assert httpx.put(put, content=b"hello").status_code == 200
    shown = {"ResponseContentType": "text/x", "ResponseContentDisposition": 'attachment; filename="é"'}
    get = httpx.get(s3.generate_presigned_url("get_object", Params={**where, **shown}))
    assert (get.content, get.headers["content-type"]) == (b"hello", "text/x")
    assert httpx.head(s3.generate_presigned_url("head_object", Params=where)).headers["content-length"] == "5"
    for broken in (
        put.replace("a%20b", "a%20c"),
        get.url.copy_set_param("response-content-type", "text/html"),
    ):
        refused = httpx.get(broken)
        assert refused.status_code == 403
        assert b"<Code>SignatureDoesNotMatch</Code>" in refused.content
    assert b"SignatureDoesNotMatch" in httpx.delete(put).content
    injected = {**where, "ResponseContentType": "a\r\nset-cookie: x=y"}
    assert httpx.get(s3.generate_presigned_url("get_object", Params=injected)).status_code == 400


@pytest.mark.parametrize("signature", ["s3", "s3v4"])
def test_a_presigned_address_lives_seven_days_at_most(mine, bucket: str, signature: str) -> None:
    s3 = mine.other(config=Config(signature_version=signature))
    mine.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    where = {"Bucket": bucket, "Key": "k"}
    for days, good in ((6, True), (8, False)):
        url = s3.generate_presigned_url("get_object", Params=where, ExpiresIn=days * 86400)
        assert (httpx.get(url).status_code == 200) == good


def test_who_does_not_sign_is_refused_as_s3_does(mine, bucket: str) -> None:
    mine.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    anybody = mine.other(config=Config(signature_version=UNSIGNED))
    for ask in (
        lambda: anybody.get_object(Bucket=bucket, Key="k"),
        lambda: anybody.put_object(Bucket=bucket, Key="k", Body=b"y"),
        lambda: anybody.list_objects_v2(Bucket=bucket),
    ):
        with pytest.raises(ClientError) as refused:
            ask()
        assert code(refused) == ("AccessDenied", 403)


def test_transfers_of_files(mine, bucket: str) -> None:
    data = os.urandom(20 * 1024 * 1024 + 7)
    mine.s3.upload_fileobj(io.BytesIO(data), bucket, "big", ExtraArgs={"Metadata": {"a": "b"}})
    back = io.BytesIO()
    mine.s3.download_fileobj(bucket, "big", back)
    assert back.getvalue() == data
    head = mine.s3.head_object(Bucket=bucket, Key="big")
    assert head["ETag"].endswith('-3"')
    assert head["Metadata"] == {"a": "b"}
    mine.s3.copy({"Bucket": bucket, "Key": "big"}, bucket, "copied")
    assert mine.s3.get_object(Bucket=bucket, Key="copied")["Body"].read() == data


def test_readers_see_the_old_or_the_new_object_whole(mine, bucket: str) -> None:
    contents = [bytes([n]) * 400_000 for n in range(4)]
    mine.s3.put_object(Bucket=bucket, Key="k", Body=contents[0])
    done = threading.Event()

    def write(content: bytes) -> None:
        for _ in range(8):
            mine.s3.put_object(Bucket=bucket, Key="k", Body=content)

    def read() -> int:
        seen = 0
        while not done.is_set() or not seen:
            answer = mine.s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
            assert answer["Body"].read() in contents
            seen += 1
        return seen

    with ThreadPoolExecutor(6) as threads:
        readers = [threads.submit(read) for _ in range(2)]
        list(threads.map(write, contents))
        done.set()
        assert all(reader.result() for reader in readers)
