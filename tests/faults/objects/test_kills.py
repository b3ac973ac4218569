"""The server is killed while it stores objects, again and again: nothing acknowledged is lost, nothing is half there.

Clients upload, overwrite and delete at full speed; at a moment that depends only on how far they got,
the server is killed with SIGKILL and started again. `kill -9` proves what is visible when; that fsyncs
are where they must be is for power cuts to prove.
"""

import hashlib
import itertools
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from platform_server import PlatformServer, wait_until

BUCKET = "killed"
SIZES = (0, 100, 70_000, 1_500_000, 9_000_000)


def client(env: dict[str, str]) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name=env["AWS_REGION"],
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30),
    )


class Writer(threading.Thread):
    """Writes to keys of its own. `sure` is what was acknowledged last per key (None: deleted);
    `maybe` what was sent to the key that was being written when the server died."""

    def __init__(self, env: dict[str, str], name: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._s3 = client(env)
        self._random = random.Random(seed)
        self.sure: dict[str, str | None] = {}
        self.maybe: dict[str, str | None] = {}
        self.acknowledged = 0

    def run(self) -> None:
        try:
            for number in itertools.count():
                self._step(f"{self.name}/{number % 7}")
        except (BotoCoreError, ClientError):
            return  # the server is gone

    def _step(self, key: str) -> None:
        if self.sure.get(key) is not None and self._random.random() < 0.2:
            self.maybe = {key: None}
            self._s3.delete_object(Bucket=BUCKET, Key=key)
            self.sure[key] = None
        else:
            data = self._random.randbytes(self._random.choice(SIZES))
            digest = hashlib.sha256(data).hexdigest()
            self.maybe = {key: digest}
            if len(data) > 8_000_000:
                self._upload_in_parts(key, data)
            else:
                self._s3.put_object(Bucket=BUCKET, Key=key, Body=data)
            self.sure[key] = digest
        self.acknowledged += 1
        self.maybe = {}

    def _upload_in_parts(self, key: str, data: bytes) -> None:
        where = {"Bucket": BUCKET, "Key": key}
        upload = self._s3.create_multipart_upload(**where)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(data), 5 * 1024 * 1024), 1):
            piece = data[start : start + 5 * 1024 * 1024]
            made = self._s3.upload_part(**where, UploadId=upload, PartNumber=number, Body=piece)
            parts.append({"PartNumber": number, "ETag": made["ETag"]})
        self._s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})


def stored(s3: Any) -> dict[str, str]:
    """Every object's content as a hash, read whole."""
    found: dict[str, str] = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for entry in page.get("Contents", []):
            body = s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
            assert len(body) == entry["Size"]
            found[entry["Key"]] = hashlib.sha256(body).hexdigest()
    return found


def blob_files(server: PlatformServer) -> int:
    return sum(1 for _ in (server.home / "blobs" / "objects").glob("*/blob_*"))


def rounds(server: PlatformServer, number: int, after: Callable[[int], int]) -> None:
    env = server.env()
    client(env).create_bucket(Bucket=BUCKET)
    expected: dict[str, str | None] = {}
    for turn in range(number):
        clear_away(client(env), expected, turn - 5)
        writers = [Writer(env, f"t{turn}w{n}", turn * 10 + n) for n in range(3)]
        for writer in writers:
            writer.start()
        goal = after(turn)
        wait_until(lambda w=writers, g=goal: sum(x.acknowledged for x in w) >= g, seconds=120)
        server.kill()
        for writer in writers:
            writer.join(timeout=60)
        server.up()
        found = stored(client(env))
        for writer in writers:
            expected |= writer.sure
            for (
                key,
                digest,
            ) in writer.maybe.items():  # neither acknowledged nor refused: the old or the new, whole
                assert found.get(key) in {digest, expected.get(key)}
                expected[key] = found.get(key)
        assert found == {key: digest for key, digest in expected.items() if digest is not None}
        assert not any((server.home / "blobs" / "objects" / "scratch").iterdir())
    s3 = client(env)
    for upload in s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    wait_until(lambda: blob_files(server) == len(stored(s3)))


def clear_away(s3: Any, expected: dict[str, str | None], turn: int) -> None:
    """Delete what that turn wrote, but for one turn in twenty: all that is left is read again after every kill."""
    for key in [key for key, digest in expected.items() if digest is not None]:
        if key.startswith(f"t{turn}w") and turn % 20:
            s3.delete_object(Bucket=BUCKET, Key=key)
            expected[key] = None


def test_kills_lose_nothing_and_leave_nothing(fresh_server: PlatformServer) -> None:
    rounds(fresh_server, 4, lambda turn: 1 + 15 * turn)


@pytest.mark.soak
def test_many_kills(fresh_server: PlatformServer) -> None:
    chance = random.Random(os.environ.get("STRATAL_SOAK_SEED", "1"))
    rounds(fresh_server, 200, lambda _turn: chance.randrange(1, 60))
