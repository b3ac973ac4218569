"""Forms of versions: which are converted without being asked and when, who hands one in, and what becomes of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from sqlalchemy import insert, select, update

from rooms.tracking.room import Room
from stratal.ai.models.conversion import (
    EXAMPLE,
    PATIENT_MS,
    PAUSE_MS,
    QUIET_MS,
    TAG,
    UNASKED_PRIORITY,
    Conversions,
    Unasked,
)
from stratal.ai.models.forms import Forms
from stratal.ai.models.model import Form, FormState, ModelVersion, State
from stratal.ai.models.pinning import NewVersion
from stratal.ai.models.removal import purge_models
from stratal.ai.models.tables import model_forms
from stratal.collab.artifacts import find_root
from stratal.compute.jobs import Jobs
from stratal.compute.tables import jobs as job_rows
from stratal.identity.model import Principal
from stratal.kernel.errors import Conflict, Denied, Invalid, NotFound, OverBudget, StratalError

pytestmark = pytest.mark.fast

ONNX = b"flavors:\n  onnx:\n    data: model.onnx\n"
PARITY = {"form": "matrix", "precision": "double", "real_rows": 40, "rows": 1040, "apart": 1e-7}


@dataclass(frozen=True)
class Queued:
    id: int
    argv: list[str]
    priority: int
    who: Principal


class Queue:
    """Jobs with rows, that nothing runs; or that are refused."""

    def __init__(self, room: Room) -> None:
        self.queued: list[Queued] = []
        self.refusal: Exception | None = None
        self._room = room

    async def submit(
        self, who: Principal, project_id: str, spec: Any, *, also: Callable[[Any, int], None]
    ) -> Queued:
        if self.refusal is not None:
            raise self.refusal

        def work(c: Any) -> int:
            job_id = int(
                c.execute(insert(job_rows).values(_row(project_id)).returning(job_rows.c.id)).scalar_one()
            )
            also(c, job_id)
            return job_id

        made = await self._room.database.write(work)
        self.queued.append(Queued(made, list(spec.argv), spec.priority, who))
        return self.queued[-1]

    def end(self, queued: Queued, state: str = "succeeded", reason: str = "") -> None:
        change = update(job_rows).where(job_rows.c.id == queued.id).values(state=state, reason=reason)
        self._room.do(self._room.database.write(lambda c: c.execute(change)))


def _row(project_id: str) -> dict[str, Any]:
    """A queued job's row with something in each column that must have it."""
    values: dict[str, Any] = {}
    for column in job_rows.c:
        if not column.nullable and column.default is None and column.server_default is None:
            values[column.name] = 0 if column.type.python_type is not str else ""
    values.pop("id", None)
    return values | {"project_id": project_id, "state": "queued"}


class Bench:
    def __init__(self, room: Room, unasked: Unasked = Unasked.ALWAYS) -> None:
        self.room = room
        self.queue = Queue(room)
        self.forms = Forms(room.database, room.artifacts, room.clock)
        jobs = cast("Jobs", self.queue)
        self.conversions = Conversions(
            *(room.database, room.models, room.names, self.forms, jobs, room.clock),
            *("text", "skl2onnx", unasked),
        )
        room.models.follow(self.conversions.registered)

    def name(self, name: str = "m", **tags: str) -> None:
        self.room.do(self.room.names.create(self.room.ann, "prj_a", name, tags=tags))

    def register(
        self, name: str = "m", *, example: bool = True, who: Principal | None = None, **tags: str
    ) -> ModelVersion:
        run = self.room.run(who=who)
        model = self.room.model(run, who)
        if example:
            self.room.put(f"0/models/{model}/artifacts/{EXAMPLE}", b"{}", who)
        new = NewVersion(f"models:/{model}", tags={key.replace("_", "."): v for key, v in tags.items()})
        return self.room.do(self.room.models.create(who or self.room.ann, "prj_a", name, new))

    def look(self, after: int = 0) -> list[str]:
        """Let so much time pass; what the jobs convert that were begun then."""
        self.room.now += after
        before = len(self.queue.queued)
        self.room.do(self.conversions.look())
        return [one.argv[3] for one in self.queue.queued[before:]]

    @property
    def converted(self) -> list[str]:
        return [one.argv[3] for one in self.queue.queued]

    def form(self, version: ModelVersion) -> Form | None:
        return next(iter(self.room.do(self.forms.of(version))), None)

    def begun(self, version: ModelVersion) -> Principal:
        """Have it converted; who the job is."""
        asked = self.conversions.convert(self.room.ann, "prj_a", version.name, str(version.version))
        form = self.room.do(asked)
        return replace(self.room.job, workload=f"job:{form.job_id}")

    def send(self, who: Principal, version: ModelVersion, data: bytes = b"graph") -> None:
        async def body() -> AsyncIterator[bytes]:
            yield data

        self.room.do(self.forms.receive(who, "prj_a", version.name, str(version.version), body()))

    def hand_in(self, who: Principal, version: ModelVersion, why: str = "", **parity: Any) -> Form:
        told = {} if why else PARITY | parity
        number = str(version.version)
        return self.room.do(self.forms.hand_in(who, "prj_a", version.name, number, told, why))


