"""Objects: what is stored comes back, whole or not at all, to whom it belongs, and stays explainable."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from stratal.data.objects.model import Checks, Condition, Description
from stratal.kernel.errors import (
    Conflict,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    StratalError,
    TooLarge,
)

pytestmark = pytest.mark.fast

ODD_KEYS = [
    "a b",
    "a+b",
    "%2F",
    "a//b",
    "/a",
    "..",
    "../../etc/passwd",
    ".",
    "é😀",
    "a\nb",
    "\x01",
    "x" * 1024,
]


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def broken(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
    raise Invalid("gone", reason="incomplete_body")


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_comes_back_with_its_bytes(room, run, key: str) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        made = await room.objects.put(
            room.ann, "bucket", key, pieces(b"he", b"llo"), description=Description("text/x", {"é": "ü"})
        )
        found = await room.objects.head(room.ann, "bucket", key)
        assert found == made
        assert await room.objects.read_all(room.ann, found) == b"hello"
        assert b"".join([c async for c in room.objects.read(room.ann, found, 1, 3)]) == b"ell"
        assert (found.content_type, found.metadata, found.size) == ("text/x", {"é": "ü"}, 5)
        assert [v.key for v in (await room.objects.list(room.ann, "bucket")).objects] == [key]

    run(story())
    assert not list(room.root.parent.glob("**/passwd"))


@pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "x" * 1025, "é" * 513])
def test_what_cannot_be_a_key_is_refused_and_changes_nothing(room, run, key: str) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        with pytest.raises((Invalid, TooLarge)):
            await room.objects.put(room.ann, "bucket", key, pieces(b"x"))
        assert (await room.objects.list(room.ann, "bucket")).objects == []

    run(story())
    assert room.files() == room.scratch() == 0


@pytest.mark.parametrize(
    "name",
    ["", "ab", "A-b", "a_b", "-ab", "ab-", "a..b", "1.2.3.4", "x" * 64, "../x", "a/b", "xn--a", "a\n", "é-é"],
)
def test_bucket_names_that_s3_refuses_are_refused(room, run, name: str) -> None:
    with pytest.raises(Invalid):
        run(room.objects.create_bucket(room.ann, name))


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        (Checks(expected={"crc32": "AAAAAA=="}), "bad_digest"),
        (Checks(expected={"crc64nvme": "AAAAAAAAAAA="}), "bad_digest"),
        (Checks(expected={"md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}), "bad_digest"),
        (Checks(expected={"sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}), "bad_digest"),
        (Checks(content_sha256="0" * 64), "content_sha256_mismatch"),
        (Checks(size=6), "incomplete_body"),
        (Checks(limit=4), "entity_too_large"),
    ],
)
def test_bytes_that_disagree_with_what_was_said_leave_nothing(room, run, checks: Checks, reason: str) -> None:
    async def story() -> StratalError:
        await room.objects.create_bucket(room.ann, "bucket")
        await room.objects.put(room.ann, "bucket", "k", pieces(b"before"))
        with pytest.raises(StratalError) as caught:
            await room.objects.put(room.ann, "bucket", "k", pieces(b"hello"), checks=checks)
        kept = await room.objects.head(room.ann, "bucket", "k")
        assert await room.objects.read_all(room.ann, kept) == b"before"
        return caught.value

    assert run(story()).reason == reason
    assert (room.files(), room.scratch()) == (1, 0)


def test_a_body_that_breaks_off_leaves_nothing(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        for size in (1, 3_000_000):
            with pytest.raises(Invalid):
                await room.objects.put(room.ann, "bucket", "k", broken(b"x" * size))
        with pytest.raises(NotFound):
            await room.objects.head(room.ann, "bucket", "k")

    run(story())
    assert room.files() == room.scratch() == 0


def test_a_cancelled_upload_leaves_nothing(room, run) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        started.set()
        await asyncio.Event().wait()

    started = asyncio.Event()

    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        upload = asyncio.create_task(room.objects.put(room.ann, "bucket", "k", never()))
        await started.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload

    run(story())
    assert room.files() == room.scratch() == 0


def test_other_projects_see_nothing(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        version = await room.objects.put_bytes(room.ann, "bucket", "k", b"secret")
        bob = room.bob
        attempts = [
            room.objects.bucket(bob, "bucket"),
            room.objects.head(bob, "bucket", "k"),
            room.objects.list(bob, "bucket"),
            room.objects.put_bytes(bob, "bucket", "k", b"mine"),
            room.objects.delete(bob, "bucket", "k"),
            room.objects.delete_bucket(bob, "bucket"),
            room.objects.read_all(bob, version),
        ]
        for attempt in attempts:
            with pytest.raises(NotFound):
                await attempt
        with pytest.raises(Conflict) as taken:
            await room.objects.create_bucket(bob, "bucket")
        assert taken.value.reason == "bucket_exists"
        assert await room.objects.list_buckets(bob) == []

    run(story())


def test_viewers_read_and_do_not_write(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        version = await room.objects.put_bytes(room.ann, "bucket", "k", b"x")
        assert await room.objects.read_all(room.viewer, version) == b"x"
        for attempt in (
            room.objects.put_bytes(room.viewer, "bucket", "k", b"y"),
            room.objects.delete(room.viewer, "bucket", "k"),
            room.objects.create_bucket(room.viewer, "another"),
            room.objects.delete_bucket(room.viewer, "bucket"),
        ):
            with pytest.raises(Denied):
                await attempt

    run(story())


def test_conditional_writes(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")

        async def put(data: bytes, condition: Condition) -> str:
            made = await room.objects.put(room.ann, "bucket", "k", pieces(data), condition=condition)
            return made.etag

        with pytest.raises(NotFound):
            await put(b"0", Condition(if_match="x"))
        first = await put(b"1", Condition(if_absent=True))
        with pytest.raises(PreconditionFailed):
            await put(b"2", Condition(if_absent=True))
        await put(b"3", Condition(if_match=first))
        with pytest.raises(PreconditionFailed):
            await put(b"4", Condition(if_match=first))
        current = await room.objects.head(room.ann, "bucket", "k")
        assert await room.objects.read_all(room.ann, current) == b"3"

    run(story())


def test_of_many_creations_at_once_one_wins(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        tries = [
            room.objects.put(room.ann, "bucket", "k", pieces(b"%d" % n), condition=Condition(if_absent=True))
            for n in range(20)
        ]
        results = await asyncio.gather(*tries, return_exceptions=True)
        won = [r for r in results if not isinstance(r, BaseException)]
        assert len(won) == 1
        assert await room.objects.head(room.ann, "bucket", "k") == won[0]

    run(story())
    assert room.files() == 1


def test_overwriting_drops_the_old_bytes_unless_a_workload_used_them(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        plain = await room.objects.put_bytes(room.ann, "bucket", "plain", b"1")
        used = await room.objects.put_bytes(room.ann, "bucket", "used", b"1")
        await room.objects.read_all(room.job, used)
        for key in ("plain", "used"):
            await room.objects.put_bytes(room.ann, "bucket", key, b"2")
        room.later()
        assert await room.collector.collect() == 1
        assert (await room.objects.verify(plain.id)).status == "dropped"
        assert (await room.objects.verify(used.id)).status == "verified"
        old = await room.objects.head(room.ann, "bucket", "used", used.id)
        assert await room.objects.read_all(room.ann, old) == b"1"

    run(story())
    assert room.files() == 3


def test_deleting_deletes_the_bytes_and_leaves_a_tombstone(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        version = await room.objects.put_bytes(room.job, "bucket", "k", b"1")
        room.later()
        assert (await room.objects.delete(room.ann, "bucket", "k")).id == version.id
        assert await room.objects.delete(room.ann, "bucket", "k") is None
        await room.collector.collect()
        verdict = await room.objects.verify(version.id)
        assert (verdict.status, verdict.expected, verdict.version.ended_at) == (
            "deleted",
            version.sha256,
            room.now,
        )
        with pytest.raises(NotFound):
            await room.objects.head(room.ann, "bucket", "k")
        await room.objects.delete_bucket(room.ann, "bucket")
        assert (await room.objects.by_id(version.id)).bucket == "bucket"

    run(story())
    assert room.files() == 0


def test_verifying_says_what_became_of_the_bytes(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        version = await room.objects.put_bytes(room.ann, "bucket", "k", b"hello")
        assert (await room.objects.verify(version.id)).status == "verified"
        path = room.objects.local_path(version)
        path.write_bytes(b"hellO")
        broken = await room.objects.verify(version.id)
        assert broken.status == "broken"
        assert broken.found != broken.expected == version.sha256
        path.unlink()
        assert (await room.objects.verify(version.id)).status == "missing"
        with pytest.raises(NotFound):
            await room.objects.verify("obj_never")

    run(story())


def test_a_read_that_has_begun_ends_although_the_object_is_deleted(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        data = bytes(range(256)) * 16384
        version = await room.objects.put_bytes(room.ann, "bucket", "k", data)
        reading = room.objects.read(room.ann, version)
        got = await anext(reading)
        await room.objects.delete(room.ann, "bucket", "k")
        await room.collector.collect()
        assert room.files() == 0
        async for chunk in reading:
            got += chunk
        assert got == data

    run(story())


def test_a_workloads_reads_and_writes_are_recorded_by_version(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        first = await room.objects.put_bytes(room.ann, "bucket", "in", b"1")
        empty = await room.objects.put_bytes(room.ann, "bucket", "empty", b"")
        await room.objects.read_all(room.ann, first)
        await room.objects.head(room.job, "bucket", "in")
        assert await room.lineage.of_workload("job:1") == []
        reading = room.objects.read(room.job, first)
        await anext(reading)
        assert [a.version for a in await room.lineage.of_workload("job:1", "read")] == [first.id]
        await reading.aclose()
        await room.objects.read_all(room.job, empty)
        out = await room.objects.put_bytes(room.job, "bucket", "out", b"2")
        copied = await room.objects.copy(room.job, out, "bucket", "copy", description=Description())
        edges = {(a.mode, a.version, a.name) for a in await room.lineage.of_workload("job:1")}
        assert edges == {
            ("read", first.id, "bucket/in"),
            ("read", empty.id, "bucket/empty"),
            ("write", out.id, "bucket/out"),
            ("read", out.id, "bucket/out"),
            ("write", copied.id, "bucket/copy"),
        }

    run(story())


def test_listing_is_in_utf8_order_and_pages(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        keys = ["a/1", "a/2", "b", "z", "é", "\uffff", "😀", "/x", "a"]
        for key in keys:
            await room.objects.put_bytes(room.ann, "bucket", key, b"")
        whole = await room.objects.list(room.ann, "bucket")
        assert [v.key for v in whole.objects] == sorted(keys, key=str.encode)
        rolled = await room.objects.list(room.ann, "bucket", delimiter="/")
        assert rolled.prefixes == ["/", "a/"]
        after, seen = "", []
        while True:
            page = await room.objects.list(room.ann, "bucket", delimiter="/", after=after, limit=2)
            seen += [v.key for v in page.objects] + page.prefixes
            if page.next_after is None:
                break
            after = page.next_after
        assert sorted(seen) == sorted(["/", "a", "a/", "b", "z", "é", "\uffff", "😀"])

    run(story())


def test_buckets_go_only_when_empty(room, run) -> None:
    async def story() -> None:
        await room.objects.create_bucket(room.ann, "bucket")
        with pytest.raises(Conflict) as again:
            await room.objects.create_bucket(room.ann, "bucket")
        assert again.value.reason == "bucket_owned"
        await room.objects.put_bytes(room.ann, "bucket", "k", b"")
        with pytest.raises(Conflict):
            await room.objects.delete_bucket(room.ann, "bucket")
        await room.objects.delete(room.ann, "bucket", "k")
        await room.objects.delete_bucket(room.ann, "bucket")
        with pytest.raises(NotFound):
            await room.objects.put_bytes(room.ann, "bucket", "k", b"")
        await room.objects.create_bucket(room.bob, "bucket")
        assert (await room.objects.list(room.bob, "bucket")).objects == []

    run(story())


def test_a_purged_project_leaves_no_bytes(room, run) -> None:
    async def story() -> None:
        for who, bucket in ((room.ann, "bucket-a"), (room.bob, "bucket-b")):
            await room.objects.create_bucket(who, bucket)
            used = await room.objects.put_bytes(who, bucket, "k", b"1")
            await room.lineage.record(room.job, "read", "object", used.id, project_id="prj_a", name="x")
            await room.objects.put_bytes(who, bucket, "k", b"2")
            upload = await room.uploads.create(who, bucket, "m", description=Description())
            await room.uploads.put_part(who, bucket, "m", upload.id, 1, pieces(b"part"))
        for _ in range(2):
            await room.objects.purge("prj_a")
        assert await room.objects.list_buckets(room.ann) == []
        kept = await room.objects.head(room.bob, "bucket-b", "k")
        assert await room.objects.read_all(room.bob, kept) == b"2"

    run(story())
    assert room.files() == 3
