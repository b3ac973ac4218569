"""What is converted to ONNX without being asked, and which form of a version is served in its place."""

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from rooms.tracking.room import Room
from stratal.ai.models.conversion import (
    FORM_TAG,
    JOB_TAG,
    PARITY_TAG,
    SOURCE_TAG,
    TAG,
    UNASKED_PRIORITY,
    Conversions,
    Told,
    Unasked,
    form_of,
    told,
)
from stratal.ai.models.model import ModelVersion
from stratal.compute.jobs import Jobs
from stratal.kernel.errors import OverBudget

pytestmark = pytest.mark.fast

ONNX = b"flavors:\n  onnx:\n    data: model.onnx\n"


@dataclass(frozen=True)
class Queued:
    id: int
    argv: list[str]
    priority: int


class Queue:
    """Jobs that are only queued, or refused."""

    def __init__(self) -> None:
        self.queued: list[Queued] = []
        self.refusal: Exception | None = None

    async def submit(self, who: object, project_id: str, spec: Any) -> Queued:
        if self.refusal is not None:
            raise self.refusal
        self.queued.append(Queued(12 + len(self.queued), list(spec.argv), spec.priority))
        return self.queued[-1]


class Bench:
    def __init__(self, room: Room, unasked: Unasked) -> None:
        self.room = room
        self.queue = Queue()
        jobs = cast("Jobs", self.queue)
        self.conversions = Conversions(room.models, room.names, jobs, "text", "skl2onnx", unasked)
        room.models.follow(self.conversions.registered)

    def register(self, name: str = "m") -> ModelVersion:
        return self.room.register(name, f"models:/{self.room.model(self.room.run())}")

    @property
    def converted(self) -> list[str]:
        return [one.argv[3] for one in self.queue.queued]

    def tags(self, version: ModelVersion) -> dict[str, str]:
        found = self.room.models.get(self.room.ann, "prj_a", version.name, str(version.version))
        return self.room.do(found).tags


def test_by_default_only_what_its_model_asks_for(room: Room) -> None:
    bench = Bench(room, Unasked.ASKED)
    room.do(room.names.create(room.ann, "prj_a", "m", tags={}))
    room.do(room.names.create(room.ann, "prj_a", "wishes", tags={TAG: "onnx"}))
    bench.conversions.serves = lambda project_id, name: True
    first = bench.register()
    room.do(bench.conversions.deployed(room.ann, first))
    assert bench.converted == []
    bench.register("wishes")
    assert bench.converted == ["models:/wishes/1"]


def test_served_converts_what_is_deployed_and_what_comes_after_it_once_each(room: Room) -> None:
    bench = Bench(room, Unasked.SERVED)
    for name, tags in (("m", {}), ("never", {TAG: "none"})):
        room.do(room.names.create(room.ann, "prj_a", name, tags=tags))
    first = bench.register()
    assert bench.converted == []
    room.do(bench.conversions.deployed(room.ann, first))
    assert bench.converted == ["models:/m/1"]
    assert bench.tags(first)[JOB_TAG] == "12"
    assert bench.queue.queued[0].priority == UNASKED_PRIORITY
    assert told(first) == Told("possible")
    seen = room.do(room.models.get(room.ann, "prj_a", "m", "1"))
    assert told(seen) == Told("begun", job="12")
    for said, known in (
        ("2", Told("made", 2, job="12")),
        ("none: no rows", Told("cannot", why="no rows", job="12")),
    ):
        assert told(replace(seen, tags={**seen.tags, FORM_TAG: said})) == known
    again = room.do(room.models.resolve(room.ann, "prj_a", "models:/m/1"))
    room.do(bench.conversions.deployed(room.ann, again))
    assert bench.converted == ["models:/m/1"]
    bench.conversions.serves = lambda project_id, name: (project_id, name) == ("prj_a", "m")
    bench.register()
    room.do(bench.conversions.deployed(room.ann, bench.register("never")))
    assert bench.converted == ["models:/m/1", "models:/m/2"]


def test_always_converts_all_but_onnx_models_and_never_keeps_one_from_being_registered(room: Room) -> None:
    bench = Bench(room, Unasked.ALWAYS)
    room.do(room.names.create(room.ann, "prj_a", "m", tags={}))
    run = room.run()
    room.put(f"0/{run.id}/artifacts/model/MLmodel", ONNX)
    room.register("m", f"runs:/{run.id}/model")
    assert bench.converted == []
    bench.register()
    assert bench.converted == ["models:/m/2"]
    bench.queue.refusal = OverBudget("The budget is used up.")
    assert bench.register().version == 3
    assert bench.converted == ["models:/m/2"]


def test_a_form_is_served_only_when_both_sides_say_so(room: Room) -> None:
    room.do(room.names.create(room.ann, "prj_a", "m", tags={}))
    asked = room.register("m", f"models:/{room.model(room.run())}")
    made = room.run(who=room.job)
    room.put(f"0/{made.id}/artifacts/model/MLmodel", ONNX, room.job)
    form = room.register("m", f"runs:/{made.id}/model", room.job)
    assert (form.version, form.job_id) == (2, "12")
    find = form_of(room.models)

    def found() -> int | None:
        async def look() -> int | None:
            version = await room.models.resolve(room.ann, "prj_a", "models:/m/1")
            got = await find(room.ann, version)
            return None if got is None else got.version

        return asyncio.run(look())

    def tag(version: ModelVersion, key: str, value: str) -> None:
        room.do(room.models.set_tag(room.ann, "prj_a", "m", str(version.version), key, value))

    assert found() is None
    tag(asked, JOB_TAG, "12")
    tag(asked, FORM_TAG, "2")
    assert found() is None  # the other side says nothing yet
    tag(form, SOURCE_TAG, "models:/m/1")
    tag(form, PARITY_TAG, json.dumps({"real_rows": 40, "rows": 1040, "apart": 1e-7}))
    assert found() == 2
    for version, key, wrong, right in (
        (asked, FORM_TAG, "none: answers are apart", "2"),
        (asked, FORM_TAG, "9", "2"),
        (asked, JOB_TAG, "13", "12"),
        (form, SOURCE_TAG, "models:/m/3", "models:/m/1"),
        (form, PARITY_TAG, "no json", json.dumps({"rows": 1})),
    ):
        tag(version, key, wrong)
        assert found() is None, (key, wrong)
        tag(version, key, right)
    assert found() == 2
    room.do(room.models.delete(room.ann, "prj_a", "m", "2"))
    assert found() is None