def test_asked_converts_only_what_its_model_asks_for(room: Room) -> None:
    bench = Bench(room, Unasked.ASKED)
    bench.name()
    bench.name("wishes", **{TAG: "onnx"})
    bench.conversions.serves = lambda project_id, name: True
    room.do(bench.conversions.deployed(room.ann, bench.register()))
    assert bench.look(PATIENT_MS) == []
    bench.register("wishes")
    assert bench.converted == ["models:/wishes/1"]
    assert bench.queue.queued[0].priority == UNASKED_PRIORITY


def test_served_converts_what_is_deployed_and_what_comes_after_it_once_each(room: Room) -> None:
    bench = Bench(room, Unasked.SERVED)
    bench.name()
    bench.name("never", **{TAG: "none"})
    first = bench.register()
    assert bench.form(first) is None
    room.do(bench.conversions.deployed(room.ann, first))
    assert bench.look(QUIET_MS) == ["models:/m/1"]
    room.do(bench.conversions.deployed(room.ann, first))
    bench.queue.end(bench.queue.queued[0])
    bench.conversions.serves = lambda project_id, name: (project_id, name) == ("prj_a", "m")
    second = bench.register()
    room.do(bench.conversions.deployed(room.ann, bench.register("never")))
    assert bench.look(QUIET_MS) == []  # the first one's job ended without a result: the next may do no better
    assert bench.look(PAUSE_MS) == ["models:/m/2"]
    assert [bench.form(one).state for one in (first, second)] == [  # type: ignore[union-attr]
        FormState.FAILED,
        FormState.CONVERTING,
    ]


