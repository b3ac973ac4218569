"""Multipart uploads: parts in any order become one object, once."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from stratal.data.objects.model import NO_CHECKS, Checks, Description
from stratal.data.objects.multipart import MIN_PART_BYTES, NamedPart, Part
from stratal.kernel.errors import Invalid, NotFound, StratalError

pytestmark = pytest.mark.fast

BIG = b"x" * MIN_PART_BYTES


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def named(*parts: Part) -> list[NamedPart]:
    return [NamedPart(part.number, f'"{part.etag}"') for part in parts]


async def begin(room, key: str = "k", **options: object) -> str:
    if not await room.objects.list_buckets(room.ann):
        await room.objects.create_bucket(room.ann, "bucket")
    upload = await room.uploads.create(
        room.ann, "bucket", key, description=Description("a/b", {"m": "1"}), **options
    )
    return upload.id


async def add(
    room, upload: str, number: int, data: bytes, key: str = "k", checks: Checks = NO_CHECKS
) -> Part:
    return await room.uploads.put_part(room.ann, "bucket", key, upload, number, pieces(data), checks=checks)


def test_parts_become_the_object_in_their_order(room, run) -> None:
    async def story() -> None:
        upload = await begin(room)
        last = await add(room, upload, 7, b"end")
        first = await add(room, upload, 2, BIG)
        await add(room, upload, 3, b"not named, so not in it")
        with pytest.raises(NotFound):
            await room.objects.head(room.ann, "bucket", "k")
        made = await room.uploads.complete(room.ann, "bucket", "k", upload, named(first, last))
        assert await room.objects.read_all(room.ann, made) == BIG + b"end"
        digest = hashlib.md5(bytes.fromhex(first.etag) + bytes.fromhex(last.etag)).hexdigest()
        assert (made.etag, made.parts, made.content_type) == (f"{digest}-2", (MIN_PART_BYTES, 3), "a/b")
        assert made.sha256 == hashlib.sha256(BIG + b"end").hexdigest()
        await room.collector.collect()

    run(story())
    assert (room.files(), room.scratch()) == (1, 0)


def test_completing_again_answers_the_same_and_the_upload_is_over(room, run) -> None:
    async def story() -> None:
        upload = await begin(room)
        part = await add(room, upload, 1, b"data")
        tries = [room.uploads.complete(room.ann, "bucket", "k", upload, named(part)) for _ in range(5)]
        made = await asyncio.gather(*tries)
        assert len({version.id for version in made}) == 1
        await room.collector.collect()
        again = await room.uploads.complete(room.ann, "bucket", "k", upload, named(part))
        assert again.id == made[0].id
        for attempt in (
            add(room, upload, 2, b"late"),
            room.uploads.abort(room.ann, "bucket", "k", upload),
            room.uploads.list_parts(room.ann, "bucket", "k", upload),
        ):
            with pytest.raises(NotFound):
                await attempt
        assert (await room.uploads.list(room.ann, "bucket")).uploads == []

    run(story())
    assert room.files() == 1


@pytest.mark.parametrize(
    ("choose", "reason"),
    [
        (lambda a, b, c: [], "malformed_parts"),
        (lambda a, b, c: named(b, a), "bad_part_order"),
        (lambda a, b, c: named(a, a), "bad_part_order"),
        (lambda a, b, c: [NamedPart(9, a.etag)], "bad_part"),
        (lambda a, b, c: [NamedPart(1, b.etag)], "bad_part"),
        (lambda a, b, c: [NamedPart(1, a.etag, {"crc32": "AAAAAA=="})], "bad_part"),
        (lambda a, b, c: named(b, c), "part_too_small"),
    ],
)
def test_parts_that_make_no_object_are_refused_and_the_upload_goes_on(room, run, choose, reason: str) -> None:
    async def story() -> None:
        upload = await begin(room, algorithm="crc32")
        parts = [await add(room, upload, n, data) for n, data in ((1, BIG), (2, b"small"), (3, b"smaller"))]
        with pytest.raises(Invalid) as caught:
            await room.uploads.complete(room.ann, "bucket", "k", upload, choose(*parts))
        assert caught.value.reason == reason
        made = await room.uploads.complete(room.ann, "bucket", "k", upload, named(*parts[:2]))
        assert made.size == MIN_PART_BYTES + 5

    run(story())


def test_an_expected_checksum_of_the_whole_is_checked(room, run) -> None:
    async def story() -> None:
        upload = await begin(room, algorithm="crc64nvme", composite=False)
        part = await add(room, upload, 1, b"123456789")
        with pytest.raises(StratalError) as caught:
            await room.uploads.complete(
                room.ann,
                "bucket",
                "k",
                upload,
                named(part),
                checks=Checks(expected={"crc64nvme": "AAAAAAAAAAA="}),
            )
        assert caught.value.reason == "bad_digest"
        good = Checks(expected={"crc64nvme": "rosUhgp5mIg="})  # the algorithm's published check value
        made = await room.uploads.complete(room.ann, "bucket", "k", upload, named(part), checks=good)
        assert made.checksums == {"crc64nvme": "rosUhgp5mIg="}

    run(story())


def test_a_part_sent_again_replaces_the_one_before(room, run) -> None:
    async def story() -> None:
        upload = await begin(room)
        old = await add(room, upload, 1, b"old")
        new = await add(room, upload, 1, b"new")
        with pytest.raises(Invalid):
            await room.uploads.complete(room.ann, "bucket", "k", upload, named(old))
        made = await room.uploads.complete(room.ann, "bucket", "k", upload, named(new))
        assert await room.objects.read_all(room.ann, made) == b"new"
        room.later()
        await room.collector.collect()

    run(story())
    assert room.files() == 1


def test_giving_up_removes_the_parts(room, run) -> None:
    async def story() -> None:
        upload = await begin(room)
        await add(room, upload, 1, b"data")
        await room.uploads.abort(room.ann, "bucket", "k", upload)
        with pytest.raises(NotFound):
            await add(room, upload, 2, b"data")
        await room.collector.collect()

    run(story())
    assert room.files() == room.scratch() == 0


def test_other_projects_cannot_touch_an_upload(room, run) -> None:
    async def story() -> None:
        upload = await begin(room)
        part = await add(room, upload, 1, b"data")
        bob = room.bob
        for attempt in (
            room.uploads.put_part(bob, "bucket", "k", upload, 2, pieces(b"x")),
            room.uploads.complete(bob, "bucket", "k", upload, named(part)),
            room.uploads.abort(bob, "bucket", "k", upload),
            room.uploads.list_parts(bob, "bucket", "k", upload),
            room.uploads.list(bob, "bucket"),
        ):
            with pytest.raises(NotFound):
                await attempt

    run(story())


def test_uploads_are_listed_by_key_then_by_age(room, run) -> None:
    async def story() -> None:
        expected = sorted([(key, await begin(room, key)) for key in ("b", "a", "a", "d/1", "d/2")])
        page = await room.uploads.list(room.ann, "bucket", limit=2)
        seen = [(u.key, u.id) for u in page.uploads]
        while page.next_after is not None:
            key, after_id = page.next_after
            page = await room.uploads.list(room.ann, "bucket", after=key, after_id=after_id, limit=2)
            seen += [(u.key, u.id) for u in page.uploads]
        assert seen == expected
        rolled = await room.uploads.list(room.ann, "bucket", delimiter="/")
        assert rolled.prefixes == ["d/"]
        behind = await room.uploads.list(room.ann, "bucket", after="a")
        assert [u.key for u in behind.uploads] == ["b", "d/1", "d/2"]

    run(story())
