"""Several revisions and several replicas: shares, their spelling, rolling back, scaling."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratal.ai.endpoints import records
from stratal.ai.endpoints.latency import SLICE_SECONDS, SLICES, Latencies
from stratal.ai.endpoints.model import Changes, Revision, RevisionState, Wishes
from stratal.ai.endpoints.runtime import Plan
from stratal.ai.endpoints.traffic import choose, place, share_of, shared_out
from stratal.ai.models.model import Form, FormState, ModelFile, ModelVersion
from stratal.identity.model import Principal
from stratal.kernel.errors import Invalid, NotFound

from .room import OWNER, VIEWER, Room, ask, until

pytestmark = pytest.mark.fast


def revision(seq: int, number: int, version: str) -> Revision:
    return Revision(
        seq=seq,
        endpoint_id="ep_1",
        number=number,
        model_version_id="mv",
        model_name="m",
        model_version=version,
        files=(),
        plan=Plan("hand", {}),
        job_id=None,
        requirements="",
        environment_id=None,
        share=None,
        state=RevisionState.ACTIVE,
        failure="",
        interface=None,
        loaded={},
        libraries={},
        created_at=0,
        created_by="",
    )


TWO = [revision(9, 2, "2"), revision(5, 1, "1")]
THREE = [revision(12, 3, "3"), *TWO]


@pytest.mark.parametrize(
    ("answering", "shares", "asked", "then"),
    [
        (TWO, {9: 10}, {"v2": 50}, (5, {9: 50})),
        (TWO, {9: 10}, {"r2": 25}, (5, {9: 25})),
        (TWO, {9: 10}, {"v1": 70}, (5, {9: 30})),
        (TWO, {9: 10}, {"v1": 70, "v2": 30}, (5, {9: 30})),
        (TWO, {9: 10}, {"v2": 100}, (9, {})),
        (TWO, {9: 10}, {"v1": 100}, (5, {})),
        (TWO, {9: 10}, {"v2": 0}, (5, {})),
        (TWO, {9: 10}, {"v1": 0}, (9, {})),
        (TWO, {9: 10}, {}, (5, {9: 10})),
        (THREE, {9: 10, 12: 20}, {"v2": 30}, (5, {9: 30, 12: 20})),
        (THREE, {9: 10, 12: 20}, {"v3": 100}, (12, {})),
        (THREE, {9: 10, 12: 20}, {"v1": 0, "v2": 60, "v3": 40}, (9, {12: 40})),
    ],
)
def test_shares_are_given_by_name_and_the_rest_follows(
    answering: list[Revision], shares: dict[int, int], asked: dict[str, int], then: Any
) -> None:
    assert shared_out(asked, answering, 5, shares) == then


@pytest.mark.parametrize(
    "asked",
    [
        {"v2": 101},
        {"v2": -1},
        {"v7": 10},
        {"": 10},
        {"x2": 10},
        {"v2": 60, "r2": 10},
        {"v1": 60, "v2": 60},
        {"v1": 10, "v2": 10},
        {"v1": 0, "v2": 0},
        {"v2": 1.5},
        {"v2": True},
    ],
)
def test_shares_that_make_no_sense_are_refused(asked: dict[str, int]) -> None:
    with pytest.raises(Invalid):
        shared_out(asked, TWO, 5, {9: 10})


def test_a_deployment_names_its_own_version_or_none() -> None:
    assert share_of({}, "3", 2) is None
    assert [share_of({name: 10}, "3", 2) for name in ("", "v3", "r2", "3")] == [10] * 4
    assert share_of({"v3": 100}, "3", 2) is None
    for wrong in ({"v2": 10}, {"v3": 10, "v2": 90}, {"v3": 200}):
        with pytest.raises(Invalid):
            share_of(wrong, "3", 2)


@given(st.lists(st.text(max_size=20), unique=True, min_size=1, max_size=30), st.integers(0, 99))
def test_a_key_stays_with_its_revision_when_that_ones_share_grows(keys: list[str], percent: int) -> None:
    for key in keys:
        at = place("ep_1", key)
        assert 0 <= at < 10_000
        if choose({9: percent}, 5, at) == 9:
            assert choose({9: percent + 1}, 5, at) == 9


def test_keys_are_spread_as_the_shares_say() -> None:
    chosen = Counter(choose({9: 10, 12: 30}, 5, place("ep_1", f"patient {n}")) for n in range(20_000))
    assert chosen[9] / 20_000 == pytest.approx(0.10, abs=0.01)
    assert chosen[12] / 20_000 == pytest.approx(0.30, abs=0.01)
    assert chosen[5] / 20_000 == pytest.approx(0.60, abs=0.01)


def test_asking_for_more_at_least_allows_more_at_most() -> None:
    assert Changes(least=3).of(Wishes()) == replace(Wishes(), least=3, most=3)
    assert Changes(most=1).of(Wishes(least=2, most=4)) == replace(Wishes(), least=1, most=1)
    assert Changes(concurrency=8).of(Wishes(most=4)) == replace(Wishes(), most=4, concurrency=8)


# -- in the room ---------------------------------------------------------------------------------


async def versions(room: Room, keys: Mapping[str, str | None] | range, **how: Any) -> Counter[str]:
    found: Counter[str] = Counter()
    for key in keys:
        answer = await room.serving.infer(
            OWNER, "prj_a", "sum", ask(1.0), None, request_id=f"req_{key}", **how
        )
        found[answer.model_version] += 1
    return found


def test_a_share_of_the_requests_goes_to_the_new_version_and_the_same_key_to_the_same(
    in_room: Callable[..., None],
) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        await room.deployed("sum", await room.models.add("m", b"two"), traffic={"v2": 20})
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert [(s.revision.model_version, s.percent) for s in view.served] == [("1", 80), ("2", 20)]
        found = await versions(room, range(500))
        assert found["2"] / 500 == pytest.approx(0.2, abs=0.06)
        for key in ("a", "b", "c", "d", "e", "f", "g", "h"):
            assert len(await versions(room, range(5), traffic_key=key)) == 1
        assert await versions(room, range(5), version="2") == {"2": 5}
        with pytest.raises(NotFound):
            await versions(room, range(1), version="3")

    async def after_a_restart(room: Room) -> None:
        found = await versions(room, range(200))
        assert 0 < found["2"] < found["1"]
        assert len(room.world.started) == 2
        await room.endpoints.share_out(OWNER, "prj_a", "sum", {"v2": 100})
        assert await versions(room, range(20)) == {"2": 20}
        await until(lambda: len(running(room)) == 1)
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert view.active is not None
        assert (view.active.model_version, view.endpoint.shares) == ("2", {})
        states = [r.state for r in await room.endpoints.revisions(OWNER, "prj_a", "sum")]
        assert states == ["active", "superseded"]

    in_room(story, after_a_restart)


def test_a_version_is_served_in_the_form_that_it_had_when_it_was_deployed(
    in_room: Callable[..., None],
) -> None:
    async def story(room: Room) -> None:
        one, two = [await room.models.add("m", content) for content in (b"one", b"two")]
        forms: dict[str, Form] = {}
        deployed = []

        async def form_of(version_id: str) -> Form | None:
            return forms.get(version_id)

        async def on_deployed(who: Principal, version: ModelVersion) -> None:
            deployed.append(version.uri)

        async def add_form(uri: str, content: bytes) -> Form:
            version = await room.models.resolve(OWNER, "prj_a", uri)
            blob = await room.blobs.put(content)
            form = Form(
                *(
                    f"mf_{version.version}",
                    "prj_a",
                    version.id,
                    "onnx",
                    FormState.MADE,
                    "",
                    "12",
                    {},
                    1,
                    1,
                    "job:12",
                )
            )
            file = ModelFile("model.bin", blob.size, blob.sha256, blob.key)
            forms[version.id] = replace(form, files=(file,))
            return forms[version.id]

        room.endpoints.form_of, room.endpoints.on_deployed = form_of, on_deployed
        await room.deployed("sum", two)
        await add_form(one, b"one as onnx")
        await room.deployed("sum", one, traffic={"v1": 20})
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        told = [(s.revision.model_version, s.revision.form_id, s.percent) for s in view.served]
        assert told == [("2", None, 80), ("1", "mf_1", 20)]
        assert (view.served[1].revision.layout, view.served[1].revision.converted_by) == ("mf_1", "12")
        assert deployed == [two]  # of what has a form nothing more is made
        assert await versions(room, range(3), version="1") == {"1": 3}
        answer = await room.serving.infer(OWNER, "prj_a", "sum", ask(1.0), None, request_id="r", version="1")
        assert answer.runtime == "onnx"
        with pytest.raises(NotFound):
            await versions(room, range(1), version="4")
        # A form that is made later is not swapped in; deploying again serves it, rolling back does not.
        await room.endpoints.share_out(OWNER, "prj_a", "sum", {"v1": 0})
        assert view.form is None
        late = await add_form(two, b"two as onnx")
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert view.active is not None
        assert (view.active.form_id, view.form) == (None, late)
        await room.deployed("sum", two)
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert view.active is not None
        assert (view.active.form_id, view.form) == ("mf_2", None)
        await room.endpoints.rollback(OWNER, "prj_a", "sum", "r1")
        live = room.serving.find("prj_a", "sum")
        assert live is not None
        await until(lambda: live.deploying is None)
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert view.active is not None
        assert (view.active.model_version, view.active.form_id) == ("2", None)
        # Asked for as it is, nothing is said of a form.
        await room.deployed("plain", two, as_is=True)
        view = await room.endpoints.get(OWNER, "prj_a", "plain")
        assert view.active is not None
        assert (view.active.form_id, view.active.as_is, view.form) == (None, True, None)
        assert deployed == [two]

    async def after_a_restart(room: Room) -> None:
        (first, again, *_) = await room.endpoints.revisions(OWNER, "prj_a", "sum")
        assert (first.form_id, again.form_id, again.plan.runtime) == (None, "mf_2", "onnx")

    in_room(story, after_a_restart)


def test_a_canary_that_fails_takes_nothing_and_more_than_all_is_refused(
    in_room: Callable[..., None],
) -> None:
    async def story(room: Room) -> None:
        room.world.cannot_load[b"bad"] = "ValueError: no"
        await room.deployed("sum", await room.models.add("m", b"one"))
        await room.deployed("sum", await room.models.add("m", b"bad"), traffic={"": 50})
        assert await versions(room, range(30)) == {"1": 30}
        await room.deployed("sum", await room.models.add("m", b"three"), traffic={"": 60})
        uri = await room.models.add("m", b"four")
        with pytest.raises(Invalid, match="have 60 % already"):
            await room.deployed("sum", uri, traffic={"v4": 50})
        await room.deployed("sum", uri, traffic={"v4": 10})
        found = await versions(room, range(300))
        assert found.keys() == {"1", "3", "4"}
        await room.deployed("sum", await room.models.add("m", b"five"))
        assert await versions(room, range(10)) == {"5": 10}
        await until(lambda: len(running(room)) == 1)

    in_room(story)


def test_rolling_back_undoes_a_share_and_then_a_deployment(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        with pytest.raises(Invalid, match="no earlier revision"):
            await room.endpoints.rollback(OWNER, "prj_a", "sum")
        await room.deployed("sum", await room.models.add("m", b"two"))
        await room.deployed("sum", await room.models.add("m", b"three"), traffic={"v3": 30})
        started = len(room.world.started)
        await room.endpoints.rollback(OWNER, "prj_a", "sum")
        assert await versions(room, range(10)) == {"2": 10}
        assert len(room.world.started) == started
        view = await room.endpoints.rollback(OWNER, "prj_a", "sum")
        await until(lambda: room.serving.find("prj_a", "sum").deploying is None)  # type: ignore[union-attr]
        assert (view.latest.number, view.latest.model_version) == (4, "1")
        assert await versions(room, range(10)) == {"1": 10}
        await room.endpoints.rollback(OWNER, "prj_a", "sum", "r2")
        await until(lambda: room.serving.find("prj_a", "sum").deploying is None)  # type: ignore[union-attr]
        assert await versions(room, range(10)) == {"2": 10}
        with pytest.raises(Invalid):
            await room.endpoints.rollback(OWNER, "prj_a", "sum", "r77")

    in_room(story)


def test_stopped_with_shares_it_answers_as_before_when_started_or_deployed(
    in_room: Callable[..., None],
) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        await room.deployed("sum", await room.models.add("m", b"two"), traffic={"v2": 50})
        await room.endpoints.stop(OWNER, "prj_a", "sum")
        await until(lambda: not running(room))
        await room.endpoints.start(OWNER, "prj_a", "sum")
        assert (await versions(room, range(60))).keys() == {"1", "2"}
        await room.endpoints.stop(OWNER, "prj_a", "sum")
        await room.deployed("sum", await room.models.add("m", b"three"), traffic={"v3": 50})
        assert (await versions(room, range(60))).keys() == {"2", "3"}
        view = await room.endpoints.get(OWNER, "prj_a", "sum")
        assert [(s.revision.model_version, s.percent) for s in view.served] == [("3", 50), ("2", 50)]

    in_room(story)


def test_at_least_two_replicas_and_more_when_asked_for_more(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"), least=2, most=3, concurrency=1)
        assert len(running(room)) == 2
        silent = [asyncio.ensure_future(room.ask("sum", -2)) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await room.ask("sum", 1, 1))[0] == 2  # a third one answers
        assert len(running(room)) == 3
        view = await room.endpoints.get(VIEWER, "prj_a", "sum")
        assert sorted(r.in_flight for r in view.served[0].replicas) == [0, 1, 1]
        assert len(view.replicas) == 3
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)
        await room.deployed("sum", await room.models.add("m", b"two"))
        assert len(await room.endpoints.replicas(VIEWER, "prj_a", "sum")) == 6

    in_room(story)


@pytest.mark.parametrize(
    "changes",
    [
        {"least": -1},
        {"least": 5, "most": 2},
        {"most": 0},
        {"concurrency": 0},
        {"idle_ms": -5},
        {"cpus": 0.0},
        {"cpus": float("nan")},
        {"cpus": 500.0},
        {"memory_bytes": 5},
        {"memory_bytes": 1 << 60},
        {"least": 5, "memory_bytes": 1 << 30},
    ],
)
def test_wishes_that_make_no_sense_change_nothing(
    in_room: Callable[..., None], changes: dict[str, Any]
) -> None:
    async def story(room: Room) -> None:
        uri = await room.models.add("m", b"one")
        with pytest.raises(Invalid):
            await room.deployed("sum", uri, **changes)
        assert await room.endpoints.list(OWNER, "prj_a") == []

    in_room(story)


def test_who_deployed_pays_for_the_replicas(in_room: Callable[..., None]) -> None:
    async def story(room: Room) -> None:
        await room.deployed("sum", await room.models.add("m", b"one"))
        (replica,) = await room.endpoints.replicas(VIEWER, "prj_a", "sum")
        paid = await room.database.read(lambda c: records.payer(c, replica.service))
        assert paid == (OWNER.name, "sum")

    in_room(story)


# -- latencies -----------------------------------------------------------------------------------


def test_latencies_are_told_within_a_fifth_and_forgotten_after_a_while() -> None:
    recent = Latencies()
    for n in range(1, 1001):
        recent.add(100.0, n / 10)
    recent.fail(100.0)
    seen = recent.summary(105.0)
    assert (seen.answered, seen.failed) == (1000, 1)
    assert seen.p50_ms == pytest.approx(50, rel=0.2)
    assert seen.p95_ms == pytest.approx(95, rel=0.2)
    assert [s.at for s in seen.slices] == [100]
    recent.add(100.0 + SLICE_SECONDS, 1e9)
    recent.add(100.0 + SLICE_SECONDS, 0.0)
    assert len(recent.summary(115.0).slices) == 2
    later = recent.summary(100.0 + SLICE_SECONDS * (SLICES + 5))
    assert (later.answered, later.p50_ms, later.slices) == (0, None, ())


def running(room: Room) -> list[str]:
    return [s.attempt_id for s in room.world.statuses.values() if s.state == "running"]