def test_what_nobody_asked_for_waits_until_nothing_else_is_to_do_one_at_a_time(room: Room) -> None:
    bench = Bench(room)
    bench.name()
    bench.name("n")
    first = bench.register(who=room.job)
    form = bench.form(first)
    assert form is not None
    assert (form.state, form.job_id, form.created_by) == (FormState.WAITING, None, "job:12")
    assert bench.look(QUIET_MS // 2) == []
    # A newer version takes its place; another model's waits its turn.
    second = bench.register()
    other = bench.register("n")
    assert bench.look(QUIET_MS // 2) == []
    assert bench.form(first) is None
    assert bench.look(QUIET_MS) == ["models:/m/2"]
    assert (bench.queue.queued[0].priority, bench.queue.queued[0].who.name) == (UNASKED_PRIORITY, "ann")
    assert bench.look(QUIET_MS) == []  # the one before is not done
    job = replace(room.job, workload=f"job:{bench.queue.queued[0].id}")
    bench.send(job, second)
    bench.hand_in(job, second)
    assert bench.look(QUIET_MS - 1) == []  # its job still runs
    bench.queue.end(bench.queue.queued[0])
    assert bench.look() == []  # it ran until just now
    assert bench.look(QUIET_MS) == ["models:/n/1"]
    bench.queue.end(bench.queue.queued[1], "failed", "No space.")
    assert bench.look() == []
    failed = bench.form(other)
    assert failed is not None
    assert failed.state is FormState.FAILED
    assert failed.why.startswith(f"Job {failed.job_id}: failed. No space.")
    # A job that goes on and on holds it up for a while, and not for ever.
    busy = room.do(bench.queue.submit(room.ann, "prj_a", _Spec(), also=lambda c, job_id: None))
    third = bench.register()
    assert bench.look(QUIET_MS * 2) == []
    assert bench.look(PATIENT_MS) == []  # after one that failed it waits longer
    assert bench.look(PAUSE_MS - PATIENT_MS) == ["models:/m/3"]
    assert busy.argv == [""] * 4
    # What is refused when its turn comes says why, and is not tried again by itself.
    refusing = bench.queue.queued[-1]
    bench.send(replace(room.job, workload=f"job:{refusing.id}"), third)
    bench.hand_in(replace(room.job, workload=f"job:{refusing.id}"), third)
    bench.queue.end(refusing)
    bench.queue.refusal = OverBudget("The budget is used up.")
    fourth = bench.register()
    assert bench.look(PATIENT_MS) == []
    refused = bench.form(fourth)
    assert refused is not None
    assert (refused.state, refused.why) == (FormState.REFUSED, "The budget is used up.")
    # What is deleted before its turn is forgotten, also where its row is kept.
    bench.queue.refusal = None
    fifth = bench.register()
    room.held.add(fifth.id)
    room.do(room.models.delete(room.ann, "prj_a", "m", str(fifth.version)))
    assert bench.look(PATIENT_MS) == []
    assert (bench.form(third) is not None, bench.form(fifth)) == (True, None)


@dataclass(frozen=True)
class _Spec:
    argv: tuple[str, ...] = ("", "", "", "")
    priority: int = 0


def test_what_cannot_be_converted_says_why_and_is_kept_out_by_a_tag(room: Room) -> None:
    bench = Bench(room)
    bench.name()
    bare = bench.register(example=False)
    form = bench.form(bare)
    assert form is not None
    assert (form.state, form.job_id) == (FormState.REFUSED, None)
    assert "without an input example" in form.why
    assert bench.form(bench.register(stratal_convert="none")) is None
    run = room.run()
    room.put(f"0/{run.id}/artifacts/model/MLmodel", ONNX)
    made = room.register("m", f"runs:/{run.id}/model")
    assert bench.form(made) is None
    with pytest.raises(Invalid, match="not a scikit-learn model"):
        bench.begun(made)
    with pytest.raises(Denied):
        room.do(bench.conversions.convert(room.viewer, "prj_a", "m", "1"))
    assert bench.look(PATIENT_MS) == []
    bench.begun(bare)  # whoever asks for it may
    assert bench.converted == ["models:/m/1"]


def test_a_form_is_no_version_and_only_its_own_job_hands_it_in(room: Room) -> None:
    bench = Bench(room, Unasked.ASKED)
    bench.name()
    version = bench.register()
    with pytest.raises(Conflict, match="not being converted"):
        bench.send(room.job, version)
    job = bench.begun(version)
    assert bench.begun(version) == job  # a second asking changes nothing
    assert len(bench.queue.queued) == 1
    for stranger in (room.ann, replace(room.job, workload="job:999")):
        with pytest.raises(Denied, match="hands in"):
            bench.send(stranger, version)
        with pytest.raises(Denied, match="hands in"):
            bench.hand_in(stranger, version)
    with pytest.raises(StratalError):
        bench.hand_in(replace(job, project_id="prj_b"), version)
    with pytest.raises(Invalid, match="was not sent"):
        bench.hand_in(job, version)
    kept = room.files()
    bench.send(job, version, b"first")
    bench.send(job, version, b"graph")
    assert room.files() == kept + 1
    for wrong in ({"apart": 0.1}, {"apart": float("nan")}, {"apart": -1}, {"real_rows": 0}):
        with pytest.raises(Invalid):
            bench.hand_in(job, version, **wrong)
    assert room.do(bench.forms.served(version.id)) is None
    form = bench.hand_in(job, version)
    served = room.do(bench.forms.served(version.id))
    assert served == form
    assert (form.state, form.size, form.parity["rows"]) == (FormState.MADE, 5, 1040)
    assert [file.path for file in form.files] == ["model.onnx"]
    assert [c.state for c in room.do(bench.forms.verify(form))] == [State.VERIFIED]
    with pytest.raises(Conflict):
        bench.send(job, version)
    assert bench.begun(version) == job  # what is made is not made again
    # Nothing of it is in the registry, nor on the wire of the artifacts.
    model = room.do(room.names.get(room.ann, "prj_a", "m"))
    assert [one.version for one in model.latest] == [1]
    assert room.do(room.models.resolve(room.ann, "prj_a", "models:/m/latest")).id == version.id
    assert len(room.do(room.models.search(room.ann, "prj_a")).items) == 1
    with pytest.raises(NotFound):
        room.get(f"forms/{form.id}/artifacts/model.onnx")
    assert room.do(room.database.read(lambda c: find_root(c, "prj_a", form.id))).sealed
    # It goes with its version, and its bytes.
    before = room.files()
    room.do(room.models.delete(room.ann, "prj_a", "m", "1"))
    assert (bench.form(version), room.files() < before) == (None, True)


def test_a_refusal_lets_go_of_what_was_sent_and_may_be_asked_again(room: Room) -> None:
    bench = Bench(room, Unasked.ASKED)
    bench.name()
    version = bench.register()
    job = bench.begun(version)
    bench.send(job, version)
    form = bench.hand_in(job, version, why="No conversion answers like the model.")
    assert (form.state, form.files, form.why) == (
        FormState.REFUSED,
        (),
        "No conversion answers like the model.",
    )
    again = bench.begun(version)
    assert again.workload != job.workload
    with pytest.raises(Denied):  # the first job is late
        bench.hand_in(job, version)
    bench.send(again, version)
    bench.hand_in(again, version)
    # A version that an endpoint stands on keeps its form, as it keeps its files.
    room.held.add(version.id)
    room.do(room.models.delete(room.ann, "prj_a", "m", "1"))
    kept = bench.form(version)
    assert kept is not None
    assert room.do(bench.forms.verify(kept))[0].state is State.VERIFIED
    # A project that is removed leaves none.
    room.do(purge_models(room.database, "prj_a"))
    assert room.do(room.database.read(lambda c: c.execute(select(model_forms)).all())) == []
    asyncio.run(bench.conversions.close())
