"""Multipart uploads as boto3 drives them by hand."""

import base64
import hashlib
import os
import zlib

import pytest
from botocore.exceptions import ClientError

MIB = 1024 * 1024


def code(error: "pytest.ExceptionInfo[ClientError]") -> tuple[str, int]:
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def test_an_upload_in_parts(mine, bucket: str) -> None:
    s3 = mine.s3
    where = {"Bucket": bucket, "Key": "é b+c"}
    upload = s3.create_multipart_upload(
        **where, ContentType="text/x", Metadata={"m": "1"}, ChecksumAlgorithm="CRC32"
    )["UploadId"]
    first, second = os.urandom(5 * MIB), b"end"
    parts = []
    for number, data in ((3, second), (1, first)):
        made = s3.upload_part(**where, UploadId=upload, PartNumber=number, Body=data)
        parts.append({"PartNumber": number, "ETag": made["ETag"], "ChecksumCRC32": made["ChecksumCRC32"]})
    parts.sort(key=lambda part: part["PartNumber"])
    listed = s3.list_parts(**where, UploadId=upload)["Parts"]
    assert [(p["PartNumber"], p["Size"], p["ETag"]) for p in listed] == [
        (1, len(first), parts[0]["ETag"]),
        (3, 3, parts[1]["ETag"]),
    ]
    one = s3.list_parts(**where, UploadId=upload, MaxParts=1)
    assert (one["IsTruncated"], one["NextPartNumberMarker"]) == (True, 1)
    assert [u["UploadId"] for u in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == [upload]
    done = s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    md5 = hashlib.md5(hashlib.md5(first).digest() + hashlib.md5(second).digest()).hexdigest()
    crc = zlib.crc32(b"".join(zlib.crc32(data).to_bytes(4, "big") for data in (first, second)))
    assert done["ETag"] == f'"{md5}-2"'
    head = s3.head_object(**where, ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == base64.b64encode(crc.to_bytes(4, "big")).decode() + "-2"
    assert (head["ChecksumType"], head["ContentType"], head["Metadata"]) == (
        "COMPOSITE",
        "text/x",
        {"m": "1"},
    )
    assert s3.get_object(**where)["Body"].read() == first + second
    part = s3.get_object(**where, PartNumber=2)
    assert (part["Body"].read(), part["PartsCount"]) == (second, 2)
    again = s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    assert again["ETag"] == done["ETag"]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("CRC64NVME", "FULL_OBJECT"), ("CRC32", "FULL_OBJECT"), ("SHA256", "COMPOSITE")]
)
def test_checksums_of_uploads(mine, bucket: str, algorithm: str, kind: str) -> None:
    s3 = mine.s3
    where = {"Bucket": bucket, "Key": "k"}
    begun = s3.create_multipart_upload(**where, ChecksumAlgorithm=algorithm, ChecksumType=kind)
    name, upload = f"Checksum{algorithm}", begun["UploadId"]
    first, second = b"a" * 5 * MIB, b"b"
    parts = []
    for number, data in enumerate((first, second), 1):
        made = s3.upload_part(
            **where, UploadId=upload, PartNumber=number, Body=data, ChecksumAlgorithm=algorithm
        )
        parts.append({"PartNumber": number, "ETag": made["ETag"], name: made[name]})
    done = s3.complete_multipart_upload(
        **where, UploadId=upload, MultipartUpload={"Parts": parts}, ChecksumType=kind
    )
    head = s3.head_object(**where, ChecksumMode="ENABLED")
    assert head[name] == done[name]
    assert head["ChecksumType"] == kind
    whole = s3.put_object(Bucket=bucket, Key="whole", Body=first + second, ChecksumAlgorithm=algorithm)
    assert (whole[name] == head[name]) is (kind == "FULL_OBJECT")
    assert s3.get_object(**where, ChecksumMode="ENABLED")["Body"].read() == first + second


def test_parts_copied_from_objects(mine, bucket: str) -> None:
    s3 = mine.s3
    data = os.urandom(6 * MIB)
    source = {"Bucket": bucket, "Key": "source é"}
    s3.put_object(**source, Body=data)
    where = {"Bucket": bucket, "Key": "k"}
    upload = s3.create_multipart_upload(**where)["UploadId"]
    whole = s3.upload_part_copy(**where, UploadId=upload, PartNumber=1, CopySource=source)
    tail = s3.upload_part_copy(
        **where, UploadId=upload, PartNumber=2, CopySource=source, CopySourceRange="bytes=10-19"
    )
    with pytest.raises(ClientError) as outside:
        s3.upload_part_copy(
            **where, UploadId=upload, PartNumber=3, CopySource=source, CopySourceRange="bytes=0-99999999"
        )
    assert code(outside) == ("InvalidRange", 416)
    parts = [
        {"PartNumber": number, "ETag": made["CopyPartResult"]["ETag"]}
        for number, made in enumerate((whole, tail), 1)
    ]
    s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    assert s3.get_object(**where)["Body"].read() == data + data[10:20]


def test_uploads_that_cannot_be_completed(mine, bucket: str) -> None:
    s3 = mine.s3
    where = {"Bucket": bucket, "Key": "k"}
    upload = s3.create_multipart_upload(**where)["UploadId"]
    made = [
        {
            "PartNumber": n,
            "ETag": s3.upload_part(**where, UploadId=upload, PartNumber=n, Body=b"small")["ETag"],
        }
        for n in (1, 2)
    ]
    for parts, expected in (
        (made, "EntityTooSmall"),
        (made[::-1], "InvalidPartOrder"),
        ([{"PartNumber": 7, "ETag": made[0]["ETag"]}], "InvalidPart"),
        ([{"PartNumber": 1, "ETag": '"0"'}], "InvalidPart"),
        ([], "MalformedXML"),
    ):
        with pytest.raises(ClientError) as refused:
            s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
        assert code(refused) == (expected, 400)
    s3.abort_multipart_upload(**where, UploadId=upload)
    for attempt in (
        lambda: s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=b"x"),
        lambda: s3.abort_multipart_upload(**where, UploadId=upload),
        lambda: s3.list_parts(**where, UploadId=upload),
        lambda: s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": made[:1]}),
    ):
        with pytest.raises(ClientError) as gone:
            attempt()
        assert code(gone) == ("NoSuchUpload", 404)
    with pytest.raises(ClientError) as number:
        s3.upload_part(**where, UploadId=upload, PartNumber=10_001, Body=b"x")
    assert code(number) == ("InvalidArgument", 400)
    with pytest.raises(ClientError) as nothing:
        s3.head_object(**where)
    assert code(nothing) == ("404", 404)
